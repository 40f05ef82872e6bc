package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A machine is measured while the broker is stopped; the profile holds from the next
// start on, on this machine.
func TestCalibrate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	quick := []string{"calibrate", "--data", dir, "--time", "2s", "--write-budget", "4MiB"}
	out := works(t, append(quick, "--dry-run")...)
	if !strings.Contains(out, "wal.engine") || !strings.Contains(out, "net.loops") || !strings.Contains(out, "nothing was written") {
		t.Errorf("a dry run prints\n%s", out)
	}
	profile := filepath.Join(dir, "calibrated.profile")
	if _, err := os.Stat(profile); err == nil {
		t.Error("a dry run writes a profile")
	}
	picture := filepath.Join(t.TempDir(), "report.svg")
	works(t, append(quick, "--report", picture)...)
	if text, err := os.ReadFile(picture); err != nil || !strings.HasPrefix(string(text), "<svg") {
		t.Errorf("the picture: %v", err)
	}
	for _, key := range []string{"wal.engine", "net.loops"} {
		found := false
		for line := range strings.Lines(works(t, "profile", "show", "--set", "data="+dir)) {
			found = found || strings.Contains(line, key) && strings.Contains(line, profile)
		}
		if !found {
			t.Errorf("%s does not come from the profile:\n%s", key, works(t, "profile", "show", "--set", "data="+dir))
		}
	}
	b := start(t, plain, inDir(dir))
	if _, said, code := gatepost(t, quick...); code != 1 || !strings.Contains(said, "is a broker running") {
		t.Errorf("beside a broker: exit code %d, %s", code, said)
	}
	b.must(t, dialer{uid: "alice"}).ping(t)
	b.stop()
	// On another machine it does not hold.
	edit(t, profile, func(p []byte) []byte { return []byte(strings.Replace(string(p), "arch = \"", "arch = \"another-", 1)) })
	b.start()
	if !strings.Contains(b.log.String(), "was measured on another machine and is ignored") {
		t.Error("the log does not say that the profile is ignored")
	}
}
