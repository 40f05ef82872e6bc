package e2e

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// faultPlan is what a failing file system does; see faultfs/main.go. It is
// written down twice because the other side is a program of its own module.
type faultPlan struct {
	Set   bool
	What  *faultCalls
	After *faultCalls
	Errno int
	Delay int // ms
	For   int // ms; 0: for good
	Torn  bool
	Lie   bool
}

type faultCalls struct {
	Ops  []string
	Path string
}

type faultState struct {
	Begun, Over bool
	Hits        int
}

// faultFS is a directory seen through a file system that fails when it is told to.
type faultFS struct {
	dir     string // the mount point
	below   string // the directory itself
	mu      sync.Mutex
	in      io.WriteCloser
	answers *bufio.Scanner
}

// faultServer builds the program once.
var faultServer = sync.OnceValues(func() (string, error) {
	path := filepath.Join(builtDir, "faultfs")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Dir = "faultfs"
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build faultfs: %w\n%s", err, out)
	}
	return path, nil
})

// newFaultFS mounts one. It is unmounted with the test, or when this process ends.
func newFaultFS(t testing.TB) *faultFS {
	t.Helper()
	needRoot(t, "mounting a file system")
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		unable(t, "a file system that fails on demand needs /dev/fuse (modprobe fuse; in a container --device /dev/fuse): %v", err)
	} else {
		f.Close()
	}
	server, err := faultServer()
	if err != nil {
		t.Fatal(err)
	}
	f := &faultFS{dir: t.TempDir(), below: t.TempDir()}
	cmd := exec.Command(server, f.below, f.dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		f.in, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.in.Close()
		timer := time.AfterFunc(never, func() { cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the failing file system: %v", err)
		}
		syscall.Unmount(f.dir, syscall.MNT_DETACH) // if it could not
	})
	f.answers = bufio.NewScanner(out)
	if !f.answers.Scan() {
		unable(t, "mounting a file system that fails on demand does not work")
	}
	return f
}

// ask hands a plan over and returns what is then in force.
func (f *faultFS) ask(t testing.TB, p faultPlan) (s faultState) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	line, err := json.Marshal(p)
	if err == nil {
		_, err = f.in.Write(append(line, '\n'))
	}
	if err == nil && !f.answers.Scan() {
		err = errors.Join(io.ErrUnexpectedEOF, f.answers.Err())
	}
	if err == nil {
		err = json.Unmarshal(f.answers.Bytes(), &s)
	}
	if err != nil {
		t.Fatalf("the failing file system does not answer: %v", err)
	}
	return s
}

// plan sets what fails from now on.
func (f *faultFS) plan(t testing.TB, p faultPlan) {
	t.Helper()
	p.Set = true
	f.ask(t, p)
}

func (f *faultFS) state(t testing.TB) faultState { t.Helper(); return f.ask(t, faultPlan{}) }

// heal ends all faults.
func (f *faultFS) heal(t testing.TB) faultState {
	t.Helper()
	s := f.state(t)
	f.plan(t, faultPlan{})
	return s
}

// The file system alone: each call fails where it should, nowhere else, only as
// long as it should, and what a lie does not write is not there.
func TestRigFaults(t *testing.T) {
	f := newFaultFS(t)
	for _, dir := range []string{"good", "bad"} {
		if err := os.Mkdir(filepath.Join(f.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(f.dir, dir, "old"), []byte("content"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	type set struct{ reader, writer, dir *os.File }
	files := map[string]*set{}
	for _, name := range []string{"good", "bad"} {
		s := &set{}
		var errs [3]error
		s.reader, errs[0] = os.Open(filepath.Join(f.dir, name, "old"))
		s.writer, errs[1] = os.OpenFile(filepath.Join(f.dir, name, "old"), os.O_WRONLY, 0)
		s.dir, errs[2] = os.Open(filepath.Join(f.dir, name))
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		defer s.reader.Close()
		defer s.writer.Close()
		defer s.dir.Close()
		files[name] = s
	}
	acts := map[string]func(dir string) error{
		"open": func(dir string) error {
			h, err := os.Open(filepath.Join(f.dir, dir, "old"))
			if err == nil {
				h.Close()
			}
			return err
		},
		"create": func(dir string) error {
			h, err := os.Create(filepath.Join(f.dir, dir, "new"))
			if err == nil {
				h.Close()
				err = os.Remove(filepath.Join(f.below, dir, "new"))
			}
			return err
		},
		"mkdir": func(dir string) error {
			err := os.Mkdir(filepath.Join(f.dir, dir, "below"), 0o700)
			os.Remove(filepath.Join(f.below, dir, "below"))
			return err
		},
		"read":     func(dir string) error { _, err := files[dir].reader.ReadAt(make([]byte, 7), 0); return err },
		"write":    func(dir string) error { _, err := files[dir].writer.WriteAt([]byte("content"), 0); return err },
		"truncate": func(dir string) error { return files[dir].writer.Truncate(7) },
		"allocate": func(dir string) error {
			return syscall.Fallocate(int(files[dir].writer.Fd()), 1, 0, 4096) // FALLOC_FL_KEEP_SIZE
		},
		"fsync":    func(dir string) error { return files[dir].writer.Sync() },
		"fsyncdir": func(dir string) error { return files[dir].dir.Sync() },
		"rename": func(dir string) error {
			err := os.Rename(filepath.Join(f.dir, dir, "old"), filepath.Join(f.dir, dir, "named"))
			if err == nil {
				err = os.Rename(filepath.Join(f.below, dir, "named"), filepath.Join(f.below, dir, "old"))
			}
			return err
		},
		"unlink": func(dir string) error {
			if err := os.WriteFile(filepath.Join(f.below, dir, "gone"), nil, 0o600); err != nil {
				return err
			}
			return os.Remove(filepath.Join(f.dir, dir, "gone"))
		},
		"list": func(dir string) error { _, err := os.ReadDir(filepath.Join(f.dir, dir)); return err },
	}
	for op, act := range acts {
		for _, errno := range []syscall.Errno{syscall.EIO, syscall.ENOSPC, syscall.EROFS, syscall.EMFILE} {
			f.plan(t, faultPlan{What: &faultCalls{Ops: []string{op}, Path: "/bad"}, Errno: int(errno)})
			if err := act("bad"); !errors.Is(err, errno) {
				t.Errorf("%s that should fail with %q: %v", op, errno, err)
			}
			if err := act("good"); err != nil {
				t.Errorf("%s elsewhere: %v", op, err)
			}
			if s := f.heal(t); s.Hits == 0 || s.Over || !s.Begun {
				t.Errorf("%s: %+v", op, s)
			}
			if err := act("bad"); err != nil {
				t.Errorf("%s after the end: %v", op, err)
			}
		}
	}
	// It begins with a call, and ends by itself.
	f.plan(t, faultPlan{What: &faultCalls{Ops: []string{"read"}}, After: &faultCalls{Ops: []string{"fsync"}, Path: "/bad"}, Errno: int(syscall.EIO), For: 50})
	read := acts["read"]
	if err := errors.Join(read("bad"), acts["fsync"]("good"), read("bad")); err != nil || f.state(t).Begun {
		t.Errorf("too early: %v", err)
	}
	if acts["fsync"]("bad"); !f.state(t).Begun {
		t.Error("it does not begin")
	}
	for end := time.Now().Add(never); !f.state(t).Over; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not end")
		}
	}
	if err := read("bad"); err != nil {
		t.Errorf("after the end: %v", err)
	}
	content := func() string {
		p, err := os.ReadFile(filepath.Join(f.below, "bad", "old"))
		if err != nil {
			t.Fatal(err)
		}
		return string(p)
	}
	f.plan(t, faultPlan{What: &faultCalls{Ops: []string{"write"}}, Lie: true})
	if n, err := files["bad"].writer.WriteAt([]byte("lies"), 0); n != 4 || err != nil || content() != "content" {
		t.Errorf("a lie: %d bytes, %v, then there is %q", n, err, content())
	}
	f.plan(t, faultPlan{What: &faultCalls{Ops: []string{"write"}}, Errno: int(syscall.EIO), Torn: true})
	if _, err := files["bad"].writer.WriteAt([]byte("half"), 0); !errors.Is(err, syscall.EIO) || content() != "hantent" {
		t.Errorf("half of a write: %v, then there is %q", err, content())
	}
	f.heal(t)
}
