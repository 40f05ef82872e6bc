package store

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"gatepost/diskio"
	"gatepost/message"
)

// scratch holds the raw bytes of a block while it is read.
var scratch = sync.Pool{New: func() any { return new([]byte) }}

// Read returns up to limit messages of a channel with sequences from from (at
// least 1) on, and at most about maxBytes of them but always one if there is
// any. Sequences that were dropped by retention are skipped in silence: the
// page begins at Page.First then. What cannot be read is left out and counted
// in Lost; the error says why the last of them could not. Any goroutine may
// call it; no lock is held while a file is read.
func (s *Store) Read(ch *message.Channel, from uint64, limit, maxBytes int) (*message.Page, error) {
	p := pager{s: s, ch: ch, limit: limit, maxBytes: maxBytes,
		page: &message.Page{Batch: message.NewBatch(false), Next: max(from, 1)}}
	for p.more() {
		if !p.step() {
			break
		}
	}
	return p.page, p.failed
}

// Find returns the channel of a type with an id, nil if it has no messages, and
// the oldest sequence that is kept and the newest. Any goroutine may call it.
func (s *Store) Find(typ uint8, id []byte) (ch *message.Channel, first, last uint64) {
	key := append([]byte{typ}, id...)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if c := s.names[string(key)]; c != nil {
		return c.channel, c.first, c.last
	}
	return nil, 0, 0
}

// pager reads one page.
type pager struct {
	s        *Store
	ch       *message.Channel
	limit    int
	maxBytes int
	page     *message.Page
	failed   error
	blocks   *blocks // of the last look
	at       []message.Location
}

// more reports whether the page has room.
func (p *pager) more() bool {
	n := p.page.Batch.Len()
	return n+p.page.Lost < p.limit && (n == 0 || p.page.Batch.Size() < p.maxBytes)
}

// step reads on from the next block, or from the log. It reports false at the end of
// the channel, and where something cannot be read that may be readable later.
func (p *pager) step() bool {
	for tries := 0; ; tries++ {
		ref, inBlock, ok := p.look()
		if !ok {
			return false
		}
		read := p.log
		if inBlock {
			read = func() error { return p.block(&ref) }
		}
		err := read()
		switch class := diskio.Classify(err); {
		case class == diskio.OK:
			return true
		case errors.Is(err, fs.ErrClosed) && p.replaced(), errors.Is(err, errMoved):
			// A checkpoint or the retention has moved it since the look.
		case class == diskio.Passing:
			if !errors.Is(err, fs.ErrClosed) {
				p.s.health.unread.Store(&unreadable{time.Now(), err})
			}
			p.failed = fmt.Errorf("cannot read message %d of channel %q: %w", p.page.Next, p.ch.ID, err)
			return false
		case tries >= 2: // a block file that is nowhere, and the look goes on finding it there
			p.lose(ref.end(), err)
			return true
		}
	}
}

// replaced reports whether the store has opened its files again since the last
// look.
func (p *pager) replaced() bool {
	p.s.mu.RLock()
	defer p.s.mu.RUnlock()
	return p.s.blocks != p.blocks
}

// errMoved says that what was to be read from the log lies in a block by now, or is
// dropped.
var errMoved = errors.New("it was moved meanwhile")

// look finds out where the next sequence lies: in the block ref, or in the log
// at p.at. Sequences that are nowhere are passed over.
func (p *pager) look() (ref blockRef, inBlock, ok bool) {
	p.s.mu.RLock()
	defer p.s.mu.RUnlock()
	p.blocks = p.s.blocks
	c := p.s.series[p.ch]
	if c == nil {
		return ref, false, false
	}
	p.page.First, p.page.Last = c.first, c.last
	p.page.Next = max(p.page.Next, c.first)
	if i := c.find(p.page.Next); i < len(c.blocks) {
		ref = c.blocks[i]
		if ref.first > p.page.Next {
			p.lose(ref.first, errLost)
		}
		return ref, true, true
	}
	if p.page.Next < c.logged {
		p.lose(c.logged, errLost)
	}
	p.at = c.locate(p.at[:0], p.page.Next, p.limit-p.page.Batch.Len()-p.page.Lost)
	return ref, false, len(p.at) > 0
}

// errLost is the error of sequences that damage has taken. It does not pass: asking
// again brings nothing.
var errLost = fmt.Errorf("%w before, and they are gone", diskio.ErrDamaged)

// lose notes that the sequences up to next cannot be read.
func (p *pager) lose(next uint64, err error) {
	if next <= p.page.Next {
		return
	}
	p.failed = fmt.Errorf("cannot read messages %d to %d of channel %q: %w", p.page.Next, next-1, p.ch.ID, err)
	p.page.Lost += int(next - p.page.Next)
	p.page.Next = next
}

// block takes from one block what fits. What is damaged in it is lost; an error says
// that it is not there, or that nothing is known of it.
func (p *pager) block(ref *blockRef) error {
	buf := scratch.Get().(*[]byte)
	defer scratch.Put(buf)
	var head section
	var err error
	head, *buf, err = p.blocks.read(ref.place, (*buf)[:0])
	if class := diskio.Classify(err); class == diskio.Passing || class == diskio.Gone {
		return err
	}
	if err == nil && (head.kind != kindBlock || head.first != ref.first || head.channel != p.number()) {
		err = fmt.Errorf("%w: file %d, offset %d: a block of channel %d from sequence %d where one of channel %d from %d should be",
			diskio.ErrDamaged, ref.file, ref.offset, head.channel, head.first, p.number(), ref.first)
	}
	if err != nil {
		p.s.stats.BadBlocks.Add(1)
		p.lose(ref.end(), err)
		return nil
	}
	// One stretch of records: from those in front of the page up to its limits.
	var r message.Record
	start, end, count := 0, 0, 0
	room := p.limit - p.page.Batch.Len() - p.page.Lost
	space := p.maxBytes - p.page.Batch.Size()
	for seq := ref.first; seq < ref.end() && count < room && (end-start < space || count == 0); seq++ {
		n, err := r.Decode((*buf)[end:])
		if err != nil {
			p.s.stats.BadBlocks.Add(1)
			p.lose(ref.end(), fmt.Errorf("%w: file %d, offset %d: record of sequence %d: %w", diskio.ErrDamaged, ref.file, ref.offset, seq, err))
			return nil
		}
		if end += n; seq < p.page.Next {
			start = end
		} else {
			count++
		}
	}
	if err := p.page.Batch.AddStored(end-start, func(dst []byte) error { copy(dst, (*buf)[start:end]); return nil }); err != nil {
		return fmt.Errorf("cannot take in records that were whole a moment ago: %w", err)
	}
	for range count {
		p.page.Seqs = append(p.page.Seqs, p.page.Next)
		p.page.Next++
	}
	return nil
}

// number is the channel's in block files.
func (p *pager) number() uint32 {
	p.s.mu.RLock()
	defer p.s.mu.RUnlock()
	if c := p.s.series[p.ch]; c != nil {
		return c.number
	}
	return 0
}

// log takes what p.at says. What is damaged or gone is lost, unless it was moved
// meanwhile; an error says that, or that nothing is known of what comes next.
func (p *pager) log() error {
	at, batch := p.at, p.page.Batch
	singly := 0 // so many more are taken one by one
	for len(at) > 0 && p.more() {
		run, size := 1, int(at[0].Size)
		if singly--; singly < 0 {
			run, size = contiguous(at, p.maxBytes)
		}
		err := batch.AddStored(size, func(dst []byte) error { return p.s.readRecords(dst, at[:run]) })
		if err != nil && run > 1 {
			singly = run // one that is bad must not hide its neighbours
			continue
		}
		switch class := diskio.Classify(err); {
		case class == diskio.Passing && !errors.Is(err, message.ErrRecord):
			return err
		case class == diskio.OK:
			for range run {
				p.page.Seqs = append(p.page.Seqs, p.page.Next)
				p.page.Next++
			}
		case p.moved(): // so the file may have been used again before it was read
			return errMoved
		default:
			p.lose(p.page.Next+1, err)
		}
		at = at[run:]
	}
	return nil
}

// moved reports whether the next sequence is not only in the log any more. The log
// gives up nothing sooner.
func (p *pager) moved() bool {
	p.s.mu.RLock()
	defer p.s.mu.RUnlock()
	c := p.s.series[p.ch]
	return c == nil || p.page.Next < max(c.logged, c.first)
}

// readRecords fills p with records that lie one behind the other in the log, and
// compares each with its checksum: the file may be damaged, and one that the log has
// given up may hold another channel's messages by now.
func (s *Store) readRecords(p []byte, at []message.Location) error {
	if err := s.o.ReadLog(p, at[0].Generation, at[0].Offset); err != nil {
		return err
	}
	for i := range at {
		record := p[:at[i].Size]
		if sum := message.Checksum(record); sum != at[i].Sum {
			return fmt.Errorf("%w: log generation %016x, offset %d: the record has checksum %08x, it was written with %08x (%d bytes)",
				diskio.ErrDamaged, at[i].Generation, at[i].Offset, sum, at[i].Sum, len(record))
		}
		p = p[len(record):]
	}
	return nil
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
