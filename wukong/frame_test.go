package wukong

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	p, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func wantSentinel(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

func TestSplitRefusesWhatNoClientShouldSend(t *testing.T) {
	for _, c := range []struct {
		name, hex string
		want      error
	}{
		{"type 0", "00", ErrType},
		{"type 0 with a length", "0000", ErrType},
		{"type 13", "d0", ErrType},
		{"type 13 with a length", "d000", ErrType},
		{"type 14", "ef05", ErrType},
		{"type 15", "ff", ErrType},
		{"HTTP request", hex.EncodeToString([]byte("\x00GET")), ErrType},
		{"length of five bytes", "608080808001", ErrLength},
		{"length that goes on after four bytes", "6080808080", ErrLength},
		{"largest length of four bytes", "60ffffff7f", ErrTooLarge},
		{"one byte above the limit", "30818040", ErrTooLarge},
		{"length of 2 MiB less one", "30ffff7f", ErrTooLarge},
	} {
		src := unhex(t, c.hex)
		if f, n, err := Split(src); n != 0 || f.Body != nil || !errors.Is(err, c.want) {
			t.Errorf("%s (% x): %d, %v, want %v", c.name, src, n, err, c.want)
		} else {
			t.Log(err)
		}
		if n := Need(src); n != 0 {
			t.Errorf("%s: Need says %d", c.name, n)
		}
	}
}

func TestSplitAcceptsOddFramesAsThePublicLibraryDoes(t *testing.T) {
	for _, c := range []struct {
		name, hex string
		typ       Type
		flags     uint8
		n, body   int
	}{
		{"PING with flags", "75", TypePing, 5, 1, 0},
		{"PING and what follows", "7070", TypePing, 0, 1, 0},
		{"PONG with flags", "8f", TypePong, 15, 1, 0},
		{"overlong length of three bytes", "608c8000112210f47de9811500000007", TypeRecvack, 0, 16, 12},
		{"overlong length of four bytes", "608c808000112210f47de9811500000007", TypeRecvack, 0, 17, 12},
		{"no body", "6000", TypeRecvack, 0, 2, 0},
	} {
		f, n, err := Split(unhex(t, c.hex))
		if err != nil || n != c.n || f.Type != c.typ || f.Flags != c.flags || len(f.Body) != c.body {
			t.Errorf("%s: %s flags %d body %d, %d bytes, %v", c.name, f.Type, f.Flags, len(f.Body), n, err)
		}
	}
}

func TestSplitTakesTheLargestBodyAndNoMore(t *testing.T) {
	s := Send{Payload: make([]byte, MaxRemaining)}
	s.Payload = s.Payload[:MaxRemaining-s.body(LatestVersion)+len(s.Payload)]
	wire := s.Append(nil, LatestVersion)
	f, n, err := Split(wire)
	if err != nil || n != len(wire) || len(f.Body) != MaxRemaining {
		t.Errorf("body of %d: took %d of %d, %v", len(f.Body), n, len(wire), err)
	}
	if len(wire) > MaxFrame {
		t.Errorf("frame of %d bytes, MaxFrame says %d", len(wire), MaxFrame)
	}
	s.Payload = append(s.Payload, 0)
	_, _, err = Split(s.Append(nil, LatestVersion))
	wantSentinel(t, err, ErrTooLarge)
}

func TestSplitViewsCannotGrowIntoTheNextFrame(t *testing.T) {
	src := AppendPing((&Event{Data: []byte("abc")}).Append(nil))
	f, n, err := Split(src)
	if err != nil {
		t.Fatal(err)
	}
	var e Event
	if err := e.Decode(f); err != nil {
		t.Fatal(err)
	}
	_ = append(e.Data, 'x')
	_ = append(f.Body, 'x')
	if src[n] != 0x70 {
		t.Errorf("an append to a view overwrote the next frame: % x", src)
	}
}

func TestDecodeRefusesBadBodies(t *testing.T) {
	for _, c := range []struct {
		name, hex string
		version   uint8
		packet    any
		want      error
	}{
		{"string of negative length", "9003018000", 5, new(Disconnect), ErrBody},
		{"string of length -1", "900301ffff", 5, new(Disconnect), ErrBody},
		{"string behind the end", "900401000261", 5, new(Disconnect), ErrBody},
		{"no body", "9000", 5, new(Disconnect), ErrBody},
		{"half a length", "90020100", 5, new(Disconnect), ErrBody},
		{"short RECVACK", "600b112210f47de98115000000", 5, new(Recvack), ErrBody},
		{"version 2 SEND read as version 3", "3013000000000100026e310003626f620100006869", 3, new(Send), ErrBody},
		{"CONNACK too short for version 4", "200d00000000000000000100000000", 4, new(Connack), ErrBody},
		{"RECV read as SEND", "50290000000005616c69636500026731020000003c00016e0000000000000063000000016553f101686579", 5, new(Send), ErrType},
		{"PING read as CONNECT", "70", 5, new(Connect), ErrType},
		{"SENDACK with one byte more", "4012112210f47de9811500000001000000070100", 5, new(Sendack), nil},
	} {
		f, n, err := Split(unhex(t, c.hex))
		if err != nil || n == 0 {
			t.Errorf("%s: Split: %d, %v", c.name, n, err)
			continue
		}
		if err := decodePacket(c.packet, f, c.version); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		} else {
			t.Log(err)
		}
	}
}

func TestRandomBytesNeverPanic(t *testing.T) {
	r := newRand(t)
	for range 20000 {
		src := randomBytes(r, r.IntN(64))
		for len(src) > 0 {
			f, n, err := Split(src)
			if err != nil || n == 0 {
				break
			}
			decodeAll(f)
			src = src[n:]
		}
		for t := Type(0); t < 16; t++ {
			decodeAll(Frame{Type: t, Flags: uint8(r.Uint32()) & 15, Body: randomBytes(r, r.IntN(64))})
		}
	}
}

// decodeAll decodes f as each version has it.
func decodeAll(f Frame) {
	p := newPacket(f.Type)
	for version := range uint8(7) {
		if p != nil && decodePacket(p, f, version) == nil {
			appendPacket(nil, p, version)
		}
	}
}

func TestNamesOfTypesAndReasons(t *testing.T) {
	seen := map[string]bool{}
	for v := range 16 {
		seen[Type(v).String()] = true
	}
	for v := range 27 {
		seen[Reason(v).String()] = true
	}
	if len(seen) != 16+27 {
		t.Errorf("%d names, want %d: %v", len(seen), 16+27, seen)
	}
	for got, want := range map[string]string{
		TypeSendack.String():            "SENDACK",
		Type(13).String():               "type 13",
		ReasonSuccess.String():          "success",
		ReasonConnectKick.String():      "connect kick",
		ReasonClientKeyIsEmpty.String(): "client key is empty",
		ReasonSendBan.String():          "send ban",
		Reason(26).String():             "reason 26",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if ReasonNotAllowSend != 11 || ReasonSystemError != 15 || ReasonBan != 19 || ReasonSendBan != 25 {
		t.Error("a reason has a wrong number")
	}
}

func TestAppendGoesOnWhereDstEnds(t *testing.T) {
	a := Sendack{MessageID: 1, Reason: ReasonSuccess}
	room := make([]byte, 3, 3+SendackSize)
	if out := a.Append(room); &out[0] != &room[0] || len(out) != cap(room) {
		t.Error("dst had the capacity and was not used")
	}
	if out := AppendPong(AppendPing([]byte("x"))); !bytes.Equal(out, []byte("x\x70\x80")) {
		t.Errorf("% x", out)
	}
}
