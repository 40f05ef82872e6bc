package backup

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// same is a file of n times the same byte.
type same byte

func (s same) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(s)
	}
	return len(p), nil
}

// archiveOf writes an archive that has only metadata, n bytes of it, and a manifest
// that is true.
func archiveOf(t *testing.T, n int64) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "box.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	out := tar.NewWriter(f)
	m := manifest{Version: version}
	add := func(name string, size int64, from io.Reader) {
		sum := sha256.New()
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: size, Format: tar.FormatPAX}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.MultiWriter(out, sum), from, size); err != nil {
			t.Fatal(err)
		}
		m.Files = append(m.Files, file{name, size, hex.EncodeToString(sum.Sum(nil))})
	}
	add(metaName, n, same('x'))
	text, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	add(manifestName, int64(len(text)), strings.NewReader(string(text)))
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// Metadata that are none are refused, and their size costs no memory.
func TestRestoreOfBadMetadataIsBounded(t *testing.T) {
	const n, most = 64 << 20, 8 << 20
	f, err := os.Open(archiveOf(t, n))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	dir := filepath.Join(t.TempDir(), "data")
	err = Restore(f, dir, func(string) error { t.Error("it is taken for a box"); return nil })
	runtime.ReadMemStats(&after)
	if err == nil || !strings.Contains(err.Error(), "no metadata") {
		t.Errorf("restored: %v", err)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > most {
		t.Errorf("%d bytes of metadata took %d bytes of memory, want %d at most", n, took, most)
	}
	if names, err := filepath.Glob(dir + "*"); err != nil || len(names) > 0 {
		t.Errorf("left behind: %q, %v", names, err)
	}
}

// unread fails a test that reads from it.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the archive is read")
	return 0, errors.New("not to be read")
}

// A directory that cannot be replaced in the end is refused before the archive is
// read, and nothing is made beside it.
func TestRestoreToTheRootOfADisk(t *testing.T) {
	const root = "/dev/shm"
	if mounted, err := isMount(root); err != nil || !mounted {
		t.Skipf("%s is no mount: %v", root, err)
	}
	if names, err := os.ReadDir(root); err != nil || len(names) > 0 {
		t.Skipf("%s is not empty: %v", root, err)
	}
	err := Restore(unread{t}, root, func(string) error { return nil })
	if err == nil || !strings.Contains(err.Error(), "root of a disk") {
		t.Errorf("restored to %s: %v", root, err)
	}
	if _, err := os.Stat(root + ".restoring"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
}
