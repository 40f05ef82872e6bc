package store

import (
	"sort"

	"gatepost/message"
)

// chunkEntries is how many messages one chunk of the index of the log holds. A
// full chunk is never moved, so a long channel costs no copying while apply
// waits.
const chunkEntries = 1024

// series is where the messages of one channel lie:
//
//	first        blocks[0]   blocks[n]        logged            last
//	  |  dropped  |  in block files  ...  |  only in the log  |
//
// Sequences that lie in none of them are lost.
type series struct {
	channel *message.Channel
	number  uint32 // names the channel in block files
	first   uint64 // oldest sequence that is kept; at least 1
	last    uint64 // newest
	logged  uint64 // oldest sequence that is in no block yet; last+1: none

	blocks []blockRef // ascending, without overlap
	// chunks index the log: chunks[0][0] is sequence base, which is at most
	// logged; all but the newest hold chunkEntries.
	chunks [][]message.Location
	base   uint64

	handed  uint64        // newest sequence that a checkpoint was handed
	keep    *message.Keep // its own rule; nil: that of its type
	touched bool          // has messages or a state that no checkpoint holds; apply only
}

// blockRef is one block of a series, 32 bytes.
type blockRef struct {
	first uint64
	lived int64 // ms that the store had lived when it was stored
	place
	count uint32
}

func (r *blockRef) end() uint64 { return r.first + uint64(r.count) } // behind it

// put adds the message behind last.
func (s *series) put(at message.Location) {
	if len(s.chunks) == 0 {
		s.base = s.last + 1
		s.chunks = append(s.chunks, nil)
	} else if len(s.chunks[len(s.chunks)-1]) == chunkEntries {
		s.chunks = append(s.chunks, make([]message.Location, 0, chunkEntries))
	}
	tail := &s.chunks[len(s.chunks)-1]
	*tail = append(*tail, at)
	s.last++
}

// locate appends where up to limit messages from sequence from on lie in the
// log. from is not below logged.
func (s *series) locate(at []message.Location, from uint64, limit int) []message.Location {
	for limit > 0 && from <= s.last {
		i := from - s.base
		chunk := s.chunks[i/chunkEntries][i%chunkEntries:]
		if len(chunk) > limit {
			chunk = chunk[:limit]
		}
		at = append(at, chunk...)
		from += uint64(len(chunk))
		limit -= len(chunk)
	}
	return at
}

// settle takes in blocks for everything up to sequence to.
func (s *series) settle(refs []blockRef, to uint64) {
	s.blocks = append(s.blocks, refs...)
	s.logged = to + 1
	for len(s.chunks) > 0 && s.base+uint64(len(s.chunks[0])) <= s.logged {
		s.base += uint64(len(s.chunks[0]))
		s.chunks[0] = nil
		s.chunks = s.chunks[1:]
	}
	if len(s.chunks) == 0 {
		s.chunks = nil
	}
}

// find returns the block that holds sequence seq, or else the next one; len of
// blocks if there is none.
func (s *series) find(seq uint64) int {
	return sort.Search(len(s.blocks), func(i int) bool { return s.blocks[i].end() > seq })
}
