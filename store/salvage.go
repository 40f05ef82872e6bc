package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gatepost/diskio"
)

// salvagePatience is how long Salvage tries again what the disk fails to read.
const salvagePatience = 10 * time.Second

// Salvage gives up what the disk cannot read of block files and metadata in the data
// directory dir: each file in which a sector fails with a medium error for 10 s is
// moved to the quarantine, and a copy of what can be read takes its place. Open and
// Check find damage there, and nothing else. Another error, such as want of
// descriptors, memory or space, ends it; what it has returned until then is done.
// Files that can be read are not touched. The caller holds the lock of the directory.
func Salvage(dir string) ([]diskio.Unreadable, error) {
	s := salvager{dir: dir, patience: salvagePatience, open: os.Open, readAt: (*os.File).ReadAt}
	return s.run()
}

// salvager is one Salvage.
type salvager struct {
	dir      string
	patience time.Duration

	// The tests put their own in place of these.
	open   func(path string) (*os.File, error)
	readAt func(f *os.File, p []byte, off int64) (int, error)
}

func (s *salvager) run() (all []diskio.Unreadable, err error) {
	for _, part := range []string{"meta", "blocks"} {
		var paths []string
		err := filepath.WalkDir(filepath.Join(s.dir, part), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.Type().IsRegular() {
				paths = append(paths, path)
			}
			return err
		})
		if err != nil {
			return all, fmt.Errorf("cannot list what is to be salvaged: %w", err)
		}
		slices.Sort(paths)
		for _, path := range paths {
			lost, err := s.file(path)
			all = append(all, lost...)
			if err != nil {
				return all, fmt.Errorf("cannot salvage %s: %w", path, err)
			}
		}
	}
	return all, nil
}

// again calls f until it succeeds, fails with what does not pass, or the time is up.
func (s *salvager) again(f func() error) error { return diskio.Retry(s.patience, nil, f) }

// file salvages one file.
func (s *salvager) file(path string) (lost []diskio.Unreadable, err error) {
	var f *os.File
	var size int64
	err = s.again(func() (err error) {
		if f, err = s.open(path); err != nil {
			return err
		}
		info, err := f.Stat()
		if err != nil {
			f.Close()
			return err
		}
		size = info.Size()
		return nil
	})
	if diskio.IsMedium(err) { // not even its size is known
		lost = []diskio.Unreadable{{File: path, Reason: err.Error()}}
		return lost, s.keep(path, lost, "")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	once := func(p []byte, off int64) error { _, err := s.readAt(f, p, off); return err }
	patient := func(p []byte, off int64) error { return s.again(func() error { return once(p, off) }) }
	if lost, err = diskio.FindUnreadable(path, size, patient, once); err != nil || len(lost) == 0 {
		return nil, err
	}
	copied := path + ".salvaged"
	to, err := os.OpenFile(copied, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	err = diskio.WriteReadable(to, size, lost, []byte(diskio.LostFill), patient)
	if err == nil {
		err = to.Sync()
	}
	if err = errors.Join(err, to.Close()); err == nil {
		err = s.keep(path, lost, copied)
	}
	if err != nil {
		os.Remove(copied)
		return nil, err
	}
	return lost, nil
}

// keep moves a file to a directory of its own in the quarantine, with the reason, and
// the copy, if there is one, to its place.
func (s *salvager) keep(path string, lost []diskio.Unreadable, copied string) error {
	above := filepath.Join(s.dir, "quarantine")
	if err := os.MkdirAll(above, 0o700); err != nil {
		return err
	}
	to, err := os.MkdirTemp(above, "unreadable-"+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	kept := filepath.Join(to, filepath.Base(path))
	var reasons bytes.Buffer
	for i := range lost {
		lost[i].Kept = kept
		fmt.Fprintf(&reasons, "%s: %d bytes at offset %d: %s\n", path, lost[i].Bytes, lost[i].Offset, lost[i].Reason)
	}
	if err := os.WriteFile(filepath.Join(to, "reason"), reasons.Bytes(), 0o600); err != nil {
		return err
	}
	if err = os.Link(path, kept); err != nil { // not every file system can: then there is a moment without the file
		err = os.Rename(path, kept)
	}
	if err == nil && copied != "" {
		err = os.Rename(copied, path)
	} else if err == nil {
		if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) { // renamed
			err = nil
		}
	}
	return errors.Join(err, diskio.SyncDir(to), diskio.SyncDir(above), diskio.SyncDir(filepath.Dir(path)))
}
