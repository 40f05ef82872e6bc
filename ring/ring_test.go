package ring

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// pools returns a pool of each kind. Where mapping is not possible only the
// plain one is tested, and the log says so.
func pools(t testing.TB, limit int64) map[string]*Pool {
	m := map[string]*Pool{"mirrored": NewPool(limit), "plain": NewPlainPool(limit)}
	for _, p := range m {
		t.Cleanup(func() { p.Close() })
	}
	b, ok := m["mirrored"].Get(1)
	if !ok {
		t.Fatal("a new pool lends nothing")
	}
	if !b.mirrored {
		t.Logf("no mirrored rings on this machine (page size %d): %v", os.Getpagesize(), m["mirrored"].MapError())
	}
	m["mirrored"].Put(b)
	return m
}

// model is a Buffer as a plain slice.
type model struct{ bytes []byte }

// drive does random steps on b and on the model and compares after each.
func drive(t *testing.T, b *Buffer, steps int, next func(n int) int) {
	var m model
	stamp := byte(0)
	for step := range steps {
		switch next(8) {
		case 0, 1, 2: // fill
			free := b.Free()
			if want := b.Cap() - len(m.bytes); len(free) != want {
				t.Fatalf("step %d: room for %d bytes, want %d", step, len(free), want)
			}
			n := next(len(free) + 1)
			for i := range n {
				free[i] = stamp
				stamp++
				if stamp == 251 { // prime: does not beat with the ring's size
					stamp = 0
				}
			}
			b.Commit(n)
			m.bytes = append(m.bytes, free[:n]...)
		case 3, 4, 5: // drain
			n := next(len(m.bytes) + 1)
			b.Discard(n)
			m.bytes = m.bytes[n:]
		case 6:
			n := next(len(m.bytes) + 1)
			b.Truncate(n)
			m.bytes = m.bytes[:n]
		case 7:
			if next(20) == 0 {
				b.Reset()
				m.bytes = nil
			}
		}
		if b.Len() != len(m.bytes) || !bytes.Equal(b.Peek(), m.bytes) {
			t.Fatalf("step %d: %d bytes differ from the model's %d", step, b.Len(), len(m.bytes))
		}
	}
}

func TestBufferHoldsWhatAPlainSliceHolds(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for name, p := range pools(t, 64<<20) {
		for _, size := range classes {
			t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
				b, ok := p.Get(size)
				if !ok {
					t.Fatal("no ring")
				}
				defer p.Put(b)
				rng := rand.New(rand.NewPCG(seed, uint64(size)))
				steps := 2000
				if size == Max {
					steps = 60
				}
				drive(t, b, steps, rng.IntN)
			})
		}
	}
}

func FuzzBuffer(f *testing.F) {
	f.Add([]byte{0, 255, 3, 128, 0, 255, 6, 9})
	f.Add([]byte{0, 255, 255, 3, 255, 254, 1, 200, 200, 3, 255, 255, 0, 255, 255})
	mirrored, plain := NewPool(4<<20), NewPlainPool(4<<20)
	f.Fuzz(func(t *testing.T, steps []byte) {
		for _, p := range []*Pool{mirrored, plain} {
			b, ok := p.Get(1)
			if !ok {
				t.Fatal("no ring")
			}
			rest := steps
			drive(t, b, min(len(steps), 64), func(n int) int {
				if len(rest) < 2 {
					return 0
				}
				v := int(rest[0])<<8 | int(rest[1])
				rest = rest[2:]
				return v % n
			})
			p.Put(b)
		}
	})
}

func TestWrappedBytesAreOneSlice(t *testing.T) {
	for name, p := range pools(t, 8<<20) {
		t.Run(name, func(t *testing.T) {
			b, _ := p.Get(Unit)
			defer p.Put(b)
			b.Commit(Unit - 3)
			b.Discard(Unit - 4) // one byte left, three free behind it
			copy(b.Free(), "over the seam")
			b.Commit(13)
			if got := b.Peek(); string(got[1:]) != "over the seam" {
				t.Fatalf("got %q", got)
			}
			if len(b.Free()) != Unit-14 {
				t.Fatalf("room for %d bytes, want %d", len(b.Free()), Unit-14)
			}
		})
	}
}

func TestPeekCannotBeAppendedInto(t *testing.T) {
	for name, p := range pools(t, 8<<20) {
		t.Run(name, func(t *testing.T) {
			b, _ := p.Get(1)
			defer p.Put(b)
			copy(b.Free(), "abc")
			b.Commit(2)
			_ = append(b.Peek(), 'X')
			b.Commit(1)
			if string(b.Peek()) != "abc" {
				t.Fatalf("append wrote into the ring: %q", b.Peek())
			}
		})
	}
}

func TestMistakesPanic(t *testing.T) {
	p := NewPlainPool(8 << 20)
	b, _ := p.Get(1)
	b.Commit(5)
	for name, f := range map[string]func(){
		"discard more than there is":  func() { b.Discard(6) },
		"discard a negative number":   func() { b.Discard(-1) },
		"truncate to more":            func() { b.Truncate(6) },
		"commit more than fits":       func() { b.Commit(Unit - 4) },
		"commit a negative number":    func() { b.Commit(-1) },
		"return what was not lent":    func() { c, _ := p.Get(1); p.Put(c); p.Put(c) },
		"discard from a zero Buffer":  func() { new(Buffer).Discard(1) },
		"commit into the zero Buffer": func() { new(Buffer).Commit(1) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Fatal("no panic")
				}
			}()
			f()
		})
	}
}

func TestPoolLendsTheSmallestClassThatFits(t *testing.T) {
	for name, p := range pools(t, 64<<20) {
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct{ ask, get int }{
				{0, Unit}, {1, Unit}, {Unit, Unit}, {Unit + 1, 256 << 10}, {256 << 10, 256 << 10},
				{256<<10 + 1, 512 << 10}, {512<<10 + 1, Max}, {1<<20 + 5, Max}, {Max, Max},
			} {
				b, ok := p.Get(c.ask)
				if !ok || b.Cap() != c.get || Size(c.ask) != c.get || b.Len() != 0 {
					t.Fatalf("asked for %d: got %v of %d, Size %d, want %d", c.ask, ok, b.Cap(), Size(c.ask), c.get)
				}
				p.Put(b)
			}
			if _, ok := p.Get(Max + 1); ok || Size(Max+1) != 0 || p.Can(Max+1, 0) {
				t.Fatal("lends a ring above Max")
			}
		})
	}
}

func TestPoolKeepsItsLimit(t *testing.T) {
	const limit = 10 * Unit
	for name, p := range pools(t, limit) {
		t.Run(name, func(t *testing.T) {
			var out []*Buffer
			for p.Can(1, 0) {
				b, ok := p.Get(1)
				if !ok {
					t.Fatal("Can said yes, Get no")
				}
				out = append(out, b)
			}
			if _, ok := p.Get(1); ok || len(out) != 10 {
				t.Fatalf("lent %d rings of %d, limit %d", len(out), Unit, limit)
			}
			s := p.Stats()
			if s.Lent != limit || s.Rings != 10 || s.Limit != limit || s.Mapped < limit {
				t.Fatalf("stats %+v", s)
			}
			p.Put(out[0])
			if !p.Can(1, 0) || p.Can(1, 1) || p.Can(Unit+1, 0) {
				t.Fatal("Can disagrees with one free ring")
			}
			for _, b := range out[1:] {
				p.Put(b)
			}
			if s := p.Stats(); s.Lent != 0 || s.Rings != 0 {
				t.Fatalf("stats %+v", s)
			}
		})
	}
}

func TestRingsOfASlabDoNotOverlap(t *testing.T) {
	p := NewPool(64 << 20)
	defer p.Close()
	var out []*Buffer
	for i := range 2*slabRings + 3 {
		b, _ := p.Get(1)
		free := b.Free()
		for j := range free {
			free[j] = byte(i)
		}
		b.Commit(len(free))
		b.Discard(Unit / 2) // so that Peek and Free run over the seam
		out = append(out, b)
	}
	for i, b := range out {
		for _, v := range append(b.Free(), b.Peek()...) {
			if v != byte(i) {
				t.Fatalf("ring %d holds a byte of ring %d", i, v)
			}
		}
		p.Put(b)
	}
}

// TestTrimGivesMemoryBack looks at the memory itself: a hole reads as zeros.
func TestTrimGivesMemoryBack(t *testing.T) {
	for name, p := range pools(t, 8<<20) {
		t.Run(name, func(t *testing.T) {
			b, _ := p.Get(1)
			for i := range b.Free() {
				b.Free()[i] = 7
			}
			b.Commit(Unit)
			p.Put(b)
			if d := p.Stats().Dirty; d != Unit {
				t.Fatalf("%d dirty bytes, want %d", d, Unit)
			}
			p.Trim(Unit)
			if d := p.Stats().Dirty; d != Unit {
				t.Fatalf("trimmed below what was to stay: %d", d)
			}
			p.Trim(0)
			if d := p.Stats().Dirty; d != 0 {
				t.Fatalf("%d dirty bytes after Trim", d)
			}
			b, _ = p.Get(1)
			defer p.Put(b)
			for i, v := range b.Free() {
				if v != 0 {
					t.Skipf("byte %d is still there: this kernel does not punch holes", i)
				}
			}
			copy(b.Free(), "usable")
			b.Commit(6)
			if string(b.Peek()) != "usable" {
				t.Fatal("a trimmed ring does not work")
			}
		})
	}
}

func TestDirtyRingsDoNotExceedTheLimit(t *testing.T) {
	p := NewPool(4 << 20)
	defer p.Close()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	var out []*Buffer
	for range 3000 {
		if rng.IntN(2) == 0 {
			if b, ok := p.Get(1 << rng.IntN(22)); ok {
				b.Commit(rng.IntN(b.Cap() + 1))
				out = append(out, b)
			}
		} else if len(out) > 0 {
			i := rng.IntN(len(out))
			p.Put(out[i])
			out = append(out[:i], out[i+1:]...)
		}
		s, lent := p.Stats(), int64(0)
		for _, b := range out {
			lent += int64(b.Cap())
		}
		if s.Lent != lent || s.Rings != int64(len(out)) || lent > s.Limit || s.Dirty < 0 {
			t.Fatalf("stats %+v, lent %d in %d rings", s, lent, len(out))
		}
	}
	for _, b := range out {
		p.Put(b)
	}
	p.Trim(0)
	if s := p.Stats(); s.Lent != 0 || s.Dirty != 0 {
		t.Fatalf("stats at the end %+v", s)
	}
}

func TestMappingThatFailsFallsBackAndSaysWhy(t *testing.T) {
	if s, err := mapSlab(1, 3); err == nil { // not a multiple of the page
		s.unmap()
		t.Fatal("mapped a ring of 3 bytes")
	}
	p := NewPlainPool(1 << 20)
	b, ok := p.Get(1)
	if !ok || b.mirrored {
		t.Fatalf("got %v, mirrored %v", ok, b.mirrored)
	}
	p.Put(b)
	if s := p.Stats(); s.Fallback != 1 || s.Mapped != Unit {
		t.Fatalf("stats %+v", s)
	}
}

func TestLendingDoesNotAllocate(t *testing.T) {
	p := NewPool(8 << 20)
	defer p.Close()
	b, _ := p.Get(1)
	p.Put(b)
	if n := testing.AllocsPerRun(100, func() {
		b, _ := p.Get(1)
		b.Commit(100)
		p.Put(b)
	}); n != 0 {
		t.Fatalf("%v allocations per ring lent", n)
	}
}
