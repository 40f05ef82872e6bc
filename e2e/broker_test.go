package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	binPath  string // the gatepost under test
	builtDir string // what tests build; removed at the end
	seed     uint64
	soak     = os.Getenv("GATEPOST_SOAK") == "1"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	seed = uint64(time.Now().UnixNano())
	if s := os.Getenv("GATEPOST_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			fmt.Fprintf(os.Stderr, "GATEPOST_SEED=%s: %v\n", s, err)
			return 2
		}
		seed = n
	}
	fmt.Printf("GATEPOST_SEED=%d\n", seed)
	raiseDescriptors()
	var err error
	if builtDir, err = os.MkdirTemp("", "gatepost-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	defer os.RemoveAll(builtDir)
	if binPath = os.Getenv("GATEPOST_BIN"); binPath == "" {
		binPath = filepath.Join(builtDir, "gatepost")
		cmd := exec.Command("go", "build", "-o", binPath, ".")
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "cannot build gatepost: %v\n%s", err, out)
			return 2
		}
	}
	return m.Run()
}

// raiseDescriptors takes as many descriptors as this process may have.
func raiseDescriptors() {
	want := syscall.Rlimit{Cur: 65536, Max: 65536}
	if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want) == nil {
		return
	}
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &want) == nil {
		want.Cur = want.Max
		syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want)
	}
}

// random is a source of its own for each test, so that tests do not depend on
// which of them run.
func random(t testing.TB) *rand.Rand {
	h := uint64(14695981039346656037)
	for _, c := range []byte(t.Name()) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	t.Logf("GATEPOST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, h))
}

// pick returns the short form of a number, or the long one in a soak.
func pick(short, long int) int {
	if soak {
		return long
	}
	return short
}

// logBuffer keeps the last output of the broker.
type logBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	if len(l.b) > 4<<20 {
		l.b = append(l.b[:0], l.b[len(l.b)-2<<20:]...)
	}
	return len(p), nil
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

// broker is one data directory and the process that serves it, if it runs.
type broker struct {
	t             testing.TB
	dir           string
	args          []string // beyond the addresses and the directory
	env           []string
	shell         string     // run before exec, such as "ulimit -n 100"
	files         []*os.File // descriptors from 3 on
	clock         *clock     // its own wall clock; nil: that of the machine
	encrypted     bool
	tcp, ws, http string    // where it listens now
	tls, wss      string    // and inside TLS
	want          [3]string // the addresses asked for
	cmd           *exec.Cmd
	ready         chan struct{} // closed when it says so
	exited        chan struct{}
	exit          error // valid once exited is closed
	log           *logBuffer
}

type option func(*broker)

func plain(b *broker) { b.encrypted = false }
func set(key, value string) option {
	return func(b *broker) { b.args = append(b.args, "--set", key+"="+value) }
}
func withEnv(kv ...string) option  { return func(b *broker) { b.env = append(b.env, kv...) } }
func withShell(line string) option { return func(b *broker) { b.shell = line } }
func inDir(dir string) option      { return func(b *broker) { b.dir = dir } }
func encryption(on bool) option    { return func(b *broker) { b.encrypted = on } }
func fixedPorts(t testing.TB) option {
	return func(b *broker) { b.want = [3]string{freeAddr(t), freeAddr(t), freeAddr(t)} }
}

// freeAddr finds a port below the ephemeral range, so that it is still free
// after a restart.
func freeAddr(t testing.TB) string {
	for range 200 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no free port between 20000 and 32000")
	return ""
}

// start runs a broker on a new data directory. It is stopped with the test.
func start(t testing.TB, options ...option) *broker {
	t.Helper()
	b := &broker{t: t, encrypted: true, log: &logBuffer{}}
	for i := range b.want {
		b.want[i] = "127.0.0.1:0"
	}
	for _, o := range options {
		o(b)
	}
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "gatepost-data-")
		if err != nil {
			t.Fatal(err)
		}
		b.dir = dir
		t.Cleanup(func() {
			if t.Failed() && os.Getenv("GATEPOST_KEEP") == "1" {
				t.Logf("data kept in %s", dir)
				return
			}
			os.RemoveAll(dir)
		})
	}
	t.Cleanup(func() {
		b.end()
		if t.Failed() {
			t.Logf("output of the broker, end of it:\n%s", tail(b.log.String(), 60))
		}
	})
	b.start()
	return b
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// start runs the binary and returns when it says that it is ready.
func (b *broker) start() {
	b.t.Helper()
	if err := b.tryStart(); err != nil {
		b.t.Fatalf("%v\n%s", err, tail(b.log.String(), 40))
	}
}

func (b *broker) tryStart() error {
	if err := b.launch(); err != nil {
		return err
	}
	select {
	case <-b.ready:
		return nil
	case <-b.exited:
		return fmt.Errorf("broker ended before it was ready: %v", b.cmd.ProcessState)
	case <-time.After(never):
		b.signal(syscall.SIGQUIT)
		<-b.exited
		return errors.New("broker does not get ready")
	}
}

// launch starts the process and does not wait until it is ready.
func (b *broker) launch() error {
	args := []string{"run", "--data", b.dir, "--tcp", b.want[0], "--ws", b.want[1], "--http", b.want[2]}
	if b.want[2] == "" { // a file says it
		args = args[:len(args)-2]
	}
	if b.encrypted {
		args = append(args, "--encryption", "on")
	} else {
		args = append(args, "--encryption", "off")
	}
	args = append(args, b.args...)
	if b.shell != "" {
		b.cmd = exec.Command("sh", append([]string{"-c", b.shell + ` && exec "$0" "$@"`, binPath}, args...)...)
	} else {
		b.cmd = exec.Command(binPath, args...)
	}
	b.cmd.Env = append(os.Environ(), b.env...)
	b.cmd.ExtraFiles = b.files
	out, w, err := os.Pipe()
	if err != nil {
		return err
	}
	b.cmd.Stdout, b.cmd.Stderr = w, b.log
	fmt.Fprintf(b.log, "--- start %s\n", strings.Join(b.cmd.Args, " "))
	if b.clock != nil {
		err = b.clock.start(b.cmd)
	} else {
		err = b.cmd.Start()
	}
	w.Close()
	if err != nil {
		out.Close()
		return fmt.Errorf("cannot start: %w", err)
	}
	b.exited, b.ready = make(chan struct{}), make(chan struct{})
	ready := b.ready
	var printed sync.WaitGroup
	printed.Add(1)
	go func() { // stdout: addresses, then the log
		defer printed.Done()
		defer out.Close()
		lines := bufio.NewScanner(out)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			fmt.Fprintln(b.log, lines.Text())
			word := strings.Fields(lines.Text())
			if ready == nil || len(word) == 0 {
				continue
			}
			if word[0] == "ready" {
				close(ready)
				ready = nil
				continue
			}
			if len(word) < 2 {
				continue
			}
			switch strings.TrimSuffix(word[0], ":") {
			case "tcp":
				b.tcp = word[1]
			case "websocket":
				b.ws = word[1]
			case "http":
				b.http = word[1]
			case "tls": // tcp ADDRESS, websocket ADDRESS, http BOOL
				b.tls, b.wss = strings.TrimSuffix(word[2], ","), strings.TrimSuffix(word[4], ",")
			}
		}
		io.Copy(io.Discard, out)
	}()
	cmd, exited := b.cmd, b.exited
	go func() {
		err := cmd.Wait()
		printed.Wait()
		b.exit = err
		fmt.Fprintf(b.log, "--- exit: %v\n", cmd.ProcessState)
		close(exited)
	}()
	return nil
}

func (b *broker) pid() int { return b.cmd.Process.Pid }

func (b *broker) signal(s os.Signal) { b.cmd.Process.Signal(s) }

// freeze stops the process where it is and returns when none of its threads is
// in a system call any more; SIGCONT lets it go on.
func (b *broker) freeze() {
	b.t.Helper()
	b.signal(syscall.SIGSTOP)
	tasks := fmt.Sprintf("/proc/%d/task", b.pid())
	for end := time.Now().Add(never); ; time.Sleep(time.Millisecond) {
		threads, err := os.ReadDir(tasks)
		if err != nil {
			b.t.Fatal(err)
		}
		moving := 0
		for _, thread := range threads {
			stat, err := os.ReadFile(filepath.Join(tasks, thread.Name(), "stat"))
			// "pid (name) state …", proc(5); T is stopped.
			if _, rest, ok := strings.Cut(string(stat), ") "); err == nil && (!ok || rest[0] != 'T') {
				moving++
			}
		}
		if moving == 0 {
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("%d of %d threads do not stop", moving, len(threads))
		}
	}
}

// kill is kill -9.
func (b *broker) kill() {
	b.signal(syscall.SIGKILL)
	<-b.exited
}

// end kills the process if it still runs.
func (b *broker) end() {
	if b.exited != nil {
		b.kill()
	}
}

// stop asks politely and wants a clean exit.
func (b *broker) stop() {
	b.t.Helper()
	b.signal(syscall.SIGTERM)
	select {
	case <-b.exited:
		if !b.cmd.ProcessState.Success() {
			b.t.Fatalf("after SIGTERM: %v", b.cmd.ProcessState)
		}
	case <-time.After(never):
		b.signal(syscall.SIGQUIT)
		<-b.exited
		b.t.Fatal("the broker ignores SIGTERM")
	}
}

// running fails the test if the process is gone.
func (b *broker) running() {
	b.t.Helper()
	select {
	case <-b.exited:
		b.t.Fatalf("the broker ended by itself: %v", b.cmd.ProcessState)
	default:
	}
}

// call makes one HTTP request and returns status and body.
func (b *broker) call(method, path string, body any) (int, string, error) {
	var r io.Reader
	if body != nil {
		p, err := json.Marshal(body)
		if err != nil {
			return 0, "", err
		}
		r = bytes.NewReader(p)
	}
	req, err := http.NewRequest(method, "http://"+b.http+path, r)
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", "application/json")
	hc := http.Client{Timeout: never, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := hc.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(p), err
}

// post makes an HTTP POST that must answer 200.
func (b *broker) post(path string, body any) {
	b.t.Helper()
	code, text, err := b.call("POST", path, body)
	if err != nil || code != 200 {
		b.t.Fatalf("POST %s %v: %d %s %v", path, body, code, text, err)
	}
}

type object map[string]any

// channel creates a group.
func (b *broker) channel(id string, members ...string) {
	b.t.Helper()
	b.post("/channel", object{"channel_id": id, "channel_type": group, "subscribers": members})
}

// status reads a size in KiB from /proc/PID/status and returns bytes.
func (b *broker) status(key string) int64 {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.pid()))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				b.t.Fatalf("%s: %v", line, err)
			}
			return n << 10
		}
	}
	b.t.Fatalf("/proc/PID/status has no %s", key)
	return 0
}

// own is the process memory without the mapped rings.
func (b *broker) own() int64 { return b.status("VmRSS") - b.status("RssShmem") }

// files lists the regular files under dir, newest last.
func files(t testing.TB, dir string) []string {
	t.Helper()
	type entry struct {
		path string
		at   time.Time
	}
	var all []entry
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			all = append(all, entry{path, info.ModTime()})
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range all { // few files: insertion sort keeps walk order among equals
		for j := i; j > 0 && all[j].at.Before(all[j-1].at); j-- {
			all[j], all[j-1] = all[j-1], all[j]
		}
	}
	paths := make([]string, len(all))
	for i, e := range all {
		paths[i] = e.path
	}
	return paths
}

// unable skips what this machine cannot do, or fails if it was said that the
// machine can do everything.
func unable(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("GATEPOST_STRICT") == "1" {
		t.Fatalf("GATEPOST_STRICT=1, but this machine cannot: "+format, args...)
	}
	t.Skipf("not on this machine: "+format, args...)
}

// needRoot is for what only root can do.
func needRoot(t testing.TB, why string) {
	t.Helper()
	if os.Getuid() != 0 {
		unable(t, "%s needs root", why)
	}
}

// command runs a tool that must succeed.
func command(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// cpuTime is how long the broker has been on a processor.
func cpuTime(t testing.TB, b *broker) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	word := strings.Fields(rest)
	user, err1 := strconv.Atoi(word[11])
	system, err2 := strconv.Atoi(word[12])
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}
