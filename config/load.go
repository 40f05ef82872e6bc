package config

import (
	"errors"
	"fmt"
	"maps"
	"sort"
	"strings"
	"syscall"

	"gatepost/hwprofile"
	"gatepost/settings"
)

// Load builds the configuration. path is the TOML file, "" for none. flags maps
// key names to values as they were typed, {"tcp": ":0"}. The error joins every
// problem found, one a line, each with its place.
func Load(path string, flags map[string]string) (*Config, error) {
	return LoadAs(path, flags, func(data string) hwprofile.Facts { return hwprofile.This(data).Facts() })
}

// LoadAs is Load for the machine with the facts that are returned for a data
// directory.
func LoadAs(path string, flags map[string]string, facts func(data string) hwprofile.Facts) (*Config, error) {
	var file []byte
	if path != "" {
		var err error
		if file, err = settings.ReadFile("the configuration", path); err != nil {
			return nil, err
		}
	}
	// Which profiles there are follows from the data directory and profile.dir:
	// a first look at file and flags, whose problems come out below.
	first := &Config{origin: make(map[string]string)}
	for _, name := range []string{"data", "profile.dir"} {
		k, _ := find(name)
		k.set(first, k.builtin)
	}
	if path != "" {
		_ = first.readTOML(path, file)
	}
	_ = first.readFlags(flags)
	prof := hwprofile.For(facts(first.Data))
	if err := prof.Extend(first.Profiles.Dir, first.Data); err != nil {
		return nil, err
	}
	c, err := load(path, file, flags, prof, openFiles())
	if err != nil {
		return nil, err
	}
	c.File = path
	flags = maps.Clone(flags)
	c.again = func() (*Config, error) { return LoadAs(path, flags, facts) }
	return c, nil
}

// load is Load without the outside world: files is how many descriptors the
// process may open, 0 when that is unknown.
func load(path string, file []byte, flags map[string]string, prof hwprofile.Profile, files uint64) (*Config, error) {
	try := func(prof hwprofile.Profile) (*Config, error) {
		c, problems := defaults(prof)
		if path != "" {
			problems = append(problems, c.readTOML(path, file)...)
		}
		problems = append(problems, c.readFlags(flags)...)
		if len(problems) == 0 {
			problems = c.check(prof, files)
		}
		return c, errors.Join(problems...)
	}
	c, err := try(prof)
	if err != nil { // what was measured must not keep a box from starting
		if without, ok := prof.WithoutMeasured(err); ok {
			c, err = try(without)
		}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// readFlags applies the flags in the order of their names, so that the same
// mistakes give the same text.
func (c *Config) readFlags(flags map[string]string) []error {
	var problems []error
	names := make([]string, 0, len(flags))
	for name := range flags {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		origin := "flag --" + name
		k, ok := find(name)
		if !ok {
			problems = append(problems, fmt.Errorf("%s: no such key%s", origin, suggestion("--", name)))
			continue
		}
		if p := k.set(c, flags[name]); p != nil {
			problems = append(problems, fmt.Errorf("%s: found %s, expected %s", origin, p.found, p.expected))
			continue
		}
		c.origin[name] = origin
	}
	return problems
}

func find(name string) (key, bool) {
	for _, k := range table() {
		if k.name == name {
			return k, true
		}
	}
	return key{}, false
}

// openFiles raises the soft limit of open files to the hard one and returns
// what holds afterwards, 0 when it cannot be read.
func openFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	if limit.Cur < limit.Max {
		raised := syscall.Rlimit{Cur: limit.Max, Max: limit.Max}
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err == nil {
			return raised.Cur
		}
	}
	return limit.Cur
}

// suggestion names the key closest to what was written, when one is close
// enough to have been meant.
func suggestion(prefix, name string) string {
	best, distance := "", max(len(name)/2+1, 3)
	for _, k := range table() {
		d := levenshtein(name, k.name)
		if short := k.name[strings.LastIndexByte(k.name, '.')+1:]; short != k.name {
			d = min(d, levenshtein(name, short)+1) // the section was forgotten
		}
		if strings.HasPrefix(name, k.name+".") {
			d = 1 // a key taken for a section
		}
		if d < distance {
			best, distance = k.name, d
		}
	}
	if best == "" {
		return "; --help lists all keys"
	}
	return fmt.Sprintf("; did you mean %s%s?", prefix, best)
}

// levenshtein counts the bytes to insert, delete or replace to get from a to b.
func levenshtein(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// A Mistake is what somebody has to put right before the broker can start: trying
// again does not help. It wraps errors of what a configuration names, such as a
// file with a token.
type Mistake struct{ Err error }

func (m *Mistake) Error() string { return m.Err.Error() }
func (m *Mistake) Unwrap() error { return m.Err }
