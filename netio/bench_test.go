package netio

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// BenchmarkEcho sends frames of 132 bytes, 64 in flight on each connection. The
// clients are in the same process and take most of the time: the figures
// compare changes on one machine, nothing else.
func BenchmarkEcho(b *testing.B) {
	for name, ws := range map[string]bool{"tcp": false, "websocket": true} {
		b.Run(name, func(b *testing.B) { benchEcho(b, ws, newGate(), 8) })
	}
}

// BenchmarkEchoAfterAnotherGoroutine answers only after a second goroutine has
// seen the round's frames, as the log's committer does.
func BenchmarkEchoAfterAnotherGoroutine(b *testing.B) {
	g := newGate()
	var mu sync.Mutex
	var held, ready []heldFrame
	work := make(chan []heldFrame, 1024)
	go func() {
		for batch := range work {
			mu.Lock()
			ready = append(ready, batch...)
			mu.Unlock()
			g.loop.Wake()
		}
	}()
	g.read = func(c *Conn) error {
		for frame := len(message(128, 1)); len(c.Peek()) >= frame; c.Discard(frame) {
			held = append(held, heldFrame{c.ID(), [132]byte(c.Peek())})
		}
		return nil
	}
	g.round = func(time.Time) time.Duration {
		if len(held) > 0 {
			work <- held
			held = nil
		}
		mu.Lock()
		done := ready
		ready = nil
		mu.Unlock()
		for i := range done {
			if c := g.loop.Lookup(done[i].conn); c != nil {
				c.Write(done[i].frame[:])
			}
		}
		return -1
	}
	benchEcho(b, false, g, 8)
	close(work)
}

type heldFrame struct {
	conn  uint64
	frame [132]byte
}

func benchEcho(b *testing.B, ws bool, g *gate, conns int) {
	const window = 64
	s := serve(b, Options{WaitYield: true}, g)
	one := message(128, 1)
	answer := len(one)
	send := bytes.Repeat(one, window)
	if ws {
		send = bytes.Repeat(frame(0x82, one), window)
		answer += headerSize(len(one))
	}
	var clients []net.Conn
	for range conns {
		if ws {
			clients = append(clients, dialWS(b, s).duplex.(*net.TCPConn))
		} else {
			clients = append(clients, dial(b, s.TCPAddr()))
		}
		clients[len(clients)-1].SetDeadline(time.Time{})
	}
	st := s.Loops()[0].Stats()
	calls := st.Reads.Load() + st.Writes.Load()
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	rounds := b.N/(conns*window) + 1
	for _, c := range clients {
		wg.Go(func() {
			got := make([]byte, window*answer)
			for range rounds {
				c.Write(send)
				if _, err := io.ReadFull(c, got); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	frames := float64(rounds * conns * window)
	b.ReportMetric(frames/b.Elapsed().Seconds(), "frames/s")
	b.ReportMetric(float64(st.Reads.Load()+st.Writes.Load()-calls)/frames, "calls/frame")
}
