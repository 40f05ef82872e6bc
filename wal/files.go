package wal

import (
	"fmt"
	"os"
	"sync"
)

// maxFiles is how many files ReadAt keeps open. Readers mostly want the newest
// generations.
const maxFiles = 4

// files keeps a few files open for reading.
type files struct {
	dir  string
	read func(f *os.File, p []byte, off int64) (int, error) // the tests put their own here

	mu     sync.Mutex // guards everything below; not held while reading
	open   []*file
	below  uint64 // generations below it are retired: their files may be others already
	clock  int64
	closed bool
}

// file is open while it is in files.open or somebody reads.
type file struct {
	*os.File
	generation uint64
	readers    int
	used       int64 // files.clock at the last use
	dropped    bool  // not in files.open any more: the last reader closes
}

// readAt fills p from offset off of a generation's file. What was read while the
// generation was retired does not count: its file may have been used again.
func (fs *files) readAt(p []byte, generation uint64, off int64) error {
	f, err := fs.take(generation)
	if err == nil {
		_, err = fs.read(f.File, p, off)
		if fs.giveBack(f) {
			err = errRetired
		}
	}
	if err != nil {
		return fmt.Errorf("cannot read %d bytes at offset %d of %s: %w", len(p), off, generationFile(fs.dir, generation), err)
	}
	return nil
}

// errRetired is the error of a read that was overtaken by Retire.
var errRetired = fmt.Errorf("the generation is retired: %w", os.ErrNotExist)

// ahead opens a new generation for its readers before descriptors run out.
func (fs *files) ahead(generation uint64) {
	if f, err := fs.take(generation); err == nil {
		fs.giveBack(f)
	}
}

func (fs *files) take(generation uint64) (*file, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return nil, os.ErrClosed
	}
	if generation < fs.below {
		return nil, errRetired
	}
	fs.clock++
	for _, f := range fs.open {
		if f.generation == generation {
			f.readers++
			f.used = fs.clock
			return f, nil
		}
	}
	if len(fs.open) >= maxFiles {
		fs.dropOldest()
	}
	r, err := os.Open(generationFile(fs.dir, generation))
	if isShort(err) && len(fs.open) > 0 { // our own descriptor is as good as any
		fs.dropOldest()
		r, err = os.Open(generationFile(fs.dir, generation))
	}
	if err != nil {
		return nil, err
	}
	f := &file{File: r, generation: generation, readers: 1, used: fs.clock}
	fs.open = append(fs.open, f)
	return f, nil
}

// giveBack ends a use of f and reports whether its generation is retired by now.
func (fs *files) giveBack(f *file) (retired bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.readers--; f.dropped && f.readers == 0 {
		f.Close()
	}
	return f.generation < fs.below
}

func (fs *files) dropOldest() {
	oldest := 0
	for i, f := range fs.open {
		if f.used < fs.open[oldest].used {
			oldest = i
		}
	}
	fs.drop(oldest)
}

func (fs *files) drop(i int) {
	f := fs.open[i]
	last := len(fs.open) - 1
	fs.open[i], fs.open[last] = fs.open[last], nil
	fs.open = fs.open[:last]
	if f.dropped = true; f.readers == 0 {
		f.Close()
	}
}

// retire closes a generation, once nobody reads it. From now on it and those below it
// are not there for readers, before anything happens to its file.
func (fs *files) retire(generation uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.below = max(fs.below, generation+1)
	for i, f := range fs.open {
		if f.generation == generation {
			fs.drop(i)
			return
		}
	}
}

func (fs *files) close() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.closed = true
	for len(fs.open) > 0 {
		fs.drop(0)
	}
}
