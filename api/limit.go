package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// What HTTP may cost, so that it cannot take from the messages: 4 changes, 4
// pages of history and 8 sends at a time are some 30 MiB at the very worst, a
// connection some 20 KiB.
const (
	maxConns    = 64
	maxChanges  = 4
	maxReads    = 4
	maxSends    = 8
	slotWait    = 5 * time.Second  // for others to finish
	bodyTimeout = 10 * time.Second // for a body to come in
)

// slots lets in as many requests as it has room for.
type slots chan struct{}

// limit returns a handler that waits for a slot, and says so when none comes
// free.
func (s slots) limit(what string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), slotWait)
		defer cancel()
		select {
		case s <- struct{}{}:
			defer func() { <-s }()
			next(w, r)
		case <-ctx.Done():
			w.Header().Set("Retry-After", "5")
			fail(w, http.StatusServiceUnavailable, fmt.Errorf("cannot begin: %d %s are under way, as many as may be at a time; try again", cap(s), what))
		}
	}
}

// crowd is a listener with a bound: further connections wait in the kernel's
// queue until one is closed.
type crowd struct {
	net.Listener
	room   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newCrowd(ln net.Listener, n int) *crowd {
	return &crowd{Listener: ln, room: make(chan struct{}, n), closed: make(chan struct{})}
}

func (c *crowd) Accept() (net.Conn, error) {
	select {
	case c.room <- struct{}{}:
	case <-c.closed:
		return nil, net.ErrClosed
	}
	conn, err := c.Listener.Accept()
	if err != nil {
		<-c.room
		return nil, err
	}
	return &guest{Conn: conn, leave: sync.OnceFunc(func() { <-c.room })}, nil
}

func (c *crowd) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Listener.Close()
}

// guest is a connection that makes room when it is closed.
type guest struct {
	net.Conn
	leave func()
}

func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}
