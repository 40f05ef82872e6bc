package store

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"gatepost/message"
)

// Damage is one thing that is not as it was written.
type Damage struct {
	File        string `json:"file"`
	Offset      int64  `json:"offset"`
	Bytes       int64  `json:"bytes,omitempty"`
	Reason      string `json:"reason"`
	Channel     string `json:"channel,omitempty"` // whose messages are concerned; "": none are known to be
	ChannelType uint8  `json:"channel_type,omitempty"`
	FirstSeq    uint64 `json:"first_seq,omitempty"`
	LastSeq     uint64 `json:"last_seq,omitempty"`
}

// Audit is what a Check found.
type Audit struct {
	Checkpoint uint64   `json:"checkpoint"` // number of the newest; 0: none
	Index      uint64   `json:"index"`      // of the last group of the log in it
	Generation uint64   `json:"generation"` // of the log that is needed from there on
	Channels   int      `json:"channels"`
	Blocks     int      `json:"blocks"`
	Messages   int64    `json:"messages"` // in blocks, those that are damaged left out
	Bytes      int64    `json:"bytes"`    // of block files
	Notes      []string `json:"notes"`    // what a start repairs without a loss
	Damage     []Damage `json:"damage"`
}

// Check reads everything that a store has in the data directory dir and changes
// nothing. The broker should not be running: it may delete a file meanwhile.
func Check(dir string) (Audit, error) {
	a := auditor{Audit: Audit{Notes: []string{}, Damage: []Damage{}}, numbers: make(map[uint32]message.ChannelState), good: make(map[place]uint32)}
	o := Options{Dir: dir}
	s := &Store{o: o}
	for _, part := range []string{"meta", "blocks"} {
		if _, err := os.Stat(filepath.Join(dir, part)); errors.Is(err, fs.ErrNotExist) {
			a.missing = append(a.missing, part)
		} else if err != nil {
			return a.Audit, fmt.Errorf("cannot check %s: %w", dir, err)
		}
	}
	if len(a.missing) == 2 {
		return a.Audit, nil // nothing has been stored yet
	}
	if err := a.readMeta(s.metaOptions()); err != nil {
		return a.Audit, fmt.Errorf("cannot check the metadata: %w", err)
	}
	if slices.Contains(a.missing, "blocks") {
		if a.cp.number > 0 {
			a.add(Damage{File: filepath.Join(dir, "blocks"), Reason: "the directory is missing"})
		}
		return a.Audit, nil
	}
	if err := a.readBlocks(s.blockOptions()); err != nil {
		return a.Audit, fmt.Errorf("cannot check the block files: %w", err)
	}
	return a.Audit, nil
}

// auditor is one Check.
type auditor struct {
	Audit
	missing []string
	cp      checkpoint
	pages   [][]byte
	numbers map[uint32]message.ChannelState
	good    map[place]uint32 // sections that are whole, with the number of their records
}

func (a *auditor) add(d Damage) { a.Damage = append(a.Damage, d) }
func (a *auditor) note(format string, args ...any) {
	a.Notes = append(a.Notes, fmt.Sprintf(format, args...))
}

// readMeta reads the generation in use without the library.
func (a *auditor) readMeta(o metaOptions) error {
	m := &meta{o: o}
	current, wrong, err := m.current()
	if err != nil {
		return err
	}
	numbers, err := m.generations()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if wrong != "" && len(numbers) > 0 {
		current = numbers[len(numbers)-1]
		a.note("%s: %s; generation %016x is taken", filepath.Join(o.Dir, currentName), wrong, current)
	}
	path := filepath.Join(m.dir(current), dataName)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		a.add(Damage{File: path, Reason: "the metadata is missing; it can be made again from the block files, but for members of groups and read positions"})
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	r := o.patient(f)
	sc := metaScan{file: r, holes: f, size: info.Size(), buckets: uint64(len(o.Buckets))}
	end := sc.run(0)
	if rest := sc.rest(end); rest > 0 {
		if whole := len(sc.whole); sc.behind(end) {
			a.add(Damage{File: path, Offset: end, Reason: fmt.Sprintf("damaged: %d transactions are in front, %d behind", whole, len(sc.whole)-whole)})
		} else {
			a.note("%s: %d bytes behind the last whole transaction at offset %d, the next start cuts them off", path, rest, end)
		}
	}
	all, err := sc.contents(o.Buckets)
	if err = cmp.Or(r.failed, err); err != nil {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	if value := all[bucketBox][keyCheckpoint]; value != nil {
		if err := a.cp.decode(value); err != nil {
			return err
		}
	}
	a.Checkpoint, a.Index, a.Generation = a.cp.number, a.cp.index, a.cp.generation
	for key, value := range all[bucketChannel] {
		st, number, err := decodeState([]byte(key), value)
		if err != nil {
			a.add(Damage{File: path, Reason: fmt.Sprintf("the state of channel %q: %v", key[1:], err)})
			continue
		}
		a.numbers[number] = st
	}
	for uid, value := range all[bucketUser] {
		if _, err := decodeAccount(value); err != nil {
			a.add(Damage{File: path, Reason: fmt.Sprintf("the account of %q: %v", uid, err)})
		}
	}
	a.Channels = len(a.numbers)
	for _, value := range all[bucketPage] {
		a.pages = append(a.pages, value)
	}
	return nil
}

// readBlocks reads all block files and holds them against the pages.
func (a *auditor) readBlocks(o blockOptions) error {
	b, err := openBlocks(o)
	if err != nil {
		return err
	}
	defer b.close()
	type stretch struct{ offset, end int64 }
	damaged := make(map[uint32][]stretch)
	reasons := make(map[uint32]string)
	sizes := make(map[uint32]blockFile)
	var r message.Record
	for _, f := range b.files() {
		sizes[f.number] = f
		a.Bytes += f.size
		finished := func(offset int64) bool {
			return f.number < a.cp.file || f.number == a.cp.file && offset < int64(a.cp.end)
		}
		if err := b.scan(f.number, func(s section, p place, raw []byte) error {
			if s.kind != kindBlock {
				return nil
			}
			records := uint32(0)
			for len(raw) > 0 {
				n, err := r.Decode(raw)
				if err != nil {
					a.add(Damage{File: b.path(f.number, f.salt), Offset: int64(p.offset), Reason: err.Error()})
					return nil
				}
				raw = raw[n:]
				records++
			}
			a.good[p] = records
			return nil
		}, func(offset, bytes int64, reason string) {
			if !finished(offset) {
				return // an unfinished checkpoint
			}
			damaged[f.number] = append(damaged[f.number], stretch{offset, offset + bytes})
			reasons[f.number] = reason
		}); err != nil {
			return err
		}
	}
	for _, page := range a.pages {
		_, refs, err := decodePage(page)
		if err != nil {
			a.add(Damage{Reason: fmt.Sprintf("a page of the metadata: %v", err)})
			continue
		}
		for number, ref := range refs {
			st, ok := a.numbers[number]
			if !ok || ref.file < a.cp.oldest {
				continue // the channel was deleted, the file was dropped
			}
			if n, ok := a.good[ref.place]; ok && n == ref.count {
				a.Blocks++
				a.Messages += int64(ref.count)
				continue
			}
			d := Damage{Offset: int64(ref.offset), Bytes: sectionHeader + int64(ref.stored), Channel: st.Channel.ID, ChannelType: st.Channel.Type,
				FirstSeq: ref.first, LastSeq: ref.end() - 1, Reason: "the block is damaged"}
			if f, ok := sizes[ref.file]; !ok {
				d.File, d.Reason = filepath.Join(o.Dir, fmt.Sprintf("%016x-*.blk", ref.file)), "the file is missing"
			} else if d.File = b.path(f.number, f.salt); ref.place.end() > f.size {
				d.Reason = fmt.Sprintf("the file has %d bytes, the block ends at %d", f.size, ref.place.end())
			} else if why := reasons[ref.file]; why != "" {
				d.Reason = why
			}
			a.add(d)
			damaged[ref.file] = slices.DeleteFunc(damaged[ref.file], func(s stretch) bool {
				return s.offset < ref.place.end() && s.end > int64(ref.offset)
			})
		}
	}
	for number, list := range damaged {
		for _, s := range list {
			f := sizes[number]
			a.note("%s: %d bytes at offset %d are damaged, no message is concerned", b.path(f.number, f.salt), s.end-s.offset, s.offset)
		}
	}
	slices.SortFunc(a.Damage, func(x, y Damage) int {
		if x.File != y.File {
			if x.File < y.File {
				return -1
			}
			return 1
		}
		return int(max(min(x.Offset-y.Offset, 1), -1))
	})
	return nil
}

// Repaired says what a Repair did.
type Repaired struct {
	Blocks   int      // that are known to be gone now
	Messages int64    // in them
	Copies   []string // files in the quarantine
}

// Repair takes the blocks that a Check found damaged out of the index, so that
// readers skip them without an error, and keeps a copy of their bytes in the
// quarantine. It is called after Open and instead of Run, and deletes nothing.
func (s *Store) Repair(damage []Damage) (done Repaired, err error) {
	defer func() {
		if cerr := s.meta.close(); err == nil && cerr != nil {
			err = fmt.Errorf("cannot close the metadata: %w", cerr)
		}
		s.blocks.close()
	}()
	bad := make(map[string]map[uint64]bool) // channel key -> first sequence
	quarantine := filepath.Join(s.o.Dir, "quarantine")
	for _, d := range damage {
		if d.LastSeq == 0 {
			continue
		}
		key := string(appendChannelKey(nil, &message.Channel{ID: d.Channel, Type: d.ChannelType}))
		if bad[key] == nil {
			bad[key] = make(map[uint64]bool)
		}
		bad[key][d.FirstSeq] = true
		done.Blocks++
		done.Messages += int64(d.LastSeq - d.FirstSeq + 1)
		if err := os.MkdirAll(quarantine, 0o700); err != nil {
			return done, fmt.Errorf("cannot keep a copy of what is damaged: %w", err)
		}
		copied, err := copyStretch(d, quarantine)
		if err != nil {
			return done, fmt.Errorf("cannot keep a copy of what is damaged: %w", err)
		}
		if copied != "" {
			done.Copies = append(done.Copies, copied)
		}
	}
	if done.Blocks == 0 {
		return done, nil
	}
	numbers := make(map[uint32]string)
	for key, c := range s.names {
		numbers[c.number] = key
	}
	pages := make(map[string][]byte)
	if err := s.meta.each(bucketPage, nil, func(key, value []byte) error {
		_, refs, err := decodePage(value)
		if err != nil {
			return err
		}
		kept := slices.Clone(value[:pageHeader])
		for number, ref := range refs {
			if !bad[numbers[number]][ref.first] {
				kept = appendPageEntry(kept, number, &ref)
			}
		}
		if len(kept) != len(value) {
			pages[string(key)] = kept
		}
		return nil
	}); err != nil {
		return done, err
	}
	return done, s.meta.update(func(tx *metaTx) error {
		for key, page := range pages {
			if err := tx.put(bucketPage, []byte(key), page); err != nil {
				return err
			}
		}
		return nil
	})
}

// Abandon closes a store that was opened and is not run.
func (s *Store) Abandon() error {
	s.blocks.close()
	return s.meta.close()
}

// copyStretch copies what is left of a damaged block; nothing is "".
func copyStretch(d Damage, dir string) (string, error) {
	f, err := os.Open(d.File)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	p, err := io.ReadAll(io.NewSectionReader(f, d.Offset, d.Bytes))
	if err != nil || len(p) == 0 {
		return "", nil // unreadable, so there is nothing to keep
	}
	name := filepath.Join(dir, fmt.Sprintf("%s-at-%d", filepath.Base(d.File), d.Offset))
	return name, os.WriteFile(name, p, 0o600)
}
