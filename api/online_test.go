package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"gatepost/broker"
)

// Who is online is said once of each user and device flag, however often a user is
// asked for and however many connections they have.
func TestOnlineStatusIsSaidOnce(t *testing.T) {
	x := newBox(t)
	for i := range 100 {
		if err := x.core.Attach(broker.Attach{UID: "alice", Conn: uint64(i + 1), Device: uint8(i % 2)}); err != nil {
			t.Fatal(err)
		}
	}
	uids := make([]string, maxUIDs)
	for i := range uids {
		uids[i] = []string{"alice", "bob"}[i%2]
	}
	found, err := x.core.Connections(t.Context(), uids)
	if err != nil || len(found) != 2 {
		t.Errorf("%d lines are made for one user with two device flags, %v", len(found), err)
	}
	body, err := json.Marshal(uids)
	if err != nil {
		t.Fatal(err)
	}
	code, text := x.ask("POST", "/user/onlinestatus", string(body))
	if code != 200 || strings.Count(text, `"uid":"alice"`) != 2 || strings.Contains(text, "bob") {
		t.Errorf("%d %.300s", code, text)
	}
}

// However many users come and go, one request tells of a bounded number of them.
func TestStatusesAreToldInPages(t *testing.T) {
	x := newBox(t)
	app, _ := hooked(t, x, WebhookOptions{Status: true})
	const n = 3*statusLines + 7
	name := strings.Repeat("a long name ", 20)
	for i := range n {
		if err := x.core.Attach(broker.Attach{UID: fmt.Sprint(name, i), Conn: uint64(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	seen := make(map[string]bool)
	until(t, "all are told", func() bool {
		app.mu.Lock()
		defer app.mu.Unlock()
		for _, b := range app.bodies[EventStatus] {
			var lines []string
			if err := json.Unmarshal(b, &lines); err != nil {
				t.Fatal(err)
			}
			if len(lines) > statusLines || len(b) > statusBytes+2048 {
				t.Fatalf("one request tells of %d users in %d bytes", len(lines), len(b))
			}
			for _, l := range lines {
				seen[l] = true
			}
		}
		return len(seen) >= n
	})
	if len(seen) != n {
		t.Errorf("%d lines for %d users", len(seen), n)
	}
}

// Who comes and goes quickly is told of each time, in this order.
func TestEveryLoginIsTold(t *testing.T) {
	x := newBox(t)
	app, _ := hooked(t, x, WebhookOptions{Status: true})
	const n = 6
	for i := range n {
		a := broker.Attach{UID: "alice", Conn: uint64(i + 1)}
		if err := x.core.Attach(a); err != nil {
			t.Fatal(err)
		}
		if err := x.core.Detach(a, nil); err != nil {
			t.Fatal(err)
		}
	}
	var lines []string
	until(t, "all are told", func() bool {
		app.mu.Lock()
		defer app.mu.Unlock()
		lines = nil
		for _, b := range app.bodies[EventStatus] {
			var some []string
			if err := json.Unmarshal(b, &some); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, some...)
		}
		return len(lines) >= 2*n
	})
	for i, l := range lines {
		want := fmt.Sprintf("alice-0-%d-%d-%d-%d", 1-i%2, (i/2+1)<<loopBits, 1-i%2, 1-i%2)
		if l != want {
			t.Errorf("line %d is %s, want %s", i, l, want)
		}
	}
}
