package store

import (
	"encoding/binary"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"sort"
	"time"

	"gatepost/message"
)

// Report says what an Open found.
type Report struct {
	Checkpoint uint64   // number of the newest; 0: none yet
	Channels   int      // that it knows
	Messages   int64    // in blocks
	Blocks     int      //
	Rebuilt    bool     // the metadata was lost and made again from the block files
	Trouble    []string // what is damaged or gone, one line each
	Notes      []string // what a crash left and was cut off, likewise: nothing is lost by it
}

// Open opens the store in o.Dir, new if there is none, and returns what the
// core is to begin with. What is behind the newest checkpoint is in the log:
// replay that from Generation on, leaving out the groups up to Index. Damage is
// reported, not an error. What the disk cannot read is an error, after some seconds in
// which that might have passed: nothing is known of it, and nothing is given up.
func Open(o Options) (*Store, message.Restored, Report, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.RetireAtOnce {
		o.Logger.Warn("THE LOG IS RETIRED AT ONCE: damage to the newest metadata costs what was acknowledged; this is for tests only")
	}
	if o.Progress == nil {
		o.Progress = func() {}
	}
	s := &Store{o: o, series: make(map[*message.Channel]*series), names: make(map[string]*series), next: 1, dropping: true,
		work: make(chan *frozen, 1), free: make(chan struct{}, 1), images: make(chan chan imageReply), ruling: make(chan struct{}, 1), done: make(chan struct{})}
	restored, report, err := s.open()
	if err != nil {
		if s.meta != nil {
			s.meta.close()
		}
		if s.blocks != nil {
			s.blocks.close()
		}
		return nil, restored, report, err
	}
	for _, n := range report.Notes {
		o.Logger.Warn("store ends unfinished", "what", n)
	}
	for _, t := range report.Trouble {
		o.Logger.Warn("store damaged", "what", t)
	}
	o.Logger.Info("store opened", "checkpoint", report.Checkpoint, "channels", report.Channels,
		"messages", report.Messages, "blocks", report.Blocks, "rebuilt", report.Rebuilt)
	return s, restored, report, nil
}

func (s *Store) metaOptions() metaOptions {
	return metaOptions{
		Dir:     filepath.Join(s.o.Dir, "meta"),
		Buckets: []string{bucketBox, bucketChannel, bucketPage, bucketAnswers, bucketFirst, bucketUser}, // new ones go last: they have numbers
		NoSync:  s.o.NoSync, Segment: s.o.segment, Logger: s.o.Logger, patient: s.patient,
	}
}

func (s *Store) blockOptions() blockOptions {
	return blockOptions{Dir: filepath.Join(s.o.Dir, "blocks"), FileSize: s.current().BlockFile, NoSync: s.o.NoSync, Logger: s.o.Logger, patient: s.patient}
}

// readCheckpoint reads the newest checkpoint's record.
func readCheckpoint(m *meta) (cp checkpoint, found bool, err error) {
	value, err := m.get(bucketBox, []byte(keyCheckpoint))
	if err != nil || value == nil {
		return cp, false, err
	}
	if err := cp.decode(value); err != nil {
		return cp, false, fmt.Errorf("cannot read the checkpoint: %w", err)
	}
	return cp, true, nil
}

func (s *Store) open() (restored message.Restored, report Report, err error) {
	var found metaReport
	if s.meta, found, err = openMeta(s.metaOptions()); err != nil {
		return restored, report, err
	}
	report.Trouble, report.Notes = append(report.Trouble, found.reasons...), found.notes
	if s.blocks, err = openBlocks(s.blockOptions()); err != nil {
		return restored, report, err
	}
	cp, ok, err := readCheckpoint(s.meta)
	if err != nil {
		return restored, report, err
	}
	// Replaying the log is the better repair: it knows members and positions.
	replayable := s.o.Oldest > 0 && s.o.Oldest <= max(cp.generation, 1)
	if len(s.blocks.files()) > 0 && (found.damaged || !replayable) {
		if err := s.rebuild(cp, !replayable, &report); err != nil {
			return restored, report, err
		}
		if cp, ok, err = readCheckpoint(s.meta); err != nil {
			return restored, report, err
		}
	}
	s.newest = cp
	if !ok {
		s.newest.generation = 0
	}
	if (found.lost || found.fresh) && cp.number == 0 {
		// The log has everything, they say; what if it is damaged.
		if err := s.blocks.setAside(&report); err != nil {
			return restored, report, err
		}
	}
	if err := s.blocks.rewind(cp.file, cp.end); err != nil {
		return restored, report, err
	}
	for _, f := range s.blocks.files() {
		if f.number >= cp.oldest {
			break
		}
		if err := s.blocks.remove(f.number); err != nil { // dropped before
			return restored, report, err
		}
	}
	mark, err := s.meta.get(bucketBox, []byte(keyIncomplete))
	if err != nil {
		return restored, report, err
	}
	s.incomplete = mark != nil
	restored.Incomplete = s.incomplete || found.damaged || found.lost && !replayable
	restored.Index, restored.MaxMessageID, restored.Secret = cp.index, cp.maxMessageID, cp.secret
	s.next = max(cp.nextChannel, 1)
	hooks, err := s.meta.get(bucketBox, []byte(keyHooks))
	if err != nil {
		return restored, report, err
	}
	restored.Hooks = len(hooks) == 2 && hooks[1] == 1
	lived, err := s.meta.get(bucketBox, []byte(keyLived))
	if err != nil {
		return restored, report, err
	}
	if len(lived) == 9 {
		s.lived = int64(binary.LittleEndian.Uint64(lived[1:]))
	}
	numbers, err := s.loadChannels(&restored)
	if err == nil {
		err = s.loadUsers(&restored)
	}
	gone := make(map[*series]uint64)
	if err == nil {
		err = s.loadPages(numbers, gone, &report)
	}
	if err == nil {
		err = s.loadFirst(numbers)
	}
	if err == nil {
		restored.Answers, err = s.loadAnswers()
	}
	if err != nil {
		return restored, report, err
	}
	for _, c := range numbers {
		// What lies in no block is dropped, or lost where a block should be; if
		// nothing is left, the channel goes on behind what it had.
		from := c.last + 1
		if len(c.blocks) > 0 {
			c.last = max(c.last, c.blocks[len(c.blocks)-1].end()-1)
			from = c.blocks[0].first
		}
		if lost, ok := gone[c]; ok {
			from = min(from, lost)
		}
		c.first = max(c.first, from)
		c.logged, c.base = c.last+1, c.last+1
		report.Blocks += len(c.blocks)
		for i := range c.blocks {
			report.Messages += int64(c.blocks[i].count)
		}
	}
	for i := range restored.Channels {
		st := &restored.Channels[i]
		st.Last = s.series[st.Channel].last
	}
	s.began, s.noted = time.Now(), s.lived
	report.Checkpoint, report.Channels = cp.number, len(restored.Channels)
	s.stats.Blocks.Store(int64(report.Blocks))
	s.measure()
	return restored, report, nil
}

// loadChannels makes the series of all channels, without their blocks.
func (s *Store) loadChannels(restored *message.Restored) (map[uint32]*series, error) {
	numbers := make(map[uint32]*series)
	err := s.meta.each(bucketChannel, nil, func(key, value []byte) error {
		s.o.Progress()
		st, number, err := decodeState(key, value)
		if err != nil {
			return fmt.Errorf("cannot read the state of a channel: %w", err)
		}
		restored.Channels = append(restored.Channels, st)
		c := &series{channel: st.Channel, number: number, first: 1, last: st.Last, keep: st.Keep}
		numbers[number] = c
		s.series[st.Channel] = c
		s.names[st.Channel.Key()] = c
		s.next = max(s.next, number+1)
		return nil
	})
	return numbers, err
}

// loadUsers reads the accounts.
func (s *Store) loadUsers(restored *message.Restored) error {
	return s.meta.each(bucketUser, nil, func(key, value []byte) error {
		a, err := decodeAccount(value)
		if err != nil {
			return fmt.Errorf("cannot read the account of %q: %w", key, err)
		}
		restored.Users = append(restored.Users, message.UserState{UID: string(key), Account: a})
		return nil
	})
}

// loadPages fills in where blocks are. Blocks of channels that were dropped and
// of files that are gone are left out; gone gets the first sequence of the latter.
func (s *Store) loadPages(numbers map[uint32]*series, gone map[*series]uint64, report *Report) error {
	have := make(map[uint32]int64)
	for _, f := range s.blocks.files() {
		have[f.number] = f.size
	}
	missing := make(map[uint32]int)
	err := s.meta.each(bucketPage, nil, func(key, value []byte) error {
		s.o.Progress()
		_, blocks, err := decodePage(value)
		if err != nil {
			return fmt.Errorf("cannot read page %x: %w", key, err)
		}
		page := pageOf{}
		for number, ref := range blocks {
			page.saw(ref.file)
			s.lived = max(s.lived, ref.lived)
			c := numbers[number]
			if c == nil || ref.file < s.newest.oldest {
				continue
			}
			if size, ok := have[ref.file]; !ok || int64(ref.offset)+int64(ref.stored) > size {
				missing[ref.file]++
				if first, ok := gone[c]; !ok || ref.first < first {
					gone[c] = ref.first
				}
				continue
			}
			c.blocks = append(c.blocks, ref)
		}
		if len(key) != 8 {
			return fmt.Errorf("%w: the key of a page has %d bytes", errFormat, len(key))
		}
		page.number = binary.BigEndian.Uint64(key)
		s.pages = append(s.pages, page)
		return nil
	})
	files := make([]uint32, 0, len(missing))
	for file := range missing {
		files = append(files, file)
	}
	sort.Slice(files, func(i, j int) bool { return files[i] < files[j] })
	for _, file := range files {
		report.trouble("block file %d is missing or cut short, %d blocks are gone", file, missing[file])
	}
	return err
}

// loadFirst reads how far retention has dropped messages of single channels.
func (s *Store) loadFirst(numbers map[uint32]*series) error {
	return s.meta.each(bucketFirst, nil, func(key, value []byte) error {
		if err := checkVersion(value); err != nil {
			return err
		}
		if len(key) != 4 || len(value) != 9 {
			return fmt.Errorf("%w: a key of %d bytes, a value of %d", errFormat, len(key), len(value))
		}
		if c := numbers[binary.BigEndian.Uint32(key)]; c != nil {
			c.first = max(c.first, binary.LittleEndian.Uint64(value[1:]))
			n := 0
			for n < len(c.blocks) && c.blocks[n].end() <= c.first {
				n++
			}
			c.blocks = c.blocks[n:]
		}
		return nil
	})
}

// loadAnswers yields all answers, oldest first, until the next checkpoint, but
// for those of a checkpoint that was not completed: the log is replayed for what
// they answer, and would find it answered. Those are noted, to be deleted by the
// next checkpoint: a start needs no space on the disk.
func (s *Store) loadAnswers() (func(func(message.Answer) bool), error) {
	var pages []iter.Seq[message.Answer]
	err := s.meta.each(bucketAnswers, nil, func(key, value []byte) error {
		s.o.Progress()
		count, answers, err := decodeAnswers(value)
		if err == nil && len(key) != 12 {
			err = errFormat
		}
		if err != nil {
			return fmt.Errorf("cannot read answers %x: %w", key, err)
		}
		page := answerPage{binary.BigEndian.Uint64(key), binary.BigEndian.Uint32(key[8:]), count}
		if page.number > s.newest.number {
			s.void = append(s.void, page.key())
			return nil
		}
		pages = append(pages, answers)
		s.answers = append(s.answers, page)
		return nil
	})
	return func(yield func(message.Answer) bool) {
		for _, answers := range pages {
			for a := range answers {
				if !yield(a) {
					return
				}
			}
		}
	}, err
}

// rebuild makes metadata again from what the block files say: pages, and the
// ids of channels in their blocks. Of channels that are only there it knows no
// members but those of person channels, no read positions and no answers. With
// ahead it takes in checkpoints that are newer than cp as well.
func (s *Store) rebuild(cp checkpoint, ahead bool, report *Report) error {
	report.Rebuilt = true
	c := collector{channels: make(map[uint32]*message.ChannelState), pages: make(map[uint64][]byte), report: report, newest: cp}
	if !ahead {
		c.until = cp.number
	}
	if err := s.meta.each(bucketChannel, nil, func(key, value []byte) error {
		st, number, err := decodeState(key, value)
		c.channels[number] = &st
		return err
	}); err != nil {
		return err
	}
	known := len(c.channels)
	for _, f := range s.blocks.files() {
		if err := s.blocks.scan(f.number, func(head section, at place, raw []byte) error {
			s.o.Progress()
			return c.section(head, at, raw)
		}, func(offset, bytes int64, reason string) {
			report.trouble("block file %d, offset %d: %d bytes are damaged: %s", f.number, offset, bytes, reason)
		}); err != nil {
			return err
		}
	}
	if c.newest.number == 0 { // no checkpoint was completed: the log has everything
		return s.meta.update(func(tx *metaTx) error { return tx.delete(bucketBox, []byte(damagedKey)) })
	}
	report.trouble("metadata was made again from the block files, %d channels of %d: of those, members of groups, lists, read positions and recent answers that the log does not have are gone; of the others, and of users and their tokens, changes of the transactions that are damaged",
		len(c.channels)-known, len(c.channels))
	for number := range c.channels {
		c.newest.nextChannel = max(c.newest.nextChannel, number+1)
	}
	if files := s.blocks.files(); len(files) > 0 {
		c.newest.oldest = max(c.newest.oldest, files[0].number)
	}
	if c.newest.number != cp.number {
		c.newest.keep, c.newest.secret = c.newest.generation, cp.secret
	}
	var all metaTx // counts
	if err := c.write(&all); err != nil {
		return err
	}
	if err := s.meta.room(all.size); err != nil {
		return err
	}
	return s.meta.update(c.write)
}

func (r *Report) trouble(format string, args ...any) {
	r.Trouble = append(r.Trouble, fmt.Sprintf(format, args...))
}

// collector gathers what block files say.
type collector struct {
	channels map[uint32]*message.ChannelState
	pages    map[uint64][]byte
	newest   checkpoint
	until    uint64 // pages of later checkpoints are left out; 0: none is
	report   *Report
}

// section takes in one section.
func (c *collector) section(head section, at place, raw []byte) error {
	if head.kind == kindBlock {
		var r message.Record
		if _, err := r.Decode(raw); err == nil && c.channels[head.channel] == nil {
			c.channels[head.channel] = &message.ChannelState{Channel: &message.Channel{ID: string(r.ChannelID), Type: r.ChannelType}}
		}
		return nil
	}
	cp, _, err := decodePage(raw)
	if err != nil {
		c.report.trouble("block file %d, offset %d: %v", at.file, at.offset, err)
		return nil
	}
	if c.until != 0 && cp.number > c.until {
		return nil
	}
	c.pages[cp.number] = append([]byte(nil), raw...)
	if cp.number > c.newest.number {
		cp.maxMessageID = max(cp.maxMessageID, c.newest.maxMessageID)
		c.newest = cp
		c.newest.file, c.newest.end = at.file, uint32(at.end())
	}
	return nil
}

// write puts everything into the metadata.
func (c *collector) write(tx *metaTx) error {
	for number, page := range c.pages {
		if err := tx.put(bucketPage, numberKey(number), page); err != nil {
			return err
		}
		_, blocks, err := decodePage(page)
		if err != nil {
			return err
		}
		for number, ref := range blocks {
			if st := c.channels[number]; st != nil {
				st.Last = max(st.Last, ref.end()-1)
			}
		}
	}
	// A group that was deleted and made again has two numbers: the larger is
	// the one in use.
	inUse := make(map[string]uint32)
	for number, st := range c.channels {
		k := string(appendChannelKey(nil, st.Channel))
		inUse[k] = max(inUse[k], number)
	}
	for k, number := range inUse {
		if err := tx.put(bucketChannel, []byte(k), appendState(nil, c.channels[number], number)); err != nil {
			return err
		}
	}
	if err := tx.delete(bucketBox, []byte(damagedKey)); err != nil {
		return err
	}
	if err := tx.put(bucketBox, []byte(keyIncomplete), []byte{2}); err != nil {
		return err
	}
	return tx.put(bucketBox, []byte(keyCheckpoint), c.newest.append(nil))
}
