package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"gatepost/queue"
)

// A part that must move is found when it has not; one that waits for work never
// is; one that waits for the disk gets the time that a slow card needs, and not
// more.
func TestWhatHangs(t *testing.T) {
	var core, log queue.Pulse
	rounds := uint64(0)
	w := watch{signs: []sign{
		{"loop 0", func() (uint64, time.Duration) { return rounds, 0 }},
		pulseSign("apply", &core), pulseSign("the log", &log),
	}}
	now := time.Unix(1_800_000_000, 0)
	look := func(want string) {
		t.Helper()
		now = now.Add(10 * time.Second)
		if got := strings.Join(w.hung(now), ","); got != want {
			t.Fatalf("hung: %q, want %q", got, want)
		}
	}
	core.Say(queue.Rests)
	log.Say(queue.Rests)
	look("") // seen for the first time
	look("loop 0")
	rounds++
	look("")
	for range 100 { // nothing to do
		rounds++
		look("")
	}
	log.Say(queue.Disk) // a sync begins, and the card takes its time
	for range int(diskPatience / (10 * time.Second)) {
		rounds++
		look("")
	}
	rounds++
	look("the log")
	log.Say(queue.Disk) // the next one
	rounds++
	look("")
	log.Say(queue.Rests)
	core.Say(queue.Works)
	rounds++
	look("")
	rounds++
	look("apply")
	core.Say(queue.Works) // slow, and alive
	rounds++
	look("")
}

func TestStatusLine(t *testing.T) {
	before := tally{sent: 100, pushed: 1000, resent: 10}
	for want, now := range map[string]tally{
		"3 connections, 0 messages/s in, 0/s out":                                                                        {conns: 3, sent: 100, pushed: 1000, resent: 10},
		"3 connections, 20 messages/s in, 40/s out, 2/s of them again":                                                   {conns: 3, sent: 200, pushed: 1200, resent: 20},
		"NOT WELL: disk is full; 0 connections, 0 messages/s in, 0/s out, 7 channels of connections are being caught up": {sent: 100, pushed: 1000, resent: 10, behind: 7, trouble: errors.New("disk is full")},
	} {
		if got := now.line(before, 5*time.Second); got != want {
			t.Errorf("status %q, want %q", got, want)
		}
	}
}
