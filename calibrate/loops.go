package calibrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gatepost/netio"
)

const (
	frameSize = 132
	window    = 8 // frames in flight of a connection
	clients   = 32
	idleConns = 500
)

// turns is how often each number of loops is tried; the median counts, so that what
// else goes on for a while does not decide.
const turns = 3

// loops tries numbers of loops, each with both ways to wait.
func loops(ctx context.Context, o *Options, r *Result, budget time.Duration) error {
	slice := min(max(budget/time.Duration(2*turns*o.MaxLoops+1), 50*time.Millisecond), 2*time.Second)
	tries := make([][]Loops, 2*o.MaxLoops)
	for range turns {
		for i := range tries {
			l, err := echo(ctx, i/2+1, i%2 == 0, slice)
			if err != nil {
				return err
			}
			tries[i] = append(tries[i], l)
		}
	}
	for _, all := range tries {
		slices.SortFunc(all, func(a, b Loops) int { return cmp.Compare(a.Rate, b.Rate) })
		r.Loops = append(r.Loops, all[turns/2])
	}
	return nil
}

// echoer answers frames behind another goroutine, as the log answers a session. It
// belongs to its loop, but for what mu guards.
type echoer struct {
	loop *netio.Loop
	work chan<- batch
	held []frame // of this round

	mu    sync.Mutex
	ready []frame // guarded by mu
}

type frame struct {
	conn uint64
	text [frameSize]byte
}

// batch is what a loop received in a round.
type batch struct {
	of     *echoer
	frames []frame
}

func (e *echoer) OnOpen(c *netio.Conn)        { c.SetEstablished() }
func (e *echoer) OnWritable(*netio.Conn)      {}
func (e *echoer) OnBreach(*netio.Conn, error) {}
func (e *echoer) OnClose(*netio.Conn, error)  {}
func (e *echoer) OnRead(c *netio.Conn) error {
	for len(c.Peek()) >= frameSize {
		e.held = append(e.held, frame{c.ID(), [frameSize]byte(c.Peek())})
		c.Discard(frameSize)
	}
	return nil
}

func (e *echoer) OnRound(time.Time) time.Duration {
	if len(e.held) > 0 {
		e.work <- batch{e, e.held}
		e.held = nil
	}
	e.mu.Lock()
	ready := e.ready
	e.ready = nil
	e.mu.Unlock()
	for i := range ready {
		if c := e.loop.Lookup(ready[i].conn); c != nil {
			c.Write(ready[i].text[:])
		}
	}
	return -1
}

// server is loops that echo.
type server struct {
	*netio.Server
	run  sync.WaitGroup
	work chan batch
}

func listen(count int, yield bool, conns int) (*server, error) {
	s, err := netio.New(netio.Options{Loops: count, WaitYield: yield, MaxConns: conns})
	if err != nil {
		return nil, err
	}
	if err := s.Listen([]string{"127.0.0.1:0"}, nil); err != nil {
		s.Close()
		return nil, err
	}
	all := &server{Server: s, work: make(chan batch, 1024)}
	for _, l := range s.Loops() {
		all.run.Go(func() { _ = l.Run(&echoer{loop: l, work: all.work}) })
	}
	go func() {
		for b := range all.work {
			b.of.mu.Lock()
			b.of.ready = append(b.of.ready, b.frames...)
			b.of.mu.Unlock()
			b.of.loop.Wake()
		}
	}()
	return all, nil
}

func (s *server) stop() {
	s.Close()
	s.run.Wait()
	close(s.work)
}

// echo drives some loops for a while from as many connections as there are clients.
func echo(ctx context.Context, count int, yield bool, d time.Duration) (l Loops, err error) {
	s, err := listen(count, yield, clients)
	if err != nil {
		return l, fmt.Errorf("cannot try %d loops: %w", count, err)
	}
	defer s.stop()
	began := time.Now()
	end := began.Add(d)
	took := make([][]time.Duration, clients)
	errs := make([]error, clients)
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() { took[i], errs[i] = drive(ctx, s.TCPAddr().String(), end) })
	}
	all.Wait()
	passed := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return l, fmt.Errorf("cannot try %d loops: %w", count, err)
	}
	var rounds []time.Duration
	for _, t := range took {
		rounds = append(rounds, t...)
	}
	s50 := spread(rounds)
	return Loops{Count: count, Yield: yield, Rate: float64(len(rounds)*window) / passed.Seconds(), P50: s50.P50, P99: s50.P99}, nil
}

// drive sends windows until end and returns how long each took.
func drive(ctx context.Context, addr string, end time.Time) (took []time.Duration, err error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	out, in := make([]byte, window*frameSize), make([]byte, window*frameSize)
	c.SetDeadline(end.Add(10 * time.Second))
	for now := time.Now(); now.Before(end); {
		if _, err := c.Write(out); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(c, in); err != nil {
			return nil, err
		}
		then := time.Now()
		took = append(took, then.Sub(now))
		now = then
	}
	return took, nil
}

// connection measures the memory that an idle connection takes in this process. The
// other ends are bare descriptors, which take none.
func connection(ctx context.Context) (bytes int64, err error) {
	s, err := listen(1, true, idleConns)
	if err != nil {
		return 0, fmt.Errorf("cannot measure connections: %w", err)
	}
	defer s.stop()
	addr, ok := s.TCPAddr().(*net.TCPAddr)
	if !ok {
		return 0, nil
	}
	fds := make([]int, 0, idleConns)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	before := resident()
	for range idleConns {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			fds = append(fds, fd)
			err = unix.Connect(fd, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte{127, 0, 0, 1}})
		}
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) {
			break // of those there are
		}
		if err != nil {
			return 0, fmt.Errorf("cannot measure connections: %w", err)
		}
	}
	for end := time.Now().Add(5 * time.Second); s.Conns() < len(fds) && time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(time.Millisecond)
	}
	if n := s.Conns(); n >= 100 {
		return max(resident()-before, 0) / int64(n), ctx.Err()
	}
	return 0, ctx.Err()
}

// resident is the memory of this process in bytes, without garbage; 0: unknown.
func resident() int64 {
	runtime.GC()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 3 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	shared, _ := strconv.ParseInt(fields[2], 10, 64)
	return (pages - shared) * int64(os.Getpagesize())
}
