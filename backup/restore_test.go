package backup

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
)

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
