package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatepost/config"
)

// A file with a secret that everybody on the machine can read is said at the start.
func TestASecretThatEverybodyCanReadIsSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("0123456789abcdef\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var cfg config.Config
	cfg.API.TokenFile, cfg.TLS.KeyFile, cfg.Webhook.SecretFile = path, "off", path
	for mode, want := range map[os.FileMode]int{0o600: 0, 0o640: 0, 0o644: 2, 0o604: 2} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		warnOfSecrets(&cfg, slog.New(slog.NewTextHandler(&said, nil)))
		if n := strings.Count(said.String(), "level=WARN"); n != want || strings.Contains(said.String(), "0123456789abcdef") {
			t.Errorf("mode %v: %d warnings, want %d: %s", mode, n, want, said.String())
		}
	}
}
