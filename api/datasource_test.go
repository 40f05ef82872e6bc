package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"gatepost/broker"
	"gatepost/message"
)

// outbox takes the answers to those who wait for the application.
type outbox chan uint64

func (o outbox) Post(ds []broker.Delivery) {
	for _, d := range ds {
		if d.Kind == broker.Known {
			o <- d.Conn
		}
	}
}

// asksOf returns a datasource that runs against an application, which is called with
// the id of each channel that it is asked for and knows none.
func asksOf(t *testing.T, application func(id string)) (*Datasource, outbox) {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Data struct {
				ID string `json:"channel_id"`
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		if q.Data.ID != "" {
			application(q.Data.ID)
		}
		fmt.Fprint(w, "[]")
	}))
	t.Cleanup(app.Close)
	s, _ := newServer(t, "u")
	s.source = newDatasource(DatasourceOptions{URL: app.URL, Timeout: time.Minute}, s)
	out := make(outbox, 10_000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.source.Run(ctx, []broker.Outbox{out}) }()
	t.Cleanup(func() { cancel(); <-done })
	return s.source, out
}

// wait returns what comes, or fails.
func wait[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("waited 20 s for %s", what)
	}
	panic("not reached")
}

// One user names many groups that are not known, and the application is slow. What
// another user names is asked for beside it, not behind it.
func TestOneUserDoesNotHoldUpTheApplicationForOthers(t *testing.T) {
	free, carols := make(chan struct{}), make(chan string, 10)
	d, out := asksOf(t, func(id string) {
		if strings.HasPrefix(id, "many") {
			<-free
		} else {
			select {
			case carols <- id:
			default:
			}
		}
	})
	release := sync.OnceFunc(func() { close(free) })
	t.Cleanup(release)
	const many = 200
	for i := range many {
		if !d.Inquire(message.ChannelGroup, fmt.Append(nil, "many", i), "mallory", uint64(1000+i), 0, time.Now()) {
			t.Fatal("a message to an unknown group does not wait")
		}
	}
	d.Inquire(message.ChannelGroup, []byte("many5"), "carol", 1, 0, time.Now()) // in mallory's line too
	d.Inquire(message.ChannelGroup, []byte("carols"), "carol", 2, 0, time.Now())
	if id := wait(t, "carol's group to be asked for", carols); id != "carols" {
		t.Errorf("the application is asked for %q", id)
	}
	for conn := uint64(0); conn != 2; conn = wait(t, "carol's answer", out) { // mallory has more in line than one may have
		if conn == 1 {
			t.Error("carol is answered for a group that the application was not asked for")
		}
	}
	release()
	answered := map[uint64]bool{}
	for !answered[1] || !answered[1000] || !answered[1001] {
		answered[wait(t, "all answers", out)] = true
	}
}

// What the application has said no to is not asked for again for a while, and what
// is remembered of that has a bound.
func TestANoIsRememberedForAWhile(t *testing.T) {
	asked := make(chan string, 100)
	d, out := asksOf(t, func(id string) { asked <- id })
	for range 3 {
		d.Inquire(message.ChannelGroup, []byte("none"), "bob", 7, 0, time.Now())
		wait(t, "the answer", out)
	}
	requests := len(asked)
	d.Inquire(message.ChannelGroup, []byte("another"), "bob", 7, 0, time.Now())
	wait(t, "the answer", out)
	if requests != len(asked)-requests {
		t.Errorf("%d requests for a group that was asked for three times, %d for one that was asked for once", requests, len(asked)-requests)
	}
	now := time.Now()
	denied := map[place]time.Time{}
	for i := range 3 * maxDenied {
		deny(denied, place{ID: fmt.Sprint("g", i)}, now)
	}
	if len(denied) > maxDenied {
		t.Errorf("%d refusals are remembered, want at most %d", len(denied), maxDenied)
	}
	deny(denied, place{ID: "last"}, now)
	if _, ok := denied[place{ID: "last"}]; !ok {
		t.Error("the newest refusal is not remembered")
	}
}
