package e2e

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// With a token nothing but /health is answered without it; the commands know
// it from a file. Without one, HTTP for other machines is refused.
func TestHTTPToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("a-token-of-some-length\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, plain, set("api.token_file", path))
	for _, c := range []struct {
		method, path string
		body         any
		code         int
	}{
		{"GET", "/health", nil, 200}, {"GET", "/varz", nil, 401}, {"GET", "/metrics", nil, 401}, {"POST", "/backup", nil, 401},
		{"GET", "/history?uid=a&to=b", nil, 401}, {"POST", "/channel", map[string]any{"channel_id": "g", "channel_type": 2}, 401},
		{"POST", "/message/send", map[string]any{}, 401}, {"GET", "/nothing", nil, 401},
	} {
		if code, text, err := b.call(c.method, c.path, c.body); code != c.code || err != nil {
			t.Errorf("%s %s without the token: %d %s %v, want %d", c.method, c.path, code, text, err, c.code)
		}
	}
	if _, said, code := gatepost(t, "channel", "create", "g", "--members", "alice", "--http", b.http); code != 1 || !strings.Contains(said, "token") {
		t.Errorf("channel without the token: exit code %d\n%s", code, said)
	}
	t.Setenv("GATEPOST_TOKEN_FILE", path)
	works(t, "channel", "create", "g", "--members", "alice", "--http", b.http)
	works(t, "status", "--http", b.http)
	works(t, "backup", filepath.Join(t.TempDir(), "backup"), "--http", b.http)
	if strings.Contains(b.log.String(), "a-token-of") {
		t.Error("the token is in the log")
	}
	dir := t.TempDir()
	if _, said, code := gatepost(t, "run", "--data", dir, "--http", ":0"); code != 78 || !strings.Contains(said, "api.token_file") {
		t.Errorf("HTTP for everybody without a token: exit code %d\n%s", code, said)
	}
	if _, said, code := gatepost(t, "run", "--data", dir, "--tcp", "127.0.0.1:0", "--ws", "127.0.0.1:0", "--http", "127.0.0.1:0", "--api.token_file", filepath.Join(dir, "none")); code == 0 || !strings.Contains(said, "cannot read a token") {
		t.Errorf("a token file that is not there: exit code %d\n%s", code, said)
	}
}

// holds returns a file of the data directory in which a text is, "" if none.
func (b *broker) holds(t testing.TB, text string) (found string) {
	t.Helper()
	err := filepath.WalkDir(b.dir, func(path string, d fs.DirEntry, err error) error {
		var p []byte
		if err == nil && !d.IsDir() {
			p, err = os.ReadFile(path)
		}
		if errors.Is(err, fs.ErrNotExist) { // renamed meanwhile
			return nil
		}
		if bytes.Contains(p, []byte(text)) {
			found = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
