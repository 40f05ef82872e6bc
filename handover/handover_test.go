package handover

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"
)

func sample() *Blob {
	return &Blob{
		Box:       Box{Boot: [16]byte{1, 2, 3}, Device: 4, Ino: 5, Index: 6},
		Secret:    [16]byte{7},
		Listeners: []Listener{{TCP, ":5100"}, {HTTP, "127.0.0.1:5001"}, {WSS, ""}},
		Conns:     []Conn{{[]byte("network"), []byte("session")}, {[]byte{}, []byte{0}}},
	}
}

func TestABlobComesBack(t *testing.T) {
	want := sample()
	got, err := Decode(want.Encode())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if got, err := Decode((&Blob{}).Encode()); err != nil || len(got.Conns)+len(got.Listeners) != 0 {
		t.Fatalf("an empty one: %+v, %v", got, err)
	}
}

func TestADamagedBlobIsRefused(t *testing.T) {
	p := sample().Encode()
	for i := range p {
		q := append([]byte(nil), p...)
		q[i] ^= 0x10
		if _, err := Decode(q); err == nil {
			t.Errorf("byte %d is wrong and nobody sees it", i)
		}
	}
	for n := range p {
		if _, err := Decode(p[:n]); err == nil {
			t.Errorf("%d of %d bytes are taken for all", n, len(p))
		}
	}
	p[len(magic)] = version + 1
	if _, err := Decode(p); !errors.Is(err, ErrVersion) {
		t.Errorf("another version: %v", err)
	}
}

func TestABlobOfAnotherBoxIsRefused(t *testing.T) {
	b := sample()
	if err := b.Of(b.Box); err != nil {
		t.Fatal(err)
	}
	for _, change := range []func(*Box){
		func(x *Box) { x.Boot[0]++ }, func(x *Box) { x.Device++ }, func(x *Box) { x.Ino++ },
	} {
		box := b.Box
		change(&box)
		if err := b.Of(box); !errors.Is(err, ErrForeign) {
			t.Errorf("%+v against %+v: %v", b.Box, box, err)
		}
	}
	one, err1 := ThisBox(t.TempDir())
	two, err2 := ThisBox(t.TempDir())
	if err1 != nil || err2 != nil || one == two || one.Boot != two.Boot {
		t.Errorf("%+v %v, %+v %v", one, err1, two, err2)
	}
}

// More than fit into one message, in their order.
func TestParkedDescriptorsComeOutInOrder(t *testing.T) {
	const n = 2*batch + 17
	var fds []int
	for range n {
		fd, err := unix.MemfdCreate("t", unix.MFD_CLOEXEC)
		if err != nil {
			t.Skipf("not so many descriptors: %v", err)
		}
		binary.Write(fileOf(fd), binary.BigEndian, uint32(len(fds)))
		fds = append(fds, fd)
	}
	end, parked, err := Park(fds)
	if err != nil || parked != n {
		t.Fatalf("%d parked, %v", parked, err)
	}
	Release(fds)
	fds, err = Unpark(end)
	defer Release(fds)
	if err != nil || len(fds) != n {
		t.Fatalf("%d came out, %v", len(fds), err)
	}
	for i, fd := range fds {
		var p [4]byte
		if _, err := unix.Pread(fd, p[:], 0); err != nil || binary.BigEndian.Uint32(p[:]) != uint32(i) {
			t.Fatalf("place %d has %x, %v", i, p, err)
		}
	}
}

type fileOf int

func (f fileOf) Write(p []byte) (int, error) { return unix.Write(int(f), p) }

func TestSealedMemoryCannotBeChanged(t *testing.T) {
	fd, err := Seal([]byte("abc"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pwrite(fd, []byte("x"), 0); err == nil {
		t.Error("it can be written")
	}
	if err := unix.Ftruncate(fd, 1); err == nil {
		t.Error("it can be cut")
	}
	if p, err := Unseal(fd); err != nil || string(p) != "abc" {
		t.Fatalf("got %q, %v", p, err)
	}
	open, err := unix.MemfdCreate("t", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Unseal(open); !errors.Is(err, ErrDamaged) {
		t.Errorf("memory that is not sealed: %v", err)
	}
}

func FuzzBlob(f *testing.F) {
	f.Add(sample().Encode()[sealed:])
	f.Add((&Blob{}).Encode()[sealed:])
	f.Fuzz(func(t *testing.T, body []byte) { // the checksum is right, so that more than it is tried
		p := append(append([]byte(magic), version, 0, 0, 0, 0), body...)
		binary.BigEndian.PutUint32(p[sealed-4:], crc32.Checksum(body, castagnoli))
		b, err := Decode(p)
		if err != nil {
			return
		}
		if again := b.Encode(); string(again) != string(p) {
			t.Fatalf("%x becomes %x", p, again)
		}
	})
}
