package main

import (
	"time"

	"gatepost/broker"
	"gatepost/netio"
	"gatepost/session"
)

// hang is what stands still in tests of the watchdog, from GATEPOST_TEST_HANG:
// "loop" the loop of the first login, "apply" the core with its first answer,
// "fetch" the fetch reader with its first page, all for good; "disk" each write of the log, for as long as a bad card may. In a real
// box it is "".
type hang string

// loop returns g, or what hangs in its place.
func (h hang) loop(g *session.Gate) netio.Handler {
	if h == "loop" {
		return stuckLoop{g}
	}
	return g
}

type stuckLoop struct{ *session.Gate }

func (s stuckLoop) OnRound(now time.Time) time.Duration {
	if s.Stats().Logins.Load() > 0 {
		select {}
	}
	return s.Gate.OnRound(now)
}

// outboxes returns all, or what hangs in their place for a part that posts to them.
func (h hang) outboxes(part hang, all []broker.Outbox) []broker.Outbox {
	if h != part {
		return all
	}
	stuck := make([]broker.Outbox, len(all))
	for i := range stuck {
		stuck[i] = stuckOutbox{}
	}
	return stuck
}

type stuckOutbox struct{}

func (stuckOutbox) Post([]broker.Delivery) { select {} }

// disk returns what is called before each write of the log.
func (h hang) disk(before func() error) func() error {
	if h != "disk" {
		return before
	}
	return func() error {
		time.Sleep(3 * time.Second)
		return before()
	}
}
