package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// gatepost runs a command of the binary to its end.
func gatepost(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.Command(binPath, args...)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(never, func() { cmd.Process.Signal(syscall.SIGQUIT) })
	err := cmd.Wait()
	if !timer.Stop() {
		t.Fatalf("gatepost %s does not end\n%s%s", strings.Join(args, " "), tail(out.String(), 10), tail(said.String(), 10))
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), said.String(), cmd.ProcessState.ExitCode()
}

// works is gatepost that must succeed; it returns what was printed.
func works(t testing.TB, args ...string) string {
	t.Helper()
	out, said, code := gatepost(t, args...)
	if code != 0 {
		t.Fatalf("gatepost %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, said)
	}
	return out
}

// listener is a `gatepost listen`, or another command, in the background.
type listener struct {
	cmd   *exec.Cmd
	lines chan string
	said  logBuffer
}

func listen(t testing.TB, args ...string) *listener {
	t.Helper()
	return background(t, append([]string{"listen"}, args...)...)
}

// background starts a command that prints until it is ended.
func background(t testing.TB, args ...string) *listener {
	t.Helper()
	l := &listener{cmd: exec.Command(binPath, args...), lines: make(chan string, 1000)}
	l.cmd.Stderr = &l.said
	out, err := l.cmd.StdoutPipe()
	if err == nil {
		err = l.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(l.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			l.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		l.cmd.Process.Kill()
		l.cmd.Wait()
	})
	return l
}

// hears waits for a line that has all the words.
func (l *listener) hears(t testing.TB, words ...string) string {
	t.Helper()
	limit := time.After(never)
	for {
		select {
		case line, ok := <-l.lines:
			if !ok {
				t.Fatalf("listen ended, waiting for %q\n%s", words, l.said.String())
			}
			all := true
			for _, w := range words {
				all = all && strings.Contains(line, w)
			}
			if all {
				return line
			}
		case <-limit:
			t.Fatalf("listen prints no line with %q\n%s", words, l.said.String())
		}
	}
}

// The first ten minutes of somebody new: start, listen, send, a group, status.
func TestCommandLine(t *testing.T) {
	b := start(t)
	for _, want := range []string{b.dir, b.tcp, b.ws, b.http, "listen", "send"} {
		if !strings.Contains(b.log.String(), want) {
			t.Errorf("the start block does not say %q:\n%s", want, b.log)
		}
	}
	bob := listen(t, "--addr", b.tcp, "--uid", "bob")
	if out := works(t, "send", "--addr", b.tcp, "--uid", "alice", "--to", "bob", "hello, bob"); out == "" {
		t.Error("send prints nothing")
	}
	bob.hears(t, "alice", "hello, bob")

	works(t, "channel", "create", "g1", "--members", "alice,bob,carol", "--http", b.http)
	carol := listen(t, "--addr", b.tcp, "--uid", "carol")
	works(t, "send", "--addr", b.tcp, "--uid", "alice", "--group", "g1", "hello, all")
	bob.hears(t, "alice", "g1", "hello, all")
	carol.hears(t, "alice", "g1", "hello, all")
	if out := works(t, "send", "--addr", b.tcp, "--uid", "alice", "--group", "g1", "--json", "as an object"); !strings.Contains(out, `"message_seq":2`) {
		t.Errorf("send --json prints %q", out)
	}
	bob.hears(t, "alice", "g1", "as an object")
	carol.hears(t, "alice", "g1", "as an object")
	if _, said, code := gatepost(t, "history", "--http", b.http, "--group", "none"); code != 1 || !strings.Contains(said, "there is no group") {
		t.Errorf("history of no group: exit code %d, %s", code, said)
	}
	if _, said, code := gatepost(t, "channel", "add", "none", "--members", "a", "--http", b.http); code != 1 || !strings.Contains(said, "none") {
		t.Errorf("add to no group: exit code %d, %s", code, said)
	}
	if _, said, code := gatepost(t, "send", "--addr", b.tcp, "--uid", "mallory", "--group", "g1", "let me in"); code != 1 || said == "" {
		t.Errorf("send to a group of others: exit code %d, want 1; %s", code, said)
	}
	// What was sent while nobody listened is printed when somebody does.
	works(t, "send", "--addr", b.tcp, "--uid", "alice", "--to", "dave", "for later")
	listen(t, "--addr", b.tcp, "--uid", "dave").hears(t, "alice", "for later")

	if out := works(t, "status", "--http", b.http); !strings.Contains(out, "connections") {
		t.Errorf("status says nothing of connections:\n%s", out)
	}
	bob.cmd.Process.Signal(os.Interrupt)
	if err := bob.cmd.Wait(); err != nil {
		t.Errorf("listen after an interrupt: %v", err)
	}
	b.stop()
	if out := works(t, "wal", "dump", b.dir); !strings.Contains(out, "alice") {
		t.Errorf("wal dump does not show a message of alice:\n%s", tail(out, 10))
	}
	for _, args := range [][]string{
		{"send", "--addr", b.tcp, "--uid", "alice", "--to", "bob", "anyone there?"},
		{"status", "--http", b.http},
		{"listen", "--addr", b.tcp, "--uid", "bob"},
	} {
		if _, said, code := gatepost(t, args...); code != 1 || !strings.Contains(said, "cannot") {
			t.Errorf("gatepost %s without a broker: exit code %d, want 1 and a reason; %s", args[0], code, said)
		}
	}
}

func TestVersionAndHelp(t *testing.T) {
	if out := works(t, "version"); !strings.HasPrefix(out, "gatepost ") {
		t.Errorf("version: %q", out)
	}
	var v map[string]string
	if out := works(t, "version", "--json"); json.Unmarshal([]byte(out), &v) != nil || v["version"] == "" {
		t.Errorf("version --json: %q", out)
	}
	help := works(t, "help")
	for _, c := range []string{"run", "send", "listen", "channel", "bench", "status", "version", "wal"} {
		if !strings.Contains(help, c) {
			t.Errorf("help does not name %s", c)
		}
		if out := works(t, c, "--help"); !strings.Contains(out, "Usage: gatepost "+c) {
			t.Errorf("%s --help: %q", c, out)
		}
	}
}

// What is wrong is refused before anything starts, with the place and what was
// expected.
func TestWrongCommandLines(t *testing.T) {
	dir := t.TempDir()
	config := func(text string) string {
		path := filepath.Join(dir, "gatepost.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name string
		args []string
		said []string
	}{
		{"no such command", []string{"sned"}, []string{"sned"}},
		{"no such flag", []string{"send", "--tow", "bob"}, []string{"--tow"}},
		{"no such flag of run", []string{"run", "--dta", dir}, []string{"dta"}},
		{"no such key", []string{"run", "--data", dir, "--set", "net.loop=2"}, []string{"net.loop", "net.loops"}},
		{"bad value", []string{"run", "--data", dir, "--set", "net.loops=many"}, []string{"net.loops", "many"}},
		{"out of range", []string{"run", "--data", dir, "--set", "net.loops=1000"}, []string{"net.loops", "1000", "15"}},
		{"bad encryption", []string{"run", "--data", dir, "--encryption", "perhaps"}, []string{"encryption", "perhaps"}},
		{"bad address", []string{"run", "--data", dir, "--tcp", "nowhere"}, []string{"tcp", "nowhere"}},
		{"no such file", []string{"run", "--config", filepath.Join(dir, "none.toml")}, []string{"none.toml"}},
		{"unknown key in the file", []string{"run", "--config", config("tcp = \":0\"\n\n[net]\nlopps = 2\n")}, []string{"gatepost.toml:4", "lopps", "net.loops"}},
	} {
		out, said, code := gatepost(t, c.args...)
		want := 2
		if c.args[0] == "run" { // which a service manager must tell from a crash
			want = 78
		}
		if code != want {
			t.Errorf("%s: exit code %d, want %d", c.name, code, want)
		}
		for _, w := range c.said {
			if !strings.Contains(said, w) {
				t.Errorf("%s: the error does not say %q:\n%s%s", c.name, w, out, said)
			}
		}
	}
	if _, said, code := gatepost(t, "run", "--data", dir, "--config", config("[net]\nidle_timeout = \"3\"\n")); code == 0 || !strings.Contains(said, "gatepost.toml:2") || !strings.Contains(said, "idle_timeout") {
		t.Errorf("a time without unit: exit code %d\n%s", code, said)
	}
	// Not 2, which is what a Go program that crashes ends with as well.
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for key, file := range map[string]string{"api.token_file": short, "webhook.secret_file": "/does/not/exist"} {
		if _, said, code := gatepost(t, "run", "--data", dir, "--tcp", "127.0.0.1:0", "--ws", "127.0.0.1:0", "--http", "127.0.0.1:0", "--"+key, file); code != 78 || !strings.Contains(said, key) {
			t.Errorf("%s %s: exit code %d, %s", key, file, code, said)
		}
	}
	if _, said, code := gatepost(t, "run", "--data", dir, "--net.loops", "17"); code != 78 || !strings.Contains(said, "net.loops") {
		t.Errorf("17 loops: exit code %d, want 78\n%s", code, said)
	}
	// An address that somebody else has.
	b := start(t)
	if _, said, code := gatepost(t, "run", "--data", t.TempDir(), "--tcp", b.tcp, "--ws", "127.0.0.1:0", "--http", "127.0.0.1:0"); code != 1 || !strings.Contains(said, b.tcp) {
		t.Errorf("a taken address: exit code %d, want 1 and the address\n%s", code, said)
	}
}

// bench finds every ack, sequence and delivery right.
func TestBenchChecks(t *testing.T) {
	b := start(t)
	for _, mode := range []string{"publish", "deliver", "fanout"} {
		out := works(t, "bench", "--addr", b.tcp, "--http", b.http, "--mode", mode, "--messages", "2000", "--json")
		var result map[string]any
		if err := json.Unmarshal([]byte(out), &result); err != nil {
			t.Fatalf("bench --json prints no JSON: %v\n%s", err, out)
		}
		if n, want := result["messages"].(float64), 8000.0; n != want {
			t.Errorf("%s: %v messages, want %v", mode, n, want)
		}
		if n, want := result["delivered"].(float64), map[string]float64{"publish": 0, "deliver": 8000, "fanout": 64_000}[mode]; n != want {
			t.Errorf("%s: %v deliveries, want %v", mode, n, want)
		}
		if mode != "publish" {
			continue
		}
		run := result["run"].(string)
		read := func(more ...string) (said string, code int) {
			_, said, code = gatepost(t, append([]string{"bench", "--http", b.http, "--mode", "history", "--run", run, "--messages", "2000", "--pages", "50"}, more...)...)
			return said, code
		}
		if said, code := read(); code != 0 {
			t.Errorf("history: exit code %d\n%s", code, said)
		}
		if said, code := read("--size", "64"); code == 0 || !strings.Contains(said, "is not what was sent") {
			t.Errorf("history of other messages than were sent: exit code %d\n%s", code, said)
		}
	}
	out := works(t, "bench", "--addr", b.tcp, "--http", b.http, "--mode", "publish", "--messages", "200", "--rate", "4000", "--json")
	var result struct{ Messages int }
	if err := json.Unmarshal([]byte(out), &result); err != nil || result.Messages != 800 {
		t.Errorf("with a rate: %v\n%s", err, out)
	}
}
