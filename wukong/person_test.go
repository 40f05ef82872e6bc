package wukong

import (
	"hash/crc32"
	"testing"
)

func TestPersonChannelPutsTheLargerChecksumFirst(t *testing.T) {
	for _, c := range []struct{ a, b, want string }{
		{"alice", "bob", "bob@alice"}, // 0x278ebc47 < 0xf5cbb140, unsigned
		{"u1", "u1", "u1@u1"},
		{"", "u", "u@"},
	} {
		for _, got := range [][]byte{
			PersonChannel([]byte("x"), []byte(c.a), []byte(c.b)),
			PersonChannel([]byte("x"), []byte(c.b), []byte(c.a)),
		} {
			if string(got) != "x"+c.want {
				t.Errorf("%q and %q: %s, want x%s", c.a, c.b, got, c.want)
			}
		}
	}
}

// "plumless" and "buckeroo" have the same CRC-32.
func TestPersonChannelIsOneChannelEvenIfTheChecksumsCollide(t *testing.T) {
	a, b := []byte("plumless"), []byte("buckeroo")
	if crc32.ChecksumIEEE(a) != crc32.ChecksumIEEE(b) {
		t.Fatal("these do not collide")
	}
	if ab, ba := PersonChannel(nil, a, b), PersonChannel(nil, b, a); string(ab) != "plumless@buckeroo" || string(ba) != string(ab) {
		t.Errorf("%s from one side, %s from the other", ab, ba)
	}
}

func TestTheChecksumOfAShortUIDIsThatOfALongOne(t *testing.T) {
	uid := []byte("\x00\xff7f6c1f0a-4d1e-4a53-9a06-1d0c3c2b9a11-é😀")
	for n := range len(uid) + 1 {
		if got, want := checksum(uid[:n]), crc32.ChecksumIEEE(uid[:n]); got != want {
			t.Errorf("%q: %#x, want %#x", uid[:n], got, want)
		}
	}
}

func TestPersonPeerIsTheOtherParty(t *testing.T) {
	for _, c := range []struct{ channel, self, want string }{
		{"bob@alice", "bob", "alice"},
		{"bob@alice", "alice", "bob"},
		{"bob@bob", "bob", "bob"},
		{"bob@", "bob", ""},
		{"bob@bobby", "bobby", "bob"},
		{"bobby@bob", "bob", "bobby"},
	} {
		got := PersonPeer([]byte(c.channel), []byte(c.self))
		if got == nil || string(got) != c.want {
			t.Errorf("%s for %s: %q, want %q", c.channel, c.self, got, c.want)
		}
	}
	for _, c := range []struct{ channel, self string }{
		{"bob@alice", "bo"}, {"bob@alice", "lice"}, {"bob@alice", ""}, {"bob@alice", "carol"}, {"group", "group"}, {"", ""},
	} {
		if got := PersonPeer([]byte(c.channel), []byte(c.self)); got != nil {
			t.Errorf("%s for %q: %q, want nil", c.channel, c.self, got)
		}
	}
}

func TestPersonChannelAndPeerAgree(t *testing.T) {
	r := newRand(t)
	for range 1000 {
		a, b := []byte(randomUID(r.IntN)), []byte(randomUID(r.IntN))
		id := PersonChannel(nil, a, b)
		if string(PersonPeer(id, a)) != string(b) || string(PersonPeer(id, b)) != string(a) {
			t.Fatalf("%s: %q and %q", id, a, b)
		}
	}
}

func randomUID(intN func(int) int) string {
	uid := make([]byte, 1+intN(3))
	for i := range uid {
		uid[i] = "abc"[intN(3)]
	}
	return string(uid)
}
