package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// secure makes durable what a start has replayed, before anything is answered,
// pushed or numbered after it. A process that was killed between a write and its
// sync leaves a group that only the page cache has: it is replayed like any other,
// and the next power cut would take it back.
//
// Only the newest group can be such a one, because each is synced before the next is
// written; and a generation is begun after the one before was synced. So the files
// of the last two with a valid part are synced. The newest group is also written
// again where it is: after a sync that failed the kernel takes its pages for written,
// and another sync of them would do nothing.
func (l *Log) secure(w *walk) error {
	if l.noSync || w.seen.generation == 0 {
		return nil
	}
	for _, number := range []uint64{w.prior.generation, w.seen.generation} {
		if number == 0 {
			continue
		}
		path := generationFile(l.dir, number)
		err := l.secureFile(path, number, w.tail)
		if errors.Is(err, fs.ErrNotExist) {
			continue // reported as a gap
		}
		if err == nil {
			err = l.syncNames(filepath.Dir(path))
		}
		if err != nil {
			return fmt.Errorf("cannot make durable what was replayed of %s: %w; nothing was changed, start again when the disk takes writes", path, err)
		}
	}
	if err := l.syncNames(filepath.Join(l.dir, logName)); err != nil {
		return fmt.Errorf("cannot make durable what was replayed: %w; start again when the disk takes writes", err)
	}
	return nil
}

func (l *Log) secureFile(path string, number uint64, tail stretch) error {
	var f *os.File
	if err := l.read.again(func() (err error) { f, err = os.OpenFile(path, os.O_RDWR, 0); return err }); err != nil {
		return err
	}
	defer f.Close()
	if number == tail.generation {
		buf := make([]byte, min(window, tail.end-tail.start))
		for off := tail.start; off < tail.end; {
			p := buf[:min(int64(len(buf)), tail.end-off)]
			if err := l.read.again(func() error { _, err := f.ReadAt(p, off); return err }); err != nil {
				return err
			}
			// Where even that needs space there may be none; then the sync has to do.
			if _, err := f.WriteAt(p, off); err != nil && !isFull(err) {
				return err
			}
			off += int64(len(p))
		}
	}
	// Not again: what it did not write at first it leaves out the second time.
	return l.syncFile(f)
}
