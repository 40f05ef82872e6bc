package netio

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"net"
	"strings"
	"testing"
	"time"
)

// sealer writes records of TLS 1.3 with TLS_AES_128_GCM_SHA256 as a client does
// after its handshake.
type sealer struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

func expand(secret []byte, label string, size int) []byte {
	label = "tls13 " + label
	info := append(binary.BigEndian.AppendUint16(nil, uint16(size)), byte(len(label)))
	p, err := hkdf.Expand(sha256.New, secret, string(append(append(info, label...), 0)), size)
	if err != nil {
		panic(err)
	}
	return p
}

func (s *sealer) use(secret []byte) {
	block, err := aes.NewCipher(expand(secret, "key", 16))
	if err == nil {
		s.aead, err = cipher.NewGCM(block)
	}
	if err != nil {
		panic(err)
	}
	s.secret, s.iv, s.seq = secret, expand(secret, "iv", 12), 0
}

// append appends a record: kind 22 is a handshake message, 23 is data.
func (s *sealer) append(dst []byte, kind byte, data []byte) []byte {
	inner := append(bytes.Clone(data), kind)
	head := []byte{23, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(head[3:], uint16(len(inner)+16))
	nonce := bytes.Clone(s.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(s.seq >> (56 - 8*i))
	}
	s.seq++
	return s.aead.Seal(append(dst, head...), nonce, inner, head)
}

// newKeys appends a KeyUpdate that asks for one in return.
func (s *sealer) newKeys(dst []byte) []byte {
	dst = s.append(dst, 22, []byte{24, 0, 0, 1, 1})
	s.use(expand(s.secret, "traffic upd", 32))
	return dst
}

// A client asks for new keys again and again, between small pieces of a frame, and
// reads none of the answers. It is closed; what waits for it stays small.
func TestNewKeysForWhoReadsNothing(t *testing.T) {
	g := newGate()
	s := serve(t, Options{LoginTimeout: time.Minute, PartialTimeout: time.Minute}, g)
	raw := dial(t, s.TLSAddr())
	raw.SetReadBuffer(4 << 10)
	var log strings.Builder
	client := tls.Client(struct{ net.Conn }{raw}, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &log, MinVersion: tls.VersionTLS13})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if suite := client.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("the handshake chose %s", tls.CipherSuiteName(suite))
	}
	_, line, _ := strings.Cut(log.String(), "CLIENT_TRAFFIC_SECRET_0 ")
	secret, err := hex.DecodeString(strings.Fields(line)[1])
	if err != nil {
		t.Fatal(err)
	}
	var out sealer
	out.use(secret)
	out2 := out.append(nil, 23, message(1<<20, 1)[:4]) // a frame that never ends
	raw.Write(out2)
	eventually(t, "it is open", func() bool { return s.Conns() == 1 && s.loops[0].stats.BytesIn.Load() > 0 })
	most := 0
	look := func() { // on the loop
		s.loops[0].Call(func() {
			s.loops[0].slots.each(func(c *Conn) { most = max(most, c.Pending()) })
		})
	}
	var batch []byte
	closed := false
	for range 3000 { // 6 MB of answers
		batch = batch[:0]
		for range 100 {
			batch = out.append(out.newKeys(batch), 23, []byte{0})
		}
		if _, err := raw.Write(batch); err != nil {
			closed = true
			break
		}
		look()
	}
	if most > 128<<10 {
		t.Errorf("%d bytes wait for a client that reads nothing", most)
	}
	if !closed {
		t.Error("it was never closed")
	}
	eventually(t, "it is gone", func() bool { return s.Conns() == 0 })
	if n := g.closedWith(ErrTLS); n != 1 {
		t.Errorf("closed with %v", g.reasons)
	}
}

// A client that reads may ask for new keys as often as it likes.
func TestNewKeysForWhoReads(t *testing.T) {
	g := newGate()
	s := serve(t, Options{}, g)
	raw := dial(t, s.TLSAddr())
	var log strings.Builder
	client := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &log, MinVersion: tls.VersionTLS13})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if suite := client.ConnectionState().CipherSuite; suite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skipf("the handshake chose %s", tls.CipherSuiteName(suite))
	}
	_, line, _ := strings.Cut(log.String(), "CLIENT_TRAFFIC_SECRET_0 ")
	secret, err := hex.DecodeString(strings.Fields(line)[1])
	if err != nil {
		t.Fatal(err)
	}
	var out sealer
	out.use(secret)
	for i := range uint64(500) {
		var batch []byte
		m := message(200, i)
		for k := range 10 { // no more: this client takes no more answers in a row
			batch = out.append(out.newKeys(batch), 23, m[k:k+1])
		}
		raw.Write(out.append(batch, 23, m[10:]))
		if err := expect(client, m); err != nil {
			t.Fatal(err)
		}
	}
}
