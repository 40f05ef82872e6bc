package netio

// slabSize is how many connections are allocated together; so many of 168 bytes
// just fit into 64 KiB. Connections never move.
const slabSize = 390

// none is the end of a list that is threaded through slots.
const none = -1

// slots holds the connections of a loop. A slot is used again under a new
// generation, so an ID names one connection for ever.
type slots struct {
	slabs []*[slabSize]Conn
	free  []uint32
}

// take returns a fresh connection.
func (s *slots) take() *Conn {
	if len(s.free) == 0 {
		base := uint32(len(s.slabs) * slabSize)
		s.slabs = append(s.slabs, new([slabSize]Conn))
		for i := uint32(slabSize); i > 0; i-- {
			s.free = append(s.free, base+i-1)
		}
	}
	slot := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	c := s.at(int32(slot))
	gen := c.gen + 1
	if gen == 0 {
		gen = 1 // 0 would make an ID of 0
	}
	*c = Conn{slot: slot, gen: gen, used: true, wheelNext: none, wheelPrev: none, olderThan: none, newerThan: none}
	return c
}

// give takes a connection back.
func (s *slots) give(c *Conn) {
	*c = Conn{slot: c.slot, gen: c.gen}
	s.free = append(s.free, c.slot)
}

// at returns the connection in a slot that exists.
func (s *slots) at(slot int32) *Conn { return &s.slabs[slot/slabSize][slot%slabSize] }

// find returns the connection with this ID, or nil.
func (s *slots) find(id uint64) *Conn {
	slot := uint32(id)
	if uint64(slot) >= uint64(len(s.slabs))*slabSize {
		return nil
	}
	c := &s.slabs[slot/slabSize][slot%slabSize]
	if !c.used || c.gen != uint32(id>>32) {
		return nil
	}
	return c
}

// each calls f for all connections.
func (s *slots) each(f func(*Conn)) {
	for _, slab := range s.slabs {
		for i := range slab {
			if slab[i].used {
				f(&slab[i])
			}
		}
	}
}
