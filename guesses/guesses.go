// Package guesses remembers from which addresses wrong tokens come, so that who
// guesses waits for the answers.
package guesses

import (
	"net/netip"
	"time"
)

const (
	// Free is how many wrong tokens of one address in a Window are no guessing:
	// behind it may be a whole house with one device that has an old one.
	Free = 10
	// Window is counted from the first of them.
	Window = time.Minute
	// maxAddresses are remembered, some 100 bytes each.
	maxAddresses = 1024
)

// Table is what is remembered. The zero value is ready. One goroutine at a time.
type Table struct {
	of map[netip.Addr]tries
}

type tries struct {
	since time.Time // of the first one
	n     int
}

// Wrong notes a wrong token and reports whether its address has had its free ones.
// An address of IPv6 stands for its /64, which is one customer's. now has to have a
// monotonic reading.
func (t *Table) Wrong(from netip.Addr, now time.Time) (guessing bool) {
	if from = from.Unmap().WithZone(""); from.Is6() {
		p, _ := from.Prefix(64) // 64 bits fit
		from = p.Addr()
	}
	if t.of == nil {
		t.of = make(map[netip.Addr]tries)
	}
	e, known := t.of[from]
	if !known && len(t.of) >= maxAddresses {
		t.forget(now)
	}
	if !known || now.Sub(e.since) >= Window {
		e = tries{since: now}
	}
	e.n = min(e.n+1, Free+1)
	t.of[from] = e
	return e.n > Free
}

// forget makes room for one address at least.
func (t *Table) forget(now time.Time) {
	for from, e := range t.of {
		if now.Sub(e.since) >= Window {
			delete(t.of, from)
		}
	}
	for from := range t.of { // any of them
		if len(t.of) < maxAddresses {
			return
		}
		delete(t.of, from)
	}
}
