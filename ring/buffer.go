package ring

import "fmt"

// Buffer is a byte queue with one owner. The zero Buffer has no room.
//
// Mirrored: mem is 2*size bytes of address space showing the same size bytes
// twice.
//
//	         r        w               r <= w, w-r <= size, r < size
//	+--------+--------+------+--------+--------+------+
//	|  free  | unread | free |  free  | unread | free |
//	+--------+--------+------+--------+--------+------+
//	0                      size                   2*size
//
// Plain: mem is size bytes, w <= size, and Free moves the unread bytes to the
// front first when there is no room behind them.
type Buffer struct {
	mem      []byte
	size     int
	r, w     int
	touched  int  // bytes from 0 that may have been written since the last trim
	class    int8 // index into classes
	mirrored bool
	lent     bool
}

// Peek returns the unread bytes, oldest first. The slice may be written to. It
// is valid until the next Discard, Free, Truncate, Reset or Put.
func (b *Buffer) Peek() []byte { return b.mem[b.r:b.w:b.w] }

// Len returns the number of unread bytes.
func (b *Buffer) Len() int { return b.w - b.r }

// Cap returns the number of bytes that fit.
func (b *Buffer) Cap() int { return b.size }

// Discard drops the n oldest bytes. It panics when there are fewer.
func (b *Buffer) Discard(n int) {
	if n < 0 || n > b.w-b.r {
		panic(fmt.Sprintf("BUG: ring: discard %d of %d bytes", n, b.w-b.r))
	}
	b.r += n
	if b.r == b.w {
		b.r, b.w = 0, 0 // an empty ring touches only its first pages
	} else if b.r >= b.size {
		b.r -= b.size
		b.w -= b.size
	}
}

// Free returns all the room there is, as one slice behind the unread bytes. It
// is valid until the next call; Commit says how much of it was filled. It
// invalidates what Peek returned.
func (b *Buffer) Free() []byte {
	if b.mirrored {
		return b.mem[b.w : b.r+b.size : b.r+b.size]
	}
	if b.r > 0 {
		copy(b.mem, b.mem[b.r:b.w])
		b.r, b.w = 0, b.w-b.r
	}
	return b.mem[b.w:b.size:b.size]
}

// Commit appends the first n bytes of what Free returned to the unread bytes.
// It panics when they cannot be there.
func (b *Buffer) Commit(n int) {
	end := b.size
	if b.mirrored {
		end += b.r
	}
	if n < 0 || n > end-b.w {
		panic(fmt.Sprintf("BUG: ring: commit %d bytes into room for %d", n, end-b.w))
	}
	b.w += n
	b.touched = max(b.touched, min(b.w, b.size))
}

// Truncate keeps the n oldest unread bytes and drops the rest. It panics when
// there are fewer.
func (b *Buffer) Truncate(n int) {
	if n < 0 || n > b.w-b.r {
		panic(fmt.Sprintf("BUG: ring: truncate %d bytes to %d", b.w-b.r, n))
	}
	b.w = b.r + n
	if n == 0 {
		b.r, b.w = 0, 0
	}
}

// Reset drops all bytes.
func (b *Buffer) Reset() { b.r, b.w = 0, 0 }
