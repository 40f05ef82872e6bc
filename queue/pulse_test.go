package queue

import "testing"

func TestPulse(t *testing.T) {
	var p Pulse
	if n, d := p.Look(); n != 0 || d != Works {
		t.Fatalf("nothing said: %d, %d", n, d)
	}
	for i, d := range []Doing{Rests, Works, Disk, Disk, Rests} {
		p.Say(d)
		if n, got := p.Look(); n != uint64(i+1) || got != d {
			t.Errorf("said %d as number %d: looks like %d, %d", d, i+1, n, got)
		}
	}
}
