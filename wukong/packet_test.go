package wukong

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// Two shapes of packets: those that are the same in all versions, and those
// that are not.
type (
	plain interface {
		Decode(Frame) error
		Append([]byte) []byte
	}
	versioned interface {
		Decode(Frame, uint8) error
		Append([]byte, uint8) []byte
	}
)

// newPacket returns an empty packet of a type that has a body.
func newPacket(t Type) any {
	switch t {
	case TypeConnect:
		return new(Connect)
	case TypeConnack:
		return new(Connack)
	case TypeSend:
		return new(Send)
	case TypeSendack:
		return new(Sendack)
	case TypeRecv:
		return new(Recv)
	case TypeRecvack:
		return new(Recvack)
	case TypeDisconnect:
		return new(Disconnect)
	case TypeSub:
		return new(Sub)
	case TypeSuback:
		return new(Suback)
	case TypeEvent:
		return new(Event)
	}
	return nil
}

// packetTypes are the types that have a body.
func packetTypes() []Type {
	return []Type{
		TypeConnect, TypeConnack, TypeSend, TypeSendack, TypeRecv, TypeRecvack,
		TypeDisconnect, TypeSub, TypeSuback, TypeEvent,
	}
}

func decodePacket(p any, f Frame, version uint8) error {
	if v, ok := p.(versioned); ok {
		return v.Decode(f, version)
	}
	return p.(plain).Decode(f)
}

func appendPacket(dst []byte, p any, version uint8) []byte {
	if v, ok := p.(versioned); ok {
		return v.Append(dst, version)
	}
	return p.(plain).Append(dst)
}

// different names the first field in which two packets differ, "" if none. An
// empty string and none are the same.
func different(a, b any) string {
	va, vb := reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem()
	if va.Type() != vb.Type() {
		return fmt.Sprintf("types: %T, %T", a, b)
	}
	for i := range va.NumField() {
		x, y := va.Field(i).Interface(), vb.Field(i).Interface()
		if bx, ok := x.([]byte); ok {
			if bytes.Equal(bx, y.([]byte)) {
				continue
			}
		} else if x == y {
			continue
		}
		return fmt.Sprintf("%T.%s: %v, %v", a, va.Type().Field(i).Name, x, y)
	}
	return ""
}

// newRand returns a random source and prints its seed.
func newRand(t testing.TB) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func randomBytes(r *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// randomPacket fills a packet, and clears what that version does not carry.
func randomPacket(r *rand.Rand, t Type, version uint8) any {
	p := newPacket(t)
	v := reflect.ValueOf(p).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case f.Kind() == reflect.Slice:
			n := r.IntN(24)
			if r.IntN(20) == 0 {
				n = r.IntN(400)
			}
			f.SetBytes(randomBytes(r, n))
		case f.CanInt():
			f.SetInt(int64(r.Uint64()))
		default:
			f.SetUint(r.Uint64())
		}
	}
	if f := v.FieldByName("Flags"); f.IsValid() {
		f.SetUint(f.Uint() & 0x0f)
	}
	switch p := p.(type) {
	case *Connack:
		if version < 4 {
			p.NodeID = 0
		}
	case *Send:
		if !hasStream(p.Setting, version) {
			p.StreamNo = nil
		}
		if version < 3 {
			p.Expire = 0
		}
		if p.Setting&SettingTopic == 0 {
			p.Topic = nil
		}
	case *Recv:
		if !hasStream(p.Setting, version) {
			p.StreamFlag, p.StreamNo, p.StreamID = 0, nil, 0
		}
		if version < 3 {
			p.Expire = 0
		}
		if p.Setting&SettingTopic == 0 {
			p.Topic = nil
		}
	}
	return p
}

func TestEveryTypeComesBackAsItWasSentInEveryVersion(t *testing.T) {
	r := newRand(t)
	for range 200 {
		for _, typ := range packetTypes() {
			for version := uint8(1); version <= LatestVersion; version++ {
				sent := randomPacket(r, typ, version)
				wire := appendPacket([]byte("before"), sent, version)[len("before"):]
				if n := Need(wire); n != len(wire) {
					t.Fatalf("%s v%d: Need says %d, the frame has %d bytes", typ, version, n, len(wire))
				}
				f, n, err := Split(append(wire, "next"...))
				if err != nil || n != len(wire) || f.Type != typ {
					t.Fatalf("%s v%d: Split gave %s, %d of %d bytes, %v", typ, version, f.Type, n, len(wire), err)
				}
				got := newPacket(typ)
				if err := decodePacket(got, f, version); err != nil {
					t.Fatalf("%s v%d: %v\n%x", typ, version, err, wire)
				}
				if d := different(sent, got); d != "" {
					t.Fatalf("%s v%d differs in %s\n%x", typ, version, d, wire)
				}
				checkSize(t, sent, len(wire), version)
			}
		}
	}
}

func checkSize(t *testing.T, p any, got int, version uint8) {
	t.Helper()
	want := got
	switch p := p.(type) {
	case *Send:
		want = p.Size(version)
	case *Recv:
		want = p.Size(version)
	case *Sendack:
		want = SendackSize
	case *Recvack:
		want = RecvackSize
	}
	if got != want {
		t.Fatalf("%T v%d: %d bytes on the wire, its size says %d", p, version, got, want)
	}
}

func TestADecodedPacketKeepsNothingOfTheOneBefore(t *testing.T) {
	r := newRand(t)
	for _, typ := range packetTypes() {
		const version = 1 // the fewest fields
		reused, fresh := randomPacket(r, typ, 4), newPacket(typ)
		f, _, err := Split(appendPacket(nil, newPacket(typ), version))
		if err != nil {
			t.Fatal(err)
		}
		if err := decodePacket(reused, f, version); err != nil {
			t.Fatal(err)
		}
		if d := different(reused, fresh); d != "" {
			t.Errorf("differs in %s", d)
		}
	}
}

func TestBytesBehindTheLastFieldAreIgnored(t *testing.T) {
	r := newRand(t)
	for _, typ := range packetTypes() {
		if typ == TypeSend || typ == TypeRecv || typ == TypeEvent {
			continue // their last field is all the rest
		}
		sent, got := randomPacket(r, typ, 5), newPacket(typ)
		f, _, err := Split(appendPacket(nil, sent, 5))
		if err != nil {
			t.Fatal(err)
		}
		f.Body = append(f.Body, 1, 2, 3)
		if err := decodePacket(got, f, 5); err != nil {
			t.Errorf("%s: %v", typ, err)
		}
		if d := different(sent, got); d != "" {
			t.Errorf("%s differs in %s", typ, d)
		}
	}
}

// The cut runs through every field: an error, never a panic, and never a
// string that reaches into the next frame.
func TestABodyCutAnywhereIsAnErrorUntilOnlyItsTailIsMissing(t *testing.T) {
	r := newRand(t)
	for _, typ := range packetTypes() {
		for version := uint8(1); version <= LatestVersion; version++ {
			sent := randomPacket(r, typ, version)
			tail := 0 // of a field that may have any length
			switch p := sent.(type) {
			case *Send:
				tail = len(p.Payload)
			case *Recv:
				tail = len(p.Payload)
			case *Event:
				tail = len(p.Data)
			}
			f, _, err := Split(appendPacket(nil, sent, version))
			if err != nil {
				t.Fatal(err)
			}
			whole := f.Body
			for cut := range len(whole) {
				f.Body = whole[:cut]
				err := decodePacket(newPacket(typ), f, version)
				if wantErr := cut < len(whole)-tail; (err != nil) != wantErr {
					t.Fatalf("%s v%d cut at %d of %d (tail %d): %v", typ, version, cut, len(whole), tail, err)
				} else if wantErr {
					wantSentinel(t, err, ErrBody)
				}
			}
		}
	}
}

func TestAppendCutsAStringThatNoFrameCanHold(t *testing.T) {
	long := bytes.Repeat([]byte("x"), MaxString+1)
	d := Disconnect{Reason: ReasonBan, Text: long}
	f, n, err := Split(d.Append(nil))
	if err != nil || n == 0 {
		t.Fatal(n, err)
	}
	var got Disconnect
	if err := got.Decode(f); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Text, long[:MaxString]) {
		t.Errorf("text of %d bytes, want %d", len(got.Text), MaxString)
	}
}

// The Android, Flutter and HarmonyOS clients speak version 4, read 0x04 as the bit
// of a stream with fields of their own, and know nothing of 0x02.
func TestMobileClientsReadAMessageOfAStream(t *testing.T) {
	for version := uint8(1); version <= LatestVersion; version++ {
		for setting := range 256 {
			sent := Recv{Setting: RecvSetting(uint8(setting), version), FromUID: []byte("ai"), ChannelID: []byte("g"), ChannelType: ChannelGroup,
				StreamNo: []byte("s-1"), StreamID: 9, MessageID: 7, MessageSeq: 3, Payload: []byte("x")}
			f, _, err := Split(sent.Append(nil, version))
			if err != nil {
				t.Fatal(err)
			}
			if want := uint8(setting) &^ 0x06; sent.Setting&^SettingStream != want || version < 5 && sent.Setting != want {
				t.Fatalf("version %d: setting %#x became %#x", version, setting, sent.Setting)
			}
			r := read(f, TypeRecv)
			r.u8()
			r.str() // message key
			from, channel, kind := string(r.str()), string(r.str()), r.u8()
			if version >= 3 {
				r.u32() // expire
			}
			r.str() // client message number
			if id, seq := r.u64(), r.u32(); from != "ai" || channel != "g" || kind != ChannelGroup || id != 7 || seq != 3 {
				t.Fatalf("version %d, setting %#x: message %d, sequence %d, from %q in %q of type %d", version, setting, id, seq, from, channel, kind)
			}
		}
	}
}
