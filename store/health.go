package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// lookEvery is how old what Health found on the disk may be.
	lookEvery = 5 * time.Second
	// lately is how long Health speaks of a read that has failed.
	lately = time.Minute
)

// health is what Health goes by.
type health struct {
	failure atomic.Pointer[string]     // of the last attempt at a checkpoint
	unread  atomic.Pointer[unreadable] // the last read that failed and may not the next time

	mu     sync.Mutex // guards what follows; not held while the disk is looked at
	begun  time.Time  // of the last look
	done   chan struct{}
	looked bool  // it has ended
	found  error // by the last that has
}

type unreadable struct {
	at  time.Time
	err error
}

// Health says what is wrong with the store now, nil: nothing that it can see. It looks
// at the disk by itself, at most each five seconds: nothing else would notice files
// that are gone, or a disk that cannot be written any more, while there is no traffic.
// Any goroutine may call it; it waits a second at most for a disk that hangs.
func (s *Store) Health(now time.Time) error {
	if s.stats.Behind.Load() {
		why := ""
		if p := s.health.failure.Load(); p != nil {
			why = ": " + *p
		}
		return fmt.Errorf("the last checkpoint failed and is tried again; the log is kept and grows meanwhile%s", why)
	}
	if u := s.health.unread.Load(); u != nil && now.Sub(u.at) < lately {
		return fmt.Errorf("the disk could not be read %v ago: %w", now.Sub(u.at).Round(time.Second), u.err)
	}
	h := &s.health
	h.mu.Lock()
	if h.begun.IsZero() || h.looked && now.Sub(h.begun) >= lookEvery {
		done := make(chan struct{})
		h.begun, h.done, h.looked = now, done, false
		go func() {
			found := s.look()
			h.mu.Lock()
			h.found, h.looked = found, true
			h.mu.Unlock()
			close(done)
		}()
	}
	done := h.done
	h.mu.Unlock()
	select {
	case <-done:
	case <-time.After(time.Second):
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if took := now.Sub(h.begun); !h.looked && took >= lookEvery {
		return fmt.Errorf("the disk has not answered for %v: it does not list the files of %s", took.Round(time.Second), s.o.Dir)
	}
	return h.found
}

// look says what is wrong on the disk.
func (s *Store) look() error {
	var st unix.Statfs_t
	if err := unix.Statfs(s.o.Dir, &st); err != nil {
		return fmt.Errorf("cannot look at the data directory %s: %w", s.o.Dir, err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("the file system of %s can only be read: was it mounted anew after an error?", s.o.Dir)
	}
	s.mu.RLock()
	b := s.blocks
	s.mu.RUnlock()
	if err := b.missing(); err != nil {
		return err
	}
	return metaMissing(s.metaOptions())
}

// missing returns an error if a file is not there any more, or shorter than it was.
func (b *blocks) missing() error {
	var gone []error
	for _, f := range b.files() {
		info, err := os.Stat(b.path(f.number, f.salt))
		if err == nil && info.Size() >= f.size {
			continue
		}
		if err == nil {
			err = fmt.Errorf("block file %d has %d bytes, it had %d", f.number, info.Size(), f.size)
		}
		if b.has(f) { // else it was removed meanwhile, or cut
			gone = append(gone, err)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return fmt.Errorf("%d block files are gone or cut short, others than the broker did that: %w", len(gone), gone[0])
}

// has reports whether a file is still one of those in use, and not shorter than it was.
func (b *blocks) has(f blockFile) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i, ok := b.index(f.number)
	return ok && !b.closed && b.list[i].salt == f.salt && b.list[i].size >= f.size
}

// metaMissing returns an error if the metadata are not where they were.
func metaMissing(o metaOptions) (err error) {
	m := &meta{o: o}
	for range 2 { // a compaction may just replace them
		var number uint64
		var wrong string
		if number, wrong, err = m.current(); err == nil && wrong != "" {
			err = errors.New(wrong)
		}
		if err == nil {
			_, err = os.Stat(filepath.Join(m.dir(number), dataName))
		}
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("the metadata in %s are not there: %w", o.Dir, err)
}
