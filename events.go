package main

import (
	"fmt"
	"strings"
)

// event is a line of the log that an operator may want to be told of. In the
// journal it has a MESSAGE_ID, which stays when the words change.
type event struct {
	name  string
	id    string // 128 random bits
	begin string // how the message begins
	help  string
}

// events returns all of them. The table in docs/operations.md is made of it.
func events() []event {
	return []event{
		{"starting", "39e8ac41a9234ad78ecabeb756d899ca", "starting", "The process begins."},
		{"ready", "59647dd31ddb407b8da7b0ff034c3a0f", "ready", "Clients may come; everything from the time before is there."},
		{"new-data", "0b575f82273f47dfa7136ed299e87d0f", "new data directory", "The data directory held nothing: a new box, or the disk with the data is not mounted."},
		{"stopping", "e9ec2b817e384ef9ad6432c294cbcfd0", "stopping", "It was told to end, or a part of it has failed."},
		{"stopped", "751dea8b622a4bcb89ebe94bbdbb3da4", "stopped", "It has ended in order and everything is on disk."},
		{"damage", "ae2bb71066304cb09594946820139216", "log damaged", "Part of the log could not be read at the start; FILE, OFFSET and REASON say which."},
		{"damage", "ae2bb71066304cb09594946820139216", "store damaged", "Metadata or block files are damaged; WHAT says which."},
		{"members-lost", "5d7b1f0c8e3a4962b0d4e7c15a9f6d83", "channel members lost", "Damage took the members of channels; their messages are there. EXAMPLES names some: add the members again."},
		{"disk-full", "7dd919070d54498ea790aa60599bf5cb", "disk is full", "Messages are refused: there is less room than wal.headroom."},
		{"disk-full", "7dd919070d54498ea790aa60599bf5cb", "the log is too far ahead of the store", "Messages are refused: checkpoints fail."},
		{"disk-again", "d658daa58c484ad28113cafd4388e60e", "messages are taken again", "That is over."},
		{"log-failed", "7ad477642a274a5ab86fa1afdb472700", "log has failed", "A write or sync of the log failed: the process ends and is started again."},
		{"checkpoint-failed", "bd5a213590214980b7e1f6bc6bc1a553", "checkpoint failed", "Messages cannot be moved from the log to the store; it is tried again."},
		{"hang", "bc84956290a042aa82ce7068350ba603", "something hangs", "A loop, the log, apply or the fetch reader stands still: the watchdog is not told and will end the process. WHAT says which."},
		{"reloaded", "c9b9edb391c441cdae55cbd1f30dda03", "configuration read again", "CHANGED names the keys with a new value, RESTART those that need one."},
		{"reload-failed", "f57a8c3da9004757a5878678de3ab015", "configuration not read again", "The new configuration is wrong, nothing has changed. ERR says why."},
		{"no-accept", "26fa2ab47d904e0f92f45fd97a4d1ad1", "cannot accept connections", "Too many open files, or no memory for another client."},
		{"webhook-down", "f075089ba2804c82bc28067022b3e367", "the application is not told", "The webhook fails and is tried again."},
		{"webhook-up", "9538f960e540449cb06eab075cfe8dd3", "the application answers again", "That is over."},
	}
}

// eventID returns the MESSAGE_ID of a message, "" if it has none.
func eventID(message string) string {
	for _, e := range events() {
		if strings.HasPrefix(message, e.begin) {
			return e.id
		}
	}
	return ""
}

// eventTable is the table for the documentation.
func eventTable() string {
	var b strings.Builder
	b.WriteString("| event | MESSAGE_ID | MESSAGE begins with | |\n|---|---|---|---|\n")
	for _, e := range events() {
		fmt.Fprintf(&b, "| %s | `%s` | %s | %s |\n", e.name, e.id, e.begin, e.help)
	}
	return b.String()
}
