package cli

import (
	"bytes"
	"strings"
	"testing"

	"gatepost/wukong"
)

// A message that comes again is acknowledged again, and neither printed nor
// counted again.
func TestListenCountsWhatItPrints(t *testing.T) {
	l := newLiar(t, func(int, *wukong.Sendack, *wukong.Recv) {})
	for _, id := range []int64{1, 1, 2, 1, 3} {
		l.pushes <- wukong.Recv{FromUID: []byte("alice"), ChannelID: []byte("alice"), ChannelType: 1, MessageID: id, MessageSeq: uint32(id), Payload: []byte("hello")}
	}
	var out, said bytes.Buffer
	code := dispatch(t.Context(), []string{"listen", "--addr", l.ln.Addr().String(), "--uid", "x-r", "--count", "3"}, Env{Stdout: &out, Stderr: &said})
	if n := strings.Count(out.String(), "\n"); code != 0 || n != 3 || !strings.Contains(out.String(), "seq 3") {
		t.Errorf("exit code %d, %d lines:\n%s%s", code, n, out.String(), said.String())
	}
}

// A DISCONNECT does not say why: another login is one of the reasons, and a ban and
// a token that was taken away are others.
func TestWhoIsDisconnectedIsToldOfEachReason(t *testing.T) {
	l := newLiar(t, func(int, *wukong.Sendack, *wukong.Recv) {})
	addr := l.ln.Addr().String()
	for _, args := range [][]string{
		{"listen", "--addr", addr, "--uid", "kicked"},
		{"send", "--addr", addr, "--uid", "kicked", "--to", "bob", "hello"},
	} {
		_, said, code := does(t, args...)
		if code != exitFailed || !strings.Contains(said, "logged in elsewhere") || !strings.Contains(said, "banned") || !strings.Contains(said, "token") {
			t.Errorf("%q: exit code %d, %s", args, code, said)
		}
	}
}
