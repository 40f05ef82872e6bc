// Package diskio holds the rules for a disk that fails: what an error means, how
// long to try again, and how a directory is synced. The log, the store, backups,
// checks and the start all decide by them, so that they never disagree.
package diskio

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// Class says what an error proves about the data that was asked for.
type Class uint8

const (
	// OK is the class of no error.
	OK Class = iota
	// Passing proves nothing: the same call may succeed later, even after EIO. The
	// data must not be given up, skipped or counted as lost.
	Passing
	// Damaged proves that bytes which were really read are not those that were
	// written: a wrong checksum, or a file that ends too early.
	Damaged
	// Gone proves that the file is not there.
	Gone
)

func (c Class) String() string {
	switch c {
	case OK:
		return "ok"
	case Passing:
		return "passing"
	case Damaged:
		return "damaged"
	default:
		return "gone"
	}
}

// ErrDamaged is wrapped by errors about bytes that were read and are wrong. Only
// code that has compared a checksum or a length may wrap it.
var ErrDamaged = errors.New("damaged")

// Classify returns what err proves. An error that it does not know is Passing:
// waiting for nothing costs time, giving up what is there costs data. A read error
// wins over the damage that it caused, and damage over a file that is not there.
func Classify(err error) Class {
	var errno syscall.Errno
	switch {
	case err == nil:
		return OK
	case errors.As(err, &errno) && errno != syscall.ENOENT && errno != syscall.ENOTDIR:
		return Passing
	case errors.Is(err, ErrDamaged), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Damaged
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return Gone
	}
	return Passing
}

// firstWait and longestWait bound the pauses of Retry.
const (
	firstWait   = 10 * time.Millisecond
	longestWait = time.Second
)

// Retry calls f until its error is not Passing or the time is up, and returns the
// last error. Between two calls it waits 10 ms, then twice as long each time, at
// most 1 s, and calls wait for that, which reports false to end early. nil is
// time.Sleep. f is called at least once.
func Retry(limit time.Duration, wait func(time.Duration) bool, f func() error) error {
	if wait == nil {
		wait = func(d time.Duration) bool { time.Sleep(d); return true }
	}
	for pause, waited := firstWait, time.Duration(0); ; pause = min(2*pause, longestWait) {
		err := f()
		if Classify(err) != Passing || waited >= limit {
			return err
		}
		pause = min(pause, limit-waited)
		if !wait(pause) {
			return err
		}
		waited += pause
	}
}

// SyncDir makes the names in the directory at path durable.
func SyncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot open a directory to sync it: %w", err)
	}
	defer dir.Close()
	return SyncOpenDir(dir)
}

// SyncOpenDir makes the names in dir durable. A file system that has no sync of
// directories answers EINVAL (fsync(2)); that is no error, because nothing can be
// done about it.
func SyncOpenDir(dir *os.File) error {
	if err := dir.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("cannot sync a directory: %w", err)
	}
	return nil
}
