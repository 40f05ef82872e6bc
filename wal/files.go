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
	dir string

	mu     sync.Mutex // guards everything below; not held while reading
	open   []*file
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

// readAt fills p from offset off of a generation's file.
func (fs *files) readAt(p []byte, generation uint64, off int64) error {
	f, err := fs.take(generation)
	if err == nil {
		_, err = f.ReadAt(p, off)
		fs.giveBack(f)
	}
	if err != nil {
		return fmt.Errorf("cannot read %d bytes at offset %d of %s: %w", len(p), off, generationFile(fs.dir, generation), err)
	}
	return nil
}

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

func (fs *files) giveBack(f *file) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f.readers--; f.dropped && f.readers == 0 {
		f.Close()
	}
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

// forget closes a generation, once nobody reads it.
func (fs *files) forget(generation uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
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
