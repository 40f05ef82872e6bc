package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"gatepost/hwprofile"
)

// fixture is a machine in a text file: lines of what the kernel says in calls and
// of what is expected, then files and links of /sys and /proc.
func fixture(t *testing.T, name string) (s hwprofile.System, layers string, values map[string]string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	tree := make(fstest.MapFS)
	s.Root, values = tree, make(map[string]string)
	var open *fstest.MapFile
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if head, ok := strings.CutPrefix(line, "-- "); ok {
			at, target, link := strings.Cut(strings.TrimSuffix(head, " --"), " -> ")
			open = &fstest.MapFile{Mode: 0o444}
			if link {
				open = &fstest.MapFile{Data: []byte(target), Mode: fs.ModeSymlink | 0o777}
			}
			tree[at] = open
			continue
		}
		if open != nil {
			open.Data = append(open.Data, strings.ReplaceAll(line, `\0`, "\x00")+"\n"...)
			continue
		}
		key, value, _ := strings.Cut(line, " ")
		n, _ := strconv.Atoi(value)
		switch key {
		case "#":
		case "arch":
			s.Arch = value
		case "cpus":
			s.CPUs = n
		case "memory_mib":
			s.Memory = int64(n) * mib
		case "page":
			s.PageSize = n
		case "device":
			major, minor, _ := strings.Cut(value, ":")
			a, _ := strconv.Atoi(major)
			b, _ := strconv.Atoi(minor)
			s.Major, s.Minor = uint32(a), uint32(b)
		case "layers":
			layers = value
		default:
			values[key] = value
		}
	}
	return s, layers, values
}

// TestBoards: each of the boards is known by its /sys, and gets its values.
func TestBoards(t *testing.T) {
	names, err := filepath.Glob("testdata/boards/*.txt")
	if err != nil || len(names) != len(hwprofile.Embedded(hwprofile.KindBoard)) {
		t.Fatalf("found %d machines, %v; expected one for each board", len(names), err)
	}
	for _, name := range names {
		system, layers, values := fixture(t, name)
		facts := system.Facts()
		prof := hwprofile.For(facts)
		if prof.String() != layers || len(prof.Warnings) > 0 {
			t.Errorf("%s: found %s, expected %s; %v %v", name, prof, layers, prof.Choices, prof.Warnings)
			continue
		}
		c, err := load("", nil, nil, prof, plenty)
		if err != nil {
			t.Errorf("%s: %s", name, err)
			continue
		}
		if len(values) == 0 {
			t.Errorf("%s expects no values", name)
		}
		for key, want := range values {
			k, ok := find(key)
			if !ok {
				t.Errorf("%s: no key %s", name, key)
			} else if got := k.get(c); got != want {
				t.Errorf("%s: %s is %s (%s), expected %s", name, key, got, c.Origin(key), want)
			}
		}
		for _, s := range facts.Sources {
			if s.From == "" || strings.Contains(s.From, "cpuinfo") || strings.Contains(s.From, "meminfo") {
				t.Errorf("%s: %s is from %q", name, s.Fact, s.From)
			}
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
