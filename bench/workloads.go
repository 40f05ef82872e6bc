package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// row is what one run has measured, by name; see columns.
type row map[string]float64

// workload is one thing to measure. Servers that cannot do it are left out.
type workload struct {
	name, says string
	fits       func(k *kind) bool
	run        func(k *kind, o options) (row, error)
	columns    []string // of the table
}

func everybody(*kind) bool  { return true }
func serves(k *kind) bool   { return !k.copies }
func delivers(k *kind) bool { return !k.publishOnly }
func ours(k *kind) bool     { return k.name == "gatepost" || strings.Contains(k.name, "=") }

func workloads() []workload {
	return []workload{
		{"W1a", "50 connections, each one message at a time", serves,
			func(k *kind, o options) (row, error) { return publishing(k, o, 1) },
			[]string{"acked/s", "p50 ms", "p99 ms", "p99/p50", "server CPU s/M", "switches/msg", "flushes/s", "device B/payload B", "peak RSS MiB"}},
		{"W1b", "50 connections, each 64 messages unanswered", everybody,
			func(k *kind, o options) (row, error) { return publishing(k, o, 64) },
			[]string{"acked/s", "p50 ms", "p99 ms", "server CPU s/M", "generator CPU s/M", "flushes/s", "device B/payload B", "peak RSS MiB"}},
		{"W1b-small", "the same with GOMAXPROCS=1 and GOMEMLIMIT=64MiB", ours,
			func(k *kind, o options) (row, error) {
				return publishing(k, o, 64, "GOMAXPROCS=1", "GOMEMLIMIT=64MiB")
			},
			[]string{"acked/s", "p50 ms", "p99 ms", "max ms", "server CPU s/M", "peak RSS MiB"}},
		{"paced", "50 connections send 2,000 messages a second together to one receiver; times from when a message was due until it is there", delivers, paced,
			[]string{"delivered/s", "delivery p50 ms", "delivery p99 ms", "p50 ms", "p99 ms", "server CPU s/M", "one sync ms", "p50 / sync", "delivery p50 / sync", "delivery p99 / sync"}},
		{"fanout", "one connection sends, 16 messages unanswered, to 500 receivers who acknowledge", delivers, fanout,
			[]string{"delivered/s", "delivery p50 ms", "delivery p99 ms", "server CPU s/M deliveries", "peak RSS MiB"}},
		{"backlog", "200,000 messages for one who is away, who then comes and acknowledges all", delivers, backlog,
			[]string{"drained/s", "acked/s", "publish CPU s/M", "drain CPU s/M", "RSS MiB full", "peak RSS MiB"}},
		{"idle", "10,000 connections that do nothing", delivers, idle,
			[]string{"connects/s", "bytes each", "CPU %", "RSS MiB"}},
		{"start", "from exec on an empty directory to the first acknowledgement, then 3 s at rest", delivers, cold,
			[]string{"first ack ms", "listens ms", "RSS MiB", "of no file MiB", "wake-ups/s"}},
	}
}

// publishing has 50 publishers, each to a destination of its own where nobody is.
func publishing(k *kind, o options, window int, env ...string) (row, error) {
	if k.copies {
		return copying(o), nil
	}
	s, err := k.start(o, env...)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if k.keep != nil {
		if err := k.keep(s); err != nil {
			return nil, err
		}
	}
	conns, closed, err := publishers(s, 50, func(i int) string { return fmt.Sprint("r", i) }, false)
	defer closed()
	if err != nil {
		return nil, err
	}
	l := &load{size: o.size, window: window}
	before, after, err := l.run(s, conns, nil, o.warm, o.measure, 0)
	if err != nil {
		return nil, err
	}
	return l.row(s, before, after, l.acked.Load()), nil
}

// publishers connects n of them.
func publishers(s *server, n int, to func(i int) string, group bool) (conns []conn, closed func(), err error) {
	closed = func() {
		for _, c := range conns {
			c.close()
		}
	}
	for i := range n {
		c, err := s.dial(s, fmt.Sprint("p", i), to(i), group)
		if err != nil {
			return conns, closed, fmt.Errorf("cannot connect publisher %d: %w", i, err)
		}
		conns = append(conns, c)
	}
	return conns, closed, nil
}

// row is what all loads report. n is the number of messages that the processor time
// is divided by.
func (l *load) row(s *server, before, after usage, n int64) row {
	seconds := after.at.Sub(before.at).Seconds()
	r := row{
		"acked/s": float64(l.acked.Load()) / (l.until - l.from).Seconds(),
		"p50 ms":  quantile(l.acks, 0.5), "p99 ms": quantile(l.acks, 0.99), "p99.9 ms": quantile(l.acks, 0.999), "max ms": quantile(l.acks, 1),
		"peak RSS MiB": s.memory("VmHWM") / (1 << 20),
	}
	if r["p50 ms"] > 0 {
		r["p99/p50"] = r["p99 ms"] / r["p50 ms"]
	}
	if before.flushes >= 0 {
		r["flushes/s"] = float64(after.flushes-before.flushes) / seconds
	}
	if n > 0 {
		r["server CPU s/M"] = (after.cpu - before.cpu) / float64(n) * 1e6
		r["generator CPU s/M"] = (after.own - before.own) / float64(n) * 1e6
		r["switches/msg"] = float64(after.switches-before.switches) / float64(n)
		if before.written >= 0 {
			r["device B/payload B"] = float64(after.written-before.written) / float64(n) / float64(l.size)
		}
	}
	if len(l.pushes) > 0 {
		r["delivered/s"] = float64(l.got.Load()) / (l.until - l.from).Seconds()
		r["delivery p50 ms"], r["delivery p99 ms"] = quantile(l.pushes, 0.5), quantile(l.pushes, 0.99)
	}
	return r
}

func paced(k *kind, o options) (row, error) {
	one, err := oneSync(o.work)
	if err != nil {
		return nil, err
	}
	s, err := k.start(o)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	receiver, err := k.consumer(s, "r0", "r0", false)
	if err != nil {
		return nil, err
	}
	defer receiver.close()
	conns, closed, err := publishers(s, 50, func(int) string { return "r0" }, false)
	defer closed()
	if err != nil {
		return nil, err
	}
	l := &load{size: o.size, window: 64, rate: 2000}
	before, after, err := l.run(s, conns, []conn{receiver}, o.warm, o.measure, 0)
	if err != nil {
		return nil, err
	}
	r := l.row(s, before, after, l.acked.Load())
	r["one sync ms"] = one
	for _, column := range []string{"p50", "delivery p50", "delivery p99"} {
		if v, ok := r[column+" ms"]; ok && one > 0 {
			r[column+" / sync"] = v / one
		}
	}
	return r, nil
}

// oneSync is the median time of a write of 4 KiB over what is there, and its sync,
// 500 times with 1 ms between.
func oneSync(work string) (float64, error) {
	dir, err := os.MkdirTemp(work, "sync-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	const size, times = 4 << 10, 500
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, size*times)); err != nil {
		return 0, err
	}
	if err := f.Sync(); err != nil {
		return 0, err
	}
	var took []time.Duration
	page := bytes.Repeat([]byte{1}, size)
	for i := range times {
		began := time.Now()
		if _, err := f.WriteAt(page, int64(i*size)); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
		time.Sleep(time.Millisecond)
	}
	return quantile(took, 0.5), nil
}

func fanout(k *kind, o options) (row, error) {
	const receivers = 500
	s, err := k.start(o)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	if k.group != nil {
		members := []string{"p0"}
		for i := range receivers {
			members = append(members, fmt.Sprint("r", i))
		}
		if err := k.group(s, "g", members); err != nil {
			return nil, err
		}
	}
	var listening []conn
	defer func() {
		for _, c := range listening {
			c.close()
		}
	}()
	for i := range receivers {
		c, err := k.consumer(s, fmt.Sprint("r", i), "g", true)
		if err != nil {
			return nil, fmt.Errorf("cannot connect receiver %d: %w", i, err)
		}
		listening = append(listening, c)
	}
	conns, closed, err := publishers(s, 1, func(int) string { return "g" }, true)
	defer closed()
	if err != nil {
		return nil, err
	}
	l := &load{size: o.size, window: 16}
	before, after, err := l.run(s, conns, listening, o.warm, o.measure, 0)
	if err != nil {
		return nil, err
	}
	r := l.row(s, before, after, l.acked.Load())
	if got := l.got.Load(); got > 0 {
		r["server CPU s/M deliveries"] = (after.cpu - before.cpu) / float64(got) * 1e6
	}
	return r, nil
}

func backlog(k *kind, o options) (row, error) {
	const all, senders = 200_000, 50
	s, err := k.start(o)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	// Who is away was there before, so that the server knows whom it keeps for.
	receiver, err := k.consumer(s, "r0", "r0", false)
	if err != nil {
		return nil, err
	}
	receiver.close()
	conns, closed, err := publishers(s, senders, func(int) string { return "r0" }, false)
	defer closed()
	if err != nil {
		return nil, err
	}
	before := s.usage()
	l := &load{size: o.size, window: 64, limit: all / senders, publishers: senders, start: time.Now()}
	var sending sync.WaitGroup
	for i, c := range conns {
		sending.Go(func() {
			if err := l.publish(c, i); err != nil {
				l.fail(err)
			}
		})
	}
	sending.Wait()
	published := time.Since(l.start)
	if err := l.failed.Load(); err != nil {
		return nil, *err
	}
	between, full := s.usage(), s.memory("VmRSS")
	began := time.Since(l.start)
	if receiver, err = k.consumer(s, "r0", "r0", false); err != nil {
		return nil, err
	}
	defer receiver.close()
	if err := l.receive(receiver, all); err != nil {
		return nil, err
	}
	after := s.usage()
	return row{
		"acked/s": all / published.Seconds(), "drained/s": all / (l.received - began).Seconds(),
		"publish CPU s/M": (between.cpu - before.cpu) / all * 1e6, "drain CPU s/M": (after.cpu - between.cpu) / all * 1e6,
		"RSS MiB full": full / (1 << 20), "peak RSS MiB": s.memory("VmHWM") / (1 << 20),
	}, nil
}

// atRest is for how long the processor time of a server that does nothing is measured
// at least: a timer may go off every few seconds.
const atRest = 10 * time.Second

func idle(k *kind, o options) (row, error) {
	const all, together = 10_000, 64
	s, err := k.start(o)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	time.Sleep(500 * time.Millisecond)
	private := s.private()
	conns := make([]conn, all)
	connect := s.idle
	if connect == nil {
		connect = func(s *server, id string) (conn, error) { return s.dial(s, id, "", false) }
	}
	defer func() {
		for _, c := range conns {
			if c != nil {
				c.close()
			}
		}
	}()
	failures := make([]error, together)
	began := time.Now()
	var dialing sync.WaitGroup
	for w := range together {
		dialing.Go(func() {
			for i := w; i < all; i += together {
				c, err := connect(s, fmt.Sprint("idle", i))
				if err != nil { // c may be the nil of a type, which cannot be closed
					failures[w] = err
					break
				}
				conns[i] = c
			}
		})
	}
	dialing.Wait()
	took := time.Since(began)
	if err := errors.Join(failures...); err != nil {
		return nil, err
	}
	if err := s.rest(2 * time.Second); err != nil {
		return nil, err
	}
	before, ran := time.Now(), s.running()
	if err := s.rest(max(o.measure, atRest)); err != nil {
		return nil, err
	}
	return row{
		"CPU %":      float64(s.running()-ran) / float64(time.Since(before)) * 100,
		"connects/s": all / took.Seconds(), "bytes each": (s.private() - private) / all, "RSS MiB": s.memory("VmRSS") / (1 << 20),
	}, nil
}

func cold(k *kind, o options) (row, error) {
	s, err := k.start(o)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	c, err := s.dial(s, "p0", "r0", false)
	if err != nil {
		return nil, err
	}
	l := &load{size: o.size, window: 1, limit: 1, publishers: 1, start: time.Now()}
	if err := l.publish(c, 0); err != nil {
		return nil, err
	}
	first := time.Since(s.started)
	c.close()
	if err := s.rest(time.Second); err != nil {
		return nil, err
	}
	before := s.usage()
	if err := s.rest(3 * time.Second); err != nil {
		return nil, err
	}
	after := s.usage()
	return row{
		"listens ms": s.reached.Seconds() * 1000, "first ack ms": first.Seconds() * 1000,
		"RSS MiB": s.memory("VmRSS") / (1 << 20), "of no file MiB": s.private() / (1 << 20),
		"wake-ups/s": float64(after.switches-before.switches) / after.at.Sub(before.at).Seconds(),
	}, nil
}
