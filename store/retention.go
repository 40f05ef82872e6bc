package store

import (
	"encoding/binary"
	"slices"
	"time"

	"gatepost/message"
)

// retainEvery is how often age is looked at while no checkpoint does.
const retainEvery = time.Minute

// noteEvery is how often the metadata are told how long the store has lived, if no
// checkpoint does it and a rule counts by that. A crash forgets at most so much.
const noteEvery = 10 * time.Minute

// life is how long the store has lived until now, ms: the time that it was open since
// it was made. Ages are counted in it. The clock of the wall says nothing about them:
// a box boots in 1970 and is told the time when there is a network, a wrong year is
// put right, and whether a box was switched off or its clock was set nobody can tell
// by looking at it. So the time that a box is off does not count: what is dropped too
// late is better than what is dropped while it is wanted.
func (s *Store) life(now time.Time) int64 {
	return s.lived + max(now.Sub(s.began), 0).Milliseconds() // monotonic
}

func appendLived(lived int64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{4}, uint64(lived))
}

// note tells the metadata how long the store has lived, if that is of use.
func (s *Store) note(now time.Time) error {
	lived := s.life(now)
	if s.meta == nil || !s.aging || lived == s.noted {
		return nil
	}
	err := s.meta.update(func(tx *metaTx) error { return tx.put(bucketBox, []byte(keyLived), appendLived(lived)) })
	if err == nil {
		s.noted = lived
	}
	return err
}

// pageOf is one page of the metadata: when its last file goes, so does it.
type pageOf struct {
	number       uint64 // of the checkpoint
	oldest, file uint32 // the oldest and the newest that it speaks of
}

// trim is a channel that begins later from now on.
type trim struct {
	*series
	first uint64
	own   bool // by its own rule, which must be remembered; else its blocks say so
}

// retain drops what need not be kept, block files in which nothing is left, and
// the oldest ones until the store and the log are inside the budget. First the
// metadata say so, then the files go; what a crash leaves in between goes later.
func (s *Store) retain(now time.Time) error {
	if s.meta == nil {
		return nil
	}
	trims := s.expired(now)
	cp := s.newest
	dead, oldest := s.outgrown(trims)
	if len(trims) == 0 && len(dead) == 0 && oldest <= cp.oldest {
		s.dropping = false
		return nil
	}
	if oldest > cp.oldest {
		cp.oldest = oldest
		trims = s.without(oldest, trims)
	}
	pages := slices.Clone(s.pages)
	if err := s.meta.update(func(tx *metaTx) error {
		for i := range pages {
			if err := s.thin(tx, &pages[i], oldest, dead); err != nil {
				return err
			}
		}
		for _, t := range trims {
			if !t.own {
				continue
			}
			if err := tx.put(bucketFirst, channelNumberKey(t.number), binary.LittleEndian.AppendUint64([]byte{1}, t.first)); err != nil {
				return err
			}
		}
		return tx.put(bucketBox, []byte(keyCheckpoint), cp.append(nil))
	}); err != nil {
		return err
	}
	s.newest, s.dropping = cp, false
	s.pages = slices.DeleteFunc(pages, func(p pageOf) bool { return p.file == 0 })
	messages, files := s.begin(trims), 0
	for _, f := range s.blocks.files() {
		if f.number >= oldest && !slices.Contains(dead, f.number) {
			continue
		}
		files++
		if err := s.blocks.remove(f.number); err != nil {
			s.o.Logger.Warn("block file not removed, it is tried again", "err", err)
		}
	}
	s.measure()
	s.o.Logger.Info("retention", "channels", len(trims), "messages", messages, "files", files)
	return nil
}

// thin takes the blocks in files that go out of a page, and the page away if
// nothing is left of it; then its file is 0.
func (s *Store) thin(tx *metaTx, p *pageOf, oldest uint32, dead []uint32) error {
	goes := func(file uint32) bool { return file < oldest || slices.Contains(dead, file) }
	if p.file < oldest {
		p.file = 0
		return tx.delete(bucketPage, numberKey(p.number))
	}
	if !slices.ContainsFunc(dead, func(file uint32) bool { return file >= p.oldest && file <= p.file }) {
		return nil
	}
	value, err := tx.get(bucketPage, numberKey(p.number))
	if err != nil || value == nil {
		return err
	}
	_, blocks, err := decodePage(value)
	if err != nil {
		return err
	}
	s.page = append(s.page[:0], value[:pageHeader]...)
	left := pageOf{number: p.number}
	for number, ref := range blocks {
		if !goes(ref.file) {
			s.page = appendPageEntry(s.page, number, &ref)
			left.saw(ref.file)
		}
	}
	if *p = left; p.file == 0 {
		return tx.delete(bucketPage, numberKey(p.number))
	}
	return tx.put(bucketPage, numberKey(p.number), s.page)
}

// saw notes that a page speaks of a file.
func (p *pageOf) saw(file uint32) {
	if p.oldest == 0 || file < p.oldest {
		p.oldest = file
	}
	p.file = max(p.file, file)
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

// ruled returns the series that have a rule, their own or that of their type.
func (s *Store) ruled() map[*series]message.Keep {
	s.mu.RLock() // apply may give a channel another rule
	defer s.mu.RUnlock()
	rules, types := make(map[*series]message.Keep), s.current().Keep
	for _, c := range s.series {
		keep := types[c.channel.Type]
		if c.keep != nil {
			keep = *c.keep
		}
		if keep != (message.Keep{}) {
			rules[c] = keep
		}
	}
	return rules
}

// expired returns the channels that have more than their rules allow.
func (s *Store) expired(now time.Time) (trims []trim) {
	s.aging = false
	for c, keep := range s.ruled() {
		first := c.first
		if n := c.logged - 1; keep.Count > 0 && n > uint64(keep.Count) {
			first = max(first, n-uint64(keep.Count)+1)
		}
		if keep.Age > 0 {
			s.aging = true
			for i := range c.blocks { // later ones are younger
				if s.life(now)-c.blocks[i].lived <= keep.Age.Milliseconds() {
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

// outgrown returns the files in which nothing is alive any more, and the oldest
// that stays so that the budget holds. The newest file stays. It looks only when
// something was dropped, or the budget is exceeded.
func (s *Store) outgrown(trims []trim) (dead []uint32, oldest uint32) {
	files, total := s.blocks.files(), s.size()
	oldest = s.newest.oldest
	budget := s.current().Budget
	over := budget > 0 && total > budget
	if len(files) < 2 || !over && !s.dropping && len(trims) == 0 {
		return nil, oldest
	}
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
	newest := min(files[len(files)-1].number, max(s.newest.file, 1))
	for _, f := range files {
		if f.number < newest && live[f.number] == 0 {
			dead = append(dead, f.number)
			total -= f.size
		}
	}
	for _, f := range files {
		if f.number >= newest || live[f.number] > 0 && (budget == 0 || total <= budget) {
			break
		}
		if live[f.number] > 0 {
			total -= f.size
		}
		oldest = f.number + 1
	}
	return dead, oldest
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
