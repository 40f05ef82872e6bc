package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"gatepost/diskio"
	"gatepost/message"
)

const (
	// blockRaw is how many bytes of records a block holds, unless one record
	// alone is larger.
	blockRaw = 64 << 10
	// retryFirst and retryMax are how long a failed checkpoint waits.
	retryFirst = time.Second
	retryMax   = time.Minute
	// readPatience is how long a checkpoint, or a start, asks again for what the disk
	// cannot read before it fails.
	readPatience = 5 * time.Second
)

// Run writes checkpoints until Close. An error means that a channel, a block or
// the metadata are wrong in a way that trying again does not help.
func (s *Store) Run() error {
	defer func() {
		if err := s.note(time.Now()); err != nil {
			s.o.Logger.Warn("the age of messages is not noted, they are kept a little longer", "err", err)
		}
		s.meta.close()
		s.blocks.close()
	}()
	ticker := time.NewTicker(retainEvery)
	defer ticker.Stop()
	for {
		select {
		case <-s.done:
			return nil
		case reply := <-s.images:
			image, err := s.image()
			reply <- imageReply{image, err}
		case now := <-ticker.C:
			s.forget(now)
			if s.life(now)-s.noted >= noteEvery.Milliseconds() {
				if err := s.note(now); err != nil {
					s.o.Logger.Warn("the age of messages is not noted, it is tried again", "err", err)
					s.again()
				}
			}
		case <-s.ruling:
			s.blocks.resize(s.current().BlockFile)
			s.forget(time.Now())
		case f := <-s.work:
			if budget := s.current().Budget; budget > 0 && s.size() > budget { // room for what is written now
				s.forget(time.Now())
			}
			if !s.persist(f) {
				return nil
			}
			s.forget(time.Now())
			s.busy.Store(false)
			s.wake()
		}
	}
}

// wake lets a Checkpoint that waits look again.
func (s *Store) wake() {
	select {
	case s.free <- struct{}{}:
	default:
	}
}

// forget is retain. After an error it is tried again behind the next checkpoint or
// attempt at one, or in a minute. While an attempt has failed it is called with the
// metadata open only: what they say of the attempt is for persist.
func (s *Store) forget(now time.Time) {
	if s.meta == nil {
		s.again()
	}
	if err := s.retain(now); err != nil {
		s.o.Logger.Error("nothing was dropped, it is tried again", "err", err)
		s.again()
	}
}

// persist writes one checkpoint, and tries again for as long as that fails: the
// log is kept meanwhile. It reports false after Close.
func (s *Store) persist(f *frozen) bool {
	s.try = attempt{} // metadata that are opened before the first attempt do not tell of this one
	for wait := cmp.Or(s.o.retry, retryFirst); ; wait = min(2*wait, retryMax) {
		err := s.write(f)
		if err == nil {
			s.finish(f)
			return true
		}
		why := err.Error()
		s.health.failure.Store(&why)
		s.stats.Failures.Add(1)
		s.stats.Behind.Store(true)
		s.wake()
		s.o.Logger.Error("checkpoint failed, the log is kept and it is tried again", "number", s.newest.number+1, "in", wait, "err", err)
		landed := s.again()
		if !landed && s.meta != nil {
			s.forget(time.Now()) // what goes makes room, and the rules hold meanwhile too
		}
		if !landed && !s.pause(wait) {
			return false
		}
		if !landed && s.meta == nil {
			landed = s.again()
		}
		if landed { // the transaction that failed is on disk all the same
			s.finish(f)
			return true
		}
	}
}

// pause waits before the next attempt, in which backups are taken, as the checkpoint
// before is whole, and new rules are carried out: then the attempt comes at once. It
// reports false after Close.
func (s *Store) pause(wait time.Duration) bool {
	for over := time.After(wait); ; {
		select {
		case <-s.done:
			return false
		case <-over:
			return true
		case reply := <-s.images:
			image, err := s.image()
			reply <- imageReply{image, err}
		case <-s.ruling:
			s.blocks.resize(s.current().BlockFile)
			if s.meta != nil {
				s.forget(time.Now())
			}
			return true
		}
	}
}

// again opens everything again after an error, at once: that gives back the
// space of what was not completed. It reports whether the transaction that
// failed is there.
func (s *Store) again() (landed bool) {
	landed, err := s.reopen()
	if err != nil {
		s.o.Logger.Error("cannot open the store again", "err", err)
	}
	return landed && err == nil
}

// attempt is what one attempt at a checkpoint has prepared.
type attempt struct {
	checkpoint
	ends        []int // of each part in refs
	answers     []answerPage
	raw, stored int64
	lost        int
	damaged     map[uint64]string // generations of the log in which it found damage, and the first of it
}

// write writes a checkpoint: blocks and their page, one sync, one transaction
// of metadata. It can be called again after an error and a reopen.
func (s *Store) write(f *frozen) error {
	if s.meta == nil {
		return errors.New("the store could not be opened again")
	}
	s.try = attempt{checkpoint: f.checkpoint, ends: make([]int, len(f.parts))}
	t := &s.try
	t.number = s.newest.number + 1
	if t.keep = s.newest.generation; s.o.RetireAtOnce {
		t.keep = t.generation
	}
	t.oldest = s.newest.oldest
	s.page = appendPage(s.page[:0], &t.checkpoint)
	s.refs = s.refs[:0]
	s.rested = time.Now()
	for i, p := range f.parts {
		if err := s.writeBlocks(p, s.life(f.at)); err != nil {
			return err
		}
		t.ends[i] = len(s.refs)
	}
	if s.o.Quarantine != nil { // before anything retires them
		for generation, reason := range t.damaged {
			s.o.Quarantine(generation, reason)
		}
	}
	if _, err := s.blocks.append(section{kind: kindPage, first: t.number, raw: uint32(len(s.page))}, s.page); err != nil {
		return err
	}
	if err := s.blocks.sync(); err != nil {
		return err
	}
	t.file, t.end = s.blocks.end()
	last, err := s.writeAnswers(f)
	if err != nil {
		return err
	}
	if err := s.meta.room(s.sizeOfMeta(f, last)); err != nil {
		return err
	}
	return s.meta.update(func(tx *metaTx) error { return s.writeMeta(tx, f, last) })
}

// answersPart is how many answers are written at a time, some 190 KiB: a
// transaction of the metadata is one piece of work that nobody can interrupt. When
// the next checkpoint is due it is lateParts times as many: each costs a sync, and
// those who are answered may be waiting for all of them.
const (
	answersPart = 8192
	lateParts   = 8
)

// writeAnswers writes all parts of a checkpoint's answers but the last, which it
// returns packed: that one belongs to the checkpoint's own transaction. Parts of
// a checkpoint that is never completed are deleted at the next start.
func (s *Store) writeAnswers(f *frozen) (last []byte, err error) {
	t := &s.try
	t.answers = append([]answerPage(nil), s.answers...)
	if f.portion == 0 {
		f.portion = answersPart
		if s.pressed.Load() {
			f.portion *= lateParts
		}
		f.portion = cmp.Or(s.o.part, f.portion)
	}
	for part, rest := uint32(0), f.answers; len(rest) > 0; part++ {
		n := min(f.portion, len(rest))
		packed := packedAnswers{bytes: make([]byte, 0, 26*n)}
		for _, a := range rest[:n] {
			packed.add(a)
		}
		page := answerPage{t.number, part, n}
		t.answers = append(t.answers, page)
		if rest = rest[n:]; len(rest) == 0 {
			return packed.bytes, nil
		}
		if err := s.meta.update(func(tx *metaTx) error { return tx.put(bucketAnswers, page.key(), packed.bytes) }); err != nil {
			return nil, fmt.Errorf("a part of the answers: %w", err)
		}
		s.rest()
	}
	return nil, nil
}

// rest keeps a checkpoint from taking the processors from those who answer: it
// works a quarter of the time. Without it the acks during a checkpoint took five
// times as long as at other times, with it less than twice. When the next checkpoint
// is due it neither rests nor gives way: what it does not get done now, all wait for
// later (see farBehind in broker), with one processor idle. That is 8 % more messages
// under full load, and a quarter less p99. Measured on 2026-11-28, see
// docs/benchmarks.md, "Sizes and waiting".
func (s *Store) rest() {
	const longest = 20 * time.Millisecond
	if s.pressed.Load() {
		return
	}
	if worked := time.Since(s.rested); worked < 250*time.Microsecond {
		runtime.Gosched()
	} else {
		time.Sleep(min(3*worked, longest))
		s.rested = time.Now()
	}
}

// finish puts a checkpoint that is on disk into effect: what only the log had
// is found in the blocks, and the log is retired.
func (s *Store) finish(f *frozen) {
	t := &s.try
	s.newest, s.answers, s.void, s.incomplete = t.checkpoint, t.answers, nil, false
	if len(s.refs) > 0 {
		s.pages = append(s.pages, pageOf{t.number, s.refs[0].file, s.refs[len(s.refs)-1].file})
	}
	s.dropping = s.dropping || len(f.deletes) > 0
	begin := 0
	for i, p := range f.parts {
		s.mu.Lock()
		saved := p.to + 1 - p.logged
		p.settle(s.refs[begin:t.ends[i]], p.to)
		if s.series[p.channel] == p.series {
			s.stats.Blocks.Add(int64(t.ends[i] - begin))
		}
		s.mu.Unlock()
		s.stats.Unsaved.Add(-int64(saved))
		begin = t.ends[i]
	}
	took := time.Since(f.at)
	s.stats.Took.Store(int64(took))
	s.saved.Store(f.put)
	s.stats.Behind.Store(false)
	s.stats.Checkpoints.Add(1)
	s.stats.RawBytes.Add(t.raw)
	s.stats.StoredBytes.Add(t.stored)
	s.stats.Lost.Add(int64(t.lost))
	if s.meta.grown() {
		if err := s.meta.compact(); err != nil {
			s.o.Logger.Error("metadata not compacted", "err", err)
			s.again()
		}
	}
	s.measure()
	s.o.Logger.Info("checkpoint", "number", t.number, "index", t.index, "channels", len(f.parts), "blocks", len(s.refs),
		"records_bytes", t.raw, "stored_bytes", t.stored, "took", took)
	s.retire()
}

// retire gives up what the log need not keep. It stays one checkpoint longer
// than it is needed: if the newest transaction is damaged, it is replayed.
func (s *Store) retire() {
	err := s.o.Retire(s.newest.keep)
	s.stats.Unretired.Store(err != nil)
	if err != nil {
		s.o.Logger.Warn("log not retired, the next checkpoint tries again", "below", s.newest.keep, "err", err)
	}
}

// measure counts the bytes on disk.
func (s *Store) measure() {
	if s.meta == nil {
		return // could not be opened again
	}
	s.stats.MetaBytes.Store(s.meta.size())
	size := int64(0)
	for _, f := range s.blocks.files() {
		size += f.size
	}
	s.stats.BlockBytes.Store(size)
}

// writeBlocks reads from the log what a channel has there and appends it in
// blocks, noting them in the page. Messages that are damaged there or gone are
// counted: they are a gap from then on.
func (s *Store) writeBlocks(p part, lived int64) error {
	t := &s.try
	lost, reason := 0, error(nil)
	ref := blockRef{first: p.logged, lived: lived}
	s.buf = s.buf[:0]
	flush := func(next uint64) error {
		if ref.count > 0 {
			head := section{kind: kindBlock, typ: p.channel.Type, channel: p.number, first: ref.first, raw: uint32(len(s.buf))}
			var err error
			if ref.place, err = s.blocks.append(head, s.buf); err != nil {
				return err
			}
			t.raw += int64(len(s.buf))
			t.stored += int64(ref.stored)
			s.refs = append(s.refs, ref)
			s.page = appendPageEntry(s.page, p.number, &ref)
			s.rest()
		}
		ref = blockRef{first: next, lived: lived}
		s.buf = s.buf[:0]
		return nil
	}
	const batch = 256
	var at []message.Location
	for seq := p.logged; seq <= p.to; {
		s.mu.RLock()
		at = p.locate(at[:0], seq, int(min(batch, p.to-seq+1)))
		s.mu.RUnlock()
		singly := 0 // so many more are read one by one
		for len(at) > 0 {
			run, size := 1, int(at[0].Size)
			if singly--; singly < 0 {
				run, size = contiguous(at, blockRaw-len(s.buf))
			}
			if len(s.buf) > 0 && len(s.buf)+size > blockRaw {
				if err := flush(seq); err != nil {
					return err
				}
				continue
			}
			err := s.readRun(at[:run], size, p.channel, &ref)
			switch class := diskio.Classify(err); {
			case class == diskio.OK:
			case class == diskio.Passing:
				return fmt.Errorf("cannot read messages of channel %q from the log: %w", p.channel.ID, err)
			case run > 1:
				singly = run // which of them is it
				continue
			default:
				if reason == nil {
					reason = err
				}
				if g := at[0].Generation; t.damaged[g] == "" {
					if t.damaged == nil {
						t.damaged = make(map[uint64]string)
					}
					t.damaged[g] = fmt.Sprintf("message %d of channel %q: %v", seq, p.channel.ID, err)
				}
				lost++
				if err := flush(seq + 1); err != nil {
					return err
				}
			}
			seq += uint64(run)
			at = at[run:]
		}
	}
	if lost > 0 {
		s.o.Logger.Error("messages lost: the log does not have them as they were written", "channel", p.channel.ID, "up_to", p.to, "lost", lost, "reason", reason)
	}
	t.lost += lost
	return flush(p.to + 1)
}

// readRun appends a row of records from the log to buf and counts them in ref. A read
// that fails is tried again for a while.
func (s *Store) readRun(at []message.Location, size int, ch *message.Channel, ref *blockRef) error {
	start := len(s.buf)
	if cap(s.buf)-start < size {
		s.buf = append(make([]byte, 0, max(start+size, blockRaw)), s.buf...)
	}
	s.buf = s.buf[:start+size]
	err := diskio.Retry(cmp.Or(s.o.patience, readPatience), s.sleep, func() error { return s.readRecords(s.buf[start:], at) })
	var r message.Record
	for rest := s.buf[start:]; err == nil && len(rest) > 0; {
		var n int
		if n, err = r.Decode(rest); err != nil || r.Kind != message.KindMessage || r.ChannelType != ch.Type || string(r.ChannelID) != ch.ID {
			panic(fmt.Sprintf("BUG: what was put for channel %q is none of its messages (log generation %016x, offset %d): %v", ch.ID, at[0].Generation, at[0].Offset, err))
		}
		rest = rest[n:]
	}
	if err != nil {
		s.buf = s.buf[:start]
		return err
	}
	ref.count += uint32(len(at))
	return nil
}

// sleep reports false when Close was called meanwhile.
func (s *Store) sleep(d time.Duration) bool {
	select {
	case <-s.done:
		return false
	case <-time.After(d):
		return true
	}
}

// sizeOfMeta is the most that writeMeta writes.
func (s *Store) sizeOfMeta(f *frozen, answers []byte) int64 {
	const fixed = 1 << 10 // what else has a size that does not grow
	keys := 0
	for _, key := range f.deletes {
		keys += len(key)
	}
	for _, key := range s.void {
		keys += len(key)
	}
	for _, p := range s.try.answers {
		keys += len(p.key())
	}
	entries := len(f.deletes) + len(f.numbers) + len(f.states) + len(f.users) + len(s.void) + len(s.try.answers)
	return entrySizeMax(keys+8*len(f.numbers), len(f.bytes)+len(s.page)+len(answers)) + int64(entries)*entryHeaderMax + fixed
}

// writeMeta fills a checkpoint's transaction; answers are the last part of them.
func (s *Store) writeMeta(tx *metaTx, f *frozen, answers []byte) error {
	t := &s.try
	for _, key := range f.deletes {
		if err := tx.delete(bucketChannel, key); err != nil {
			return err
		}
	}
	for _, number := range f.numbers {
		if err := tx.delete(bucketFirst, channelNumberKey(number)); err != nil {
			return err
		}
	}
	for _, st := range f.states {
		if err := tx.put(bucketChannel, f.bytes[st.start:st.value], f.bytes[st.value:st.end]); err != nil {
			return err
		}
	}
	for _, u := range f.users {
		key, value := f.bytes[u.start:u.value], f.bytes[u.value:u.end]
		var err error
		if len(value) == 0 {
			err = tx.delete(bucketUser, key)
		} else {
			err = tx.put(bucketUser, key, value)
		}
		if err != nil {
			return err
		}
	}
	if len(s.page) > pageHeader {
		if err := tx.put(bucketPage, numberKey(t.number), s.page); err != nil {
			return err
		}
	}
	for _, key := range s.void {
		if slices.ContainsFunc(t.answers, func(p answerPage) bool { return bytes.Equal(p.key(), key) }) {
			continue // written anew
		}
		if err := tx.delete(bucketAnswers, key); err != nil {
			return err
		}
	}
	if answers != nil {
		if err := tx.put(bucketAnswers, t.answers[len(t.answers)-1].key(), answers); err != nil {
			return err
		}
	}
	total := 0
	for _, a := range t.answers {
		total += a.count
	}
	for len(t.answers) > 0 && total-t.answers[0].count >= f.window {
		if err := tx.delete(bucketAnswers, t.answers[0].key()); err != nil {
			return err
		}
		total -= t.answers[0].count
		t.answers = t.answers[1:]
	}
	if s.incomplete {
		if err := tx.delete(bucketBox, []byte(keyIncomplete)); err != nil {
			return err
		}
	}
	if err := tx.put(bucketBox, []byte(keyHooks), appendHooks(f.hooks)); err != nil {
		return err
	}
	if err := tx.put(bucketBox, []byte(keyLived), appendLived(s.life(f.at))); err != nil {
		return err
	}
	return tx.put(bucketBox, []byte(keyCheckpoint), t.checkpoint.append(nil))
}

// numberKey is a number that sorts.
func numberKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// reopen begins anew after an error: neither the block files nor the metadata
// go on after one. It reports whether the transaction that failed is there.
func (s *Store) reopen() (landed bool, err error) {
	if s.meta != nil {
		s.meta.close()
		s.meta = nil
	}
	s.blocks.abandon() // readers go on with it until there is another
	o := s.metaOptions()
	o.again = true
	m, _, err := openMeta(o)
	if err != nil {
		return false, err
	}
	cp, found, err := readCheckpoint(m)
	s.newest.oldest, s.try.oldest = cp.oldest, cp.oldest // a retention that failed may be there
	landed = found && cp == s.try.checkpoint
	var b *blocks
	switch {
	case err != nil:
	case !landed && cp != s.newest:
		err = fmt.Errorf("cannot go on: the metadata is at checkpoint %d, expected %d; start again", cp.number, s.newest.number)
	default:
		b, err = openBlocks(s.blockOptions())
	}
	if err == nil {
		err = b.rewind(cp.file, cp.end)
	}
	if err != nil {
		m.close()
		return false, err
	}
	s.meta = m
	old := s.blocks
	s.mu.Lock()
	s.blocks = b
	s.mu.Unlock()
	old.close()
	return landed, nil
}
