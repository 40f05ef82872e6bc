package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"gatepost/config"
	"gatepost/wukong"
)

// The users of a selftest are always the same two: each new pair of users takes
// a channel that is never forgotten.
const (
	selftestSender   = "gatepost-selftest-1"
	selftestReceiver = "gatepost-selftest-2"
)

// trial is what a selftest found.
type trial struct {
	OK    bool    `json:"ok"`
	Steps []stage `json:"steps"` // that were done, the one that failed last
	Error string  `json:"error,omitempty"`
}

// stage is one step of it.
type stage struct {
	Name string `json:"name"`
	US   int64  `json:"us"`
}

// selftest makes one message go all the way.
func selftest(ctx context.Context, env Env, args []string) error {
	f := newFlags("selftest", "[flags]", `Tries a running broker: its health, two logins, a message that is sent, durably
acknowledged, received and acknowledged by the receiver. Says how long each took.
Exit code 1: something did not work. The users are `+selftestSender+` and
`+selftestReceiver+`; what they wrote is kept as other messages are.

  gatepost selftest --offline    # of this binary on this machine: a broker of its
                                 # own, in a temporary directory on loopback`)
	addr := f.String("addr", DefaultAddr, "`HOST:PORT` of the broker")
	web := f.http()
	offline := f.Bool("offline", false, "start a broker for it, and touch no other one")
	limit := f.Duration("timeout", 20*time.Second, "`TIME` that all of it may take")
	asJSON := f.Bool("json", false, "print one JSON object")
	if err := f.none(env, args); err != nil {
		return err
	}
	if *limit <= 0 {
		return f.wrong("--timeout is %v, more than 0 is possible", *limit)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, fmt.Errorf("it took longer than %v (--timeout)", *limit))
	defer cancel()
	t := &trial{Steps: []stage{}}
	var err error
	if *offline {
		err = t.alone(ctx, env)
	} else {
		err = t.run(ctx, *addr, *web)
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
	}
	t.OK = err == nil
	if err != nil {
		t.Error = err.Error()
	}
	if *asJSON {
		if e := printJSON(env, t); e != nil {
			return e
		}
	} else {
		for _, s := range t.Steps {
			fmt.Fprintf(env.Stdout, "%-30s %9.3f ms\n", s.Name, float64(s.US)/1000)
		}
		if err == nil {
			_, err = fmt.Fprintln(env.Stdout, "all is well")
		}
	}
	return err
}

// step does one step.
func (t *trial) step(name string, do func() error) error {
	began := time.Now()
	err := do()
	t.Steps = append(t.Steps, stage{name, time.Since(began).Microseconds()})
	return err
}

// run tries the broker at an address.
func (t *trial) run(ctx context.Context, addr, web string) error {
	if err := t.step("health", func() error { return healthy(ctx, web) }); err != nil {
		return err
	}
	var sender, receiver *Client
	login := func(uid string, c **Client) func() error {
		return func() (err error) {
			*c, err = selftestLogin(ctx, addr, web, uid)
			return err
		}
	}
	if err := t.step("login of the receiver", login(selftestReceiver, &receiver)); err != nil {
		return err
	}
	defer receiver.Close()
	if err := t.step("login of the sender", login(selftestSender, &sender)); err != nil {
		return err
	}
	defer sender.Close()
	defer context.AfterFunc(ctx, func() { sender.Close(); receiver.Close() })()

	number, text := randomHex(16), "selftest "+randomHex(16)
	var ack wukong.Sendack
	err := t.step("send, until it is durable", func() error {
		reason, err := selftestSend(sender, number, text, &ack)
		if err == nil && reason == wukong.ReasonNotInWhitelist { // broker.person_allow_list
			allow := map[string]any{"channel_id": selftestReceiver, "channel_type": wukong.ChannelPerson, "uids": []string{selftestSender}}
			if err := ask(ctx, "POST", web, "/channel/whitelist_add", allow, nil, "allow the sender to send"); err != nil {
				return err
			}
			reason, err = selftestSend(sender, number, text, &ack)
		}
		if err == nil && reason != wukong.ReasonSuccess {
			err = fmt.Errorf("cannot send: the broker refused it with reason %d (%v)%s", reason, reason, hint(reason))
		}
		return err
	})
	if err != nil {
		return err
	}
	var r wukong.Recv
	if err := t.step("receive", func() error { return selftestReceive(receiver, number, &r) }); err != nil {
		return err
	}
	switch {
	case string(r.Payload) != text || string(r.FromUID) != selftestSender:
		return fmt.Errorf("what was received is not what was sent: %q from %q, not %q from %q", r.Payload, r.FromUID, text, selftestSender)
	case r.MessageID != ack.MessageID || uint64(r.MessageSeq) != uint64(ack.MessageSeq):
		return fmt.Errorf("what was received has id %d and seq %d, the sender was told %d and %d", r.MessageID, r.MessageSeq, ack.MessageID, ack.MessageSeq)
	}
	// Frames of a connection are taken in order: when the PONG is here, the
	// RECVACK has been taken.
	return t.step("acknowledge", func() error {
		receiver.AppendRecvack(&r)
		receiver.AppendPing()
		if err := receiver.Flush(); err != nil {
			return fmt.Errorf("cannot acknowledge: %w", err)
		}
		_, err := await(receiver, wukong.TypePong, &r)
		return err
	})
}

// healthy is nil if the broker says that it is.
func healthy(ctx context.Context, web string) error {
	status, text, err := call(ctx, "GET", web, "/health", nil)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("the broker is not well: %s", strings.TrimSpace(string(text)))
	}
	return err
}

// selftestLogin logs in, with a token made for this once if it takes one.
func selftestLogin(ctx context.Context, addr, web, uid string) (*Client, error) {
	login := Login{UID: uid, DeviceID: "gatepost-selftest"}
	c, err := Dial(ctx, addr, login)
	var refused *RefusedError
	if !errors.As(err, &refused) || refused.Reason != wukong.ReasonAuthFail {
		return c, err
	}
	login.Token = randomHex(16)
	body := map[string]any{"uid": uid, "token": login.Token, "device_flag": 0, "device_level": 0}
	if err := ask(ctx, "POST", web, "/user/token", body, nil, "set a token for "+uid); err != nil {
		return nil, err
	}
	return Dial(ctx, addr, login)
}

// selftestSend sends and waits for what the broker says.
func selftestSend(c *Client, number, text string, a *wukong.Sendack) (wukong.Reason, error) {
	c.AppendSend(&wukong.Send{
		ChannelID: []byte(selftestReceiver), ChannelType: wukong.ChannelPerson, ClientSeq: 1,
		ClientMsgNo: []byte(number), Payload: []byte(text),
	})
	if err := c.Flush(); err != nil {
		return 0, fmt.Errorf("cannot send: %w", err)
	}
	var r wukong.Recv
	f, err := await(c, wukong.TypeSendack, &r)
	if err != nil {
		return 0, fmt.Errorf("cannot tell whether the message was stored: no SENDACK: %w", err)
	}
	if err := a.Decode(f); err != nil {
		return 0, fmt.Errorf("cannot read the SENDACK: %w", err)
	}
	return a.Reason, nil
}

// selftestReceive waits for the message with a number, and acknowledges those that an
// earlier selftest has left.
func selftestReceive(c *Client, number string, r *wukong.Recv) error {
	for {
		f, err := await(c, wukong.TypeRecv, r)
		if err != nil {
			return fmt.Errorf("cannot receive what was stored: no RECV: %w", err)
		}
		if err := c.Open(f, r); err != nil {
			return err
		}
		if string(r.ClientMsgNo) == number {
			return nil
		}
		c.AppendRecvack(r)
		if err := c.Flush(); err != nil {
			return fmt.Errorf("cannot acknowledge: %w", err)
		}
	}
}

// await returns the next frame of a type. RECVs that come first are acknowledged;
// r is scratch for them.
func await(c *Client, want wukong.Type, r *wukong.Recv) (wukong.Frame, error) {
	for {
		f, err := c.Next()
		switch {
		case err != nil:
			return f, err
		case f.Type == want:
			return f, nil
		case f.Type == wukong.TypeDisconnect:
			return f, fmt.Errorf("%w; does another selftest run?", errEnded)
		case f.Type == wukong.TypeRecv:
			if err := c.Open(f, r); err != nil {
				return f, err
			}
			c.AppendRecvack(r)
			if err := c.Flush(); err != nil {
				return f, err
			}
		}
	}
}

// alone starts a broker and tries that.
func (t *trial) alone(ctx context.Context, env Env) error {
	dir, err := os.MkdirTemp("", "gatepost-selftest-")
	if err != nil {
		return fmt.Errorf("cannot make a data directory: %w", err)
	}
	defer os.RemoveAll(dir)
	const free = "127.0.0.1:0"
	cfg, err := config.Load("", map[string]string{
		"data": filepath.Join(dir, "data"), "tcp": free, "ws": free, "http": free, "log.level": "error",
	})
	if err != nil {
		return err
	}
	runs, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	told, says := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := env.Run(runs, cfg, says)
		says.Close()
		ended <- err
	}()
	at := make(map[string]string) // what it said of itself
	err = t.step("start a broker", func() error {
		lines := bufio.NewScanner(told)
		for lines.Scan() {
			if words := strings.Fields(lines.Text()); len(words) >= 2 {
				at[words[0]] = words[1]
			}
			if strings.HasPrefix(lines.Text(), "ready") {
				return nil
			}
		}
		return errors.New("the broker ended before it was ready")
	})
	go io.Copy(io.Discard, told) // ends with says
	if err == nil {
		err = t.run(ctx, at["tcp"], at["http"])
	}
	stop()
	return errors.Join(err, t.step("stop it", func() error { return <-ended }))
}
