package cli

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// commands write as root, into directories that may be others'. What is no plain
// file stays what it is, and is not written through either.
func TestWhatIsNoPlainFileIsNotReplaced(t *testing.T) {
	box := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "all of it") }))
	defer box.Close()
	dir, data := t.TempDir(), newData(t)
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "empty.toml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	web := strings.TrimPrefix(box.URL, "http://")
	for kind, make := range map[string]func(path string) error{
		"a FIFO":                     func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"a symbolic link":            func(path string) error { return os.Symlink(precious, path) },
		"a symbolic link to nowhere": func(path string) error { return os.Symlink(filepath.Join(dir, "nowhere"), path) },
		"a directory":                func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		for _, args := range [][]string{
			{"backup", "--http", web},
			{"support-bundle", "--config", config, "--data", data, "--http", web, "-o"},
			{"calibrate", "--data", data, "--report"},
			{"calibrate", "--data"},
		} {
			path := filepath.Join(t.TempDir(), "target")
			target := path
			if args[len(args)-1] == "--data" { // it writes a profile there
				if err := os.CopyFS(path, os.DirFS(data)); err != nil {
					t.Fatal(err)
				}
				target = filepath.Join(path, "calibrated.profile")
			}
			if err := make(target); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(target)
			if err != nil {
				t.Fatal(err)
			}
			_, said, code := does(t, append(args, path)...)
			if code != exitFailed || !strings.Contains(said, "no plain file") {
				t.Errorf("%s, %s: exit code %d, %s", args[0], kind, code, said)
			}
			after, err := os.Lstat(target)
			if err != nil || !os.SameFile(before, after) || after.Mode() != before.Mode() {
				t.Errorf("%s: %s has become %v, %v", args[0], kind, after, err)
			}
			if parts, err := filepath.Glob(path + "*.part"); err != nil || len(parts) > 0 {
				t.Errorf("%s left %q, %v", args[0], parts, err)
			}
		}
	}
	if text, err := os.ReadFile(precious); err != nil || string(text) != "precious" {
		t.Errorf("a file was written through a link: %q, %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "nowhere")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made through a link: %v", err)
	}
}

// A link that waits under the name that a file had while it was written is not
// written through.
func TestPartsAreNotWrittenThroughLinks(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "box.tar")
	if err := os.Symlink(filepath.Join(dir, "victim"), path+".part"); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(Env{}, path, []byte("text"), 0o640); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	info, _ := os.Stat(path)
	if err != nil || string(text) != "text" || info.Mode().Perm() != 0o640 {
		t.Errorf("%q, %v, %v", text, info.Mode(), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "victim")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was written through the link: %v", err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// "-" is standard output, with nothing else in it.
func TestDashIsStandardOutput(t *testing.T) {
	box := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "all of it") }))
	defer box.Close()
	t.Chdir(t.TempDir())
	web := strings.TrimPrefix(box.URL, "http://")
	out, said, code := does(t, "backup", "--http", web, "-")
	if code != exitOK || out != "all of it" || !strings.Contains(said, "9 bytes") {
		t.Errorf("backup: exit code %d, %q, %q", code, out, said)
	}
	if err := os.WriteFile("empty.toml", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out, said, code = does(t, "support-bundle", "--config", "empty.toml", "--data", newData(t), "--http", web, "-o", "-")
	if code != exitOK || !strings.HasPrefix(out, "\x1f\x8b") || strings.HasSuffix(out, "files\n") {
		t.Errorf("support-bundle: exit code %d, %d bytes, %q", code, len(out), said)
	}
	if _, err := os.Lstat("-"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is a file called -: %v", err)
	}
}
