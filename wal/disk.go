package wal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"gatepost/diskio"
)

// Lock makes the data directory dir if need be and takes it for this process
// until the file is closed, or handed to Open and the Log is.
func Lock(dir string) (*os.File, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	return lockDir(dir)
}

// lockDir takes the data directory for this process until the file is closed.
// No lock file is needed, so this works on a full disk.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("cannot use the data directory %s: another process has it; is a broker running?", dir)
		}
		return nil, fmt.Errorf("cannot lock the data directory %s: %w", dir, err)
	}
	return f, nil
}

// HasData reports whether a broker has stored something in dir. It looks for names
// that only a broker gives: many directories, such as /var, have a "log" in them.
func HasData(dir string) (bool, error) {
	for part, ours := range map[string]func(name string) bool{
		logName:  isNumber,
		"meta":   func(name string) bool { return isNumber(name) || name == "CURRENT" },
		"blocks": func(name string) bool { return filepath.Ext(name) == ".blk" },
	} {
		entries, err := os.ReadDir(filepath.Join(dir, part))
		if slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return ours(e.Name()) }) {
			return true, nil
		}
		if err != nil && diskio.Classify(err) != diskio.Gone {
			return false, fmt.Errorf("cannot look at the data directory: %w", err)
		}
	}
	return false, nil
}

// isNumber reports whether a name is that of a generation.
func isNumber(name string) bool {
	number, err := strconv.ParseUint(name, 16, 64)
	return err == nil && name == fmt.Sprintf("%016x", number)
}

// makeDir makes dir and what is missing above it, and sees to it that all of
// them survive a power cut.
func makeDir(dir string) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("cannot make a directory: %w", err)
	}
	return diskio.SyncDir(parent)
}

// freeBytes returns what is left for this process on the disk of dir; ok is
// false where the file system does not know.
func freeBytes(dir *os.File) (free int64, ok bool) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil || st.Blocks == 0 {
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true
}

// isFull says whether err means that there is no space.
func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}

// isShort says whether err means that there are no descriptors.
func isShort(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE)
}
