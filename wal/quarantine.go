package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Damage is kept for a person to look at: a generation in which some was found is
// moved, when it is retired, to
//
//	<data>/quarantine/log-<16 hex digits>/
//
// with its file and a file `reason`, one line for each thing that was found. Until
// then `reason` lies in the generation's directory, so that a restart in between
// does not forget it.
const (
	quarantineName = "quarantine"
	reasonName     = "reason"
)

// Quarantine marks a generation as damaged, for a reason of one line: Retire moves
// it to the quarantine of the data directory, with the reason beside it, instead of
// deleting it or using its file again. Several reasons are all kept. It does nothing
// for a generation that is not there. Any goroutine may call it.
func (l *Log) Quarantine(generation uint64, reason string) {
	l.marks.Lock()
	defer l.marks.Unlock()
	text := strings.ReplaceAll(reason, "\n", " ") + "\n"
	path := filepath.Join(generationDir(l.dir, generation), reasonName)
	have, err := os.ReadFile(path)
	switch {
	case err == nil && strings.Contains(string(have), text):
		return // found before
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		l.logger.Warn("cannot read why a log segment is damaged", "path", path, "err", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return // retired
	}
	if err == nil {
		_, err = f.WriteString(text)
		if err == nil && !l.noSync {
			err = f.Sync()
		}
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}
	if err == nil && !l.noSync {
		err = l.syncNames(filepath.Dir(path))
	}
	if err != nil { // such as a full disk: it is kept in memory
		if l.damaged == nil {
			l.damaged = make(map[uint64]string)
		}
		l.damaged[generation] += text
		l.logger.Warn("cannot write down why a log segment is damaged, a restart forgets it", "path", path, "err", err)
	}
	l.logger.Warn("log segment damaged, it will be kept in the quarantine", "segment", generation, "reason", reason)
}

// isDamaged reports whether a generation was marked by Quarantine, in this process
// or in an earlier one. An error that passes is one.
func (l *Log) isDamaged(generation uint64) (bool, error) {
	l.marks.Lock()
	defer l.marks.Unlock()
	if l.damaged[generation] != "" {
		return true, nil
	}
	_, err := os.Lstat(filepath.Join(generationDir(l.dir, generation), reasonName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// setAside moves a generation to the quarantine, durable.
func (l *Log) setAside(generation uint64) error {
	above := filepath.Join(l.dir, quarantineName)
	if err := makeDir(above); err != nil {
		return err
	}
	to, err := freeName(filepath.Join(above, fmt.Sprintf("log-%016x", generation)))
	if err == nil {
		err = os.Rename(generationDir(l.dir, generation), to)
	}
	if err != nil {
		return err
	}
	l.marks.Lock()
	text := l.damaged[generation]
	delete(l.damaged, generation)
	l.marks.Unlock()
	if text != "" { // there was no space for it
		if err := os.WriteFile(filepath.Join(to, reasonName), []byte(text), 0o600); err != nil {
			l.logger.Warn("cannot write down why a log segment is damaged", "path", to, "reason", text, "err", err)
		}
	}
	l.logger.Warn("damaged log segment set aside", "path", to)
	if l.noSync {
		return nil
	}
	return l.syncNames(above)
}

// freeName returns a name that nothing has yet: name, or that with -2, -3, ... after
// it. Nobody else may make such names meanwhile.
func freeName(name string) (free string, err error) {
	for i := 1; ; i++ {
		if free = name; i > 1 {
			free = fmt.Sprintf("%s-%d", name, i)
		}
		if _, err := os.Lstat(free); errors.Is(err, fs.ErrNotExist) {
			return free, nil
		} else if err != nil {
			return "", fmt.Errorf("cannot look for a name in the quarantine: %w", err)
		}
	}
}
