package cli

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"gatepost/wukong"
)

// liar is a broker in memory without encryption. cheat may change the answers
// to SEND number n (from 0), and what the receiver is pushed for it.
type liar struct {
	t      *testing.T
	ln     net.Listener
	pushes chan wukong.Recv
	cheat  func(n int, a *wukong.Sendack, push *wukong.Recv)
}

func newLiar(t *testing.T, cheat func(int, *wukong.Sendack, *wukong.Recv)) *liar {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &liar{t: t, ln: ln, cheat: cheat, pushes: make(chan wukong.Recv, 1000)}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go l.serve(c)
		}
	}()
	return l
}

func (l *liar) serve(c net.Conn) {
	defer c.Close()
	var in []byte
	buf := make([]byte, 64<<10)
	from := ""
	pushed := false
	n := 0
	for {
		got, err := c.Read(buf)
		if err != nil {
			return
		}
		in = append(in, buf[:got]...)
		var out []byte
		for {
			f, size, err := wukong.Split(in)
			if err != nil {
				return
			}
			if size == 0 {
				break
			}
			switch f.Type {
			case wukong.TypeConnect:
				var hello wukong.Connect
				if hello.Decode(f) != nil {
					return
				}
				from = string(hello.UID)
				ack := wukong.Connack{ServerVersion: 5, Reason: wukong.ReasonSuccess}
				out = ack.Append(out, 5)
				if strings.HasPrefix(from, "kicked") {
					out = (&wukong.Disconnect{Reason: wukong.ReasonConnectKick, Text: []byte("kicked")}).Append(out)
				}
			case wukong.TypeSend:
				var s wukong.Send
				if s.Decode(f, 5) != nil {
					return
				}
				a := wukong.Sendack{ClientSeq: s.ClientSeq, MessageID: int64(n + 1), MessageSeq: uint32(n + 1), Reason: wukong.ReasonSuccess}
				push := wukong.Recv{FromUID: []byte(from), ChannelID: []byte(from), ChannelType: 1, MessageID: int64(n + 1),
					MessageSeq: uint32(n + 1), Payload: bytes.Clone(s.Payload)}
				l.cheat(n, &a, &push)
				out = a.Append(out)
				l.pushes <- push
				n++
			}
			in = in[size:]
		}
		if _, err := c.Write(out); err != nil {
			return
		}
		if !pushed && strings.Contains(from, "-r") { // no push before the CONNACK
			pushed = true
			go func() {
				for push := range l.pushes {
					if push.Payload != nil {
						c.Write(push.Append(nil, 5))
					}
				}
			}()
		}
	}
}

func TestBenchSeesWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		name  string
		cheat func(n int, a *wukong.Sendack, push *wukong.Recv)
		said  string
	}{
		{"nothing", func(int, *wukong.Sendack, *wukong.Recv) {}, ""},
		{"refused", func(n int, a *wukong.Sendack, _ *wukong.Recv) {
			if n == 70 {
				a.Reason = wukong.ReasonSystemError
			}
		}, "refused with reason 15"},
		{"an answer twice", func(n int, a *wukong.Sendack, _ *wukong.Recv) {
			if n == 70 {
				a.ClientSeq--
			}
		}, "got the answer to message 69, expected 70"},
		{"a sequence left out", func(n int, a *wukong.Sendack, _ *wukong.Recv) {
			if n >= 70 {
				a.MessageSeq++
			}
		}, "got sequence 72 behind 70"},
		{"a push with the payload of another", func(n int, _ *wukong.Sendack, p *wukong.Recv) {
			if n == 70 {
				p.Payload[15]++
			}
		}, "expected message 70"},
		{"a push lost", func(n int, _ *wukong.Sendack, p *wukong.Recv) {
			if n == 70 {
				p.Payload = nil
			}
		}, "got message 71"},
		{"a push with another sender", func(n int, _ *wukong.Sendack, p *wukong.Recv) {
			if n == 70 {
				p.FromUID = []byte("mallory")
			}
		}, "from mallory"},
	} {
		l := newLiar(t, c.cheat)
		var said bytes.Buffer
		code := dispatch(context.Background(), []string{"bench", "--addr", l.ln.Addr().String(), "--http", "127.0.0.1:1",
			"--senders", "1", "--messages", "200", "--window", "16"}, Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: &said})
		if c.said == "" && code != 0 || c.said != "" && (code != 1 || !strings.Contains(said.String(), c.said)) {
			t.Errorf("%s: exit code %d, said %q, expected %q", c.name, code, said.String(), c.said)
		}
	}
}
