package e2e

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// clock is the wall clock of one broker. Its other clocks, which count the time
// that passes, stay as they are.
type clock struct {
	path string // holds the shift, in seconds
}

func newClock(t testing.TB) *clock {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		unable(t, "a process with a clock of its own needs an amd64 processor, this is %s", runtime.GOARCH)
	}
	c := &clock{path: filepath.Join(t.TempDir(), "shift")}
	if err := os.WriteFile(c.path, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// set says what time it is. Processes see it at once.
func (c *clock) set(t testing.TB, now time.Time) {
	t.Helper()
	f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var shift [8]byte
	binary.LittleEndian.PutUint64(shift[:], uint64(int64(math.Ceil(time.Until(now).Seconds()))))
	if _, err := f.WriteAt(shift[:], 0); err != nil {
		t.Fatal(err)
	}
}

// attach is an option of a broker.
func (c *clock) attach(b *broker) { b.clock = c }

// The rig: the broker's wall clock goes where it is told to, while it runs, and the
// clock by which it waits does not.
func TestRigClock(t *testing.T) {
	c := newClock(t)
	c.set(t, time.Unix(100, 0))
	b := start(t, plain, c.attach)
	stamp := func() time.Time {
		alice, bob := b.must(t, dialer{uid: "alice"}), b.must(t, dialer{uid: "bob"})
		defer alice.close()
		defer bob.close()
		alice.tell(t, "bob", "", "what time is it?")
		return time.Unix(int64(bob.nextRecv(t).timestamp), 0)
	}
	for _, year := range []int{1970, 2037, 2026, 1999} {
		want := time.Date(year, 1, 1, 0, 1, 0, 0, time.UTC)
		c.set(t, want)
		if got := stamp(); got.Before(want) || got.After(want.Add(2*never)) {
			t.Errorf("a message of %v is stamped %v", want, got)
		}
	}
	if !strings.Contains(b.log.String(), "time=1970-01-01T") {
		t.Error("the log of the process does not begin in 1970")
	}
}

// pendingClock is what cannot hold yet, by part of TestClockThatJumps.
var pendingClock = map[string]string{
	"conversations": "the versions of conversations come from the wall clock",
}

// A box boots in 1970, is told the time, is told a time 25 years ahead, an hour and
// a day back, and the right time again, in between ended and started. What was sent
// seconds ago is never too old, ids grow, what is sent again is known again, tokens
// hold, and the list of conversations misses none.
func TestClockThatJumps(t *testing.T) {
	r := random(t)
	c := newClock(t)
	right := time.Now()
	ahead := right.AddDate(25, 0, 0)
	c.set(t, time.Unix(60, 0))
	options := []option{plain, c.attach, set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB"), set("session.token_auth", "true"), set("session.cursor_interval", "100ms")}
	if pendingClock["age"] == "" {
		options = append(options, set("store.person_max_age", "24h"), set("store.group_max_age", "24h"))
	}
	for part, why := range pendingClock {
		t.Logf("pending: %s: %s", part, why)
	}
	b := start(t, options...)
	const token, each = "a-token-of-some-length", 280
	for _, uid := range []string{"alice", "bob"} {
		for flag := range 3 {
			b.post("/user/token", object{"uid": uid, "token": token, "device_flag": flag, "device_level": 0})
		}
	}
	var acks []sendack
	heard := newLedger()
	version := int64(0)
	for i, step := range []struct {
		name string
		now  time.Time
	}{{"at boot", time.Unix(60, 0)}, {"told the time", right}, {"25 years ahead", ahead}, {"an hour back", ahead.Add(-time.Hour)}, {"a day back", ahead.Add(-24 * time.Hour)}, {"put right", right.Add(time.Minute)}} {
		how := r.IntN(4) // it is ended before the step, or behind it, or not
		c.set(t, step.now)
		switch how {
		case 0:
			b.kill()
			b.start()
		case 1:
			b.stop()
			b.start()
		}
		alice := b.must(t, dialer{uid: "alice", token: token})
		bob := b.must(t, dialer{uid: "bob", token: token, onRecv: heard.onRecv})
		if i > 0 {
			first := (i - 1) * each
			if a := alice.tell(t, "bob", fmt.Sprint("n", first), ""); a.id != acks[first].id || a.seq != acks[first].seq {
				t.Fatalf("%s: sent again, and answered %+v, first it was %+v", step.name, a, acks[first])
			}
		}
		before := strings.Count(b.log.String(), "msg=checkpoint ")
		text := make([]byte, 4<<10) // of all a checkpoint
		for range each {
			for k := range text {
				text[k] = byte(r.Uint32())
			}
			a := alice.tell(t, "bob", fmt.Sprint("n", len(acks)), string(text))
			if n := len(acks); n > 0 && (a.id <= acks[n-1].id || a.seq != acks[n-1].seq+1) {
				t.Fatalf("%s: %+v behind %+v", step.name, a, acks[n-1])
			}
			if a.id <= 0 {
				t.Fatalf("%s: the id %d", step.name, a.id)
			}
			acks = append(acks, a)
		}
		for end := time.Now().Add(never); strings.Count(b.log.String(), "msg=checkpoint ") == before; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: no checkpoint", step.name)
			}
		}
		heard.wait(t, 0, len(acks)) // at least once each; see the end
		for k := range 2 {          // two new conversations, most often of one millisecond
			b.ask(t, "POST", "/message/send", fmt.Sprintf(`{"from_uid":"contact-%d-%d","channel_id":"bob","channel_type":1,"payload":"aGk="}`, i, k), 200, nil)
		}
		list := b.talks(t, "bob", fmt.Sprintf(`,"version":%d`, version))
		for k := range 2 {
			if _, there := list[fmt.Sprintf("contact-%d-%d", i, k)]; !there && pendingClock["conversations"] == "" {
				t.Errorf("%s: the conversation %d is not among the %d that are new since version %d", step.name, k, len(list), version)
			}
		}
		for _, l := range list {
			version = max(version, l.Version)
		}
		alice.hangUp(t, b)
		bob.hangUp(t, b)
		if how == 2 {
			b.kill()
			b.start()
		}
		t.Logf("%s, %v: %d messages, ended %d", step.name, step.now.UTC().Format(time.DateTime), len(acks), how)
	}
	b.kill()
	b.start()
	in := newLedger()
	b.must(t, dialer{uid: "bob", token: token, flag: 1, onRecv: func(m *recv) {
		if m.channel == "alice" {
			in.onRecv(m)
		}
	}})
	for i, m := range in.distinct(t, len(acks)) {
		if a := acks[i]; m.id != a.id || m.seq != a.seq || m.no != fmt.Sprint("n", i) {
			t.Fatalf("message %d is %v, its SENDACK said %+v", i, m, a)
		}
	}
	b.stop()
	if said := works(t, "check", b.dir); !strings.Contains(said, "whole") {
		t.Errorf("check:\n%s", said)
	}
}
