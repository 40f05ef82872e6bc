package ack

import (
	"slices"
	"time"
)

// Each returns what is in flight to a connection, in the order of the first
// push.
func (t *Table) Each(conn uint64) (all []Pending) {
	c := t.findConn(conn)
	if c == 0 {
		return nil
	}
	for i := t.conns[c].head; i != 0; i = t.entries[i].connNext {
		all = append(all, t.pending(i))
	}
	slices.Reverse(all)
	return all
}

// Restore takes in what was in flight in another table, as if it had just been
// pushed for the time that p.Tries says.
func (t *Table) Restore(p Pending, now time.Time) {
	t.Sent(p.Key, p.Ref, p.Seq, now)
	i := t.find(p.Key)
	t.list(i).remove(t.entries, i)
	e := &t.entries[i]
	e.when = e.when&^0xff | uint32(min(p.Tries, t.tries))
	t.arm(i, now)
}
