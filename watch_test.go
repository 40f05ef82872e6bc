package main

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatepost/queue"
	"gatepost/systemd"
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

// A start that makes progress asks for more time each time; one that stands
// still does not.
func TestAStartThatMakesProgressGetsTime(t *testing.T) {
	manager, err := systemd.New(func(k string) string { return map[string]string{"NOTIFY_SOCKET": "/nobody"}[k] }, 1)
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string)
	var records, looks atomic.Int64
	stop := starting(manager, time.Millisecond, func(state string) { said <- state }, func() int64 { looks.Add(1); return records.Load() })
	for _, n := range []int64{1, 70_000} {
		records.Store(n)
		if got, want := <-said, fmt.Sprintf("EXTEND_TIMEOUT_USEC=300000000\nSTATUS=recovering: %d records and blocks read", n); got != want {
			t.Errorf("said %q, want %q", got, want)
		}
	}
	for n := looks.Load(); looks.Load() < n+5; time.Sleep(time.Millisecond) {
		select {
		case state := <-said:
			t.Fatalf("it stands still and says %q", state)
		default:
		}
	}
	stop()
	starting(systemd.Manager{}, time.Millisecond, func(string) { t.Error("there is no manager") }, records.Load)()
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
