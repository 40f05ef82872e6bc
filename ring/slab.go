package ring

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// slab is n rings of size bytes, mapped from one memfd into one reservation.
//
//	file          | ring 0 | ring 1 | ...
//	address space | ring 0 | ring 0 | ring 1 | ring 1 | ...
type slab struct {
	base     unsafe.Pointer // aligned to Unit, inside the reservation
	reserved unsafe.Pointer
	length   uintptr // of the reservation
	size     int
}

// mapSlab maps n rings of size bytes, size a multiple of Unit and of the page
// size.
func mapSlab(n, size int) (slab, error) {
	fd, err := unix.MemfdCreate("gatepost-ring", unix.MFD_CLOEXEC)
	if err != nil {
		return slab{}, fmt.Errorf("memfd_create (needs Linux 3.17): %w", err)
	}
	defer unix.Close(fd) // the mappings keep the file
	if err := unix.Ftruncate(fd, int64(n)*int64(size)); err != nil {
		return slab{}, fmt.Errorf("size memory file to %d bytes: %w", n*size, err)
	}
	s := slab{size: size, length: uintptr(2*n*size) + Unit}
	s.reserved, err = unix.MmapPtr(-1, 0, nil, s.length, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return slab{}, fmt.Errorf("reserve %d bytes of address space: %w", s.length, err)
	}
	s.base = unsafe.Add(s.reserved, -uintptr(s.reserved)&(Unit-1))
	for half := range 2 * n {
		at := unsafe.Add(s.base, half*size)
		offset := int64(half/2) * int64(size)
		// MAP_FIXED is safe: it lands inside our own reservation.
		_, err := unix.MmapPtr(fd, offset, at, uintptr(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_FIXED)
		if err != nil {
			s.unmap()
			return slab{}, fmt.Errorf("map half %d of %d (vm.max_map_count or address space may be used up): %w", half, 2*n, err)
		}
	}
	if err := s.check(); err != nil {
		s.unmap()
		return slab{}, err
	}
	return s, nil
}

// check writes through one half of ring 0 and reads through the other: a
// machine whose cache sees two addresses as two places is found here.
func (s slab) check() error {
	m := s.ring(0)
	m[0], m[s.size-1] = 0xA5, 0x5A
	if m[s.size] != 0xA5 || m[2*s.size-1] != 0x5A {
		return fmt.Errorf("the two halves of a ring of %d bytes differ (aliasing data cache)", s.size)
	}
	m[0], m[s.size-1] = 0, 0
	return nil
}

// ring returns both halves of ring i.
func (s slab) ring(i int) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(s.base, 2*i*s.size)), 2*s.size)
}

func (s slab) unmap() error { return unix.MunmapPtr(s.reserved, s.length) }

// giveBack returns the memory of an unused ring to the system. MADV_DONTNEED
// would keep the pages in the file; MADV_REMOVE frees them.
func (b *Buffer) giveBack() {
	if b.mirrored {
		// A kernel without hole punching keeps the pages; they count as clean
		// all the same, so that Trim does not try for ever.
		unix.Madvise(b.mem[:(b.touched+Unit-1)&^(Unit-1)], unix.MADV_REMOVE)
	} else {
		b.mem = nil // Get makes it again
	}
	b.touched = 0
}
