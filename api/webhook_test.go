package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatepost/message"
)

// told is an application that notes what a webhook tells it.
type told struct {
	mu     sync.Mutex
	bodies map[string][]json.RawMessage // by event
}

func (a *told) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var body json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	event := r.URL.Query().Get("event")
	a.bodies[event] = append(a.bodies[event], body)
}

// seqs are those of the messages that it was told of.
func (a *told) seqs(t testing.TB) (all []uint64) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.bodies[EventNotify] {
		var of []struct {
			Seq uint64 `json:"message_seq"`
		}
		if err := json.Unmarshal(b, &of); err != nil {
			t.Fatal(err)
		}
		for _, m := range of {
			all = append(all, m.Seq)
		}
	}
	return all
}

// hooked lets a webhook tell an application of a box.
func hooked(t testing.TB, x *box, o WebhookOptions) (*told, *Webhook) {
	t.Helper()
	app := &told{bodies: make(map[string][]json.RawMessage)}
	site := httptest.NewServer(app)
	t.Cleanup(site.Close)
	o.URL, o.Timeout, o.Logger = site.URL, 10*time.Second, slog.New(slog.DiscardHandler)
	hook := NewWebhook(o, x.core, x, x)
	if _, err := x.core.AskHooks(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); hook.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	until(t, "the webhook is on", func() bool {
		on, err := x.core.AskHooks(t.Context(), true)
		return err == nil && on
	})
	return app, hook
}

// until waits for something that must happen.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after a minute it is not so that %s", what)
		}
	}
}

// The application is told of every message, in order, however often reading fails
// in between.
func TestTheApplicationIsToldOfWhatCouldNotBeRead(t *testing.T) {
	x := newBox(t)
	app, hook := hooked(t, x, WebhookOptions{Notify: true})
	x.fail(syscall.EMFILE, 4)
	for range 10 {
		x.say(t, message.Record{Payload: []byte("text")})
	}
	until(t, "reading failed three times", func() bool {
		x.mu.Lock()
		defer x.mu.Unlock()
		return x.failed >= 3
	})
	until(t, "the first three are told", func() bool { return len(app.seqs(t)) >= 3 })
	x.fail(nil, 0)
	until(t, "all are told", func() bool { return len(app.seqs(t)) >= 10 })
	for i, seq := range app.seqs(t) {
		if seq != uint64(i+1) {
			t.Fatalf("the application was told of %d", app.seqs(t))
		}
	}
	if n := hook.Stats().Lost.Load(); n != 0 {
		t.Errorf("%d count as lost", n)
	}
}
