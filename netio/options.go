package netio

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"gatepost/ring"
)

// Options sets the sizes of a Server. Zero values take the default. A negative
// timeout means never.
type Options struct {
	Loops          int           // epoll loops, one goroutine each; default 1
	Scratch        int           // bytes of the ring each loop reads into; default 64 KiB
	ReadBudget     int           // bytes read from one connection per turn; default 256 KiB
	OutLimit       int           // unsent bytes at which Conn.High becomes true; default 256 KiB
	PoolBytes      int           // rings lent at most, bytes over all loops; default 64 MiB, at least 4 MiB per loop
	MaxConns       int           // connections over all loops; a further one takes the place of the oldest that is not logged in, or is closed; default 100,000
	IdleTimeout    time.Duration // nothing received after SetEstablished; default 3 min
	LoginTimeout   time.Duration // from accept to SetEstablished; default 5 s
	PartialTimeout time.Duration // an incomplete frame without progress, or of any age when the pool is used up; default 30 s
	WaitYield      bool          // poll, yield, then block; see doc of wait
	LoginBytes     int           // bytes that may wait unconsumed before SetEstablished, and then a quarter of the input's rings is for such connections; default no bound
	ProxyProtocol  bool          // every connection must begin with a PROXY v1 or v2 header
	TLS            *tls.Config   // for ListenTLS; nil: none
	MaxTLS         int           // connections inside TLS over all loops; likewise; default MaxConns
	Origins        *Origins      // of web pages that may open a WebSocket; nil: all
	Sockets        Sockets       // of every connection
	Logger         *slog.Logger  // default: discard
}

// Sockets are what the kernel is told about every connection. Zero values take
// the default.
type Sockets struct {
	Backlog           int           // connections that wait to be accepted; the kernel caps it at net.core.somaxconn; default 1024
	Unsent            int           // bytes the kernel holds of what is not sent yet: back-pressure reaches us early instead of megabytes there; default 16 KiB
	UserTimeout       time.Duration // for data that is not acknowledged, which keep-alive does not cover; it also ends a peer that reads nothing for so long; default 60 s
	KeepAliveIdle     time.Duration // whole seconds; default 60 s
	KeepAliveInterval time.Duration // whole seconds; default 15 s
	KeepAliveCount    int           // default 4
}

func (o Options) withDefaults() Options {
	set(&o.Loops, 1)
	set(&o.Scratch, ring.Unit)
	set(&o.ReadBudget, 256<<10)
	set(&o.OutLimit, 256<<10)
	set(&o.PoolBytes, 64<<20)
	set(&o.MaxConns, 100_000)
	set(&o.MaxTLS, o.MaxConns)
	set(&o.IdleTimeout, 3*time.Minute)
	set(&o.LoginTimeout, 5*time.Second)
	set(&o.PartialTimeout, 30*time.Second)
	set(&o.Sockets.Backlog, 1024)
	set(&o.Sockets.Unsent, 16<<10)
	set(&o.Sockets.UserTimeout, time.Minute)
	set(&o.Sockets.KeepAliveIdle, time.Minute)
	set(&o.Sockets.KeepAliveInterval, 15*time.Second)
	set(&o.Sockets.KeepAliveCount, 4)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o Options) check() error {
	switch {
	case o.Loops < 1 || o.Loops > 1024:
		return fmt.Errorf("cannot run %d loops: 1 to 1024 are possible", o.Loops)
	case o.Scratch < 1 || o.Scratch > ring.Max:
		return fmt.Errorf("cannot read into a ring of %d bytes: 1 to %d are possible", o.Scratch, ring.Max)
	case o.ReadBudget < 1 || o.OutLimit < 1 || o.MaxConns < 1:
		return fmt.Errorf("cannot use read budget %d, out limit %d, max connections %d: all must be above 0", o.ReadBudget, o.OutLimit, o.MaxConns)
	case o.PoolBytes < minPool*o.Loops:
		return fmt.Errorf("cannot run %d loops with %d bytes of rings: a loop needs %d to take one frame of 1 MiB", o.Loops, o.PoolBytes, minPool)
	}
	return nil
}

// minPool is the smallest ring pool of a loop in bytes: three quarters are for
// input, and while a frame of 1 MiB arrives a ring of 512 KiB is copied into
// one of 2 MiB, which is growing.
const (
	minPool = 4 << 20
	growing = 512<<10 + 2<<20
)

func set[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// Reasons given to OnClose besides io.EOF (the peer closed), what the handler
// said, and system errors.
var (
	// ErrIdle is returned when nothing was received for IdleTimeout.
	ErrIdle = errors.New("connection was idle too long")
	// ErrLogin is returned when SetEstablished was not called within LoginTimeout.
	ErrLogin = errors.New("no login in time")
	// ErrCrowded is returned when a connection that is not logged in had to make
	// room for a newer one.
	ErrCrowded = errors.New("not logged in while others need the place")
	// ErrPartial is returned when a frame stayed incomplete for PartialTimeout.
	ErrPartial = errors.New("frame stayed incomplete too long")
	// ErrTooLarge is returned when the handler leaves 2 MiB unconsumed without pausing.
	ErrTooLarge = errors.New("frame is larger than the largest buffer")
	// ErrStuck is returned when the peer took no output for a second while others
	// waited for rings.
	ErrStuck = errors.New("the peer reads nothing and others wait for memory")
	// ErrLoginSize is returned when more than LoginBytes wait before the login.
	ErrLoginSize = errors.New("more came before the login than a login has")
	// ErrNoBuffer is returned when bytes already read could not be kept.
	ErrNoBuffer = errors.New("ring pool is used up")
	// ErrStopped is returned when the loop stops.
	ErrStopped = errors.New("server stops")
	// ErrProxy is returned, wrapped, when a PROXY header is missing or bad.
	ErrProxy = errors.New("bad PROXY header")
	// ErrTLS is returned, wrapped, when a TLS handshake or record is wrong.
	ErrTLS = errors.New("bad TLS peer")
	// ErrWebSocket is returned, wrapped, when the peer breaks RFC 6455.
	ErrWebSocket = errors.New("bad WebSocket peer")
)
