package ack

// index finds slab numbers by the hash of what they hold: open addressing with
// linear probing, at most half full. It keeps no keys; the caller compares.
// Removing moves later cells back, so there are no tombstones and a table that
// turns over for months is as fast as a new one.
type index struct {
	cells []cell // a power of two
	n     int    // cells in use
}

// cell is one slab number; 0 is an empty cell.
type cell struct{ hash, ref uint32 }

func newIndex() index { return index{cells: make([]cell, 16)} }

// hashKey and hashConn mix ids which the broker gave out itself, so an
// attacker cannot choose what is stored.
func hashKey(k Key) uint32 {
	h := (k.Conn*0x9E3779B97F4A7C15 ^ uint64(k.MessageID)) * 0xD6E8FEB86659FD93
	return uint32(h >> 32)
}

func hashConn(id uint64) uint32 { return uint32((id * 0x9E3779B97F4A7C15) >> 32) }

// first returns where the first cell with this hash is, and its number; next
// the one behind it with the same hash. The number is 0 when there is none.
func (x *index) first(hash uint32) (at, ref uint32) { return x.scan(hash, hash) }

func (x *index) next(at uint32) (uint32, uint32) {
	mask := uint32(len(x.cells) - 1)
	return x.scan(at+1, x.cells[at&mask].hash)
}

func (x *index) scan(at, hash uint32) (uint32, uint32) {
	mask := uint32(len(x.cells) - 1)
	for ; ; at++ {
		c := x.cells[at&mask]
		if c.ref == 0 || c.hash == hash {
			return at & mask, c.ref
		}
	}
}

// put adds a number. It must not be there yet.
func (x *index) put(hash, ref uint32) {
	if 2*(x.n+1) > len(x.cells) {
		old := x.cells
		x.cells = make([]cell, 2*len(old))
		for _, c := range old {
			if c.ref != 0 {
				x.place(c)
			}
		}
	}
	x.place(cell{hash, ref})
	x.n++
}

func (x *index) place(c cell) {
	mask := uint32(len(x.cells) - 1)
	at := c.hash & mask
	for x.cells[at].ref != 0 {
		at = (at + 1) & mask
	}
	x.cells[at] = c
}

// remove takes out a number that is there.
func (x *index) remove(hash, ref uint32) {
	mask := uint32(len(x.cells) - 1)
	hole := hash & mask
	for x.cells[hole].ref != ref {
		hole = (hole + 1) & mask
	}
	for at := (hole + 1) & mask; x.cells[at].ref != 0; at = (at + 1) & mask {
		// A cell may move into the hole if it stays at or behind its home.
		home := x.cells[at].hash & mask
		if (at-home)&mask >= (at-hole)&mask {
			x.cells[hole] = x.cells[at]
			hole = at
		}
	}
	x.cells[hole] = cell{}
	x.n--
}
