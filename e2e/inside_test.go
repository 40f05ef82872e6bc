package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// service is gatepost as the service of a systemd that this test has for itself;
// see TestAppliance.
type service struct {
	*broker
	t     *testing.T
	since string // where its part of the journal begins
}

const (
	unitDir     = "/etc/systemd/system"
	optionsFile = "/etc/default/gatepost"
	configFile  = "/etc/gatepost/gatepost.toml"
	stateDir    = "/var/lib/gatepost"
)

// install puts binary and units where an administrator would, with a
// configuration and drop-ins of the test. Nothing runs yet.
func install(t *testing.T, config string, dropIn ...string) *service {
	t.Helper()
	if !inside() {
		t.Skip("this runs in the container of TestAppliance: make appliance")
	}
	s := &service{t: t, broker: &broker{t: t, dir: stateDir, tcp: "127.0.0.1:5100", ws: "127.0.0.1:5200", http: "127.0.0.1:5001", log: &logBuffer{}}}
	copyFile(t, "/rig/gatepost", "/usr/bin/gatepost", 0o755)
	for _, unit := range []string{"gatepost.service", "gatepost.socket", "gatepost-ws.socket"} {
		copyFile(t, "/rig/units/"+unit, filepath.Join(unitDir, unit), 0o644)
	}
	for _, dir := range []string{"sysusers.d", "tmpfiles.d"} {
		copyFile(t, filepath.Join("/rig/units", dir, "gatepost.conf"), filepath.Join("/etc", dir, "gatepost.conf"), 0o644)
	}
	command(t, "systemd-sysusers")
	command(t, "systemd-tmpfiles", "--create", "gatepost.conf")
	s.write(optionsFile, "GATEPOST_ARGS=--config "+configFile+" --encryption off\n")
	s.configure(config)
	for i, text := range dropIn {
		s.write(fmt.Sprintf("%s/gatepost.service.d/%d.conf", unitDir, i), text)
	}
	command(t, "systemctl", "daemon-reload")
	command(t, "journalctl", "--sync")
	s.since = time.Now().Format("2006-01-02 15:04:05.000000")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("status:\n%s\njournal, end of it:\n%s", output("systemctl", "status", "gatepost", "gatepost.socket"), tail(output("journalctl", "-u", "gatepost", "--since", s.since, "--no-pager"), 80))
		}
		output("systemctl", "stop", "gatepost.socket", "gatepost-ws.socket", "gatepost.service")
		output("systemctl", "reset-failed")
		os.RemoveAll(unitDir + "/gatepost.service.d")
		os.RemoveAll(stateDir)
		output("systemctl", "daemon-reload")
	})
	return s
}

// output runs a command that may fail.
func output(name string, args ...string) string {
	text, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Sprintf("%s\n%v", text, err)
	}
	return string(text)
}

func (s *service) write(path, text string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) configure(text string) { s.t.Helper(); s.write(configFile, text) }

// systemctl must succeed.
func (s *service) systemctl(args ...string) string {
	s.t.Helper()
	return command(s.t, "systemctl", args...)
}

// show returns one property of the service.
func (s *service) show(property string) string {
	s.t.Helper()
	return strings.TrimSpace(command(s.t, "systemctl", "show", "--value", "-p", property, "gatepost.service"))
}

func (s *service) mainPID() int {
	s.t.Helper()
	n, err := strconv.Atoi(s.show("MainPID"))
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// eventually waits for what a service does in its own time.
func (s *service) eventually(what string, f func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never: %s", what)
		}
	}
}

// journal returns the service's lines since install, each with all its fields;
// match are more conditions, as FIELD=value.
func (s *service) journal(match ...string) (lines []map[string]any) {
	s.t.Helper()
	command(s.t, "journalctl", "--sync")
	args := append([]string{"-o", "json", "--all", "--no-pager", "--since", s.since, "_SYSTEMD_UNIT=gatepost.service"}, match...)
	scan := bufio.NewScanner(strings.NewReader(command(s.t, "journalctl", args...)))
	scan.Buffer(nil, 16<<20)
	for scan.Scan() {
		if len(scan.Bytes()) == 0 || scan.Bytes()[0] != '{' {
			continue
		}
		var line map[string]any
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			s.t.Fatalf("%v in %s", err, scan.Bytes())
		}
		lines = append(lines, line)
	}
	return lines
}

// said returns whether a line of the journal has a text in its message.
func (s *service) said(text string) bool {
	s.t.Helper()
	for _, line := range s.journal() {
		if m, _ := line["MESSAGE"].(string); strings.Contains(m, text) {
			return true
		}
	}
	return false
}

// The states that a service manager sees: start waits until clients may come,
// the status line follows what happens, stop is in order. The user is the one
// of the package, and nothing that the unit forbids is missing.
func TestInsideNotify(t *testing.T) {
	s := install(t, "")
	s.systemctl("start", "gatepost")
	if state := s.show("ActiveState") + " " + s.show("SubState"); state != "active running" {
		t.Fatalf("behind start the service is %s", state)
	}
	alice := s.must(t, dialer{uid: "alice"}) // at once: it was ready
	bob := s.must(t, dialer{uid: "bob", ws: true})
	alice.tell(t, "bob", "1", "hello")
	bob.nextRecv(t)
	alice.tell(t, "carol", "2", "for later")
	s.eventually("status line with 2 connections", func() bool { return strings.HasPrefix(s.show("StatusText"), "2 connections, ") })
	if user := strings.TrimSpace(output("stat", "-c", "%U %a", stateDir)); user != "gatepost 700" {
		t.Errorf("%s belongs to %s", stateDir, user)
	}
	if text := output("gatepost", "status"); !strings.Contains(text, "ok") && !strings.Contains(text, "well") {
		t.Errorf("gatepost status: %s", text)
	}
	pid := s.mainPID()
	s.systemctl("restart", "gatepost")
	if s.mainPID() == pid {
		t.Error("restart has restarted nothing")
	}
	carol := s.must(t, dialer{uid: "carol"})
	if m := carol.nextRecv(t); m.no != "2" {
		t.Errorf("behind the restart: %v", m)
	}
	s.systemctl("stop", "gatepost")
	if r := s.show("Result") + " " + s.show("ActiveState"); r != "success inactive" {
		t.Errorf("behind stop: %s", r)
	}
	if !s.said("stopping") {
		t.Error("the journal does not say that it stopped")
	}
	// A configuration that is wrong is not tried again and again.
	s.configure("tcp = 5\n")
	output("systemctl", "start", "gatepost")
	if code, restarts := s.show("ExecMainStatus"), s.show("NRestarts"); code != "78" || restarts != "0" {
		t.Errorf("a wrong configuration: exit code %s, %s restarts", code, restarts)
	}
}

// A loop that hangs ends the process within the watchdog's time, its stacks are
// in the journal, and the service comes back. One that does not is left alone.
func TestInsideWatchdog(t *testing.T) {
	s := install(t, "", "[Service]\nWatchdogSec=3\nEnvironment=GATEPOST_TEST_HANG=loop\n")
	s.systemctl("start", "gatepost")
	pid := s.mainPID()
	time.Sleep(7 * time.Second) // idle, longer than two watchdogs
	if s.mainPID() != pid || s.show("NRestarts") != "0" {
		t.Fatal("an idle broker was ended by the watchdog")
	}
	began := time.Now()
	if c, _, err := s.login(dialer{uid: "alice"}); err == nil { // the loop hangs from here
		defer c.close()
	}
	s.eventually("a restart by the watchdog", func() bool { return s.show("NRestarts") == "1" && s.show("ActiveState") == "active" })
	t.Logf("a hung loop: %v until the service was back", time.Since(began).Round(time.Millisecond))
	for _, text := range []string{"something hangs, the watchdog is not told", "loop 0", "SIGABRT", "goroutine ", "main.stuckLoop.OnRound"} {
		if !s.said(text) {
			t.Errorf("the journal does not have %q", text)
		}
	}
}

// Reload without a restart: a key takes effect, clients stay, a broken file
// changes nothing. There is no kill(1) in this system.
func TestInsideReload(t *testing.T) {
	s := install(t, "[net]\nrate = 0\n")
	s.systemctl("start", "gatepost")
	pid := s.mainPID()
	alice := s.must(t, dialer{uid: "alice"})
	burst := func() (refused int) {
		for range 20 {
			if a := alice.send(t, send{channel: "bob", kind: person}, "x"); a.reason != reasonSuccess {
				refused++
			}
		}
		return refused
	}
	if n := burst(); n != 0 {
		t.Fatalf("%d refused without a rate", n)
	}
	s.configure("[net]\nrate = 5\nloops = 2\n")
	s.systemctl("reload", "gatepost")
	s.eventually("the new rate", func() bool { return burst() > 0 })
	s.eventually("the line about what needs a restart", func() bool { return s.said("configuration read again") })
	if state := s.show("ActiveState"); state != "active" {
		t.Errorf("behind the reload the service is %s", state)
	}
	s.configure("[net]\nrate = \"what\"\n")
	s.systemctl("reload", "gatepost")
	s.eventually("the line about the broken file", func() bool { return s.said("configuration not read again, nothing has changed") })
	if state := s.show("ActiveState"); state != "active" || s.mainPID() != pid {
		t.Errorf("behind the broken reload the service is %s", state)
	}
	alice.ping(t)
}

// Eight crashes in a row, which is more than systemd's own limit of starts: each
// time it comes back, with everything that was acknowledged.
func TestInsideKills(t *testing.T) {
	s := install(t, "")
	s.systemctl("start", "gatepost")
	const kills = 8
	acked := 0
	for i := range kills {
		alice := s.must(t, dialer{uid: "alice", device: fmt.Sprint("d", i)})
		for range 50 {
			alice.tell(t, "bob", fmt.Sprint("no-", acked), fmt.Sprint(acked))
			acked++
		}
		pid := s.mainPID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		alice.close()
		s.eventually("the service is back", func() bool {
			now := s.mainPID()
			return now != 0 && now != pid && s.show("ActiveState") == "active"
		})
	}
	if n := s.show("NRestarts"); n != fmt.Sprint(kills) {
		t.Errorf("%s restarts, want %d", n, kills)
	}
	bob := s.must(t, dialer{uid: "bob"})
	for i := range acked {
		if m := bob.nextRecv(t); string(m.payload) != fmt.Sprint(i) {
			t.Fatalf("message %d of %d is %v", i, acked, m)
		}
	}
}

// The sockets are systemd's: nothing runs until the first client comes, one that
// comes while the broker is being restarted waits and is served, and no port is
// the broker's own but that of HTTP.
func TestInsideSockets(t *testing.T) {
	s := install(t, "")
	s.systemctl("start", "gatepost.socket", "gatepost-ws.socket")
	if pid := s.mainPID(); pid != 0 {
		t.Fatalf("process %d runs before anybody came", pid)
	}
	alice := s.must(t, dialer{uid: "alice"})
	bob := s.must(t, dialer{uid: "bob", ws: true})
	alice.tell(t, "bob", "1", "hello")
	if m := bob.nextRecv(t); m.no != "1" {
		t.Errorf("received %v", m)
	}
	if code, text, err := s.call("GET", "/health", nil); code != 200 {
		t.Errorf("GET /health: %d %s %v", code, text, err)
	}
	s.systemctl("stop", "gatepost.service")
	done := make(chan error)
	go func() { // connects at once, and waits for its CONNACK
		c, _, err := s.login(dialer{uid: "carol"})
		if err == nil {
			c.close()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Errorf("a client that came while the broker was away: %v", err)
	}
	s.eventually("the broker is back", func() bool { return s.show("ActiveState") == "active" })

	// What does not fit is refused, and said.
	s.systemctl("stop", "gatepost.socket", "gatepost-ws.socket", "gatepost.service")
	for name, c := range map[string]struct{ socket, want string }{
		"another name": {"ListenStream=127.0.0.1:5300\nFileDescriptorName=mqtt\n", "cannot use the sockets mqtt"},
		"no name":      {"ListenStream=127.0.0.1:5300\n", "cannot use the sockets odd.socket"},
		"a datagram":   {"ListenDatagram=127.0.0.1:5300\nFileDescriptorName=tcp\n", "it is no stream socket"},
		"a local one":  {"ListenStream=/run/odd\nFileDescriptorName=ws\n", "not for TCP"},
		"tls":          {"ListenStream=127.0.0.1:5300\nFileDescriptorName=tls\n", "no certificate"},
		"http for all": {"ListenStream=5300\nFileDescriptorName=http\n", "asks for no token"},
	} {
		s.write(unitDir+"/odd.socket", "[Socket]\nService=gatepost.service\n"+c.socket)
		s.systemctl("daemon-reload")
		s.systemctl("start", "odd.socket")
		s.systemctl("start", "--no-block", "gatepost.service")
		s.eventually(name+" is refused", func() bool { return s.said(c.want) })
		output("systemctl", "stop", "odd.socket", "gatepost.service")
		os.Remove(unitDir + "/odd.socket")
		s.systemctl("daemon-reload")
	}
}

// With HTTP on a socket of systemd that everybody reaches, the token cannot be
// taken away by a reload, whatever the configuration says of the address.
func TestInsideSocketOfHTTP(t *testing.T) {
	s := install(t, "[api]\ntoken_file = \"/etc/gatepost/token\"\n")
	s.write("/etc/gatepost/token", "a-token-of-some-length\n")
	s.write(unitDir+"/odd.socket", "[Socket]\nService=gatepost.service\nListenStream=5301\nFileDescriptorName=http\n")
	t.Cleanup(func() {
		output("systemctl", "stop", "odd.socket")
		os.Remove(unitDir + "/odd.socket")
	})
	s.systemctl("daemon-reload")
	s.systemctl("start", "odd.socket")
	s.systemctl("start", "gatepost.service")
	s.http = "127.0.0.1:5301"
	refused := func() {
		t.Helper()
		if code, text, err := s.call("GET", "/varz", nil); code != 401 {
			t.Errorf("without the token: %d %.100s %v", code, text, err)
		}
	}
	refused()
	s.configure("")
	s.systemctl("reload", "gatepost")
	s.eventually("the reload is refused", func() bool { return s.said("nothing has changed") && s.said("asks for no token") })
	refused()
}

// Lines are in the journal with their fields, events under the ids of the
// documentation, and what is too large for a datagram all the same.
func TestInsideJournal(t *testing.T) {
	s := install(t, "[net]\nrate = 1\n")
	s.systemctl("start", "gatepost")
	ids := documentedEvents(t)
	ready := s.journal("MESSAGE_ID=" + ids["ready"])
	if len(ready) != 1 || ready[0]["SYSLOG_IDENTIFIER"] != "gatepost" || ready[0]["PRIORITY"] != "6" || ready[0]["_TRANSPORT"] != "journal" {
		t.Fatalf("ready: %v", ready)
	}
	if v, _ := ready[0]["VERSION"].(string); !strings.HasPrefix(v, "0.") {
		t.Errorf("ready has VERSION=%q", v)
	}
	var value strings.Builder // of a token file that is not there: the name is in the line
	for range 3000 {
		value.WriteString("/a-very-long-name-of-a-directory-that-does-not-exist-anywhere-on-this-machine")
	}
	s.configure(fmt.Sprintf("[api]\ntoken_file = %q\n", value.String()))
	s.systemctl("reload", "gatepost")
	var failed []map[string]any
	s.eventually("a large line", func() bool {
		failed = s.journal("MESSAGE_ID="+ids["reload-failed"], "PRIORITY=3")
		return len(failed) > 0
	})
	if text, _ := failed[0]["ERR"].(string); len(text) < value.Len() {
		t.Errorf("ERR has %d bytes, want more than %d", len(text), value.Len())
	}
	// The log is damaged while the broker is away.
	alice, carol := s.must(t, dialer{uid: "alice"}), s.must(t, dialer{uid: "carol"})
	alice.tell(t, "bob", "1", "hello")
	carol.tell(t, "bob", "1", "the last group may be an interrupted write, this one proves damage before it")
	s.configure("")
	s.systemctl("stop", "gatepost")
	if n := len(s.journal("MESSAGE_ID=" + ids["stopped"])); n != 1 {
		t.Errorf("%d lines say that it has stopped", n)
	}
	spoil(t, stateDir)
	s.systemctl("start", "gatepost")
	damage := s.journal("MESSAGE_ID=" + ids["damage"])
	if len(damage) == 0 || damage[0]["PRIORITY"] != "4" || damage[0]["FILE"] == nil || damage[0]["REASON"] == nil {
		t.Errorf("damage: %v", damage)
	}
}

// spoil changes a byte of the newest record of the log that says hello.
func spoil(t *testing.T, dir string) {
	t.Helper()
	logs, err := filepath.Glob(dir + "/log/*/*")
	if err != nil || len(logs) == 0 {
		t.Fatalf("%d files of the log, %v", len(logs), err)
	}
	path := logs[len(logs)-1]
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(text, []byte("hello"))
	if at < 0 {
		t.Fatalf("%s has no message", path)
	}
	text[at] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// documentedEvents are the ids of the table in docs/operations.md by event.
func documentedEvents(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("/rig/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		if cells := strings.Split(line, " | "); len(cells) == 4 && len(cells[1]) == 34 {
			ids[strings.TrimPrefix(cells[0], "| ")] = strings.Trim(cells[1], "`")
		}
	}
	if len(ids) < 10 {
		t.Fatalf("%d events in the documentation", len(ids))
	}
	return ids
}

// Token and webhook secret come as credentials, which nobody else can read; one
// that is not there ends the start with a line that says so.
func TestInsideCredentials(t *testing.T) {
	s := install(t, "[api]\ntoken_file = \"credential:api-token\"\n[webhook]\nsecret_file = \"credential:hook\"\n",
		"[Service]\nSetCredential=api-token:a-token-of-some-length\nLoadCredential=hook:/etc/gatepost/hook\n")
	s.write("/etc/gatepost/hook", "a-secret-of-some-length\n")
	if err := os.Chmod("/etc/gatepost/hook", 0o600); err != nil { // root's alone
		t.Fatal(err)
	}
	s.systemctl("start", "gatepost")
	if code, text, err := s.call("GET", "/varz", nil); code != 401 {
		t.Errorf("without the token: %d %.100s %v", code, text, err)
	}
	s.write("/run/token", "a-token-of-some-length\n")
	t.Setenv("GATEPOST_TOKEN_FILE", "/run/token")
	works(t, "channel", "create", "g", "--members", "alice", "--http", s.http)
	s.systemctl("reload", "gatepost")
	s.eventually("reload with credentials", func() bool { return s.said("configuration read again") })
	s.configure("[api]\ntoken_file = \"credential:other\"\n")
	s.systemctl("reload", "gatepost")
	s.eventually("a line about the missing one", func() bool { return s.said("credentials/gatepost.service/other") })
	works(t, "channel", "create", "h", "--members", "alice", "--http", s.http)
}

// guestConfig is patience for guests.
const guestConfig = "[net]\nlogin_timeout = \"60s\"\nidle_timeout = \"10m\"\n[retry]\nfirst = \"4s\"\n"

// systemctl restart keeps 2,000 connections with all that they are in the middle
// of; a kill keeps none, and the service comes back without them.
func TestInsideHotRestart(t *testing.T) {
	s := install(t, guestConfig)
	s.systemctl("start", "gatepost")
	c := gather(t, s.broker, 2000)
	for range 2 {
		pid, at := s.mainPID(), time.Now()
		s.systemctl("restart", "gatepost")
		c.clients[8].ping(t)
		t.Logf("systemctl restart: %v until the first answer, %d connections", time.Since(at).Round(time.Millisecond), len(c.clients)+3)
		if now := s.mainPID(); now == pid || now == 0 {
			t.Fatalf("process %d before and %d behind the restart", pid, now)
		}
		if n := s.show("NFileDescriptorStore"); n != "0" {
			t.Errorf("systemd still keeps %s descriptors", n)
		}
	}
	c.check()
	pid := s.mainPID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.clients[0].closed(t)
	c.clients[1].closed(t)
	s.eventually("the service is back", func() bool {
		now := s.mainPID()
		return now != 0 && now != pid && s.show("ActiveState") == "active"
	})
	s.must(t, dialer{uid: "again"}).ping(t)
}

// An upgrade of the package and the way back, under load: see scripts/inside.sh,
// which has installed the older one. Nobody notices.
func TestPackageUpgradeUnderLoad(t *testing.T) {
	packages := strings.Fields(os.Getenv("GATEPOST_UPGRADES"))
	if len(packages) == 0 {
		t.Skip("this runs in the container of scripts/inside.sh: make inside")
	}
	s := &service{t: t, broker: &broker{t: t, dir: stateDir, tcp: "127.0.0.1:5100", ws: "127.0.0.1:5200", http: "127.0.0.1:5001", log: &logBuffer{}}}
	c := gather(t, s.broker, 2000)
	for _, name := range packages {
		pid, at := s.mainPID(), time.Now()
		command(t, "dpkg", "-i", name)
		c.clients[8].ping(t)
		t.Logf("dpkg -i %s: %v until the first answer behind it", name, time.Since(at).Round(time.Millisecond))
		if now := s.mainPID(); now == pid || now == 0 {
			t.Fatalf("%s: process %d before and %d behind it", name, pid, now)
		}
	}
	c.check()
}
