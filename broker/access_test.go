package broker

import (
	"testing"
	"time"

	"gatepost/message"
)

// What the application said of a channel gets old by the time that passes: it is due
// once when it is old, and not before.
func TestWhatTheApplicationSaidGetsOld(t *testing.T) {
	b := newBox(t, Options{})
	b.commit(group(message.OpCreate, "g", "alice"), false, nil)
	a, now := b.Access(), time.Now()
	const age = time.Minute
	a.Heard(message.ChannelGroup, []byte("g"), now)
	for _, c := range []struct {
		after time.Duration
		due   bool
	}{{0, false}, {age - time.Millisecond, false}, {age, true}, {age, false}, {2*age - time.Millisecond, false}, {2 * age, true}} {
		if known, due := a.Due(message.ChannelGroup, []byte("g"), now.Add(c.after), age); !known || due != c.due {
			t.Errorf("after %v: due is %t, want %t", c.after, due, c.due)
		}
	}
}
