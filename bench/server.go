package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kind is a server to measure.
type kind struct {
	name        string
	says        string // what its acknowledgement means
	durable     bool   // and whether that survives a power cut
	peer        bool   // it is somebody else's
	publishOnly bool   // the floors deliver nothing
	copies      bool   // it is no server: the frames are copied in memory, see copying
	program     string
	args        func(dir, addr, http string) ([]string, error)
	setup       func(s *server) error // nil: nothing
	keep        func(s *server) error // nil: it keeps messages of nobody anyway
	// dial connects a publisher to a destination, which may be a group.
	dial func(s *server, id, to string, group bool) (conn, error)
	// idle connects who does nothing; nil: a publisher.
	idle func(s *server, id string) (conn, error)
	// consumer connects who receives what is sent there.
	consumer func(s *server, id, from string, group bool) (conn, error)
	group    func(s *server, name string, members []string) error // nil: everybody may subscribe
}

// server is one that runs, on an empty directory of its own.
type server struct {
	*kind
	addr, http string
	dir        string
	cmd        *exec.Cmd
	exited     chan error
	said       bytes.Buffer
	started    time.Time
	reached    time.Duration // from exec until it accepted a connection
}

// freeAddr is an address that nobody listens on now.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func (k *kind) start(o options, env ...string) (_ *server, err error) {
	s := &server{kind: k, exited: make(chan error, 1)}
	if s.dir, err = os.MkdirTemp(o.work, "server-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(s.dir)
		}
	}()
	if s.addr, err = freeAddr(); err != nil {
		return nil, err
	}
	if s.http, err = freeAddr(); err != nil {
		return nil, err
	}
	args, err := k.args(s.dir, s.addr, s.http)
	if err != nil {
		return nil, err
	}
	unix.Sync() // what others have written is not this one's to wait for
	s.cmd = exec.CommandContext(o.ctx, k.program, args...)
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stdout, s.cmd.Stderr = &s.said, &s.said
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.started = time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", k.name, err)
	}
	go func() { s.exited <- s.cmd.Wait() }()
	for {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
			break
		}
		select {
		case err := <-s.exited:
			return nil, fmt.Errorf("%s ended at once: %v\n%s", k.name, err, s.said.String())
		case <-time.After(500 * time.Microsecond):
		}
		if time.Since(s.started) > 30*time.Second {
			s.stop()
			return nil, fmt.Errorf("%s does not listen on %s\n%s", k.name, s.addr, s.said.String())
		}
	}
	s.reached = time.Since(s.started)
	if k.setup != nil {
		if err := k.setup(s); err != nil {
			s.stop()
			return nil, fmt.Errorf("cannot set %s up: %w", k.name, err)
		}
	}
	return s, nil
}

// stop ends the server and removes its directory.
func (s *server) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		s.cmd.Process.Kill()
		<-s.exited
	}
	os.RemoveAll(s.dir)
}

// rest lets the server run for a time, and ends early when it does.
func (s *server) rest(d time.Duration) error {
	select {
	case err := <-s.exited:
		s.exited <- err // for stop
		return fmt.Errorf("%s ended: %v\n%s", s.name, err, s.said.String())
	case <-time.After(d):
		return nil
	}
}

// usage is what a server has used up to a moment.
type usage struct {
	at       time.Time
	cpu      float64 // seconds
	own      float64 // seconds of the generator
	written  int64   // bytes to the device, -1: it does not say
	flushes  int64   // of the device, -1: it does not say
	switches int64   // of the server's threads
}

func (s *server) usage() usage {
	u := usage{at: time.Now()}
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	if fields := strings.Fields(rest); len(fields) > 12 {
		u.cpu = float64(number(fields[11])+number(fields[12])) / 100 // a tick is 1/100 s on every Linux
	}
	var own unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &own)
	u.own = time.Duration(own.Utime.Nano() + own.Stime.Nano()).Seconds()
	u.written, u.flushes = device(s.dir)
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", s.cmd.Process.Pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		u.switches += field(text, "voluntary_ctxt_switches") + field(text, "nonvoluntary_ctxt_switches")
	}
	return u
}

// device is how many bytes were written to the block device of a directory and how
// often it was flushed, -1 where that is not known; see
// Documentation/admin-guide/iostats.rst of the kernel. Flushes are counted for a whole
// disk, not for a partition.
func device(dir string) (written, flushes int64) {
	written, flushes = -1, -1
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return
	}
	of := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))
	counters := func(of string) []string {
		text, _ := os.ReadFile(of + "/stat")
		return strings.Fields(string(text))
	}
	if fields := counters(of); len(fields) > 6 {
		written = number(fields[6]) * 512
	}
	if _, err := os.Stat(of + "/partition"); err == nil {
		if disk, err := filepath.EvalSymlinks(of); err == nil {
			of = filepath.Dir(disk)
		}
	}
	if fields := counters(of); len(fields) > 15 {
		flushes = number(fields[15])
	}
	return
}

// running is how long the server's threads have run, to the nanosecond; those that
// have ended are left out.
func (s *server) running() (d time.Duration) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", s.cmd.Process.Pid))
	for _, task := range tasks {
		if text, err := os.ReadFile(task); err == nil && len(text) > 0 {
			d += time.Duration(number(strings.Fields(string(text))[0]))
		}
	}
	return d
}

// private is the server's memory that is in no file, in bytes; what it maps twice
// counts once.
func (s *server) private() float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", s.cmd.Process.Pid))
	return float64((field(text, "Pss_Anon") + field(text, "Pss_Shmem")) * 1024)
}

// memory is a line of /proc/PID/status in bytes.
func (s *server) memory(key string) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	return float64(field(text, key) * 1024)
}

func field(text []byte, key string) int64 {
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, key+":"); ok {
			return number(strings.Fields(value)[0])
		}
	}
	return 0
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}
