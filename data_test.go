package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatepost/config"
)

// A disk that is not mounted leaves the empty directory below it, or one with the
// data of a start from before it was ever mounted. Neither is the box's data.
func TestDataThatAreAway(t *testing.T) {
	dir := t.TempDir()
	data, file := filepath.Join(dir, "data"), filepath.Join(dir, "marker", "own-disk")
	on := func(dataDisk disk) marker {
		return marker{file: file, data: data, disk: func(path string) (disk, error) {
			if path == data {
				return dataDisk, nil
			}
			return disk{device: 1}, nil
		}}
	}
	check := func(what string, m marker, fresh bool, refused string) {
		t.Helper()
		got, err := m.check()
		if got != fresh || (err == nil) != (refused == "") || err != nil && !strings.Contains(err.Error(), refused) {
			t.Errorf("%s: fresh %t, %v; want %t, %q", what, got, err, fresh, refused)
		}
	}
	started := func(what string, m marker, marked bool) {
		t.Helper()
		made, err := m.make()
		if _, found := os.Stat(file); err != nil || made != marked || (found == nil) != marked {
			t.Errorf("%s: made %t, %v; the file: %v", what, made, err, found)
		}
	}
	mounted, below, memory := disk{device: 2}, disk{device: 1}, disk{device: 3, volatile: true}

	check("a new box", on(below), true, "")
	started("data beside the marker", on(below), false)
	started("data in memory", on(memory), false)
	started("no marker is configured", marker{file: "off", data: data, disk: diskOf}, false)
	check("a new disk", on(mounted), true, "")
	if err := os.MkdirAll(filepath.Join(data, "log", "0000000000000001"), 0o700); err != nil {
		t.Fatal(err)
	}
	started("data on a disk of its own", on(mounted), true)
	check("the next start", on(mounted), false, "")
	check("the directory below has older data", on(below), false, "not on a disk of its own")
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	check("the directory below is empty", on(below), true, "holds no data")
	check("another disk is mounted, an empty one", on(mounted), true, "remove "+file)
	if _, err := os.Stat(data); err == nil {
		t.Error("a refused start made the directory")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	check("the marker was removed", on(below), true, "")
}

// What cannot be looked at is neither new nor away.
func TestDataThatCannotBeLookedAt(t *testing.T) {
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink("loop", loop); err != nil { // ELOOP, which no permission of root avoids
		t.Fatal(err)
	}
	if fresh, err := (marker{file: "off", data: loop}).check(); fresh || err == nil {
		t.Errorf("data: fresh %t, %v", fresh, err)
	}
	m := marker{file: filepath.Join(loop, "own-disk"), data: dir, disk: diskOf}
	if _, err := m.check(); err == nil {
		t.Error("a marker that cannot be looked at counts as none")
	}
}

// The disk of a path that is not there yet is that of what is above it.
func TestDiskOfWhatIsToBeMade(t *testing.T) {
	dir := t.TempDir()
	here, err := diskOf(dir)
	if err != nil {
		t.Fatal(err)
	}
	if there, err := diskOf(filepath.Join(dir, "not", "there")); err != nil || there != here {
		t.Errorf("%+v, %v; want %+v", there, err, here)
	}
	if proc, err := diskOf("/proc"); err != nil || proc.device == here.device {
		t.Errorf("/proc is on the disk of %s: %+v, %v", dir, proc, err)
	}
}

// A configuration that says nothing need not be named; one that does and is not
// read is what nobody notices.
func TestConfigurationThatSaysSomething(t *testing.T) {
	file := filepath.Join(t.TempDir(), "gatepost.toml")
	if hasKeys(file) {
		t.Error("there is no file")
	}
	for text, want := range map[string]bool{config.Example(): false, "": false, "# a\n\n[net]\n": false, "[net]\nloops = 2\n": true, config.Example() + "\nrate = 1\n": true} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := hasKeys(file); got != want {
			t.Errorf("%t, want %t, of\n%s", got, want, text)
		}
	}
}
