package wukong

import (
	"fmt"
	"testing"
)

// wantNoAllocs runs f once to warm up, then counts.
func wantNoAllocs(t *testing.T, name string, f func()) {
	t.Helper()
	if n := testing.AllocsPerRun(100, f); n != 0 {
		t.Errorf("%s: %v allocations a run, want 0", name, n)
	}
}

func TestDecodeAndAppendDoNotAllocate(t *testing.T) {
	r := newRand(t)
	for _, typ := range packetTypes() {
		for version := uint8(1); version <= LatestVersion; version++ {
			p := randomPacket(r, typ, version)
			wire := appendPacket(nil, p, version)
			dst := make([]byte, 0, len(wire))
			name := fmt.Sprintf("%s v%d", typ, version)
			wantNoAllocs(t, "Split and decode "+name, func() {
				f, n, err := Split(wire)
				if err == nil && n == len(wire) {
					err = decodePacket(p, f, version)
				}
				if err != nil {
					t.Error(err)
				}
			})
			wantNoAllocs(t, "append "+name, func() { dst = appendPacket(dst[:0], p, version) })
		}
	}
	var dst [2]byte
	wantNoAllocs(t, "append PING, PONG", func() { AppendPong(AppendPing(dst[:0])) })
}

func TestACipherDoesNotAllocate(t *testing.T) {
	r := newRand(t)
	c := NewCipher(Keys{})
	plain := randomBytes(r, 1000)
	wire := c.AppendEncrypt(nil, plain)
	s, v := randomPacket(r, TypeSend, 5).(*Send), randomPacket(r, TypeRecv, 5).(*Recv)
	v.Payload = plain
	dst := make([]byte, 0, c.RecvSize(v, 5))
	wantNoAllocs(t, "AppendEncrypt", func() { c.AppendEncrypt(dst, plain) })
	wantNoAllocs(t, "AppendDecrypt", func() {
		if _, err := c.AppendDecrypt(dst, wire); err != nil {
			t.Error(err)
		}
	})
	wantNoAllocs(t, "AppendSendKey", func() { c.AppendSendKey(dst, s) })
	wantNoAllocs(t, "CheckSendKey", func() { c.CheckSendKey(s) })
	wantNoAllocs(t, "AppendRecvKey", func() { c.AppendRecvKey(dst, v) })
	wantNoAllocs(t, "CheckRecvKey", func() { c.CheckRecvKey(v) })
	wantNoAllocs(t, "AppendRecv", func() { c.AppendRecv(dst, v, 5) })
}

func TestPersonChannelDoesNotAllocate(t *testing.T) {
	a, b, dst := []byte("alice"), []byte("bob"), make([]byte, 0, 32)
	wantNoAllocs(t, "PersonChannel, PersonPeer", func() { PersonPeer(PersonChannel(dst, a, b), a) })
}
