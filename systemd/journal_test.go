package systemd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// journald is a socket that takes entries apart again.
type journald struct {
	t *testing.T
	*net.UnixConn
}

func newJournald(t *testing.T, path string) *journald {
	t.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	return &journald{t, c}
}

// next returns an entry's fields, and whether it came in a file.
func (j *journald) next() (fields map[string]string, file bool) {
	j.t.Helper()
	p, oob := make([]byte, 1<<20), make([]byte, 1024)
	n, no, _, _, err := j.ReadMsgUnix(p, oob)
	if err != nil {
		j.t.Fatal(err)
	}
	p = p[:n]
	if no > 0 {
		messages, err := syscall.ParseSocketControlMessage(oob[:no])
		if err != nil {
			j.t.Fatal(err)
		}
		fds, err := syscall.ParseUnixRights(&messages[0])
		if err != nil || len(fds) != 1 || n != 0 {
			j.t.Fatalf("%d descriptors, %d bytes, %v", len(fds), n, err)
		}
		f := os.NewFile(uintptr(fds[0]), "entry")
		defer f.Close()
		if _, err := f.WriteAt([]byte{0}, 0); !errors.Is(err, syscall.EPERM) {
			j.t.Errorf("the file is not sealed: %v", err)
		}
		if p, err = io.ReadAll(io.NewSectionReader(f, 0, 1<<30)); err != nil {
			j.t.Fatal(err)
		}
		file = true
	}
	fields = make(map[string]string)
	for len(p) > 0 {
		line, rest, ok := bytes.Cut(p, []byte("\n"))
		if !ok {
			j.t.Fatalf("no end of line in %q", p)
		}
		if name, value, ok := bytes.Cut(line, []byte("=")); ok {
			fields[string(name)], p = string(value), rest
			continue
		}
		size := binary.LittleEndian.Uint64(rest)
		fields[string(line)] = string(rest[8 : 8+size])
		if rest[8+size] != '\n' {
			j.t.Fatalf("no end of %s", line)
		}
		p = rest[8+size+1:]
	}
	return fields, file
}

func TestTheJournalGetsFields(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	d := newJournald(t, path)
	level := new(slog.LevelVar)
	var text bytes.Buffer
	logger := slog.New(NewJournal(JournalOptions{Level: level, Identifier: "gatepost", Fallback: &text, socket: path,
		ID: func(m string) string { return map[string]string{"log damaged": "1234"}[m] }}))
	expect := func(want map[string]string) {
		t.Helper()
		got, _ := d.next()
		want["SYSLOG_IDENTIFIER"] = "gatepost"
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %q\nwant %q", got, want)
		}
	}
	logger.Warn("log damaged", "file", "log/1", "bytes", 12, "reason", "torn: a\nb", "err", errors.New("x y"))
	expect(map[string]string{"MESSAGE": `log damaged file=log/1 bytes=12 reason="torn: a\nb" err="x y"`, "PRIORITY": "4", "MESSAGE_ID": "1234",
		"FILE": "log/1", "BYTES": "12", "REASON": "torn: a\nb", "ERR": "x y"})
	logger.With("loop", 1).WithGroup("net").Error("odd", "_x", "", "message", "m", slog.Group("in", "größe", 3*time.Second))
	expect(map[string]string{"MESSAGE": `odd loop=1 net._x="" net.message=m net.in.größe=3s`, "PRIORITY": "3",
		"LOOP": "1", "NET__X": "", "NET_MESSAGE": "m", "NET_IN_GR__E": "3s"})
	logger.Debug("not yet")
	level.Set(slog.LevelDebug)
	logger.Debug("now", "message", 1, "7", 2)
	expect(map[string]string{"MESSAGE": "now message=1 7=2", "PRIORITY": "7", "X_MESSAGE": "1", "X_7": "2"})

	large := strings.Repeat("stack\n", 200_000)
	logger.Info("large", "stack", large)
	if got, file := d.next(); !file || got["STACK"] != large || got["PRIORITY"] != "6" {
		t.Errorf("a large entry: in a file %v, %d bytes", file, len(got["STACK"]))
	}

	// journald goes away and comes back; what it misses is text.
	d.Close()
	os.Remove(path)
	logger.Info("gone", "a", 1)
	if text.String() != "<6>gone a=1\n" {
		t.Errorf("fallback %q", text.String())
	}
	d = newJournald(t, path)
	logger.Info("back")
	expect(map[string]string{"MESSAGE": "back", "PRIORITY": "6"})
	if strings.Contains(text.String(), "back") {
		t.Error("said twice")
	}
}

func TestTheJournalIsRecognized(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	for stream, want := range map[string]bool{
		fmt.Sprintf("%d:%d", st.Dev, st.Ino):   true,
		fmt.Sprintf("%d:%d", st.Dev, st.Ino+1): false,
		fmt.Sprintf("%d", st.Dev):              false,
		"":                                     false,
	} {
		if got := ToJournal(env("JOURNAL_STREAM", stream), f); got != want {
			t.Errorf("JOURNAL_STREAM=%q: %v", stream, got)
		}
	}
}
