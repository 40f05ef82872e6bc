package netio

import "testing"

// TestTheWheelForgetsNobody arms, removes and turns at random beside a map of
// what is due when.
func TestTheWheelForgetsNobody(t *testing.T) {
	rng := seeded(t)
	var s slots
	var w wheel
	w.init(&s)
	due := map[*Conn]uint32{}
	var conns []*Conn
	for range 500 {
		conns = append(conns, s.take())
	}
	now := uint32(1)
	for step := range 20_000 {
		c := conns[rng.IntN(len(conns))]
		switch rng.IntN(8) {
		case 0:
			w.remove(c)
			delete(due, c)
		case 1:
			now += uint32(rng.IntN(400))
			for c := w.pop(now); c != nil; c = w.pop(now) {
				at, ok := due[c]
				if !ok {
					t.Fatalf("step %d: popped twice, or removed before", step)
				}
				if at > now { // too early is allowed: put it back
					w.arm(c, at)
				} else {
					delete(due, c)
				}
			}
			for _, at := range due {
				if at <= now {
					t.Fatalf("step %d: due at %d, not popped at %d", step, at, now)
				}
			}
			if next := w.next(); (next == 0) != (len(due) == 0) || next != 0 && next <= now {
				t.Fatalf("step %d: next look at %d, now %d, %d armed", step, next, now, len(due))
			}
		default:
			at := now + 1 + uint32(rng.IntN(1000))
			if old, ok := due[c]; !ok || at < old {
				due[c] = at // a later deadline is found when the earlier one is looked at
			}
			w.arm(c, at)
		}
	}
}

func TestSlotsNeverGiveAnIDTwice(t *testing.T) {
	rng := seeded(t)
	var s slots
	seen := map[uint64]bool{}
	var open []*Conn
	for range 20_000 {
		if rng.IntN(2) == 0 || len(open) == 0 {
			c := s.take()
			if id := c.ID(); id == 0 || seen[id] || s.find(id) != c {
				t.Fatalf("ID %x", id)
			}
			seen[c.ID()] = true
			open = append(open, c)
			continue
		}
		i := rng.IntN(len(open))
		id := open[i].ID()
		s.give(open[i])
		open = append(open[:i], open[i+1:]...)
		if s.find(id) != nil {
			t.Fatalf("finds %x, which was given back", id)
		}
	}
	if s.find(^uint64(0)) != nil || s.find(1<<63) != nil {
		t.Fatal("finds what never was")
	}
}
