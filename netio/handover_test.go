package netio

import (
	"bytes"
	"errors"
	"testing"

	"gatepost/ring"
)

// states are those of connections at various places.
func states(t testing.TB) [][]byte {
	t.Helper()
	conn := func(s stage, in, out string) *Conn {
		c := &Conn{stage: s, next: s, remotePort: 4711}
		c.remoteIP[15] = 1
		c.opened = s == stagePlain || s == stageFrames
		c.established = c.opened
		pool := ring.NewPlainPool(1 << 20)
		for _, b := range []struct {
			text string
			to   **ring.Buffer
		}{{in, &c.in}, {out, &c.out}} {
			if b.text != "" {
				r, _ := pool.Get(len(b.text))
				r.Commit(copy(r.Free(), b.text))
				*b.to = r
			}
		}
		return c
	}
	frames := conn(stageFrames, "half a frame", "")
	frames.ws = &webSocket{ready: 4, text: true, sendText: true, parser: wsParser{left: 9, message: 30, mask: 0x01020304, text: true, inMessage: true, final: true}}
	frames.ws.parser.runes.n = 1
	frames.ws.parser.runes.part[0] = 0xc3
	return [][]byte{
		conn(stagePlain, "", "").appendState(nil),
		conn(stagePlain, "abc", "defg").appendState(nil),
		conn(stageProxy, "PROX", "").appendState(nil),
		conn(stageUpgrade, "GET", "").appendState(nil),
		frames.appendState(nil),
	}
}

func TestAStateThatMakesNoSenseIsRefused(t *testing.T) {
	for i, p := range states(t) {
		if _, err := decodeState(p); err != nil {
			t.Fatalf("state %d: %v", i, err)
		}
		for n := range p {
			if _, err := decodeState(p[:n]); !errors.Is(err, ErrState) {
				t.Fatalf("state %d, %d of %d bytes: %v", i, n, len(p), err)
			}
		}
		if _, err := decodeState(append(bytes.Clone(p), 0)); !errors.Is(err, ErrState) {
			t.Fatalf("state %d and a byte more: %v", i, err)
		}
		for _, bad := range []struct {
			at   int
			byte byte
		}{{0, 0xff}, {1, byte(stageTLS)}, {1, 200}, {2, byte(stageTLS)}} {
			q := bytes.Clone(p)
			q[bad.at] = bad.byte
			if _, err := decodeState(q); !errors.Is(err, ErrState) {
				t.Fatalf("state %d with %d at %d: %v", i, bad.byte, bad.at, err)
			}
		}
	}
}

func FuzzState(f *testing.F) {
	for _, p := range states(f) {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		h, err := decodeState(p)
		if err != nil {
			return
		}
		if h.flags&heldFrames != 0 && h.ws.ready > len(h.in) {
			t.Fatal("more payload than bytes")
		}
		h.ws.parser.next(bytes.Clone(h.in)[h.ws.ready:]) // goes on without a panic
	})
}
