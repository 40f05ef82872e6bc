package session

import (
	"fmt"
	"testing"
	"time"

	"gatepost/message"
)

// A member who is removed while behind, and added again later, gets nothing of what
// was sent in between, and nothing more of what was sent before.
func TestAMemberWhoCameBackGetsNothingOfTheTimeBetween(t *testing.T) {
	for _, how := range []string{"behind", "with pushes that are not acknowledged"} {
		t.Run(how, func(t *testing.T) {
			r := newRig(t, func(o *Options) { o.InflightMax = 4 })
			r.change(group(message.OpCreate, "team", "alice", "bob"))
			alice, bob := r.login("alice", "a"), r.login("bob", "b")
			n := 4 // the window
			if how == "behind" {
				n = 10
			}
			for i := 1; i <= n; i++ {
				alice.send("team", message.ChannelGroup, fmt.Sprint(i))
			}
			first := bob.recvs(4)
			r.change(group(message.OpRemove, "team", "bob"))
			for i := range 10 {
				alice.send("team", message.ChannelGroup, fmt.Sprint("between ", i))
			}
			r.change(group(message.OpAdd, "team", "bob"))
			for i := range 3 {
				alice.send("team", message.ChannelGroup, fmt.Sprint("after ", i))
			}
			bob.ack(first...)
			got := bob.recvs(3)
			for i, text := range texts(got) {
				if text != fmt.Sprint("after ", i) {
					t.Errorf("message %d after the return is %q", i+1, text)
				}
			}
			bob.ack(got...)
			if more := bob.recv(100 * time.Millisecond); more != nil {
				t.Errorf("%q is one too many", more.Payload)
			}
			until(t, "the log knows that all is read", func() bool { at, _ := r.cursors("bob", "team"); return at == uint64(n+13) })
		})
	}
}
