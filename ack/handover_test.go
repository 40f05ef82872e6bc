package ack

import (
	"testing"
	"time"
)

// What another table takes over waits as long as after the same try here, and
// is given up after as many.
func TestWhatIsTakenOverKeepsItsTries(t *testing.T) {
	now := time.Unix(1000, 0)
	o := Options{Tick: time.Second, First: 10 * time.Second, Max: 40 * time.Second, Tries: 3}
	old := New(o)
	for id := range int64(3) {
		old.Sent(Key{7, id}, uint64(id), uint64(10+id), now)
	}
	old.Sent(Key{8, 99}, 0, 0, now)
	old.Acked(Key{7, 1})
	now = now.Add(11 * time.Second)
	old.Tick(now, func(Pending, bool) {})

	all := old.Each(7)
	if len(all) != 2 || all[0] != (Pending{Key{7, 0}, 0, 10, 1}) || all[1] != (Pending{Key{7, 2}, 2, 12, 1}) {
		t.Fatalf("in flight: %+v", all)
	}
	if old.Each(9) != nil {
		t.Fatal("a connection without pushes has some")
	}
	young := New(o)
	for _, p := range all {
		p.Conn, p.Ref = 70, p.Ref+100
		young.Restore(p, now)
	}
	if young.Len() != 2 || young.Count(70) != 2 {
		t.Fatalf("%d in flight, %d of the connection", young.Len(), young.Count(70))
	}
	var tries []uint8
	var last []bool
	for range 200 {
		now = now.Add(time.Second)
		young.Tick(now, func(p Pending, l bool) {
			if p.MessageID == 2 && p.Ref == 102 && p.Seq == 12 {
				tries, last = append(tries, p.Tries), append(last, l)
			}
		})
		if len(tries) == 0 && now.Sub(time.Unix(1011, 0)) > 22*time.Second {
			t.Fatal("not pushed again after 20 s")
		}
		if len(tries) == 1 && now.Sub(time.Unix(1011, 0)) < 20*time.Second {
			t.Fatal("pushed again before the second wait of 20 s was over")
		}
	}
	if len(tries) != 3 || tries[0] != 2 || tries[1] != 3 || !last[2] {
		t.Fatalf("tries %v, last %v", tries, last)
	}
}
