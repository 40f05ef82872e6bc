package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gatepost/diskio"
)

// Salvage gives up what the disk cannot read of the log in the data directory dir,
// generations from first on: each file in which a sector fails with a medium error
// for 10 s is moved to the quarantine, and a copy of what can be read takes its
// place. A start then finds a gap there and goes on behind it. Another error, such
// as want of descriptors, memory or space, ends it; what it has returned until then
// is done. Files that can be read are not touched. The caller holds the Lock of the
// directory.
func Salvage(dir string, first uint64) ([]diskio.Unreadable, error) {
	return salvage(newReading(0, nil), dir, first)
}

func salvage(r reading, dir string, first uint64) (all []diskio.Unreadable, err error) {
	numbers, err := r.list(dir)
	if err != nil {
		return nil, err
	}
	for _, number := range numbers {
		if number < first {
			continue
		}
		found, err := salvageFile(&r, dir, number)
		if err != nil {
			return all, fmt.Errorf("cannot salvage generation %d of the log: %w", number, err)
		}
		all = append(all, found...)
	}
	return all, nil
}

func salvageFile(r *reading, dir string, number uint64) ([]diskio.Unreadable, error) {
	path := generationFile(dir, number)
	f, err := r.open(path)
	switch {
	case diskio.Classify(err) == diskio.Gone:
		return nil, nil // a gap already
	case diskio.IsMedium(err): // not even its size is known
		lost := []diskio.Unreadable{{File: path, Reason: err.Error()}}
		err := keepUnreadable(dir, number, lost, func(kept string) error { return os.Rename(path, kept) })
		return lost, err
	case err != nil:
		return nil, err
	}
	defer f.close()
	lost, err := diskio.FindUnreadable(path, f.size, f.readFull, func(p []byte, off int64) error {
		_, err := r.readAt(f.file, p, off)
		return err
	})
	if err != nil || len(lost) == 0 {
		return nil, err
	}
	copied := filepath.Join(generationDir(dir, number), "salvaged")
	if err := copyReadable(f, copied, lost, lostFill(saltOf(f, number, lost))); err != nil {
		os.Remove(copied)
		return nil, err
	}
	err = keepUnreadable(dir, number, lost, func(kept string) error {
		err := os.Link(path, kept)
		if err != nil { // not every file system can: then there is a moment without the file
			err = os.Rename(path, kept)
		}
		if err != nil {
			return err
		}
		return os.Rename(copied, path)
	})
	return lost, err
}

// lostFill stands where bytes of a file with a salt were given up. A client may send
// all but the salt, and a file may hold from an earlier life what a client sent.
func lostFill(salt uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte(diskio.LostFill), salt)
}

// saltOf returns the salt of a file of which some is lost, 0 if that is, too.
func saltOf(f *source, number uint64, lost []diskio.Unreadable) uint64 {
	if lost[0].Offset == 0 {
		return 0
	}
	s := scanner{file: f, limit: min(f.size, diskio.Sector), generation: number}
	s.plain = isPlain(s.view(0, int(min(s.limit, 128))))
	s.head()
	return s.salt
}

// copyReadable makes a file, durable, of what can be read of f.
func copyReadable(f *source, path string, lost []diskio.Unreadable, fill []byte) error {
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = diskio.WriteReadable(to, f.size, lost, fill, f.readFull)
	if err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}

// keepUnreadable makes a directory in the quarantine for the file of a generation,
// with the reason, and calls move with the file's name there.
func keepUnreadable(dir string, number uint64, lost []diskio.Unreadable, move func(kept string) error) error {
	name, err := freeName(filepath.Join(dir, quarantineName, fmt.Sprintf("log-%016x", number)))
	if err == nil {
		err = makeDir(name)
	}
	if err != nil {
		return err
	}
	var reasons bytes.Buffer
	for i := range lost {
		lost[i].Kept = filepath.Join(name, segmentName)
		fmt.Fprintf(&reasons, "%d bytes at offset %d: %s\n", lost[i].Bytes, lost[i].Offset, lost[i].Reason)
	}
	if err := os.WriteFile(filepath.Join(name, reasonName), reasons.Bytes(), 0o600); err != nil {
		return err
	}
	if err := move(filepath.Join(name, segmentName)); err != nil {
		return err
	}
	return errors.Join(diskio.SyncDir(name), diskio.SyncDir(generationDir(dir, number)))
}
