package wukong

import (
	"bytes"
	"errors"
	"testing"
)

// The seeds of these targets are the vectors, and what lies in testdata/fuzz.

func FuzzSplit(f *testing.F) {
	for _, v := range readVectors(f).Vectors {
		f.Add(v.wire(f))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		frame, n, err := Split(src)
		need := Need(src)
		switch {
		case err != nil:
			if n != 0 || need != 0 || frame.Body != nil {
				t.Errorf("refused, but took %d, needs %d: %v", n, need, err)
			}
			if !errors.Is(err, ErrType) && !errors.Is(err, ErrLength) && !errors.Is(err, ErrTooLarge) {
				t.Errorf("unknown error %v", err)
			}
			return
		case n == 0:
			if need != 0 && need <= len(src) {
				t.Errorf("asks for more than %d bytes, needs %d", len(src), need)
			}
			return
		case n != need || n > len(src) || len(frame.Body) > min(n, MaxRemaining):
			t.Errorf("took %d of %d, needs %d, body of %d", n, len(src), need, len(frame.Body))
		}
		// What is behind a frame does not change it, and no prefix of it is one.
		if again, m, err := Split(src[:n]); err != nil || m != n || !bytes.Equal(again.Body, frame.Body) {
			t.Errorf("alone it takes %d of %d bytes: %v", m, n, err)
		}
		if _, m, err := Split(src[:n-1]); err != nil || m != 0 {
			t.Errorf("one byte short it takes %d: %v", m, err)
		}
	})
}

// Every type in every version: what decodes can be appended, and decodes to
// the same again, in the same bytes.
func FuzzDecode(f *testing.F) {
	for _, v := range readVectors(f).Vectors {
		frame, _, err := Split(v.wire(f))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(frame.Type), frame.Flags, v.Version, frame.Body)
	}
	f.Fuzz(func(t *testing.T, typ, flags, version uint8, body []byte) {
		frame := Frame{Type: Type(typ & 15), Flags: flags & 15, Body: body}
		first := newPacket(frame.Type)
		if first == nil {
			return
		}
		if err := decodePacket(first, frame, version); err != nil {
			if !errors.Is(err, ErrBody) {
				t.Errorf("unknown error %v", err)
			}
			return
		}
		wire := appendPacket(nil, first, version)
		frame, n, err := Split(wire)
		if errors.Is(err, ErrTooLarge) && len(wire) > MaxRemaining {
			return
		}
		if err != nil || n != len(wire) {
			t.Fatalf("Split took %d of %d bytes: %v", n, len(wire), err)
		}
		second := newPacket(frame.Type)
		if err := decodePacket(second, frame, version); err != nil {
			t.Fatalf("cannot decode what Append made: %v\n%x", err, wire)
		}
		if d := different(first, second); d != "" {
			t.Fatalf("differs in %s", d)
		}
		if again := appendPacket(nil, second, version); !bytes.Equal(again, wire) {
			t.Fatalf("got  %x\nwant %x", again, wire)
		}
		checkSize(t, first, len(wire), version)
	})
}

func FuzzDeriveKeys(f *testing.F) {
	v := readVectors(f).Crypto
	f.Add([]byte(v.ClientPublic), []byte(v.IV))
	f.Add([]byte(""), []byte(""))
	private := privateKey(f, v.ServerPrivate)
	f.Fuzz(func(t *testing.T, public, salt []byte) {
		k, err := DeriveKeys(private, public, salt)
		if err != nil {
			if !errors.Is(err, ErrKey) || k != (Keys{}) {
				t.Errorf("keys %q, %v", k, err)
			}
			return
		}
		if len(public) != 44 || !bytes.HasPrefix(salt, k.IV[:]) {
			t.Errorf("accepted a key of %d characters, a salt of %d", len(public), len(salt))
		}
		_ = NewCipher(k)
	})
}

// What decrypts encrypts to a text that decrypts to the same.
func FuzzDecrypt(f *testing.F) {
	k, v := vectorKeys(f)
	f.Add([]byte(v.Wire), []byte(v.SendKey))
	f.Add([]byte(v.SendSignWire), []byte(""))
	f.Fuzz(func(t *testing.T, wire, key []byte) {
		c := NewCipher(k)
		s := Send{Payload: wire, MsgKey: key}
		if right := c.AppendSendKey(nil, &s); c.CheckSendKey(&s) != bytes.Equal(right, key) {
			t.Errorf("key %q, the right one is %q", key, right)
		}
		plain, err := c.AppendDecrypt(nil, wire)
		if err != nil {
			if !errors.Is(err, ErrCipher) {
				t.Errorf("unknown error %v", err)
			}
			return
		}
		again, err := c.AppendDecrypt(nil, c.AppendEncrypt(nil, plain))
		if err != nil || !bytes.Equal(again, plain) {
			t.Errorf("%q, %v, want %q", again, err, plain)
		}
	})
}
