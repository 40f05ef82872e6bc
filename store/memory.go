package store

import (
	"fmt"
	"sync"

	"gatepost/message"
)

// chunkEntries is how many messages one index chunk holds. A full chunk is
// never moved, so a long channel costs no copying while apply waits.
const chunkEntries = 1024

// ReadAt reads len(p) bytes of a log generation's file. It must be safe for
// concurrent use.
type ReadAt func(p []byte, generation uint64, offset int64) error

// Memory is an index of messages by channel and sequence.
type Memory struct {
	read ReadAt

	mu     sync.RWMutex
	series map[*message.Channel]*series
}

// series is one channel: the message with sequence s is entry s-1.
type series struct {
	chunks [][]message.Location // all but the last hold chunkEntries
	last   uint64
}

// NewMemory returns an empty index over a log.
func NewMemory(read ReadAt) *Memory {
	return &Memory{read: read, series: make(map[*message.Channel]*series)}
}

// Put notes where the message with sequence seq lies. Sequences of a channel
// come in order from 1 without gaps; anything else is a bug and panics.
func (m *Memory) Put(ch *message.Channel, seq uint64, at message.Location) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.series[ch]
	if s == nil {
		s = new(series)
		m.series[ch] = s
	}
	if seq != s.last+1 {
		panic(fmt.Sprintf("BUG: sequence %d put into channel %q behind %d", seq, ch.ID, s.last))
	}
	s.last = seq
	if n := len(s.chunks); n == 0 || len(s.chunks[n-1]) == chunkEntries {
		s.chunks = append(s.chunks, nil)
	}
	tail := &s.chunks[len(s.chunks)-1]
	*tail = append(*tail, at)
}

// Drop forgets a channel's messages; they stay in the log.
func (m *Memory) Drop(ch *message.Channel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.series, ch)
}

// locate copies up to limit index entries from sequence from on.
func (m *Memory) locate(ch *message.Channel, from uint64, limit int) (at []message.Location, last uint64) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	s := m.series[ch]
	if s == nil {
		return nil, 0
	}
	for seq := from; seq <= s.last && len(at) < limit; {
		i := seq - 1
		chunk := s.chunks[i/chunkEntries][i%chunkEntries:]
		if room := limit - len(at); len(chunk) > room {
			chunk = chunk[:room]
		}
		at = append(at, chunk...)
		seq += uint64(len(chunk))
	}
	return at, s.last
}

// Read returns up to limit messages of a channel with sequences from from (at
// least 1) on, and at most about maxBytes of them but always one. What cannot
// be read is left out and counted in Lost; the error says why the last of them
// could not. It is safe for concurrent use.
func (m *Memory) Read(ch *message.Channel, from uint64, limit, maxBytes int) (*message.Page, error) {
	from = max(from, 1)
	at, last := m.locate(ch, from, limit)
	page := &message.Page{Batch: message.NewBatch(false), Next: from, Last: last}
	var failed error
	for len(at) > 0 && (page.Batch.Len() == 0 || page.Batch.Size() < maxBytes) {
		run, size := contiguous(at, maxBytes)
		first := at[0]
		before := page.Batch.Len()
		err := page.Batch.AddStored(size, func(p []byte) error { return m.read(p, first.Generation, first.Offset) })
		if err == nil && page.Batch.Len()-before != run {
			panic(fmt.Sprintf("BUG: %d index entries of channel %q cover %d records", run, ch.ID, page.Batch.Len()-before))
		}
		if err != nil && run > 1 {
			// One bad record must not hide its neighbours: take them singly.
			run, size = 1, int(first.Size)
			err = page.Batch.AddStored(size, func(p []byte) error { return m.read(p, first.Generation, first.Offset) })
		}
		if err != nil {
			page.Lost += run
			failed = fmt.Errorf("cannot read message %d of channel %q in log generation %d at offset %d: %w",
				page.Next, ch.ID, first.Generation, first.Offset, err)
		} else {
			for i := range run {
				page.Seqs = append(page.Seqs, page.Next+uint64(i))
			}
		}
		page.Next += uint64(run)
		at = at[run:]
	}
	return page, failed
}

// contiguous returns how many entries from the front lie one behind the other
// in the same file, and their size in bytes, up to about maxBytes.
func contiguous(at []message.Location, maxBytes int) (run, size int) {
	run, size = 1, int(at[0].Size)
	for run < len(at) && size < maxBytes &&
		at[run].Generation == at[0].Generation && at[run].Offset == at[0].Offset+int64(size) {
		size += int(at[run].Size)
		run++
	}
	return run, size
}
