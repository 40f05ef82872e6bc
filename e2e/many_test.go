package e2e

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// crowd logs n clients in, from several loopback addresses so that no address
// runs out of ports.
func crowd(t *testing.T, b *broker, from, n int) []*client {
	t.Helper()
	all := make([]*client, n)
	errs := make([]error, n)
	each(16, n, func(_, i int) {
		id := from + i
		c, ack, err := b.login(dialer{uid: fmt.Sprint("crowd", id), buffer: 512, local: fmt.Sprintf("127.0.0.%d", 2+id%8)})
		if err == nil && c == nil {
			err = fmt.Errorf("CONNACK reason %d", ack.reason)
		}
		all[i], errs[i] = c, err
	})
	t.Cleanup(func() {
		for _, c := range all {
			if c != nil {
				c.close()
			}
		}
	})
	for i, err := range errs {
		if err != nil {
			t.Fatalf("connection %d of %d: %v", from+i, from+n, err)
		}
	}
	return all
}

// each calls f(worker, i) for i from 0 to n-1, on so many goroutines.
func each(workers, n int, f func(worker, i int)) {
	var next atomic.Int64
	var done sync.WaitGroup
	for w := range workers {
		done.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				f(w, int(i))
			}
		})
	}
	done.Wait()
}

// quiet returns the smallest memory of the process, without its mapped rings,
// seen for a while: garbage comes and goes.
func quiet(b *broker) int64 {
	low := b.own()
	for range 20 {
		time.Sleep(100 * time.Millisecond)
		low = min(low, b.own())
	}
	return low
}

// 10,000 connections idle; then others come and go beside them, and none of
// the 10,000 is disconnected, each still answers, each still receives.
func TestManyConnections(t *testing.T) {
	const total, first = 10_000, 2_000
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encryption=%v", encrypted), func(t *testing.T) {
			// What a connection costs, not how much of its room the collector has just
			// touched: that is half of what lives at the 50 % of the profiles, and with it
			// the same binary was seen at 457 to 553 bytes.
			b := start(t, encryption(encrypted), set("net.max_connections", "15000"), set("log.level", "warn"), set("memory.gc_percent", "10"))
			all := crowd(t, b, 0, first)
			low, rings := quiet(b), b.status("RssShmem")
			all = append(all, crowd(t, b, first, total-first)...)
			limit := int64(512 * (total - first))
			if encrypted { // 450 to 500 bytes each measured, 580 on a busy machine; the key exchanges leave more garbage
				limit = 640 * (total - first)
			}
			high := quiet(b)
			for range 8 { // what the logins left behind goes when others come and go
				if high-low <= limit {
					break
				}
				each(8, 500, func(_, i int) {
					if c, _, err := b.login(dialer{uid: fmt.Sprint("passer-by", i), buffer: 512}); err == nil && c != nil {
						c.close()
					}
				})
				high = min(high, quiet(b))
			}
			perConn := float64(high-low) / (total - first)
			t.Logf("%d logged-in idle connections: %.0f bytes of process memory each; RSS %d KiB, rings %d KiB (%d KiB with %d connections)",
				total, perConn, b.status("VmRSS")>>10, b.status("RssShmem")>>10, rings>>10, first)
			if high-low > limit {
				t.Errorf("an idle connection costs %.0f bytes, want at most %d", perConn, limit/(total-first))
			}
			if grown := b.status("RssShmem") - rings; grown > 1<<20 {
				t.Errorf("idle connections hold %d KiB of rings", grown>>10)
			}
			churn(t, b, random(t), all)
		})
	}
}

// churn lets clients come, say something to a random one of all, and go, in
// every way there is to go.
func churn(t *testing.T, b *broker, r *rand.Rand, all []*client) {
	visits := pick(3_000, 30_000)
	const workers = 16
	var told sync.Map // uid of an idle client -> *atomic.Int64
	errs := make([]error, workers)
	sources := make([]*rand.Rand, workers)
	for w := range sources {
		sources[w] = rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
	}
	each(workers, visits, func(w, i int) {
		r := sources[w]
		c, ack, err := b.login(dialer{uid: fmt.Sprint("visitor", r.IntN(500)), device: fmt.Sprint("v", i), buffer: 512, ws: r.IntN(4) == 0, onRecv: func(*recv) {}})
		if err != nil || c == nil {
			errs[w] = fmt.Errorf("visit %d: %v, CONNACK reason %d", i, err, ack.reason)
			return
		}
		if r.IntN(2) == 0 {
			to := all[r.IntN(len(all))].uid
			p := c.make(nil, send{channel: to, kind: person, no: fmt.Sprint("visit", i)}, []byte("hi"))
			if err := c.write(p); err != nil {
				errs[w] = fmt.Errorf("visit %d: %w", i, err)
			} else if r.IntN(4) > 0 {
				c.mu.Lock()
				if !c.wait(never, func() bool { return len(c.acks) > 0 }) {
					errs[w] = fmt.Errorf("visit %d: no SENDACK: %v", i, c.why())
				} else if a := c.acks[0]; a.reason != reasonSuccess {
					errs[w] = fmt.Errorf("visit %d: SENDACK %+v", i, a)
				} else {
					n, _ := told.LoadOrStore(to, new(atomic.Int64))
					n.(*atomic.Int64).Add(1)
				}
				c.mu.Unlock()
			}
		}
		c.close()
	})
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	silent, gone := 0, 0
	each(16, len(all), func(_, i int) {
		c := all[i]
		if err := c.write([]byte{typePing << 4}); err != nil {
			return // counted below
		}
	})
	for _, c := range all {
		c.mu.Lock()
		if !c.wait(never, func() bool { return c.pongs > 0 }) {
			if c.err != nil {
				if gone++; gone < 5 {
					t.Errorf("%s was disconnected: %v", c.uid, c.err)
				}
			} else {
				silent++
			}
		}
		want := int64(0)
		if n, ok := told.Load(c.uid); ok {
			want = n.(*atomic.Int64).Load()
		}
		if !c.wait(never, func() bool { return int64(len(c.recvs)) >= want }) {
			t.Errorf("%s received %d messages, %d were acknowledged", c.uid, len(c.recvs), want)
		}
		c.mu.Unlock()
	}
	if gone+silent > 0 {
		t.Errorf("after %d visits, of %d idle clients %d were disconnected and %d do not answer", visits, len(all), gone, silent)
	}
	t.Logf("%d visits beside %d idle clients", visits, len(all))
}

// 150 clients at a limit of 100 descriptors: those that are in are served, the
// log can still roll, and the others get in when there is room.
func TestDescriptorExhaustion(t *testing.T) {
	const clients = 150
	b := start(t, withShell("ulimit -n 100"), set("wal.group_bytes", "256KiB"), set("wal.roll_size", "1MiB"))
	var in atomic.Int64
	leave, settledDown := make(chan struct{}), make(chan struct{})
	results := make(chan error, clients)
	early := make(chan *client, clients)
	for i := range clients {
		go func() {
			for end := time.Now().Add(never); ; time.Sleep(50 * time.Millisecond) {
				c, _, err := b.login(dialer{uid: fmt.Sprint("fd", i), onRecv: func(*recv) {}})
				if err == nil && c != nil {
					in.Add(1)
					select {
					case <-settledDown:
					default:
						early <- c
						<-leave
					}
					c.close()
					results <- nil
					return
				}
				if time.Now().After(end) {
					results <- fmt.Errorf("client %d never gets in: %v", i, err)
					return
				}
			}
		}()
	}
	// Wait until nobody has come in for a second.
	for n := int64(-1); n != in.Load(); time.Sleep(time.Second) {
		n = in.Load()
	}
	served := int(in.Load())
	t.Logf("%d of %d clients are in at a limit of 100 descriptors", served, clients)
	if served < 30 || served >= 100 {
		t.Errorf("%d clients are in, want most of 100", served)
	}
	cpu := cpuTime(t, b)
	time.Sleep(time.Second)
	t.Logf("%v of processor time in a second of exhaustion", cpuTime(t, b)-cpu)
	var established []*client
	for range served {
		established = append(established, <-early)
	}
	for round := range 3 { // 2.4 MiB each: the log rolls several times
		for i, c := range established {
			a := c.send(t, send{channel: established[(i+1)%served].uid, kind: person, no: fmt.Sprint(round)}, string(make([]byte, 16<<10)))
			if a.reason != reasonSuccess {
				t.Fatalf("%s, established, gets SENDACK %+v", c.uid, a)
			}
		}
	}
	for _, c := range established {
		if err := c.alive(); err != nil {
			t.Errorf("%s, established, was disconnected: %v", c.uid, err)
		}
	}
	close(settledDown)
	close(leave)
	for range clients {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	b.running()
	late := b.must(t, dialer{uid: "late"})
	late.tell(t, "fd0", "late", "after all")
}
