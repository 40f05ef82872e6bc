package store

import (
	"encoding/binary"
	"slices"
	"time"
)

// Keep says how much of a channel is kept. 0 is no bound. Whole blocks are
// dropped, the oldest first; what is only in the log stays.
type Keep struct {
	Age   time.Duration // since a message was taken in
	Count int64         // messages
	Bytes int64         // of its blocks
}

// retainEvery is how often age is looked at while no checkpoint does.
const retainEvery = time.Minute

// pageOf is one page of the metadata: when its last file goes, so does it.
type pageOf struct {
	number uint64 // of the checkpoint
	file   uint32 // the newest that it speaks of
}

// trim is a channel that begins later from now on.
type trim struct {
	*series
	first uint64
	own   bool // by its own rule, which must be remembered; else its blocks say so
}

// retain drops what need not be kept, and the oldest block files until the
// store and the log are inside the budget. First the metadata say so, then the
// files go; what a crash leaves in between goes at the next start.
func (s *Store) retain(now time.Time) error {
	if s.meta == nil || len(s.o.Keep) == 0 && s.o.Budget == 0 {
		return nil
	}
	trims := s.expired(now)
	gone := s.outgrown(trims)
	if len(trims) == 0 && len(gone) == 0 {
		return nil
	}
	cp := s.newest
	if len(gone) > 0 {
		cp.oldest = gone[len(gone)-1] + 1
		trims = s.without(cp.oldest, trims)
	}
	keepPages := slices.IndexFunc(s.pages, func(p pageOf) bool { return p.file >= cp.oldest })
	if keepPages < 0 {
		keepPages = len(s.pages)
	}
	if err := s.meta.update(func(tx *metaTx) error {
		for _, p := range s.pages[:keepPages] {
			if err := tx.delete(bucketPage, numberKey(p.number)); err != nil {
				return err
			}
		}
		for _, t := range trims {
			if !t.own {
				continue
			}
			if err := tx.put(bucketFirst, channelNumberKey(t.number), binary.LittleEndian.AppendUint64([]byte{stateVersion}, t.first)); err != nil {
				return err
			}
		}
		return tx.put(bucketBox, []byte(keyCheckpoint), cp.append(nil))
	}); err != nil {
		return err
	}
	s.newest = cp
	s.pages = slices.Delete(s.pages, 0, keepPages)
	messages := s.begin(trims)
	for _, file := range gone {
		if err := s.blocks.remove(file); err != nil {
			s.o.Logger.Warn("block file not removed, the next start tries again", "err", err)
		}
	}
	s.measure()
	s.o.Logger.Info("retention", "channels", len(trims), "messages", messages, "files", len(gone))
	return nil
}

func channelNumberKey(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// all returns every series. The checkpoint's goroutine is the only one that
// changes their blocks, so it may read those without the lock.
func (s *Store) all() []*series {
	s.mu.RLock()
	defer s.mu.RUnlock()
	list := make([]*series, 0, len(s.series))
	for _, c := range s.series {
		list = append(list, c)
	}
	return list
}

// expired returns the channels that have more than their rules allow.
func (s *Store) expired(now time.Time) (trims []trim) {
	if len(s.o.Keep) == 0 {
		return nil
	}
	for _, c := range s.all() {
		keep, ok := s.o.Keep[c.channel.Type]
		if !ok {
			continue
		}
		first := c.first
		if n := c.logged - 1; keep.Count > 0 && n > uint64(keep.Count) {
			first = max(first, n-uint64(keep.Count)+1)
		}
		if keep.Age > 0 {
			cutoff := now.Add(-keep.Age).UnixMilli()
			for i := range c.blocks {
				if c.blocks[i].newest >= cutoff {
					break
				}
				first = max(first, c.blocks[i].end())
			}
		}
		if keep.Bytes > 0 {
			sum := int64(0)
			for i := len(c.blocks) - 1; i >= 0; i-- {
				if sum += int64(c.blocks[i].stored) + sectionHeader; sum > keep.Bytes {
					first = max(first, c.blocks[i].end())
					break
				}
			}
		}
		// A trim costs a transaction: a few messages of a block are not worth it.
		if i := c.find(first); first > c.first && (i == len(c.blocks) || i > 0) {
			trims = append(trims, trim{c, first, true})
		}
	}
	return trims
}

// outgrown returns the numbers of the oldest files that go: those in which
// nothing is alive any more, and more until the budget holds. The newest file
// stays.
func (s *Store) outgrown(trims []trim) (gone []uint32) {
	files := s.blocks.files()
	live := make(map[uint32]int)
	first := make(map[*series]uint64, len(trims))
	for _, t := range trims {
		first[t.series] = t.first
	}
	for _, c := range s.all() {
		from := max(c.first, first[c])
		for i := range c.blocks {
			if c.blocks[i].end() > from {
				live[c.blocks[i].file]++
			}
		}
	}
	total := s.size()
	for len(files) > 1 && (live[files[0].number] == 0 || s.o.Budget > 0 && total > s.o.Budget) {
		gone = append(gone, files[0].number)
		total -= files[0].size
		files = files[1:]
	}
	return gone
}

// size is what everything takes on the disk, with what is set aside for the
// checkpoint to come.
func (s *Store) size() int64 {
	total := s.o.Reserve + s.stats.MetaBytes.Load()
	for _, f := range s.blocks.files() {
		total += f.size
	}
	if s.o.LogSize != nil {
		total += s.o.LogSize()
	}
	return total
}

// without adds to trims that all blocks in files below oldest are gone.
func (s *Store) without(oldest uint32, trims []trim) []trim {
	known := make(map[*series]int, len(trims))
	for i, t := range trims {
		known[t.series] = i
	}
	for _, c := range s.all() {
		n := 0
		for n < len(c.blocks) && c.blocks[n].file < oldest {
			n++
		}
		if n == 0 {
			continue
		}
		first := c.logged
		if n < len(c.blocks) {
			first = c.blocks[n].first
		}
		if i, ok := known[c]; ok {
			trims[i].first = max(trims[i].first, first)
		} else if first > c.first {
			trims = append(trims, trim{c, first, false})
		}
	}
	return trims
}

// begin makes channels begin later and returns how many messages that drops.
func (s *Store) begin(trims []trim) (messages int64) {
	for _, t := range trims {
		s.mu.Lock()
		blocks := int64(0)
		for i := range t.blocks {
			if t.blocks[i].end() > t.first {
				break
			}
			blocks++
		}
		t.series.blocks = slices.Clone(t.blocks[blocks:])
		messages += int64(t.first - t.series.first)
		t.series.first = t.first
		if s.series[t.channel] == t.series {
			s.stats.Blocks.Add(-blocks)
		}
		s.mu.Unlock()
	}
	s.stats.Dropped.Add(messages)
	return messages
}
