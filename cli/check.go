package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"gatepost/store"
	"gatepost/wal"
)

// verdict is what check found.
type verdict struct {
	Whole bool        `json:"whole"`
	Store store.Audit `json:"store"`
	Log   wal.Report  `json:"log"`
}

// examine reads a data directory.
func examine(dir string) (v verdict, err error) {
	if _, err := os.Stat(dir); err != nil {
		return v, fmt.Errorf("cannot check the data directory: %w", err)
	}
	if v.Store, err = store.Check(dir); err != nil {
		return v, err
	}
	if _, err := os.Stat(filepath.Join(dir, "log")); errors.Is(err, fs.ErrNotExist) && v.Store.Checkpoint == 0 {
		v.Whole = len(v.Store.Damage) == 0 // a directory that nothing was written to
		return v, nil
	} else if errors.Is(err, fs.ErrNotExist) {
		v.Log.Gaps = append(v.Log.Gaps, wal.Gap{File: filepath.Join(dir, "log"), Reason: "the log is missing; what was behind the last checkpoint is gone"})
		return v, nil
	}
	if v.Log, err = wal.Check(dir, v.Store.Generation, v.Store.Index); err != nil {
		return v, err
	}
	// A torn end is what every power cut leaves: the start does not call it damage either.
	v.Whole = len(v.Store.Damage) == 0 && len(v.Log.Damaged()) == 0
	return v, nil
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
	f := newFlags("check", "DIR", "Reads all data of a stopped broker and says what is damaged: which files, channels\nand sequences. It changes nothing. Exit code 1: something is.")
	asJSON := f.Bool("json", false, "print the report as JSON")
	words, err := f.parse(env, args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return f.wrong("needs the data directory, got %q", words)
	}
	v, err := examine(words[0])
	if err != nil {
		return err
	}
	if *asJSON {
		text, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("cannot write the report: %w", err)
		}
		fmt.Fprintf(env.Stdout, "%s\n", text)
	} else {
		v.print(env)
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
	f := newFlags("repair", "DIR", "Makes lost metadata again from the block files and takes damaged blocks out of the\nindex. Nothing is deleted: what is damaged is copied or moved to DIR/quarantine.\nThe broker must be stopped.")
	words, err := f.parse(env, args)
	if err != nil {
		return err
	}
	if len(words) != 1 {
		return f.wrong("needs the data directory, got %q", words)
	}
	dir := words[0]
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("cannot repair: %w", err)
	}
	lock, err := wal.Lock(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	oldest, err := wal.Oldest(dir)
	if err != nil {
		return err
	}
	s, _, report, err := store.Open(store.Options{Dir: dir, Oldest: oldest})
	if err != nil {
		return err
	}
	for _, t := range report.Trouble {
		fmt.Fprintf(env.Stdout, "repaired: %s\n", t)
	}
	audit, err := store.Check(dir) // with what Open has repaired
	if err != nil {
		return errors.Join(err, s.Abandon())
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
