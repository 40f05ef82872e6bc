package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatepost/hwprofile"
)

// What was measured is an advantage, not a condition: a calibrated.profile that
// cannot be used is left out, and the start says so.
func TestAMeasuredProfileNeverKeepsABoxFromStarting(t *testing.T) {
	facts, err := hwprofile.As("rpi4")
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := "[fingerprint]\n"
	for _, m := range facts.Fingerprint() {
		fingerprint += fmt.Sprintf("%s = %q\n", m.Fact, m.Value)
	}
	for name, c := range map[string]struct {
		text, says string
		taken      bool
	}{
		"good":                      {"[net]\nloops = 2\n" + fingerprint, "", true},
		"a little less memory":      {"[net]\nloops = 2\n" + strings.Replace(fingerprint, fmt.Sprint(facts.Usable()>>20), fmt.Sprint(facts.Usable()>>20+9), 1), "", true},
		"no TOML":                   {"[net\n", "is ignored", false},
		"unknown key":               {"[net]\nloops = 2\nlopes = 1\n" + fingerprint, "net.lopes", false},
		"out of range":              {"[net]\nloops = 2000\n" + fingerprint, "loops", false},
		"does not fit into memory":  {"[net]\nloops = 2\n[wal]\nengine = \"tidwall\"\nroll_size = \"128MiB\"\n" + fingerprint, "memory.limit", false},
		"measured on other machine": {"[net]\nloops = 2\n" + strings.Replace(fingerprint, "cpus", "cpus = \"77\"\nother", 1), "another machine", false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "calibrated.profile"), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := LoadAs("", map[string]string{"data": dir, "profile.dir": filepath.Join(dir, "none")}, func(string) hwprofile.Facts { return facts })
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		said := strings.Join(cfg.Hardware.Warnings, "\n")
		if taken := cfg.Net.Loops == 2; taken != c.taken || !strings.Contains(said, c.says) || c.says == "" && said != "" {
			t.Errorf("%s: net.loops is %d, warnings %q", name, cfg.Net.Loops, said)
		}
	}
	// A mistake of somebody's own is still one, beside what was measured.
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "calibrated.profile"), []byte("[net]\nloops = 2\n"+fingerprint), 0o600)
	_, err = LoadAs("", map[string]string{"data": dir, "profile.dir": filepath.Join(dir, "none"), "memory.limit": "20MiB"}, func(string) hwprofile.Facts { return facts })
	if err == nil || !strings.Contains(err.Error(), "memory.limit = 20MiB") {
		t.Errorf("found %v", err)
	}
}

// Two lines of include in each of twenty-five files would be thirty million.
func TestIncludesAreBounded(t *testing.T) {
	dir := t.TempDir()
	for i := range 25 {
		text := fmt.Sprintf("[profile]\ninclude = [\"f%d.profile\", \"f%d.profile\"]\n", i+1, i+1)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d.profile", i)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(dir, "f25.profile"), []byte("[net]\nloops = 1\n"), 0o600)
	_, problems := hwprofile.ReadFile(filepath.Join(dir, "f0.profile"))
	if len(problems) != 1 || !strings.Contains(problems[0].Error(), "one more than the 32 files") {
		t.Errorf("found %d problems: %.300v", len(problems), problems)
	}
}

func TestProfilesThatCannotBeListed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	os.WriteFile(file, nil, 0o600)
	facts, _ := hwprofile.As("rpi4")
	_, err := LoadAs("", map[string]string{"profile.dir": file}, func(string) hwprofile.Facts { return facts })
	if err == nil || !strings.Contains(err.Error(), "cannot list the profiles") {
		t.Errorf("a file in place of the directory: %v", err)
	}
}
