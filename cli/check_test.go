package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatepost/store"
	"gatepost/wal"
)

// newData makes the data directory of a broker that was started and stopped.
func newData(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	s, _, _, err := store.Open(store.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Abandon(); err != nil {
		t.Fatal(err)
	}
	l, _, err := wal.Open(wal.Options{Dir: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// cannotRead puts in the place of the one file that fits a pattern what nobody can
// open, not even root: the error is none of the disk, and may pass.
func cannotRead(t *testing.T, pattern string) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) != 1 {
		t.Fatalf("%s fits %q: %v", pattern, paths, err)
	}
	if err := os.Rename(paths[0], paths[0]+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Base(paths[0]), paths[0]); err != nil {
		t.Fatal(err)
	}
}

func does(t *testing.T, args ...string) (out, said string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	code = dispatch(t.Context(), args, Env{Stdout: &o, Stderr: &e})
	return o.String(), e.String(), code
}

// What is no data directory is neither whole nor damaged, and nothing is made in it.
func TestWhatIsNoDataDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "notes"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", dir}, {"check", "--json", dir}, {"repair", dir}, {"repair", "--give-up-unreadable", dir}, {"wal", "dump", dir}} {
		out, said, code := does(t, args...)
		if code != exitFailed || !strings.Contains(said, "is no data directory") || strings.Contains(out, "whole") {
			t.Errorf("%q: exit code %d, %s%s", args, code, out, said)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("in the directory: %v, %v", names, err)
	}
	// Many directories have a "log" in them, as /var has.
	if err := os.MkdirAll(filepath.Join(dir, "log", "journal"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"check", dir}, {"repair", dir}} {
		out, said, code := does(t, args...)
		if code != exitFailed || !strings.Contains(said, "is no data directory") || strings.Contains(out, "whole") {
			t.Errorf("with a log of others: %q: exit code %d, %s%s", args, code, out, said)
		}
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("in the directory: %v, %v", names, err)
	}
	if _, said, code := does(t, "repair", filepath.Join(dir, "none")); code != exitFailed || !strings.Contains(said, "no such file") {
		t.Errorf("what is not there: exit code %d, %s", code, said)
	}
	if out, said, code := does(t, "check", newData(t)); code != exitOK || !strings.Contains(out, "whole") {
		t.Errorf("a box that stored nothing: exit code %d, %s%s", code, out, said)
	}
}

// What cannot be read is not called whole and not called damaged: the exit code and
// the words are others, and repair changes nothing.
func TestWhatCannotBeReadProvesNothing(t *testing.T) {
	for _, pattern := range []string{"meta/*/0.dat", "meta/CURRENT", "log", "blocks"} {
		dir := newData(t)
		cannotRead(t, filepath.Join(dir, pattern))
		for _, args := range [][]string{{"check", dir}, {"repair", dir}, {"repair", "--give-up-unreadable", dir}} {
			out, said, code := does(t, args...)
			if code != exitUnread || !strings.Contains(said, "nothing is proven") || !strings.Contains(said, "too many levels of symbolic links") || !strings.Contains(said, "try again") {
				t.Errorf("%s: %q: exit code %d, %s%s", pattern, args, code, out, said)
			}
			if strings.Contains(out, "whole") || strings.Contains(out+said, "is damaged") || strings.Contains(out, "given up") {
				t.Errorf("%s: %q judges: %s%s", pattern, args, out, said)
			}
		}
		out, _, code := does(t, "check", "--json", dir)
		var v struct {
			Verdict, Reason string
			Whole           bool
		}
		if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitUnread || v.Verdict != "unknown" || v.Whole || v.Reason == "" {
			t.Errorf("%s: %v, exit code %d, %s", pattern, err, code, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "quarantine")); err == nil {
			t.Errorf("%s: repair made a quarantine", pattern)
		}
	}
}
