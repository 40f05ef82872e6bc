package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"gatepost/diskio"
	"gatepost/store"
	"gatepost/wal"
)

// verdict is what check found. All commands and the start judge by store.Check and
// wal.Check, or what those are made of.
type verdict struct {
	Verdict string      `json:"verdict"` // "whole", "damaged", or "unknown": it could not be read
	Reason  string      `json:"reason,omitempty"`
	Whole   bool        `json:"whole"`
	Store   store.Audit `json:"store"`
	Log     wal.Report  `json:"log"`
}

// unreadError is an error of reading, which proves nothing: the disk may give the
// same bytes a moment later.
type unreadError struct{ err error }

func (e *unreadError) Error() string {
	return e.err.Error() + "; nothing is proven, neither that the data are whole nor that they are damaged: try again"
}
func (e *unreadError) Unwrap() error { return e.err }

// unread makes an unreadError of an error of reading, and returns others as they are.
func unread(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) && diskio.Classify(err) == diskio.Passing {
		return &unreadError{err}
	}
	return err
}

// needData returns why dir is no data directory, nil if it is one.
func needData(dir string) error {
	if _, err := os.Stat(dir); err != nil {
		return unread(fmt.Errorf("cannot look at the data directory: %w", err))
	}
	has, err := wal.HasData(dir)
	if err == nil && !has {
		err = fmt.Errorf("%s is no data directory: nothing of a broker is in log, meta or blocks; is its disk mounted?", dir)
	}
	return unread(err)
}

// examine reads a data directory. An unreadError says that it could not.
func examine(dir string) (v verdict, err error) {
	if err = needData(dir); err == nil {
		err = v.read(dir)
	}
	err = unread(err)
	var e *unreadError
	switch {
	case errors.As(err, &e):
		v.Verdict, v.Reason, v.Whole = "unknown", e.err.Error(), false
	case v.Whole:
		v.Verdict = "whole"
	default:
		v.Verdict = "damaged"
	}
	return v, err
}

// read fills v but for Verdict.
func (v *verdict) read(dir string) (err error) {
	if v.Store, err = store.Check(dir); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "log")); errors.Is(err, fs.ErrNotExist) && v.Store.Checkpoint == 0 {
		v.Whole = len(v.Store.Damage) == 0 // a directory that nothing was written to
		return nil
	} else if errors.Is(err, fs.ErrNotExist) {
		v.Log.Gaps = append(v.Log.Gaps, wal.Gap{File: filepath.Join(dir, "log"), Reason: "the log is missing; what was behind the last checkpoint is gone"})
		return nil
	}
	if v.Log, err = wal.Check(dir, v.Store.Generation, v.Store.Index); err != nil {
		return err
	}
	// A torn end is what every power cut leaves: the start does not call it damage either.
	v.Whole = len(v.Store.Damage) == 0 && len(v.Log.Damaged()) == 0
	return nil
}

func (v *verdict) print(env Env) {
	s := &v.Store
	fmt.Fprintf(env.Stdout, "checkpoint %d: %d channels, %d messages in %d blocks, %d bytes of block files\n", s.Checkpoint, s.Channels, s.Messages, s.Blocks, s.Bytes)
	fmt.Fprintf(env.Stdout, "log: %d generations, %d records behind the checkpoint, %d gaps\n", v.Log.Generations, v.Log.Records, len(v.Log.Damaged()))
	for _, n := range s.Notes {
		fmt.Fprintf(env.Stdout, "note: %s\n", n)
	}
	for _, d := range s.Damage {
		fmt.Fprintf(env.Stdout, "damaged: %s at offset %d: %s", d.File, d.Offset, d.Reason)
		if d.LastSeq > 0 {
			fmt.Fprintf(env.Stdout, "; channel %q type %d, messages %d to %d", d.Channel, d.ChannelType, d.FirstSeq, d.LastSeq)
		}
		fmt.Fprintln(env.Stdout)
	}
	for _, g := range v.Log.Gaps {
		word := "damaged"
		if g.Torn {
			word = "note"
		}
		fmt.Fprintf(env.Stdout, "%s: %v\n", word, g)
	}
}

// check says what is damaged.
func check(_ context.Context, env Env, args []string) error {
	f := newFlags("check", "DIR", "Reads all data of a stopped broker and says what is damaged: which files, channels\nand sequences. It changes nothing. Exit code 1: something is damaged; 3: the disk could not be\nread, so that nothing is known.")
	asJSON := f.Bool("json", false, "print the report as JSON")
	words, err := f.parse(env, args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return f.wrong("needs the data directory, got %q", words)
	}
	v, err := examine(words[0])
	if err != nil && v.Verdict != "unknown" {
		return err
	}
	if *asJSON {
		if err := printJSON(env, v); err != nil {
			return err
		}
	} else if err == nil {
		v.print(env)
	}
	if err != nil {
		return err
	}
	if !v.Whole {
		return fmt.Errorf("%s is damaged: 'gatepost run' serves the rest; 'gatepost repair' takes damaged blocks out of the index", words[0])
	}
	if !*asJSON {
		fmt.Fprintf(env.Stdout, "whole, %s\n", time.Now().Format(time.RFC3339))
	}
	return nil
}

// repair takes damaged blocks out of the index.
func repair(_ context.Context, env Env, args []string) error {
	f := newFlags("repair", "DIR", "Makes lost metadata again from the block files and takes damaged blocks out of the\nindex. Nothing is deleted: what is damaged is copied or moved to DIR/quarantine.\nThe broker must be stopped. It changes nothing while the disk cannot be read; exit\ncode 3 then.")
	giveUp := f.Bool("give-up-unreadable", false, "give up what the disk cannot read, for good: each file with such\nsectors is moved to DIR/quarantine and a copy of the rest takes its\nplace. First make an image of the disk, if it can be had")
	words, err := f.parse(env, args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return f.wrong("needs the data directory, got %q", words)
	}
	dir := words[0]
	if err := needData(dir); err != nil {
		return err
	}
	lock, err := wal.Lock(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if *giveUp {
		if err := salvage(env, dir); err != nil {
			return unread(err)
		}
	}
	// All of it is read first: a repair must not build on what it could not see.
	if _, err := examine(dir); err != nil {
		return offerGiveUp(err, dir)
	}
	oldest, err := wal.Oldest(dir)
	if err != nil {
		return unread(err)
	}
	s, _, report, err := store.Open(store.Options{Dir: dir, Oldest: oldest})
	if err != nil {
		return unread(err)
	}
	for _, n := range report.Notes {
		fmt.Fprintf(env.Stdout, "note: %s\n", n)
	}
	for _, t := range report.Trouble {
		fmt.Fprintf(env.Stdout, "repaired: %s\n", t)
	}
	audit, err := store.Check(dir) // with what Open has repaired
	if err != nil {
		return unread(errors.Join(err, s.Abandon()))
	}
	done, err := s.Repair(audit.Damage)
	if err != nil {
		return fmt.Errorf("cannot repair: %w", err)
	}
	if done.Blocks > 0 {
		fmt.Fprintf(env.Stdout, "taken out of the index: %d blocks with %d messages\n", done.Blocks, done.Messages)
	}
	for _, c := range done.Copies {
		fmt.Fprintf(env.Stdout, "copied: %s\n", c)
	}
	v, err := examine(dir)
	if err != nil {
		return err
	}
	v.print(env)
	if len(v.Store.Damage) > 0 {
		return fmt.Errorf("%s is still damaged", dir)
	}
	if !v.Whole {
		fmt.Fprintln(env.Stdout, "gaps of the log stay: nothing can bring back what was in them")
	}
	return nil
}

// salvage gives up what cannot be read, and says what that is.
func salvage(env Env, dir string) error {
	stored, err := store.Salvage(dir)
	for _, u := range stored {
		fmt.Fprintf(env.Stdout, "given up: %v\n", u)
	}
	if err != nil {
		return err
	}
	logged, err := wal.Salvage(dir, 1)
	for _, u := range logged {
		fmt.Fprintf(env.Stdout, "given up: %v\n", u)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // there is no log
	}
	return err
}

// offerGiveUp adds to an error of the disk itself what gives its data up.
func offerGiveUp(err error, dir string) error {
	if !diskio.IsMedium(err) {
		return err
	}
	return fmt.Errorf("%w; if the disk can never read it again, 'gatepost repair %s --give-up-unreadable' goes on without it", err, dir)
}
