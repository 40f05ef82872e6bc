package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatepost/hwprofile"
)

// here is the machine of these tests.
func here(string) hwprofile.Facts { return board().Facts }

// What is live changes, what is not stays and is named, and what is wrong is
// refused as a whole.
func TestAdopt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gatepost.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("tcp = \":1\"\n[net]\nrate = 5\n")
	c, err := LoadAs(path, map[string]string{"net.idle_timeout": "5m"}, here)
	if err != nil {
		t.Fatal(err)
	}
	write("tcp = \":2\"\n[net]\nrate = 7\nidle_timeout = \"6m\"\n[retry]\ntries = 9\n[wal]\nlinger = \"1ms\"\n")
	next, err := c.Reload()
	if err != nil {
		t.Fatal(err)
	}
	now, live, restart, err := c.Adopt(next)
	if err != nil {
		t.Fatal(err)
	}
	if now.TCP != ":1" || now.Net.Rate != 7 || now.Retry.Tries != 9 || now.Wal.Linger != 0 || now.Net.IdleTimeout != c.Net.IdleTimeout {
		t.Errorf("%+v", now)
	}
	if !slices.Equal(live, []string{"net.rate", "retry.tries"}) || !slices.Equal(restart, []string{"tcp", "wal.linger"}) {
		t.Errorf("live %v, restart %v", live, restart)
	}
	if o := now.Origin("tcp"); o != path+":1, until the next start" {
		t.Errorf("tcp has its value from %q", o)
	}
	if c.Net.Rate != 5 || next.TCP != ":2" {
		t.Error("Adopt has changed what it was given")
	}
	// Once more from the result, as a broker does: the same keys wait.
	twice, live, restart, err := now.Adopt(next)
	if err != nil || len(live) != 0 || len(restart) != 2 || twice.Origin("tcp") != now.Origin("tcp") {
		t.Errorf("again: live %v, restart %v, tcp from %s, %v", live, restart, twice.Origin("tcp"), err)
	}
	write("[net]\nrate = \"much\"\n")
	if _, err := c.Reload(); err == nil || !strings.Contains(err.Error(), path+":2: net.rate") {
		t.Errorf("a broken file: %v", err)
	}

	// An address that stays and a token that goes: together, HTTP for everybody.
	write("http = \":3\"\n[api]\ntoken_file = \"t\"\n")
	if c, err = LoadAs(path, nil, here); err != nil {
		t.Fatal(err)
	}
	write("http = \"127.0.0.1:3\"\n")
	if next, err = c.Reload(); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err = c.Adopt(next); err == nil || !strings.Contains(err.Error(), "needs a restart") {
		t.Errorf("the token went, the address stayed: %v", err)
	}
}
