package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"gatepost/diskio"
)

// readPatience is how long a start, a check or a listing tries again what the disk
// fails to read. An error that passes, of a cable, a card that resets itself or for
// want of descriptors or memory, mostly has by then.
const readPatience = 10 * time.Second

// reading is how the files of a log are opened and read: an error that passes is
// waited for, and an error that stays is the caller's, never taken for damage.
type reading struct {
	limit    time.Duration // of the waits of one call
	progress func()        // called before each wait; may be nil

	// The tests put their own in place of these.
	openFile func(path string) (*os.File, error)
	readAt   func(f *os.File, p []byte, off int64) (int, error)
}

func newReading(limit time.Duration, progress func()) reading {
	if limit == 0 {
		limit = readPatience
	}
	return reading{limit: limit, progress: progress, openFile: os.Open, readAt: (*os.File).ReadAt}
}

// again calls f until its error is none that may pass, or the limit is reached. A
// want of permission is an error of a person, who waits for the answer.
func (r *reading) again(f func() error) (err error) {
	return diskio.Retry(r.limit, func(d time.Duration) bool {
		if r.progress != nil {
			r.progress()
		}
		if errors.Is(err, fs.ErrPermission) {
			return false
		}
		time.Sleep(d)
		return true
	}, func() error { err = f(); return err })
}

// unreadable makes an error of what could not be read for all the time that was
// given to it.
func unreadable(err error, format string, args ...any) error {
	switch {
	case diskio.Classify(err) != diskio.Passing:
		return fmt.Errorf("cannot "+format+": %w", append(args, err)...)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot "+format+": %w; nothing was changed: the data directory must belong to the user that runs the broker", append(args, bare(err))...)
	}
	return fmt.Errorf("cannot "+format+": %w; nothing was changed: start again when the disk can be read. "+
		"If it never can, 'gatepost repair --give-up-unreadable' moves what cannot be read to the quarantine", append(args, bare(err))...)
}

// bare is the reason in err without the call and the path.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// list returns what list does.
func (r *reading) list(dir string) (numbers []uint64, err error) {
	err = r.again(func() error { numbers, err = list(dir); return err })
	if diskio.Classify(err) == diskio.Passing {
		err = unreadable(err, "list the log in %s", dir)
	}
	return numbers, err
}

// open opens a file. An error of class Gone says that it is not there.
func (r *reading) open(path string) (*source, error) {
	s := &source{reading: r, path: path}
	if err := r.again(func() (err error) { s.file, err = r.openFile(path); return err }); err != nil {
		return nil, unreadable(err, "open %s of the log", path)
	}
	err := r.again(func() error {
		info, err := s.file.Stat()
		if err == nil {
			s.size = info.Size()
		}
		return err
	})
	if err != nil {
		s.close()
		return nil, unreadable(err, "look at %s of the log", path)
	}
	return s, nil
}

// source is an open file of the log.
type source struct {
	reading *reading
	path    string
	file    *os.File
	size    int64
}

// ReadAt is that of os.File, again for a while.
func (s *source) ReadAt(p []byte, off int64) (n int, err error) {
	err = s.reading.again(func() error { n, err = s.reading.readAt(s.file, p, off); return err })
	if diskio.Classify(err) == diskio.Passing {
		err = unreadable(err, "read %d bytes at offset %d of %s", len(p)-n, off+int64(n), s.path)
	}
	return n, err
}

// readFull is ReadAt without the count.
func (s *source) readFull(p []byte, off int64) error {
	_, err := s.ReadAt(p, off)
	return err
}

func (s *source) close() { s.file.Close() }
