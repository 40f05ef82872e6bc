package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"gatepost/diskio"
)

// sector is what Salvage gives up where the disk cannot read.
const sector = 4096

// lostFill stands where bytes were that the disk could not read. It is neither
// zeros nor the beginning of a frame, so that a scanner does not take the place for
// the end of the log.
const lostFill = "unreadable-bytes"

// Unreadable is a stretch of a file of the log that the disk cannot read.
type Unreadable struct {
	File   string // where the readable rest is now
	Offset int64
	Bytes  int64
	Reason string // of the operating system
	Kept   string // where the file is that has it, in the quarantine
}

// String is one line for a person.
func (u Unreadable) String() string {
	return fmt.Sprintf("%d bytes at offset %d of %s: %s; the file is kept as %s", u.Bytes, u.Offset, u.File, u.Reason, u.Kept)
}

// Salvage gives up what the disk cannot read of the log in the data directory dir,
// generations from first on: each file in which a sector fails with a medium error
// for 10 s is moved to the quarantine, and a copy of what can be read takes its
// place. A start then finds a gap there and goes on behind it. Another error, such
// as want of descriptors, memory or space, ends it; what it has returned until then
// is done. Files that can be read are not touched. The caller holds the Lock of the
// directory.
func Salvage(dir string, first uint64) ([]Unreadable, error) {
	return salvage(newReading(0, nil), dir, first)
}

func salvage(r reading, dir string, first uint64) (all []Unreadable, err error) {
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

// isMedium says whether err is about these very bytes on the disk.
func isMedium(err error) bool {
	for _, errno := range []error{unix.EIO, unix.EBADMSG, unix.EUCLEAN, unix.ENODATA, unix.EREMOTEIO, unix.EILSEQ} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func salvageFile(r *reading, dir string, number uint64) ([]Unreadable, error) {
	path := generationFile(dir, number)
	f, err := r.open(path)
	switch {
	case diskio.Classify(err) == diskio.Gone:
		return nil, nil // a gap already
	case isMedium(err): // not even its size is known
		lost := []Unreadable{{File: path, Reason: err.Error()}}
		err := keepUnreadable(dir, number, lost, func(kept string) error { return os.Rename(path, kept) })
		return lost, err
	case err != nil:
		return nil, err
	}
	defer f.close()
	lost, err := unreadableIn(f)
	if err != nil || len(lost) == 0 {
		return nil, err
	}
	copied := filepath.Join(generationDir(dir, number), "salvaged")
	if err := copyReadable(f, copied, lost); err != nil {
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

// unreadableIn returns what cannot be read of a file. It waits once: what fails
// afterwards fails on the same disk.
func unreadableIn(f *source) (lost []Unreadable, err error) {
	buf := make([]byte, window)
	waited := false
	read := func(off int64, n int) error {
		if !waited {
			_, err := f.ReadAt(buf[:n], off)
			waited = isMedium(err)
			return err
		}
		_, err := f.reading.readAt(f.file, buf[:n], off)
		return err
	}
	for off := int64(0); off < f.size; off += window {
		size := int(min(window, f.size-off))
		err := read(off, size)
		if err == nil || errors.Is(err, io.EOF) {
			continue
		}
		for at := 0; at < size; at += sector {
			n := min(sector, size-at)
			switch err := read(off+int64(at), n); {
			case err == nil || errors.Is(err, io.EOF):
			case !isMedium(err):
				return nil, err
			default:
				start := off + int64(at)
				if last := len(lost) - 1; last >= 0 && lost[last].Offset+lost[last].Bytes == start {
					lost[last].Bytes += int64(n)
				} else {
					lost = append(lost, Unreadable{File: f.path, Offset: start, Bytes: int64(n), Reason: bare(err).Error()})
				}
			}
		}
	}
	return lost, nil
}

// copyReadable makes a file, durable, of what can be read of f.
func copyReadable(f *source, path string, lost []Unreadable) error {
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer to.Close()
	buf := make([]byte, window)
	off := int64(0)
	upTo := func(end int64) error {
		for off < end {
			p := buf[:min(window, end-off)]
			if _, err := f.ReadAt(p, off); err != nil {
				return err
			}
			if _, err := to.Write(p); err != nil {
				return err
			}
			off += int64(len(p))
		}
		return nil
	}
	for _, u := range lost {
		if err := upTo(u.Offset); err != nil {
			return err
		}
		fill := bytes.Repeat([]byte(lostFill), int(u.Bytes)/len(lostFill)+1)
		if _, err := to.Write(fill[:u.Bytes]); err != nil {
			return err
		}
		off += u.Bytes
	}
	if err := upTo(f.size); err != nil {
		return err
	}
	return to.Sync()
}

// keepUnreadable makes a directory in the quarantine for the file of a generation,
// with the reason, and calls move with the file's name there.
func keepUnreadable(dir string, number uint64, lost []Unreadable, move func(kept string) error) error {
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
