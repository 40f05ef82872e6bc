package wal

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// snapshots is an engine that calls look after each step.
type snapshots struct {
	engine
	look func(step string)
}

func (s snapshots) Append(frame []byte) error {
	err := s.engine.Append(frame)
	s.look("write")
	return err
}

func (s snapshots) Sync() error {
	err := s.engine.Sync()
	s.look("sync")
	return err
}

// A process that ends at any step of the beginning of a generation, because it was
// killed or because the disk takes no writes any more, leaves nothing that looks like
// damage: what was taken is there, and neither a check nor a start reports a gap.
func TestWhatABeginningLeavesIsNoDamage(t *testing.T) {
	for _, recycle := range []bool{false, true} {
		dir := filepath.Join(t.TempDir(), "data")
		steps := 0
		look := func(step string) {
			steps++
			copied := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			step = fmt.Sprintf("recycled %t, step %d, %s", recycle, steps, step)
			if report, err := Check(copied, 0, 0); err != nil || len(report.Gaps) > 0 {
				t.Errorf("%s: a check finds %v (%v)", step, report, err)
			}
			l, r := open(t, copied, func(o *Options) { o.Recycle = recycle })
			if len(r.report.Gaps) > 0 || len(r.groups) != 2 {
				t.Errorf("%s: a start finds %q and %v", step, r.groups, r.report)
			}
			closeLog(t, l)
			names, err := os.ReadDir(filepath.Join(copied, logName))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if len(name.Name()) != 16 && !strings.HasPrefix(name.Name(), "spare") {
					t.Errorf("%s: the next start leaves %s", step, name.Name())
				}
			}
		}
		l, _ := open(t, dir, func(o *Options) { o.Recycle, o.NoSync = recycle, false })
		add(t, l, "a")
		add(t, l, "b")
		make := l.newEngine
		l.newEngine = func(dir string) (engine, error) {
			look("directory")
			e, err := make(dir)
			look("file")
			return snapshots{e, look}, err
		}
		sync := l.syncDir
		l.syncDir = func(d *os.File) error {
			look("before the sync of " + filepath.Base(d.Name()))
			err := sync(d)
			look("after the sync of " + filepath.Base(d.Name()))
			return err
		}
		if err := l.begin(); err != nil {
			t.Fatal(err)
		}
		closeLog(t, l)
		if steps != 8 {
			t.Errorf("%d steps were looked at, want 8", steps)
		}
	}
}

// A generation that cannot be begun for want of a descriptor takes no spare file with
// it, and the one in use goes on.
func TestBeginningWithoutADescriptorKeepsTheSpareFile(t *testing.T) {
	dir := t.TempDir()
	l, _ := again(t, dir)
	defer closeLog(t, l)
	if err := os.WriteFile(sparePath(dir, 0), make([]byte, l.roll), 0o600); err != nil {
		t.Fatal(err)
	}
	l.openWrite = func(path string) (*os.File, error) {
		return nil, &os.PathError{Op: "open", Path: path, Err: syscall.EMFILE}
	}
	before := l.at.generation
	if err := l.begin(); !errors.Is(err, syscall.EMFILE) {
		t.Fatalf("begin: %v", err)
	}
	if info, err := os.Stat(sparePath(dir, 0)); err != nil || info.Size() != l.roll {
		t.Errorf("the spare file is gone: %v", err)
	}
	add(t, l, "goes on")
	same(t, l.at.generation, before)
	l.openWrite = openWrite
	if err := l.begin(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(sparePath(dir, 0)); err == nil {
		t.Error("the spare file is not used")
	}
}
