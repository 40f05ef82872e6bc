package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An operator's day at a box with tokens: each command does what it says to clients
// that are connected.
func TestDailyCommands(t *testing.T) {
	b := start(t, plain, set("session.token_auth", "true"))
	dir := t.TempDir()
	at := func(args ...string) string {
		t.Helper()
		return works(t, append(args, "--http", b.http)...)
	}
	refused := func(want string, args ...string) {
		t.Helper()
		if out, said, code := gatepost(t, append(args, "--http", b.http)...); code != 1 || out != "" || !strings.Contains(said, want) {
			t.Errorf("gatepost %s: exit code %d, want 1 and %q\n%s%s", strings.Join(args, " "), code, want, out, said)
		}
	}
	prints := func(want string, args ...string) {
		t.Helper()
		if out := at(args...); out != want {
			t.Errorf("gatepost %s prints\n%swant\n%s", strings.Join(args, " "), out, want)
		}
	}

	phone := filepath.Join(dir, "phone")
	if err := os.WriteFile(phone, []byte(at("user", "token", "alice")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "web"), []byte("for the web\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at("user", "token", "alice", "--device", "web", "--level", "master", "--token-file", filepath.Join(dir, "web"))
	at("channel", "create", "g", "--members", "alice,bob")
	send := func(text string) (string, int) {
		out, said, code := gatepost(t, "send", "--addr", b.tcp, "--uid", "alice", "--token-file", phone, "--group", "g", text)
		return out + said, code
	}
	may := func(want string) {
		t.Helper()
		if said, code := send("x"); (code == 0) != (want == "") || !strings.Contains(said, want) {
			t.Errorf("a message to g: exit code %d, want %q; %s", code, want, said)
		}
	}
	may("")
	for _, c := range []struct{ do, reason, undo string }{
		{"channel deny g --members alice", "reason 4 ", "channel undeny g --members alice"},
		{"channel allow g --members bob", "reason 13 ", "channel disallow g --all"},
		{"channel info g --ban", "reason 19 ", "channel info g --no-ban"},
		{"channel info g --disband", "reason 24 ", "channel info g --no-disband"},
		{"channel info alice --type 1 --send-ban", "reason 25 ", "channel info alice --type 1 --no-send-ban"},
		{"channel remove g --members alice", "reason 3 ", "channel add g --members alice"},
	} {
		at(strings.Fields(c.do)...)
		may(c.reason)
		at(strings.Fields(c.undo)...)
		may("")
	}
	at("channel", "info", "g", "--large")
	at("channel", "info", "g", "--ban")
	b.again()
	var info map[string]any
	if err := json.Unmarshal([]byte(at("channel", "info", "g", "--json")), &info); err != nil || info["large"] != 1.0 || info["ban"] != 1.0 || info["disband"] != 0.0 || info["members"] != 2.0 {
		t.Errorf("info of g: %v, %v", info, err)
	}
	at("channel", "add", "g", "--members", "guest", "--temp")
	at("channel", "deny", "g", "--members", "bob")
	prints("member   alice\nmember   bob\nmember   guest\ndenied   bob\n", "channel", "lists", "g")
	prints(`{"allowed":[],"channel_id":"g","channel_type":2,"denied":["bob"],"members":["alice","bob","guest"]}`+"\n", "channel", "lists", "g", "--json")
	refused("there is no channel", "channel", "lists", "slip")
	refused("gatepost channel create", "channel", "deny", "slip", "--members", "bob")
	refused("there is no channel", "channel", "info", "slip")

	tab := b.must(t, dialer{uid: "alice", token: "for the web", flag: 1, device: "tab"})
	prints("alice  online  web\nbob  offline\n", "user", "online", "alice", "bob")
	prints(`{"device_flags":[1],"online":true,"uid":"alice"}`+"\n", "user", "online", "alice", "--json")
	var line struct {
		ID     int64
		UID    string
		Device int `json:"device_flag"`
		Level  int `json:"device_level"`
	}
	if err := json.Unmarshal([]byte(at("connections", "--json")), &line); err != nil || line.UID != "alice" || line.Device != 1 || line.Level != 1 {
		t.Errorf("connections: %+v, %v", line, err)
	}
	refused(`"alice" has none`, "kick", "alice", "--conn", fmt.Sprint(line.ID+16))
	prints("ended 1\n", "kick", "alice", "--conn", fmt.Sprint(line.ID))
	if reason := tab.closed(t); reason != reasonKick {
		t.Errorf("kicked: DISCONNECT reason %d", reason)
	}
	tab = b.must(t, dialer{uid: "alice", token: "for the web", flag: 1, device: "tab"})
	at("user", "quit", "alice", "--device", "web")
	tab.closed(t)
	if c, _, err := b.login(dialer{uid: "alice", token: "for the web", flag: 1}); err != nil || c != nil {
		t.Errorf("the token of a device that quit: logged in %t, %v", c != nil, err)
	}
	prints("", "connections")

	at("user", "system", "add", "robot", "root")
	at("user", "system", "remove", "root")
	prints("robot\n", "user", "system", "list")
	at("channel", "info", "g", "--no-ban")
	at("channel", "create", "h", "--members", "alice,bob")
	var talk struct {
		ID     string `json:"channel_id"`
		Unread int
	}
	if err := json.Unmarshal([]byte(at("user", "conversations", "bob", "--unread", "--json")), &talk); err != nil || talk.ID != "g" || talk.Unread != 7 {
		t.Errorf("bob's conversations: %+v, %v", talk, err)
	}
	if out := at("history", "--group", "g", "--limit", "2"); strings.Count(out, "alice  x\n") != 2 {
		t.Errorf("history of g without a uid: %s", out)
	}
	at("channel", "delete", "g")
	refused("there is none of type 2", "channel", "delete", "g")
	b.stop()
	refused("is it running", "user", "online", "alice")
}

// tail prints each message once, through a kill and a start of the broker, and says
// where it was.
func TestTailAcrossRestarts(t *testing.T) {
	b := start(t, plain, fixedPorts(t))
	b.channel("g", "alice", "bob")
	alice := b.must(t, dialer{uid: "alice"})
	say := func(from, to int) {
		t.Helper()
		for i := from; i <= to; i++ {
			if a := alice.send(t, send{channel: "g", kind: group, no: fmt.Sprint(i)}, fmt.Sprint("m", i)); a.reason != reasonSuccess {
				t.Fatalf("SENDACK %+v", a)
			}
		}
	}
	say(1, 5)
	all := background(t, "tail", "--group", "g", "--from", "0", "--interval", "10ms", "--json", "--http", b.http)
	fresh := background(t, "tail", "--uid", "bob", "--to", "alice", "--from", "1", "--interval", "10ms", "--http", b.http)
	next := 1
	hears := func(to int) {
		t.Helper()
		for ; next <= to; next++ {
			var m struct {
				Seq     int `json:"message_seq"`
				Payload []byte
			}
			if err := json.Unmarshal([]byte(all.hears(t, "{")), &m); err != nil || m.Seq != next || string(m.Payload) != fmt.Sprint("m", next) {
				t.Fatalf("printed %+v, %v, want message %d", m, err, next)
			}
		}
	}
	hears(5)
	say(6, 8)
	hears(8)
	b.kill()
	all.says(t, "trying again")
	b.start()
	alice = b.must(t, dialer{uid: "alice"})
	say(9, 12)
	hears(12)
	all.says(t, "answers again, going on with message 9")
	alice.tell(t, "bob", "p1", "for bob")
	fresh.hears(t, "alice", "for bob")
	for _, l := range []*listener{all, fresh} {
		l.cmd.Process.Signal(syscall.SIGINT)
		if err := l.cmd.Wait(); err != nil {
			t.Errorf("tail after an interrupt: %v\n%s", err, l.said.String())
		}
	}
}

// Every command of the section on daily work is what it says: they are carried out
// in turn.
func TestOperationsOfEveryDay(t *testing.T) {
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Every day\n")
	section, _, _ = strings.Cut(section, "\n## ")
	if !found {
		t.Fatal("there is no section")
	}
	b := start(t, plain)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "web.token"), []byte("for the web\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.must(t, dialer{uid: "bob"})
	b.must(t, dialer{uid: "alice"}).tell(t, "bob", "n", "hello")
	ran := 0
	for line := range strings.Lines(section) {
		command, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), "    gatepost ")
		if !ok {
			continue
		}
		ran++
		command, _, _ = strings.Cut(command, "  #")
		command, file, redirected := strings.Cut(command, " > ")
		command = strings.TrimSpace(command)
		words := strings.Fields(command)
		help := works(t, append([]string{"help"}, words[:min(3, len(words))]...)...)
		for flag, value := range map[string]string{"--http": b.http, "--addr": b.tcp} {
			if strings.Contains(help, "  "+flag+" ") {
				command += " " + flag + " " + value
			}
		}
		if words[0] == "tail" { // else it does not end
			command += " --from 0 --count 1"
		}
		ctx, cancel := context.WithTimeout(t.Context(), never/4)
		cmd := exec.CommandContext(ctx, "sh", "-c", `exec "$0" `+command, binPath)
		cmd.Dir = dir
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output()
		cancel()
		if err != nil || len(out) == 0 || said.Len() > 0 {
			t.Errorf("gatepost %s: %v, prints %d bytes and says\n%s", command, err, len(out), said.String())
		}
		if redirected {
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(strings.TrimSpace(file))), out, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if ran < 30 {
		t.Errorf("%d commands are in the section", ran)
	}
}

// says waits until a command has said something on standard error.
func (l *listener) says(t testing.TB, text string) {
	t.Helper()
	for end := time.Now().Add(never); !strings.Contains(l.said.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not say %q:\n%s", text, l.said.String())
		}
	}
}
