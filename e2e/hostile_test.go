package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// talk is good traffic: two people who answer each other until stop is closed.
// It returns how many messages they exchanged, or what went wrong.
func talk(a, b *client, stop <-chan struct{}) (n int, err error) {
	sides := [2]*client{a, b}
	for ; ; n++ {
		select {
		case <-stop:
			return n, nil
		default:
		}
		from, to := sides[n%2], sides[(n+1)%2]
		text := fmt.Sprintf("good %d", n)
		from.wmu.Lock()
		p := from.make(nil, send{channel: to.uid, kind: person, no: text}, []byte(text))
		client := from.seq
		_, err := from.conn.Write(p)
		from.wmu.Unlock()
		if err != nil {
			return n, fmt.Errorf("%s: SEND %d: %w", from.uid, n, err)
		}
		from.mu.Lock()
		ok := from.wait(never, func() bool { return len(from.acks) > 0 })
		if !ok {
			defer from.mu.Unlock()
			return n, fmt.Errorf("%s: no SENDACK for message %d: %v", from.uid, n, from.why())
		}
		ack := from.acks[0]
		from.acks = from.acks[1:]
		from.mu.Unlock()
		if ack.reason != reasonSuccess || ack.client != client || ack.seq != uint32(n+1) {
			return n, fmt.Errorf("%s: SENDACK %+v for message %d", from.uid, ack, n)
		}
		m := to.recvWithin(never)
		if m == nil {
			return n, fmt.Errorf("%s: message %d did not come", to.uid, n)
		}
		if m.seq != uint32(n+1) || string(m.payload) != text || m.dup() {
			return n, fmt.Errorf("%s: received %v %q, want message %d", to.uid, m, m.payload, n)
		}
	}
}

// session is the bytes of a client that behaves: the stuff that mutants are
// made of.
func session(r *rand.Rand, version byte, key string) []byte {
	h := hello(fmt.Sprintf("victim%d", r.IntN(50)))
	h.version, h.key, h.deviceFlag = version, key, byte(r.IntN(3))
	p := h.append(nil)
	for i := range 1 + r.IntN(6) {
		s := send{flags: byte(r.IntN(16)), setting: byte(r.IntN(2) * settingTopic), seq: uint32(i), no: fmt.Sprint(r.IntN(1000)),
			channel: fmt.Sprintf("victim%d", r.IntN(50)), kind: byte(1 + r.IntN(3)), topic: "t", payload: make([]byte, r.IntN(300))}
		p = s.append(p, version)
		switch r.IntN(6) {
		case 0:
			p = append(p, typePing<<4)
		case 1:
			p = appendRecvack(p, &recv{id: r.Int64(), seq: r.Uint32()})
		case 2:
			p = appendFrame(p, typeDisconnect, 0, []byte{1, 0, 0})
		case 3:
			p = append(p, h.append(nil)...)
		case 4:
			p = appendFrame(p, byte(r.IntN(16)), byte(r.IntN(16)), make([]byte, r.IntN(40)))
		}
	}
	return p
}

// mutate spoils p a little, or replaces it.
func mutate(r *rand.Rand, p []byte) []byte {
	if r.IntN(8) == 0 {
		p = make([]byte, r.IntN(3000))
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		return p
	}
	for range 1 + r.IntN(5) {
		if len(p) == 0 {
			return []byte{byte(r.Uint32())}
		}
		at := r.IntN(len(p))
		to := min(len(p), at+1+r.IntN(20))
		switch r.IntN(8) {
		case 0:
			p[at] ^= 1 << r.IntN(8)
		case 1:
			p[at] = byte(r.Uint32())
		case 2:
			p = append(p[:at], p[to:]...)
		case 3:
			p = append(p[:to:to], p[at:]...)
		case 4:
			p = p[:at]
		case 5:
			copy(p[at:to], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
		case 6:
			clear(p[at:to])
		case 7: // lengths at their limits
			limits := []string{"\x7f\xff", "\x80\x00", "\xff\xff", "\x00\x00", "\xff\xff\x3f", "\x80\x80\x40", "\x81\x80\x40", "\x80\x80\x80\x01"}
			copy(p[at:], limits[r.IntN(len(limits))])
		}
	}
	return p
}

// attack sends one stream and returns when the server closed the connection,
// or after a moment.
func attack(r *rand.Rand, b *broker, p []byte) error {
	ws := r.IntN(3) == 0
	addr := b.tcp
	if ws {
		addr = b.ws
	}
	c, err := dialTCP(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	var w io.Writer = c
	if ws && r.IntN(4) > 0 { // else the stream is the handshake
		s, err := upgradeWS(c, addr)
		if err != nil {
			return err
		}
		switch r.IntN(3) {
		case 0:
			w = s // good framing, bad content
			if bytes.HasPrefix(p, []byte("{")) {
				s.data = opText
			}
		case 1: // bad framing
			var raw bytes.Buffer
			(&wsConn{Conn: bufferConn{c, &raw}}).Write(p)
			p = mutate(r, raw.Bytes())
		}
	}
	for len(p) > 0 {
		n := len(p)
		if r.IntN(3) == 0 {
			n = 1 + r.IntN(len(p))
		}
		if _, err := w.Write(p[:n]); err != nil {
			return nil // closed already
		}
		p = p[n:]
	}
	if r.IntN(2) == 0 {
		c.(*net.TCPConn).CloseWrite()
	}
	c.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(10)) * time.Millisecond))
	io.Copy(io.Discard, c)
	if r.IntN(4) == 0 {
		c.(*net.TCPConn).SetLinger(0) // RST
	}
	return nil
}

// bufferConn writes into a buffer.
type bufferConn struct {
	net.Conn
	b *bytes.Buffer
}

func (c bufferConn) Write(p []byte) (int, error) { return c.b.Write(p) }

// Streams that no client should send, many at a time, while two people talk.
func TestBadInput(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encryption=%v", encrypted), func(t *testing.T) {
			const workers = 8
			streams := pick(5_000, 50_000)
			r := random(t)
			b := start(t, encryption(encrypted), set("log.level", "error"))
			before := b.status("VmRSS")
			stop := make(chan struct{})
			type result struct {
				n   int
				err error
			}
			talks := make(chan result, 2)
			for i, ws := range []bool{false, true} {
				x := b.must(t, dialer{uid: fmt.Sprint("good", i), ws: ws})
				y := b.must(t, dialer{uid: fmt.Sprint("fine", i), version: 3})
				go func() {
					n, err := talk(x, y, stop)
					talks <- result{n, err}
				}()
			}
			var left atomic.Int64
			left.Store(int64(streams))
			var done sync.WaitGroup
			errs := make([]error, workers)
			for i := range workers {
				r := rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
				done.Go(func() {
					for left.Add(-1) >= 0 && errs[i] == nil {
						key := ""
						if encrypted {
							key = publicKey(newKey())
						}
						errs[i] = attack(r, b, mutate(r, session(r, byte(1+r.IntN(5)), key)))
					}
				})
			}
			done.Wait()
			close(stop)
			for range 2 {
				got := <-talks
				if got.err != nil {
					t.Errorf("good traffic was disturbed: %v", got.err)
				}
				t.Logf("%d good messages went on", got.n)
			}
			for _, err := range errs {
				if err != nil {
					t.Errorf("a stream got no connection: %v", err)
				}
			}
			b.running()
			after := b.status("VmRSS")
			t.Logf("%d streams; RSS %d KiB before, %d KiB after", streams, before>>10, after>>10)
			if after > before+128<<20 {
				t.Errorf("RSS grew from %d to %d MiB", before>>20, after>>20)
			}
			if said := b.log.String(); strings.Contains(said, "panic") || strings.Contains(said, "goroutine ") {
				t.Errorf("a panic in the output:\n%s", tail(said, 40))
			}
			// Nobody is left on a line that nobody holds.
			x := b.must(t, dialer{uid: "afterwards"})
			x.tell(t, "good0", "afterwards", "still here")
		})
	}
}

// The rig: mutants differ from what they were made of, and differ from each
// other.
func TestRigMutants(t *testing.T) {
	r := random(t)
	seen := map[string]bool{}
	same := 0
	for range 1000 {
		p := session(r, 5, "")
		q := mutate(r, append([]byte(nil), p...))
		if bytes.Equal(p, q) {
			same++
		}
		seen[string(q)] = true
	}
	if same > 50 || len(seen) < 950 {
		t.Errorf("of 1000 mutants %d are as they were, %d are different from each other", same, len(seen))
	}
}
