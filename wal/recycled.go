package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// recycled is the engine that writes into a file which has its full size from
// the beginning. An append makes a file longer, which costs a commit of the
// file system's journal with each sync: 16 KiB and two flushes of the device
// where overwriting costs 4 KiB and one (measured on ext4 with groups of 256
// bytes). Retired files are used again, so that in the long run nothing is
// allocated or filled. What an earlier life of the file left behind the end has
// another generation and salt and is not taken for groups.
type recycled struct {
	file *os.File
	at   int64
}

func (r *recycled) Append(frame []byte) error {
	n, err := r.file.WriteAt(frame, r.at)
	r.at += int64(n)
	return err
}

func (r *recycled) Sync() error {
	for {
		if err := unix.Fdatasync(int(r.file.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (r *recycled) Close() error { return r.file.Close() }

const (
	// maxSpares is how many retired files are kept to be used again: as many as one
	// checkpoint retires when the log is as far ahead of it as the core lets it, two
	// rolls. With two, half of the files were deleted and filled anew under full load,
	// which was a fifth of what the log wrote.
	maxSpares = 3
	fillBytes = 256 << 10
)

func sparePath(dir string, i int) string {
	return filepath.Join(dir, logName, fmt.Sprintf("spare-%d", i))
}

// openRecycled makes the file of a generation from a spare one. Where there is
// none, at the first start or on a full disk, it begins empty and grows: nobody
// waits for a file to be filled.
func (l *Log) openRecycled(dir string) (engine, error) {
	path := filepath.Join(dir, segmentName)
	f, err := l.takeSpare(path)
	if err == nil && f == nil {
		f, err = l.openWrite(path)
	}
	if err != nil {
		return nil, err
	}
	return &recycled{file: f}, nil
}

// openWrite opens a file to write to, and makes it if it is not there.
func openWrite(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
}

// takeSpare opens a spare file and moves it to path, if there is one. It is opened
// first: without a descriptor it stays.
func (l *Log) takeSpare(path string) (*os.File, error) {
	l.spares.Lock()
	defer l.spares.Unlock()
	for i := range maxSpares {
		spare := sparePath(l.dir, i)
		if _, err := os.Lstat(spare); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, err
		}
		f, err := l.openWrite(spare)
		if err == nil {
			err = os.Rename(spare, path)
		}
		if err != nil && f != nil {
			f.Close()
		}
		if err != nil {
			return nil, err
		}
		return f, nil
	}
	return nil, nil
}

// keepSpare makes a file a spare one if there is room for it, it has its full size,
// and its space is not wanted by others.
func (l *Log) keepSpare(path string) (kept bool, err error) {
	info, err := os.Stat(path)
	if err != nil || info.Size() < l.roll || l.tight() {
		return false, nil
	}
	l.spares.Lock()
	defer l.spares.Unlock()
	for i := range maxSpares {
		_, err := os.Lstat(sparePath(l.dir, i))
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		return true, os.Rename(path, sparePath(l.dir, i))
	}
	return false, nil
}

// tight reports whether the disk is nearly as full as it may get.
func (l *Log) tight() bool {
	free, ok := l.free(l.lock)
	return ok && free < l.headroom+2*l.roll
}

// fill writes a file of zeros as large as a roll, durable. If that fails, there
// is none.
func (l *Log) fill(path string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	zeros := make([]byte, fillBytes)
	for left := l.roll; left > 0 && err == nil; left -= fillBytes {
		_, err = f.Write(zeros[:min(left, fillBytes)])
	}
	if err == nil && !l.noSync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

// prepare makes a spare file beside the work, if there is none, so that the
// next generation need not wait for it.
func (l *Log) prepare() {
	for i := range maxSpares {
		if _, err := os.Lstat(sparePath(l.dir, i)); err == nil {
			return
		}
	}
	if l.tight() || !l.preparing.CompareAndSwap(false, true) {
		return
	}
	l.background.Go(func() {
		defer l.preparing.Store(false)
		began := time.Now()
		path := filepath.Join(l.dir, logName, "spare.new")
		err := l.fill(path)
		if err == nil {
			var kept bool
			if kept, err = l.keepSpare(path); err == nil && !kept {
				err = os.Remove(path)
			}
		}
		if err != nil {
			l.logger.Warn("cannot prepare a file for the log, the next one is made when it is needed", "err", err)
			return
		}
		l.logger.Debug("log file prepared", "bytes", l.roll, "took", time.Since(began))
	})
}
