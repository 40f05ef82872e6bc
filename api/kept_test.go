package api

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gatepost/message"
)

// stuck is a log that takes every batch and answers none, as while a sync hangs.
type stuck struct{ batches atomic.Int64 }

func (s *stuck) Propose(b *message.Batch) error {
	s.batches.Add(1)
	b.Release()
	return nil
}

// changing says of every route whether a request to it changes something: then it
// must be answered with an error, or not at all, while nobody knows the outcome.
var changing = map[string]bool{
	"GET /health": false, "GET /metrics": false, "GET /varz": false, "POST /backup": false, "GET /openapi.json": false,
	"GET /channel/info": false, "GET /channel/subscribers": false, "GET /channel/blacklist": false, "GET /channel/whitelist": false,
	"GET /user/systemuids": false, "POST /user/onlinestatus": false, "GET /connz": false, "GET /route": false, "POST /route/batch": false,
	"POST /conversation/sync": false, "POST /conversation/syncMessages": false, "POST /message/eventsync": false, "POST /messages": false,
	"POST /message": false, "POST /channel/messagesync": false, "GET /channel/max_message_seq": false, "GET /channel/last_message": false,
	"GET /message/byclientmsgno": false, "GET /history": false,

	"POST /conn/kick": true, "POST /conn/remove": true,
	"POST /channel/keep": true, "POST /user/token": true, "POST /user/device_quit": true, "POST /user/offline_push": true,
	"POST /user/systemuids_add": true, "POST /user/systemuids_remove": true,
	"POST /conversations/clearUnread": true, "POST /conversations/setUnread": true, "POST /conversations/delete": true,
	"POST /message/send": true, "POST /message/sendbatch": true, "POST /message/event": true,
	"POST /channel": true, "POST /channel/info": true, "POST /channel/delete": true,
	"POST /channel/subscriber_add": true, "POST /channel/subscriber_remove": true, "POST /channel/subscriber_remove_all": true,
	"POST /channel/blacklist_add": true, "POST /channel/blacklist_set": true, "POST /channel/blacklist_remove": true, "POST /channel/blacklist_remove_all": true,
	"POST /channel/whitelist_add": true, "POST /channel/whitelist_set": true, "POST /channel/whitelist_remove": true, "POST /channel/whitelist_remove_all": true,
	"POST /tmpchannel/subscriber_set": true,
}

// While a sync hangs beyond the patience of a request, every request on the same
// connection gets an error: none is answered 200 for a change whose outcome nobody
// knows.
func TestNoChangeSucceedsWhileItsOutcomeIsUnknown(t *testing.T) {
	d := described(t)
	served, _ := exampleServer(t)
	for _, r := range served.routes() {
		name := r.method + " " + r.path
		change, known := changing[name]
		if !known {
			t.Errorf("%s is new: say in the table whether it changes something", name)
		}
		if !change {
			continue
		}
		t.Run(r.path, func(t *testing.T) {
			t.Parallel()
			s, _ := newServer(t)
			join(t, s, "g1", "alice", "bob")
			log := new(stuck)
			s.log = log
			s.SetLimits(Limits{MaxMembers: 10, MaxPayload: 64})
			s.o.Wait, s.body = 60*time.Millisecond, 20*time.Millisecond
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error)
			go func() { done <- s.Serve(ln) }()
			t.Cleanup(func() {
				s.Close()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
			target, body := d.Paths[r.path]["post"].example(r.path)
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			from := bufio.NewReader(conn)
			for i := range 3 {
				if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", target, len(body), body); err != nil {
					t.Fatalf("request %d: the connection is closed: %v", i, err)
				}
				res, err := http.ReadResponse(from, nil)
				if err != nil {
					t.Fatalf("request %d: the connection is closed: %v", i, err)
				}
				said, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != http.StatusGatewayTimeout || !strings.Contains(string(said), "unknown") {
					t.Errorf("request %d: %s %q, %v; want 504 and that the outcome is unknown", i, res.Status, said, err)
				}
			}
			if d.Paths[r.path]["post"].Responses["504"] == nil {
				t.Error("the answer 504 is not described")
			}
			if want := int64(3); log.batches.Load() != want && !strings.HasPrefix(r.path, "/conn/") {
				t.Errorf("%d batches reached the log, want %d", log.batches.Load(), want)
			}
		})
	}
}

// join makes a group with members.
func join(t testing.TB, s *Server, id string, members ...string) {
	t.Helper()
	b := message.NewBatch(false)
	b.Add(&message.Record{Kind: message.KindChannel, ChannelType: message.ChannelGroup, ChannelID: []byte(id),
		Payload: message.AppendChange(nil, message.OpCreate, members)}, message.Origin{})
	if err := s.core.Replay(message.Committed{Index: 2, Generation: 1, Batch: b}); err != nil {
		t.Fatal(err)
	}
}
