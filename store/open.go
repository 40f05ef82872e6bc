package store

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"path/filepath"
	"sort"

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
}

// Open opens the store in o.Dir, new if there is none, and returns what the
// core is to begin with. What is behind the newest checkpoint is in the log:
// replay that from Generation on, leaving out the groups up to Index. Damage is
// reported, not an error.
func Open(o Options) (*Store, message.Restored, Report, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{o: o, series: make(map[*message.Channel]*series), next: 1,
		work: make(chan *frozen, 1), done: make(chan struct{})}
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
		Buckets: []string{bucketBox, bucketChannel, bucketPage, bucketAnswers, bucketFirst},
		NoSync:  s.o.NoSync, Logger: s.o.Logger,
	}
}

func (s *Store) blockOptions() blockOptions {
	return blockOptions{Dir: filepath.Join(s.o.Dir, "blocks"), FileSize: s.o.BlockFile, NoSync: s.o.NoSync, Logger: s.o.Logger}
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
	report.Trouble = append(report.Trouble, found.reasons...)
	if s.blocks, err = openBlocks(s.blockOptions()); err != nil {
		return restored, report, err
	}
	cp, ok, err := readCheckpoint(s.meta)
	if err != nil {
		return restored, report, err
	}
	if !ok && len(s.blocks.files()) > 0 {
		if err := s.rebuild(&report); err != nil {
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
	if err := s.blocks.rewind(cp.file, cp.end); err != nil {
		return restored, report, err
	}
	restored.MaxMessageID, restored.Secret = cp.maxMessageID, cp.secret
	s.next = max(cp.nextChannel, 1)
	numbers, err := s.loadChannels(&restored)
	if err == nil {
		err = s.loadPages(numbers, &report)
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
		// What lies in no block is dropped or lost; if nothing is left, the
		// channel goes on behind what it had.
		if len(c.blocks) > 0 {
			c.last = max(c.last, c.blocks[len(c.blocks)-1].end()-1)
			c.first = max(c.first, c.blocks[0].first)
		} else {
			c.first = c.last + 1
		}
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
	report.Checkpoint, report.Channels = cp.number, len(restored.Channels)
	s.stats.Blocks.Store(int64(report.Blocks))
	s.measure()
	return restored, report, nil
}

// loadChannels makes the series of all channels, without their blocks.
func (s *Store) loadChannels(restored *message.Restored) (map[uint32]*series, error) {
	numbers := make(map[uint32]*series)
	err := s.meta.each(bucketChannel, nil, func(key, value []byte) error {
		st, number, err := decodeState(key, value)
		if err != nil {
			return fmt.Errorf("cannot read the state of a channel: %w", err)
		}
		restored.Channels = append(restored.Channels, st)
		c := &series{channel: st.Channel, number: number, first: 1, last: st.Last}
		numbers[number] = c
		s.series[st.Channel] = c
		s.next = max(s.next, number+1)
		return nil
	})
	return numbers, err
}

// loadPages fills in where blocks are. Blocks of channels that were dropped and
// of files that are gone are left out.
func (s *Store) loadPages(numbers map[uint32]*series, report *Report) error {
	have := make(map[uint32]int64)
	for _, f := range s.blocks.files() {
		have[f.number] = f.size
	}
	missing := make(map[uint32]int)
	err := s.meta.each(bucketPage, nil, func(key, value []byte) error {
		_, blocks, err := decodePage(value)
		if err != nil {
			return fmt.Errorf("cannot read page %x: %w", key, err)
		}
		for number, ref := range blocks {
			c := numbers[number]
			if c == nil {
				continue
			}
			if size, ok := have[ref.file]; !ok || int64(ref.offset)+int64(ref.stored) > size {
				missing[ref.file]++
				continue
			}
			c.blocks = append(c.blocks, ref)
		}
		return nil
	})
	files := make([]uint32, 0, len(missing))
	for file := range missing {
		files = append(files, file)
	}
	sort.Slice(files, func(i, j int) bool { return files[i] < files[j] })
	for _, file := range files {
		report.Trouble = append(report.Trouble, fmt.Sprintf("block file %d is missing or cut short, %d blocks are gone", file, missing[file]))
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
		}
		return nil
	})
}

// loadAnswers reads all answers, oldest first.
func (s *Store) loadAnswers() (func(func(message.Answer) bool), error) {
	var all []message.Answer
	err := s.meta.each(bucketAnswers, nil, func(key, value []byte) error {
		answers, err := decodeAnswers(value)
		if err == nil && len(key) != 8 {
			err = errFormat
		}
		if err != nil {
			return fmt.Errorf("cannot read answers %x: %w", key, err)
		}
		before := len(all)
		for a := range answers {
			all = append(all, a)
		}
		s.answers = append(s.answers, answerPage{binary.BigEndian.Uint64(key), len(all) - before})
		return nil
	})
	return func(yield func(message.Answer) bool) {
		for _, a := range all {
			if !yield(a) {
				return
			}
		}
	}, err
}

// rebuild makes metadata from what the block files say: pages, and the channel
// ids in the blocks. It knows no members but those of person channels, no read
// positions and no answers.
func (s *Store) rebuild(report *Report) error {
	report.Rebuilt = true
	report.Trouble = append(report.Trouble, "the metadata is lost and was made again from the block files: "+
		"members of groups, read positions and recent answers older than the log are gone")
	type known struct {
		typ  uint8
		id   string
		last uint64
	}
	channels := make(map[uint32]*known)
	pages := make(map[uint64][]byte)
	var newest checkpoint
	var r message.Record
	for _, f := range s.blocks.files() {
		err := s.blocks.scan(f.number, func(head section, at place, raw []byte) error {
			switch head.kind {
			case kindPage:
				cp, _, err := decodePage(raw)
				if err != nil {
					report.Trouble = append(report.Trouble, fmt.Sprintf("block file %d, offset %d: %v", at.file, at.offset, err))
					return nil
				}
				if pages[cp.number] = append([]byte(nil), raw...); cp.number > newest.number {
					newest = cp
					newest.file, newest.end = at.file, at.offset+sectionHeader+at.stored
				}
			case kindBlock:
				if _, err := r.Decode(raw); err == nil {
					channels[head.channel] = &known{typ: r.ChannelType, id: string(r.ChannelID)}
				}
			}
			return nil
		}, func(offset, bytes int64, reason string) {
			report.Trouble = append(report.Trouble, fmt.Sprintf("block file %d, offset %d: %d bytes are damaged: %s", f.number, offset, bytes, reason))
		})
		if err != nil {
			return err
		}
	}
	if newest.number == 0 {
		return nil // no checkpoint was completed: the log has everything
	}
	for number := range channels {
		newest.nextChannel = max(newest.nextChannel, number+1)
	}
	for _, page := range pages {
		_, blocks, _ := decodePage(page)
		for number, ref := range blocks {
			if c := channels[number]; c != nil {
				c.last = max(c.last, ref.end()-1)
			}
		}
	}
	newest.keep = newest.generation
	return s.meta.update(func(tx *metaTx) error {
		for number, page := range pages {
			if err := tx.put(bucketPage, numberKey(number), page); err != nil {
				return err
			}
		}
		// A group that was deleted and made again has two numbers: the larger
		// is the one in use.
		inUse := make(map[string]uint32)
		for number, c := range channels {
			k := string(c.typ) + c.id
			inUse[k] = max(inUse[k], number)
		}
		for k, number := range inUse {
			c := channels[number]
			st := message.ChannelState{Channel: &message.Channel{ID: c.id, Type: c.typ}, Last: c.last}
			if err := tx.put(bucketChannel, []byte(k), appendState(nil, &st, number)); err != nil {
				return err
			}
		}
		return tx.put(bucketBox, []byte(keyCheckpoint), newest.append(nil))
	})
}
