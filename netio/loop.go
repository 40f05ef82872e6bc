package netio

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"gatepost/ring"

	"golang.org/x/sys/unix"
)

// Handler is what a loop calls, always on its own goroutine.
type Handler interface {
	// OnOpen is called when a connection is ready: accepted, PROXY header read,
	// WebSocket handshake done.
	OnOpen(*Conn)
	// OnRead is called when there are bytes: consume with Peek and Discard.
	// What is left stays, and OnRead is called again when more arrived; a
	// handler that left bytes although they are complete must PauseRead and is
	// called again after ResumeRead. An error closes with that reason.
	OnRead(*Conn) error
	// OnWritable is called when Pending fell below half of OutLimit after
	// having been above OutLimit, when rings came back after Out failed for
	// want of them, and after WantDrained.
	OnWritable(*Conn)
	// OnBreach is called, whether OnOpen was or not, before a connection is
	// closed for bytes that no client should send: ErrProxy, ErrWebSocket, ErrTLS,
	// ErrLoginSize, ErrTooLarge.
	OnBreach(*Conn, error)
	// OnClose is called once for each connection that OnOpen saw, at the end
	// of the round; the Conn must not be kept.
	OnClose(*Conn, error)
	// OnRound is called once per round, after all reads and before the writes.
	// It returns how long the loop may sleep at most, below 0 without limit.
	OnRound(now time.Time) time.Duration
}

// epoll data of what is not a connection; slots of connections are not negative.
const (
	wakeEvent     = -1
	firstListener = -2
)

const (
	eventsPerWait = 256
	trimEvery     = time.Second
	trimKeep      = 1 << 20 // bytes of returned rings that stay warm
)

// Loop is one epoll loop.
type Loop struct {
	server *Server
	index  int
	epfd   int
	wakefd int
	stats  Stats
	conns  atomic.Int64 // handed to this loop and not closed

	// shared with other goroutines
	sleeping atomic.Int32 // 1 while the loop is going to block: Wake must write wakefd
	woken    atomic.Int32 // 1 when Wake was called since the round began
	pending  atomic.Int32 // 1 when arrivals is not empty
	stopping atomic.Int32
	started  atomic.Int32
	done     chan struct{} // closed when Run returned
	mail     sync.Mutex
	arrivals []arrival // under mail
	calls    []func()  // under mail: for the next round
	news     []uint64  // under mail: connections whose TLS handshake went on
	evicted  []uint64  // under mail: guests that have to make room
	gone     bool      // under mail: no arrivals, no calls, no writes to wakefd any more

	// owned by the goroutine of Run
	handler       Handler
	now           time.Time // of this round
	start         time.Time
	tick          uint32 // of this round, in units of the wheel since start
	events        []unix.EpollEvent
	slots         slots
	wheel         wheel
	limits        limits
	pool          *ring.Pool
	reserve       int64 // bytes of the pool kept for output
	roomAt        uint32
	reasons       map[uint32]error // by slot: why a connection is closing
	strangers     int              // connections that have a ring for input and are not logged in
	maxStrangers  int
	scratch       *ring.Buffer
	sealed        []byte             // scratch of TLS
	guests        map[uint32]*guest  // by slot: who is not logged in
	saidAt        time.Time          // when sayExpired last said so
	turns         list               // handshakes that wait for their turn
	running       int                // handshakes that run
	ended         bool               // one of them ended in this round
	shaking       map[netip.Addr]int // handshakes that run, by network
	hurried       uint32             // tick of the last hurry
	heard         []uint64           // spare of news
	peeking       bool               // the bytes in scratch are still in the kernel too
	returned      bool               // a ring came back since the last feed
	trimAt        time.Time
	adopting      []arrival
	listeners     []listener
	acceptAt      time.Time // listeners are not watched until then; zero: they are
	acceptFailing bool
	frozen        bool // see Freeze

	// Connections that wait for something, by ID: one that is gone by then is
	// simply not found. The flag of the same name on the Conn avoids doubles.
	ready      list // have more to read or to deliver
	dirty      list // have output of this round
	writable   list // get OnWritable
	starvedIn  list // wait for a ring to read into
	starvedOut list // wait for a ring to write into
	closing    list
	oldest     int32 // head of the FIFO of incomplete frames, a slot, or none
	newest     int32
}

// list is a list of connection IDs with a second array to swap with.
type list struct{ ids, spare []uint64 }

func (q *list) add(c *Conn) { q.ids = append(q.ids, c.ID()) }

// take returns the IDs and leaves the list empty. The result is valid until
// the next take.
func (q *list) take() []uint64 {
	q.ids, q.spare = q.spare[:0], q.ids
	return q.spare
}

func newLoop(s *Server, index int) (*Loop, error) {
	l := &Loop{
		reasons: make(map[uint32]error),
		guests:  make(map[uint32]*guest),
		shaking: make(map[netip.Addr]int),
		server:  s,
		index:   index,
		epfd:    -1,
		wakefd:  -1,
		done:    make(chan struct{}),
		events:  make([]unix.EpollEvent, eventsPerWait),
		start:   time.Now(),
		oldest:  none,
		newest:  none,
	}
	l.now = l.start
	var err error
	if l.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	if l.wakefd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		unix.Close(l.epfd)
		return nil, os.NewSyscallError("eventfd", err)
	}
	// Edge-triggered: each write is an event, and nobody needs to read it.
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: wakeEvent}
	if err = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, l.wakefd, &ev); err != nil {
		unix.Close(l.wakefd)
		unix.Close(l.epfd)
		return nil, os.NewSyscallError("epoll_ctl", err)
	}
	share := int64(s.opt.PoolBytes / s.opt.Loops)
	l.pool = ring.NewPool(share + int64(ring.Size(s.opt.Scratch))) // the scratch ring comes on top
	l.scratch, _ = l.pool.Get(s.opt.Scratch)
	l.reserve = share / 4
	if s.opt.TLS != nil {
		l.sealed = make([]byte, tlsRead+tlsRecord)
	}
	input := share - l.reserve
	l.maxStrangers = int(min(input/4, input-growing) / ring.Unit)
	l.limits = newLimits(s.opt)
	l.wheel.init(&l.slots)
	l.publish()
	return l, nil
}

// Index returns the loop's place in Server.Loops.
func (l *Loop) Index() int { return l.index }

// Conns returns the number of connections of the loop. Any goroutine may ask.
func (l *Loop) Conns() int { return int(l.conns.Load()) }

// Stats returns the loop's counters. Any goroutine may read them.
func (l *Loop) Stats() *Stats { return &l.stats }

// Lookup returns the connection with this ID, or nil when it is gone or
// closing.
func (l *Loop) Lookup(id uint64) *Conn {
	if c := l.slots.find(id); c != nil && !c.closing {
		return c
	}
	return nil
}

// Wake makes the loop do a round soon. It is safe anywhere, costs no system
// call while the loop is awake, and wakes that come before the round are one.
func (l *Loop) Wake() {
	l.woken.Swap(1) // Swap, here and in wait: see there
	if !l.sleeping.CompareAndSwap(1, 0) {
		return
	}
	l.mail.Lock()
	defer l.mail.Unlock()
	if !l.gone {
		one := [8]byte{0: 1} // host order does not matter: any value but 0 and all ones
		unix.Write(l.wakefd, one[:])
	}
}

// Stop makes Run close all connections with ErrStopped and return. It is safe
// anywhere and does not wait.
func (l *Loop) Stop() {
	l.stopping.Store(1)
	l.Wake()
}

// Run runs the loop until Stop. It returns nil then, or why it could not go on.
func (l *Loop) Run(h Handler) error {
	if l.started.Swap(1) != 0 {
		return errors.New("cannot run a loop twice")
	}
	defer close(l.done)
	l.handler = h
	sleep := time.Duration(0)
	for l.stopping.Load() == 0 {
		n, err := l.wait(sleep)
		if err != nil {
			l.shutdown()
			return fmt.Errorf("cannot wait for events: %w", err)
		}
		sleep = l.round(n)
	}
	l.shutdown()
	return nil
}

// round handles n events and everything that follows from them. It returns how
// long to sleep, below 0 without limit.
func (l *Loop) round(n int) time.Duration {
	l.woken.Store(0) // before looking at any mailbox: later wakes count for the next round
	l.now = time.Now()
	l.tick = l.limits.tickAt(l.now.Sub(l.start))
	l.stats.Rounds.Add(1)
	for i := range n {
		l.event(&l.events[i])
	}
	l.resumeAccept()
	l.adopt()
	for _, id := range l.ready.take() {
		if c := l.slots.find(id); c != nil {
			c.ready = false
			l.turn(c)
		}
	}
	for _, id := range l.writable.take() {
		if c := l.slots.find(id); c != nil && c.writable {
			c.writable = false
			if !c.closing && !c.high { // full again: the next time
				l.handler.OnWritable(c)
			}
		}
	}
	l.expire()
	sleep := l.handler.OnRound(l.now)
	l.flushDirty()
	l.reap()
	l.takeTurns()
	l.feed()
	l.trim()
	return l.sleep(sleep)
}

// event handles one epoll event.
func (l *Loop) event(ev *unix.EpollEvent) {
	if ev.Fd == wakeEvent {
		return
	}
	if ev.Fd <= firstListener {
		if l.acceptAt.IsZero() && !l.frozen {
			l.accept(int(firstListener - ev.Fd))
		}
		return
	}
	c := l.slots.find(uint64(uint32(ev.Pad))<<32 | uint64(uint32(ev.Fd)))
	if c == nil {
		l.stats.Stale.Add(1)
		return
	}
	if ev.Events&unix.EPOLLOUT != 0 && c.blocked {
		c.blocked = false
		c.markDirty()
	}
	if ev.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return
	}
	c.readable = true
	if ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.hup = true // no further event will come: read to the end, not to a short read
	}
	if ev.Events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.outDead = true // it is gone; what it sent before may still be unread
		c.markDirty()
	}
	l.later(c) // one turn a round, so that the read budget holds
}

// wait waits for events for at most d, below 0 without limit.
//
// With WaitYield it first polls, then lets other goroutines run, then blocks.
// Blocking at once leaves the processor parked in the system call until the
// runtime takes it back, and whoever was made runnable meanwhile (the log's
// committer) waits for that: 450-900 us median at 20,000 frames/s against
// 23-50 (2-vCPU VM, Go 1.26). One poll and one yield: measured on 2026-11-28
// as a whole, see docs/benchmarks.md, "Sizes and waiting".
func (l *Loop) wait(d time.Duration) (int, error) {
	if d == 0 {
		if l.server.opt.WaitYield {
			runtime.Gosched() // there is more of the same work: others first
		}
		return l.poll()
	}
	if l.server.opt.WaitYield {
		if n, err := l.poll(); n != 0 || err != nil {
			return n, err
		}
		runtime.Gosched()
	}
	// Store then Load would do by the memory model, but qemu-user lets a load
	// pass the store before it when it runs arm64 on x86: wakes got lost.
	l.sleeping.Swap(1)
	if l.woken.Load() != 0 {
		l.sleeping.Store(0)
		return l.poll()
	}
	ms := -1
	if d > 0 {
		ms = int(min((d+time.Millisecond-1)/time.Millisecond, 1<<30))
	}
	l.stats.Waits.Add(1)
	n, err := unix.EpollWait(l.epfd, l.events, ms)
	l.sleeping.Store(0)
	if err == unix.EINTR {
		return 0, nil
	}
	return n, err
}

// poll asks for events without blocking, so the runtime need not know.
func (l *Loop) poll() (int, error) {
	l.stats.Waits.Add(1)
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epfd),
		uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events)), 0, 0, 0)
	if e == unix.EINTR {
		return 0, nil
	}
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// sleep returns how long the loop may sleep when the handler allows d.
func (l *Loop) sleep(d time.Duration) time.Duration {
	if len(l.ready.ids)+len(l.dirty.ids)+len(l.writable.ids)+len(l.closing.ids) > 0 {
		return 0
	}
	if at := l.nextExpiry(); at != 0 {
		d = earlier(d, l.limits.timeOf(at)-time.Since(l.start))
	}
	if !l.acceptAt.IsZero() {
		d = earlier(d, time.Until(l.acceptAt))
	}
	if !l.trimAt.IsZero() {
		d = earlier(d, time.Until(l.trimAt))
	}
	return d
}

// earlier returns the shorter of d, below 0 for no limit, and at least 0 of e.
func earlier(d, e time.Duration) time.Duration {
	e = max(e, 0)
	if d < 0 || e < d {
		return e
	}
	return d
}

// later puts c on the ready list.
func (l *Loop) later(c *Conn) {
	if !c.ready {
		c.ready = true
		l.ready.add(c)
	}
}

// put returns a ring to the pool.
func (l *Loop) put(b *ring.Buffer) {
	l.pool.Put(b)
	l.returned = true
}

// feed lets connections go on that wait for rings, when some came back.
func (l *Loop) feed() {
	l.publish()
	if !l.returned {
		return
	}
	l.returned = false
	if len(l.starvedIn.ids) > 0 {
		room := int64(0)
		for _, id := range l.starvedIn.take() {
			c := l.slots.find(id)
			if c == nil || !c.starvedIn {
				continue
			}
			if need := c.need(); l.pool.Can(need, l.reserve+room) {
				room += int64(ring.Size(need))
				c.starvedIn = false
				l.later(c)
			} else {
				l.starvedIn.add(c)
			}
		}
	}
	room := int64(0)
	for _, id := range l.starvedOut.take() {
		c := l.slots.find(id)
		if c == nil || !c.starvedOut {
			continue
		}
		keep := room
		if c.spare {
			keep += l.reserve / 2
		}
		if l.pool.Can(ring.Unit, keep) {
			room += ring.Unit
			c.starvedOut = false
			l.wantWritable(c)
		} else {
			l.starvedOut.add(c)
		}
	}
}

func (l *Loop) wantWritable(c *Conn) {
	if !c.writable {
		c.writable = true
		l.writable.add(c)
	}
}

// trim gives memory of unused rings back, at most once a second.
func (l *Loop) trim() {
	switch dirty := l.pool.Stats().Dirty; {
	case dirty <= trimKeep:
		l.trimAt = time.Time{}
	case l.trimAt.IsZero():
		l.trimAt = l.now.Add(trimEvery)
	case !l.now.Before(l.trimAt):
		l.pool.Trim(trimKeep)
		l.trimAt = time.Time{}
	}
}

// publish copies the pool's numbers to the counters.
func (l *Loop) publish() {
	s := l.pool.Stats()
	if lent := s.Rings - 1; lent != l.stats.RingsLent.Load() { // without scratch
		l.stats.RingsLent.Store(lent)
	}
	if s.Mapped == l.stats.RingsMapped.Load() {
		return
	}
	l.stats.RingsMapped.Store(s.Mapped)
	if l.stats.RingsFallback.Swap(s.Fallback) == 0 && s.Fallback != 0 {
		l.server.opt.Logger.Warn("rings are plain slices", "error", l.pool.MapError())
	}
}

// shutdown closes everything the loop owns except what Wake touches.
func (l *Loop) shutdown() {
	for i := range l.listeners {
		l.listeners[i].close()
	}
	l.listeners = nil
	l.mail.Lock()
	l.gone = true
	rest := l.arrivals
	l.arrivals = nil
	l.mail.Unlock()
	for _, a := range rest {
		l.discard(a)
	}
	l.slots.each(func(c *Conn) { c.shut(ErrStopped, false) })
	l.reap()
	l.publish()
}

// release waits for Run and frees what is left.
func (l *Loop) release() {
	if l.started.Swap(1) != 0 {
		<-l.done
	} else {
		l.shutdown()
		close(l.done)
	}
	l.mail.Lock()
	defer l.mail.Unlock()
	if l.epfd < 0 {
		return
	}
	unix.Close(l.wakefd)
	unix.Close(l.epfd)
	l.epfd, l.wakefd = -1, -1
	l.pool.Close()
}
