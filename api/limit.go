package api

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	slotWait    = 5 * time.Second  // for others to finish
	bodyTimeout = 10 * time.Second // for a body to come in
	// lostBody is how long the body of a request that is not let in is taken
	// in, so that who sends it reads why.
	lostBody = time.Second
	// welcome is how long a new connection has for its first request while
	// others wait for its place.
	welcome = 250 * time.Millisecond
	// guessPause is how long a wrong token waits for its answer: with 64
	// connections, 640 guesses a second.
	guessPause = 100 * time.Millisecond
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

// crowd is a listener with a bound. Who comes when it is full takes the place of
// the stranger who is there longest; where there are only known ones, further
// connections wait in the kernel's queue until one is closed. So connections that
// never say a whole request, or none that is let in, keep nobody out.
type crowd struct {
	net.Listener
	room   chan struct{}
	closed chan struct{}
	once   sync.Once

	mu        sync.Mutex
	all       []*guest // as they came; guarded by mu
	displaced *atomic.Int64
}

func newCrowd(ln net.Listener, n int, displaced *atomic.Int64) *crowd {
	return &crowd{Listener: ln, room: make(chan struct{}, n), closed: make(chan struct{}), displaced: displaced}
}

func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	for {
		var again <-chan time.Time // never, if only known ones are there
		if len(c.room) == cap(c.room) {
			if wait, ok := c.displace(); ok {
				again = time.After(wait)
			}
		}
		select {
		case c.room <- struct{}{}:
			return c.admit(conn), nil
		case <-again:
		case <-c.closed:
			_ = conn.Close() // nothing was said on it
			return nil, net.ErrClosed
		}
	}
}

func (c *crowd) admit(conn net.Conn) *guest {
	g := &guest{Conn: conn, came: time.Now()}
	g.leave = sync.OnceFunc(func() { c.remove(g) })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, g)
	return g
}

// displace closes the oldest stranger, or says for how long that one still has
// time. ok: there is one.
func (c *crowd) displace() (wait time.Duration, ok bool) {
	c.mu.Lock()
	i := slices.IndexFunc(c.all, func(g *guest) bool { return !g.known.Load() })
	if i < 0 {
		c.mu.Unlock()
		return 0, false
	}
	g := c.all[i]
	c.mu.Unlock()
	if wait = welcome - time.Since(g.came); wait > 0 {
		return wait, true
	}
	c.displaced.Add(1)
	_ = g.Close() // whoever it is did not get far
	return 0, true
}

func (c *crowd) remove(g *guest) {
	c.mu.Lock()
	c.all = slices.DeleteFunc(c.all, func(other *guest) bool { return other == g })
	c.mu.Unlock()
	<-c.room
}

func (c *crowd) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Listener.Close()
}

// guest is a connection that makes room when it is closed.
type guest struct {
	net.Conn
	came  time.Time
	leave func()
	known atomic.Bool // a request on it was let in
}

func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}

// guestKey is the key of a *guest in the context of its requests.
type guestKey struct{}

// remember puts a connection into the context of its requests.
func remember(ctx context.Context, conn net.Conn) context.Context {
	if over, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = over.NetConn()
	}
	if g, ok := conn.(*guest); ok {
		return context.WithValue(ctx, guestKey{}, g)
	}
	return ctx
}
