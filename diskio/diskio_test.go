package diskio

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestClassify(t *testing.T) {
	at := func(errno syscall.Errno) error { return &fs.PathError{Op: "read", Path: "f", Err: errno} }
	for _, c := range []struct {
		err  error
		want Class
	}{
		{nil, OK},
		{at(syscall.EIO), Passing},
		{at(syscall.EMFILE), Passing},
		{at(syscall.ENFILE), Passing},
		{at(syscall.ENOMEM), Passing},
		{at(syscall.EROFS), Passing},
		{at(syscall.ENOSPC), Passing},
		{at(syscall.ENODEV), Passing},
		{at(syscall.EACCES), Passing},
		{fs.ErrClosed, Passing},
		{os.ErrDeadlineExceeded, Passing},
		{errors.New("of a library"), Passing},
		{at(syscall.ENOENT), Gone},
		{at(syscall.ENOTDIR), Gone},
		{fmt.Errorf("cannot open: %w", fs.ErrNotExist), Gone},
		{io.EOF, Damaged},
		{io.ErrUnexpectedEOF, Damaged},
		{fmt.Errorf("%w: checksum 1, the header says 2", ErrDamaged), Damaged},
		// What was never read cannot be damaged.
		{fmt.Errorf("%w: %w", ErrDamaged, at(syscall.EIO)), Passing},
		{fmt.Errorf("%w: %w", ErrDamaged, at(syscall.ENOENT)), Damaged},
		{errors.Join(at(syscall.ENOENT), ErrDamaged), Damaged},
	} {
		if got := Classify(c.err); got != c.want {
			t.Errorf("Classify(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

// script answers each call of a Retry with the next error and keeps its pauses.
type script struct {
	errs   []error
	calls  int
	pauses []time.Duration
	stop   bool
}

func (s *script) call() error {
	err := s.errs[min(s.calls, len(s.errs)-1)]
	s.calls++
	return err
}

func (s *script) wait(d time.Duration) bool {
	s.pauses = append(s.pauses, d)
	return !s.stop
}

func TestRetry(t *testing.T) {
	for _, c := range []struct {
		name   string
		script script
		limit  time.Duration
		want   error
		calls  int
		waited time.Duration
	}{
		{"it passes", script{errs: []error{syscall.EIO, syscall.EIO, nil}}, time.Second, nil, 3, 30 * time.Millisecond},
		{"damage is not tried again", script{errs: []error{syscall.EIO, ErrDamaged}}, time.Second, ErrDamaged, 2, 10 * time.Millisecond},
		{"nor is a file that is gone", script{errs: []error{syscall.ENOENT}}, time.Second, syscall.ENOENT, 1, 0},
		{"it stays", script{errs: []error{syscall.EIO}}, 5 * time.Second, syscall.EIO, 12, 5 * time.Second},
		{"told to end", script{errs: []error{syscall.EIO}, stop: true}, time.Second, syscall.EIO, 1, 10 * time.Millisecond},
		{"no time", script{errs: []error{syscall.EIO}}, 0, syscall.EIO, 1, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Retry(c.limit, c.script.wait, c.script.call)
			var waited time.Duration
			for _, p := range c.script.pauses {
				waited += p
			}
			if err != c.want || c.script.calls != c.calls || waited != c.waited {
				t.Errorf("%v after %d calls and %v; want %v, %d, %v", err, c.script.calls, waited, c.want, c.calls, c.waited)
			}
		})
	}
}

func TestSyncDir(t *testing.T) {
	dir := t.TempDir()
	if err := SyncDir(dir); err != nil {
		t.Error(err)
	}
	if err := SyncDir(filepath.Join(dir, "none")); Classify(err) != Gone {
		t.Errorf("a directory that is not there: %v", err)
	}
	// A pipe has no sync and answers EINVAL, as some file systems do for a directory.
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if err := SyncOpenDir(r); err != nil {
		t.Errorf("no sync: %v", err)
	}
	closed, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if err := SyncOpenDir(closed); err == nil {
		t.Error("a sync of a closed directory succeeded")
	}
}
