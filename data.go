package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"gatepost/diskio"
	"gatepost/wal"
)

// disk says on what a path lies.
type disk struct {
	device   uint64
	volatile bool // in memory: gone with the power
}

// diskOf returns the disk of the nearest directory that exists, path or one above.
func diskOf(path string) (d disk, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return d, fmt.Errorf("cannot tell where %s is: %w", path, err)
	}
	var info syscall.Stat_t
	for err = syscall.Stat(path, &info); errors.Is(err, fs.ErrNotExist) && path != "/"; err = syscall.Stat(path, &info) {
		path = filepath.Dir(path)
	}
	var system syscall.Statfs_t
	if err == nil {
		err = syscall.Statfs(path, &system)
	}
	if err != nil {
		return d, fmt.Errorf("cannot tell on which disk %s is: %w", path, err)
	}
	const tmpfs, ramfs = 0x01021994, 0x858458f6 // statfs(2)
	kind := uint32(system.Type)
	return disk{uint64(info.Dev), kind == tmpfs || kind == ramfs}, nil
}

// marker is the file that says that the data directory has a disk of its own, see
// the key data_marker. The data of a disk that is not mounted are not lost: a start
// must not begin new ones in the directory below.
type marker struct {
	file string // "off": there is none
	data string // the data directory
	disk func(path string) (disk, error)
}

// check refuses a start without the disk that the marker tells of. fresh says that
// the directory holds no data, so that the start makes new ones.
func (m marker) check() (fresh bool, err error) {
	has, err := wal.HasData(m.data)
	fresh = err == nil && !has
	if err != nil || m.file == "off" {
		return fresh, err
	}
	if _, err := os.Stat(m.file); errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	} else if err != nil {
		return fresh, fmt.Errorf("cannot look at the data marker: %w", err)
	}
	const then = "mount the disk; if new data are to begin here, remove %s first"
	if fresh {
		return true, fmt.Errorf("cannot start: %s holds no data, and %s says that it did; "+then, m.data, m.file, m.file)
	}
	own, err := m.own()
	if err == nil && !own {
		err = fmt.Errorf("cannot start: %s is not on a disk of its own, and %s says that it was, so these are other data; "+then, m.data, m.file, m.file)
	}
	return false, err
}

// own reports whether data and marker lie on different disks.
func (m marker) own() (bool, error) {
	data, err := m.disk(m.data)
	if err != nil {
		return false, err
	}
	file, err := m.disk(filepath.Dir(m.file)) // a directory: files of an overlay have numbers of their own
	return data.device != file.device, err
}

// make writes the marker of a broker that has started, where it is not there yet. A
// directory that shares its disk with the marker cannot be away alone, and one in
// memory is new after each boot: those get none.
func (m marker) make() (made bool, err error) {
	if m.file == "off" {
		return false, nil
	}
	if _, err := os.Stat(m.file); err == nil {
		return false, nil
	}
	data, err := m.disk(m.data)
	if err != nil || data.volatile {
		return false, err
	}
	if own, err := m.own(); err != nil || !own {
		return false, err
	}
	if err := os.MkdirAll(filepath.Dir(m.file), 0o700); err != nil {
		return false, fmt.Errorf("cannot make the data marker: %w", err)
	}
	f, err := os.OpenFile(m.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, fmt.Errorf("cannot make the data marker: %w", err)
	}
	_, err = fmt.Fprintf(f, "%s is on a disk of its own. While this file exists gatepost does not start without that disk.\n", m.data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = diskio.SyncDir(filepath.Dir(m.file))
	}
	if err != nil {
		return false, fmt.Errorf("cannot make the data marker: %w", err)
	}
	return true, nil
}

// mark makes the marker of a box that has started.
func (b *box) mark() {
	switch made, err := b.marker.make(); {
	case err != nil:
		b.logger.Warn("a start without the disk of the data would not be noticed", "err", err)
	case made:
		b.logger.Info("data marker made", "file", b.marker.file, "data", b.marker.data)
	}
}

// unreadable adds to an error of the disk itself what can be done about it.
func unreadable(err error, dir string) error {
	if !diskio.IsMedium(err) {
		return err
	}
	return fmt.Errorf("%w; nothing was given up: start again when the disk can be read. If it never can, "+
		"'gatepost repair %s --give-up-unreadable' moves what cannot be read to the quarantine", err, dir)
}
