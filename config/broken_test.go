package config

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"gatepost/hwprofile"
)

// TestBrokenProfiles: each mistake is named with file and line, what was found,
// and the nearest value that would be right.
func TestBrokenProfiles(t *testing.T) {
	facts, err := hwprofile.As("rpi4")
	if err != nil {
		t.Fatal(err)
	}
	facts.MaxMaps, facts.DiskSize = 4096, 8*gib
	beside := func(name string) ([]byte, error) {
		switch name {
		case "around.profile":
			return []byte("[profile]\ninclude = 'x.profile'\n"), nil
		case "x.profile":
			return []byte("[profile]\ninclude = 'around.profile'\n"), nil
		case "bad.profile":
			return []byte("\nnet.loops = 'three'\n"), nil
		}
		return nil, fs.ErrNotExist
	}
	n := 0
	f := func(text string, want ...string) {
		t.Helper()
		n++
		file, problems := hwprofile.Parse("/p/x.profile", []byte(text), beside)
		if len(problems) == 0 {
			_, problems = checkProfile(file, facts, 20_500)
		}
		err := errors.Join(problems...)
		if err == nil {
			t.Errorf("%q was accepted", text)
			return
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%q: found\n  %s\nexpected in it\n  %s", text, err, w)
			}
		}
	}
	const at = "/p/x.profile:"
	// not a profile at all
	f("x = \n", at+"1: this is not TOML")
	f("[net]\nloops = 1\nloops = 2\n", at+"3: this is not TOML")
	f("net = 3\n", at+"1: net: found the bare number 3, expected a section [net]")
	f("profile = 'x'\n", at+`1: profile: found the text "x", expected a section [profile]`)
	// what it says about itself
	f("[profile]\nnmae = 'x'\n", at+"2: profile.nmae: no such key: name, about, include are possible")
	f("[profile]\nname = ''\n", at+`2: profile.name: found the text "", expected a text that is not empty`)
	f("[profile]\ninclude = 3\n", at+"2: profile.include: found the bare number 3, expected the name of a profile")
	f("\n[profile]\ninclude = 'nvmee'\n", at+`3: profile.include: there is no profile "nvmee"`, "did you mean nvme?")
	f("[profile]\ninclude = '../secret'\n", at+`2: profile.include: found "../secret", expected the name`)
	f("[profile]\ninclude = 'around.profile'\n", "/p/around.profile:2: profile.include:", "goes round in a circle: /p/x.profile includes /p/around.profile includes /p/x.profile")
	f("[profile]\ninclude = 'bad.profile'\n", `/p/bad.profile:2: net.loops: found the text "three", expected a whole number from 1 to 15`)
	f("[match]\ncompatibel = 'x'\n", at+"2: match.compatibel: no such fact; did you mean compatible?")
	f("[match]\ncpu = 3\n", at+"2: match.cpu: found the bare number 3, expected a text or a list of texts")
	f("[facts]\ncpus = 0\n", at+"2: facts.cpus: found the bare number 0, expected one of")
	f("[advice]\nsysctrl.x = 1\n", at+"2: advice.sysctrl", "no such advice: it begins with one of sysctl")
	f("[advice]\nsysctl.x = [1]\n", at+"2: advice.sysctl.x: found a list, expected a text or a number")
	// unknown keys and keys that are no business of a profile
	f("[net]\n\nlops = 2\n", at+"3: net.lops: no such key; did you mean net.loops?")
	f("[nett]\nloops = 2\n", at+"2: nett.loops: no such key; did you mean net.loops?")
	f("tcp = ':5100'\n", at+"1: tcp: this is no size, count, limit or interval: it belongs into the configuration")
	f("[api]\ntoken_file = '/t'\n", at+"2: api.token_file: this is no size")
	// units
	f("[wal]\nroll_size = '16'\n", at+`2: wal.roll_size: found "16" (no unit: one of B, KiB, MiB, GiB)`, `nearest value: "1MiB"`)
	f("[wal]\nroll_size = '16MB'\n", at+"2: wal.roll_size: ", `unknown unit "MB"`, `nearest value: "16MiB"`)
	f("[net]\nscratch = 65536\n", at+"2: net.scratch: found the bare number 65536", `nearest value: "64KiB"`)
	f("[retry]\nfirst = '30'\n", at+`2: retry.first: found "30", expected a time such as "10s"`, `nearest value: "30s"`)
	// out of range
	f("[net]\nloops = 99\n", at+"2: net.loops: found 99, expected a whole number from 1 to 15; nearest value: 15")
	f("[net]\nscratch = '100KiB'\n", at+"2: net.scratch: ", `a power of two; nearest value: "128KiB"`)
	f("[wal]\nlinger = '1h'\n", at+`2: wal.linger: found "1h"`, `nearest value: "5ms"`)
	f("[net]\nwait = 'spin'\n", at+`2: net.wait: found "spin", expected "yield" or "block"`)
	f("[memory]\ngc_percent = 1\n", at+"2: memory.gc_percent: found 1", "nearest value: 10")
	// values against each other and against the machine
	f("[net]\nring_pool = '8MiB'\n", "net.ring_pool = 8MiB ("+at+"2) divided by net.loops = 3", "nearest value: net.ring_pool = 12MiB")
	f("[memory]\nlimit = '200MiB'\n", "memory.limit = 200MiB ("+at+"2) is too little; nearest value: 231MiB")
	f("[net]\nring_pool = '80MiB'\n", "net.ring_pool = 80MiB ("+at+"2) may take 2566 mappings", "raise vm.max_map_count; nearest value: 65344KiB")
	f("[net]\nmax_connections = 30000\n", "net.max_connections = 30000 ("+at+"2) needs 30064 open files, the system allows 20500", "nearest value: 20436")
	f("[store]\nbudget = '9GiB'\n", "store.budget = 9GiB ("+at+"2)", "more than the disk of the data directory has, 8GiB; nearest value: store.budget = 8128MiB")
	f("[store]\nbudget = '128MiB'\n", "store.budget = 128MiB ("+at+"2) is too little: it must be at least 16 times wal.roll_size", "nearest value: 256MiB")
	f("[queue]\nlog_bytes = '64KiB'\n", "queue.log_bytes = 64KiB ("+at+"2) must not be below wal.group_bytes", "nearest value: 1MiB")
	f("[retry]\nfirst = '2m'\n", "retry.first = 2m ("+at+"2) must not be above retry.max", "nearest value: 1m")
	f("[net]\nout_limit = '1MiB'\nring_pool = '12MiB'\nloops = 15\n", at+"4) gives each loop")
	if n < 30 {
		t.Errorf("%d broken profiles, expected 30 at least", n)
	}
}

// TestMeasuredElsewhere: what was measured on another machine is ignored with a
// warning; what was measured here is laid over everything.
func TestMeasuredElsewhere(t *testing.T) {
	dir := t.TempDir()
	facts := board().Facts
	lines := []string{"[wal]", "linger = '2ms' # measured", "[fingerprint]"}
	for _, m := range facts.Fingerprint() {
		lines = append(lines, m.Fact+" = '"+m.Value+"'")
	}
	write(t, dir+"/calibrated.profile", strings.Join(lines, "\n"))
	at := func(data string) hwprofile.Facts { return facts }
	flags := map[string]string{"data": dir, "profile.dir": dir + "/none/profile.d", "net.max_connections": "100"}
	c, err := LoadAs("", flags, at)
	if err != nil {
		t.Fatal(err)
	}
	if c.Origin("wal.linger") != dir+"/calibrated.profile:2" || len(c.Hardware.Warnings) > 0 {
		t.Errorf("found %s from %s, %v", c.Wal.Linger, c.Origin("wal.linger"), c.Hardware.Warnings)
	}
	facts.Memory *= 2
	if c, err = LoadAs("", flags, at); err != nil {
		t.Fatal(err)
	}
	if c.Origin("wal.linger") != "built-in" || len(c.Hardware.Warnings) != 1 || !strings.Contains(c.Hardware.Warnings[0], `memory_mib was "4096" and is "8192"`) {
		t.Errorf("found %s from %s, %v", c.Wal.Linger, c.Origin("wal.linger"), c.Hardware.Warnings)
	}
}

// TestProfilesOfThisMachine: files of the directory come in the order of their
// names, where they match; a broken one stops the start.
func TestProfilesOfThisMachine(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/20-b.profile", "net.max_connections = 20\n")
	write(t, dir+"/10-a.profile", "net.max_connections = 10\nretry.tries = 3\n")
	write(t, dir+"/30-other.profile", "net.max_connections = 30\n[match]\ncompatible = 'other,board'\n")
	at := func(data string) hwprofile.Facts { return board().Facts }
	flags := map[string]string{"data": dir + "/data", "profile.dir": dir}
	c, err := LoadAs("", flags, at)
	if err != nil {
		t.Fatal(err)
	}
	if c.Net.MaxConnections != 20 || c.Retry.Tries != 3 || c.Hardware.String() != "mid + 10-a + 20-b" {
		t.Errorf("found %d, %d, %s", c.Net.MaxConnections, c.Retry.Tries, c.Hardware)
	}
	write(t, dir+"/40-bad.profile", "net.max_connections = 0\n")
	if _, err = LoadAs("", flags, at); err == nil || !strings.Contains(err.Error(), dir+"/40-bad.profile:1: net.max_connections: found 0") {
		t.Errorf("found %v", err)
	}
}
