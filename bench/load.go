package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A payload begins with
//
//	8 bytes time of sending, ns since the load began | 4 bytes publisher | 4 bytes number
//
// little-endian; the rest is noise that does not pack.
const stamp = 16

// silence is how long a server may say nothing before the run fails.
const silence = 30 * time.Second

// tail is for how long a receiver that has everything listens for a delivery too many.
const tail = 100 * time.Millisecond

// deadlineRenewed is how old a deadline may be that stands for silence.
const deadlineRenewed = time.Second

// load is what a workload's goroutines share.
type load struct {
	size, window int
	rate         int // messages a second of all publishers together, 0: as many as the window allows
	start        time.Time
	from, until  time.Duration // what is sent between is measured
	stop         atomic.Bool   // publishers send nothing more
	answered     atomic.Bool   // and have an answer to all
	limit        int           // messages of a publisher, 0: until stop
	publishers   int

	filling sync.Once
	noise   []byte // what messages are filled with

	mu       sync.Mutex
	acks     []time.Duration // of messages sent in the time that is measured
	pushes   []time.Duration
	received time.Duration // when the last receiver had everything

	acked  atomic.Int64 // while measured
	got    atomic.Int64
	total  atomic.Int64 // acknowledged in all
	failed atomic.Pointer[error]
}

func (l *load) fail(err error) {
	l.failed.CompareAndSwap(nil, &err)
	l.stop.Store(true)
}

func (l *load) measured(at time.Duration) bool {
	return at >= l.from && (l.until == 0 || at < l.until)
}

// due is when message n of all publishers together is to be sent.
func (l *load) due(n int) time.Duration {
	return time.Duration(float64(n) / float64(l.rate) * float64(time.Second))
}

// noiseSize is far more than a server may pack together, so that what is filled with
// noise does not pack, and little enough to stay in a processor's cache.
const noiseSize = 256 << 10

// fill is what is behind the stamp of message n of a publisher. It does not come
// again before noiseSize bytes were sent. Any goroutine may call it.
func (l *load) fill(who int, n uint32) []byte {
	l.filling.Do(func() {
		l.noise = make([]byte, noiseSize+l.size)
		rand.NewChaCha8([32]byte{1}).Read(l.noise)
	})
	return l.noise[(int(n)*l.size+who*5003)%noiseSize:][:l.size-stamp]
}

// beat wakes each publisher when its next message is due: the timers of Go's network
// poller alone are late by up to a millisecond, which is more than what is measured.
func (l *load) beat(publishers []conn) {
	runtime.LockOSThread()
	// The thread stays: servers end with the one that started them.
	defer runtime.UnlockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // 1 ns
	// Back to what it was: a server that this thread starts would have it too.
	defer unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0)
	past := time.Unix(1, 0)
	for n := 0; !l.stop.Load(); n++ {
		for left := l.due(n) - time.Since(l.start); left > 0; left = l.due(n) - time.Since(l.start) {
			ts := unix.NsecToTimespec(int64(left))
			unix.Nanosleep(&ts, nil)
		}
		publishers[n%len(publishers)].readDeadline(past)
	}
}

// publish is one publisher until the load stops and everything is answered.
func (l *load) publish(c conn, who int) error {
	payload := make([]byte, l.size)
	binary.LittleEndian.PutUint32(payload[8:], uint32(who))
	sentAt := make([]time.Duration, l.window)
	open := make([]bool, l.window) // by number modulo window: not yet answered
	var acks []time.Duration
	var last uint64
	var sent, acked uint32
	due := func() time.Duration { return l.due(int(sent)*l.publishers + who) }
	heard := time.Since(l.start)  // when the server last said something, or owed nothing
	armed := -2 * deadlineRenewed // when the deadline was set
	for {
		done := l.stop.Load() || l.limit > 0 && int(sent) == l.limit
		if done && acked == sent {
			break
		}
		now := time.Since(l.start)
		for !done && sent-acked < uint32(l.window) && !open[sent%uint32(l.window)] && (l.limit == 0 || int(sent) < l.limit) {
			at := now
			if l.rate > 0 {
				if at = due(); at > now {
					break
				}
			}
			slot := sent % uint32(l.window)
			sentAt[slot], open[slot] = at, true
			binary.LittleEndian.PutUint64(payload, uint64(at))
			binary.LittleEndian.PutUint32(payload[12:], sent)
			copy(payload[stamp:], l.fill(who, sent))
			c.publish(sent, payload)
			sent++
		}
		if err := c.flush(); err != nil {
			return fmt.Errorf("publisher %d cannot send: %w", who, err)
		}
		switch {
		case l.rate > 0 && !done && sent-acked < uint32(l.window):
			c.readDeadline(l.start.Add(due() + time.Millisecond)) // if beat came in between
		case l.rate > 0 || now-armed > deadlineRenewed: // not each time: it costs
			c.readDeadline(l.start.Add(now + silence))
			armed = now
		}
		err := c.read()
		now = time.Since(l.start)
		if l.rate > 0 && errors.Is(err, os.ErrDeadlineExceeded) && now-heard < silence { // beat
			if sent == acked {
				heard = now
			}
			continue
		}
		if err != nil {
			return fmt.Errorf("publisher %d has %d of %d answers: %w", who, acked, sent, err)
		}
		heard = now
		for {
			e, ok, err := c.next()
			if err != nil {
				return fmt.Errorf("publisher %d: %w", who, err)
			}
			if !ok {
				break
			}
			if e.delivery {
				return fmt.Errorf("publisher %d got a delivery", who)
			}
			slot := e.n % uint32(l.window)
			if e.n >= sent || sent-e.n > uint32(l.window) || !open[slot] {
				return fmt.Errorf("publisher %d got an answer to message %d, which does not wait for one", who, e.n)
			}
			if e.alone && e.seq != uint64(e.n)+1 {
				return fmt.Errorf("publisher %d: message %d got position %d, expected %d", who, e.n, e.seq, e.n+1)
			}
			if e.seq != 0 && e.seq <= last {
				return fmt.Errorf("publisher %d: message %d got position %d behind %d", who, e.n, e.seq, last)
			}
			last = e.seq
			open[slot] = false
			acked++
			l.total.Add(1)
			if at := sentAt[slot]; l.measured(at) {
				acks = append(acks, now-at)
			}
			if l.measured(now) {
				l.acked.Add(1)
			}
		}
	}
	l.mu.Lock()
	l.acks = append(l.acks, acks...)
	l.mu.Unlock()
	return nil
}

// receive takes and confirms deliveries until want of them are there, 0: until the
// load has stopped and everything that was acknowledged has come. Each publisher's
// must come in order, each once, as they were sent, and nothing behind the last.
func (l *load) receive(c conn, want int) error {
	next := make([]uint32, l.publishers)
	var pushes []time.Duration
	got := 0
	expected := func() int {
		switch {
		case want > 0:
			return want
		case l.answered.Load():
			return int(l.total.Load())
		}
		return math.MaxInt // not known yet
	}
	var all time.Duration // when everything was there, 0: it is not
	quiet := time.Now()
	for l.failed.Load() == nil {
		wait := 200 * time.Millisecond // to look whether it is over
		if got >= expected() {
			now := time.Since(l.start)
			if all == 0 {
				all = now
			}
			if wait = all + tail - now; wait <= 0 {
				break
			}
		}
		c.readDeadline(time.Now().Add(wait))
		if err := c.read(); errors.Is(err, os.ErrDeadlineExceeded) {
			if time.Since(quiet) > silence {
				return fmt.Errorf("a receiver has %d deliveries and nothing comes", got)
			}
			continue
		} else if err != nil {
			return fmt.Errorf("a receiver has %d deliveries: %w", got, err)
		}
		now := time.Since(l.start)
		quiet = time.Now()
		for {
			e, ok, err := c.next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if !e.delivery {
				continue
			}
			if len(e.payload) != l.size {
				return fmt.Errorf("a receiver got %d bytes, expected %d", len(e.payload), l.size)
			}
			who, n := binary.LittleEndian.Uint32(e.payload[8:]), binary.LittleEndian.Uint32(e.payload[12:])
			if int(who) >= len(next) || n != next[who] {
				return fmt.Errorf("a receiver got message %d of publisher %d, expected %d", n, who, next[min(int(who), len(next)-1)])
			}
			if e.alone && e.seq != uint64(n)+1 {
				return fmt.Errorf("a receiver got message %d of publisher %d at position %d, expected %d", n, who, e.seq, n+1)
			}
			if !bytes.Equal(e.payload[stamp:], l.fill(int(who), n)) {
				return fmt.Errorf("a receiver got message %d of publisher %d with another content", n, who)
			}
			next[who]++
			got++
			at := time.Duration(binary.LittleEndian.Uint64(e.payload))
			if l.measured(at) {
				pushes = append(pushes, now-at)
			}
			if l.measured(now) {
				l.got.Add(1)
			}
			c.confirm(&e)
		}
		if err := c.flush(); err != nil {
			return fmt.Errorf("a receiver cannot confirm: %w", err)
		}
	}
	if most := expected(); got > most {
		return fmt.Errorf("a receiver got %d deliveries, expected %d", got, most)
	}
	l.mu.Lock()
	l.pushes = append(l.pushes, pushes...)
	l.received = max(l.received, all)
	l.mu.Unlock()
	return nil
}

// run lets publishers and receivers work: for the time warm, which is not measured, and
// for the time measure. It returns what the server used in that.
func (l *load) run(s *server, publishers, receivers []conn, warm, measure time.Duration, want int) (before, after usage, err error) {
	l.publishers = len(publishers)
	l.from, l.until = warm, warm+measure
	l.start = time.Now()
	var sending, receiving sync.WaitGroup
	for _, c := range receivers {
		receiving.Go(func() {
			if err := l.receive(c, want); err != nil {
				l.fail(err)
			}
		})
	}
	for i, c := range publishers {
		sending.Go(func() {
			if err := l.publish(c, i); err != nil {
				l.fail(err)
			}
		})
	}
	if l.rate > 0 {
		sending.Go(func() { l.beat(publishers) })
	}
	time.Sleep(warm)
	before = s.usage()
	l.sleep(measure)
	after = s.usage()
	l.stop.Store(true)
	sending.Wait()
	l.answered.Store(true)
	receiving.Wait()
	if err := l.failed.Load(); err != nil {
		return before, after, *err
	}
	return before, after, nil
}

// sleep ends early when a goroutine has failed.
func (l *load) sleep(d time.Duration) {
	for end := time.Now().Add(d); l.failed.Load() == nil; {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		time.Sleep(min(left, 50*time.Millisecond))
	}
}

// quantile of values, which it sorts.
func quantile(values []time.Duration, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(int(q*float64(len(values))), len(values)-1)].Seconds() * 1000
}
