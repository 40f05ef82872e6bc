package ring

import "fmt"

// Unit is the smallest ring and the alignment of all of them, in bytes.
const Unit = 64 << 10

// Max is the largest ring in bytes: a wire frame of 1 MiB with its header and
// what came behind it fits.
const Max = 2 << 20

// slabRings is how many rings one memfd holds unless the cap is smaller.
// Mapping costs 16 us a ring in slabs, 28-36 us singly (x86-64 VM, Linux 6.18).
const slabRings = 16

// classes are the ring sizes in bytes. 512 KiB is for a slow reader that is held
// back at 256 KiB and one frame.
var classes = [...]int{Unit, 256 << 10, 512 << 10, Max}

// Stats is what a pool has and lends. Sizes are in bytes.
type Stats struct {
	Mapped   int64 // rings that exist, lent or not, in bytes of their size
	Lent     int64 // rings that are out, in bytes of their size
	Rings    int64 // rings that are out
	Dirty    int64 // bytes of returned rings that still hold memory; Trim frees them
	Limit    int64 // upper bound of Lent
	Fallback int64 // rings ever made as plain slices because mapping failed
}

// Pool lends rings. It belongs to one goroutine.
type Pool struct {
	limit  int64
	free   [len(classes)][]*Buffer // last returned is lent first: its pages are warm
	slabs  []slab
	stats  Stats
	plain  bool  // do not map at all
	mapErr error // why the first mapping failed
}

// NewPool returns an empty pool that lends at most limit bytes of rings at a
// time. Nothing is mapped yet.
func NewPool(limit int64) *Pool { return &Pool{limit: limit, stats: Stats{Limit: limit}} }

// NewPlainPool is NewPool without mirrored rings, for machines where mapping
// is not wanted and for tests.
func NewPlainPool(limit int64) *Pool {
	p := NewPool(limit)
	p.plain = true
	return p
}

// Size returns the bytes of the ring that Get(minSize) lends, or 0 when no ring
// is that large.
func Size(minSize int) int {
	if c := classOf(minSize); c >= 0 {
		return classes[c]
	}
	return 0
}

// Can says whether Get(minSize) would succeed and leave reserve bytes of the
// limit untouched.
func (p *Pool) Can(minSize int, reserve int64) bool {
	c := classOf(minSize)
	return c >= 0 && p.stats.Lent+int64(classes[c])+reserve <= p.limit
}

// Get lends an empty ring of at least minSize bytes. It returns false when the
// limit is reached or minSize is above Max.
func (p *Pool) Get(minSize int) (*Buffer, bool) {
	c := classOf(minSize)
	if c < 0 || p.stats.Lent+int64(classes[c]) > p.limit {
		return nil, false
	}
	size := int64(classes[c])
	if len(p.free[c]) == 0 {
		p.grow(c)
	}
	last := len(p.free[c]) - 1
	b := p.free[c][last]
	p.free[c][last] = nil
	p.free[c] = p.free[c][:last]
	p.stats.Dirty -= int64(b.touched)
	p.stats.Lent += size
	p.stats.Rings++
	b.lent = true
	if b.mem == nil {
		b.mem = make([]byte, b.size)
	}
	if p.stats.Lent+p.stats.Dirty > p.limit {
		p.Trim(p.limit - p.stats.Lent)
	}
	return b, true
}

// Put takes a ring back, with whatever is in it. It panics on a ring that is
// not lent.
func (p *Pool) Put(b *Buffer) {
	if !b.lent {
		panic("BUG: ring: returned twice")
	}
	b.lent = false
	b.r, b.w = 0, 0
	p.stats.Lent -= int64(b.size)
	p.stats.Rings--
	p.stats.Dirty += int64(b.touched)
	p.free[b.class] = append(p.free[b.class], b)
}

// Trim gives the memory of returned rings back to the system until at most
// keep bytes of them hold any, smallest class and coldest first. The rings stay
// mapped.
func (p *Pool) Trim(keep int64) {
	for c := range p.free {
		for _, b := range p.free[c] {
			if p.stats.Dirty <= keep {
				return
			}
			if b.touched == 0 {
				continue
			}
			p.stats.Dirty -= int64(b.touched)
			b.giveBack()
		}
	}
}

// Stats returns the current numbers.
func (p *Pool) Stats() Stats { return p.stats }

// MapError returns why rings are plain slices, or nil.
func (p *Pool) MapError() error { return p.mapErr }

// Close unmaps everything, also rings that are still lent: no slice of any
// ring of this pool may be touched afterwards.
func (p *Pool) Close() error {
	var first error
	for _, s := range p.slabs {
		if err := s.unmap(); err != nil && first == nil {
			first = err
		}
	}
	*p = Pool{stats: Stats{Fallback: p.stats.Fallback}}
	return first
}

// grow adds at least one free ring of class c.
func (p *Pool) grow(c int) {
	size := classes[c]
	n := int(min(max(p.limit/int64(size), 1), slabRings))
	if !p.plain {
		s, err := mapSlab(n, size)
		if err == nil {
			p.slabs = append(p.slabs, s)
			for i := n - 1; i >= 0; i-- {
				p.free[c] = append(p.free[c], &Buffer{mem: s.ring(i), size: size, class: int8(c), mirrored: true})
			}
			p.stats.Mapped += int64(n) * int64(size)
			return
		}
		p.plain = true
		p.mapErr = fmt.Errorf("cannot map %d rings of %d bytes, using plain slices: %w", n, size, err)
	}
	p.free[c] = append(p.free[c], &Buffer{mem: make([]byte, size), size: size, class: int8(c)})
	p.stats.Mapped += int64(size)
	p.stats.Fallback++
}

// classOf returns the smallest class that holds n bytes, or -1.
func classOf(n int) int {
	for c, size := range classes {
		if n <= size {
			return c
		}
	}
	return -1
}
