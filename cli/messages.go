package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"gatepost/wukong"
)

// answerTime bounds the wait for one answer of the broker.
const answerTime = 30 * time.Second

// sendMessage sends messages, one at a time, each acknowledged before the next.
func sendMessage(ctx context.Context, env Env, args []string) error {
	f := newFlags("send", "--uid ME (--to UID | --group ID) TEXT...\n--uid ME (--to UID | --group ID) < LINES",
		"Sends a message and waits until it is durable. Without TEXT every line of\nstandard input is a message.")
	addr := f.String("addr", DefaultAddr, "`HOST:PORT` of the broker")
	uid := f.String("uid", "", "`UID` of the sender")
	to := f.String("to", "", "`UID` of the receiver")
	group := f.String("group", "", "`ID` of the group")
	volatile := f.Bool("no-persist", false, "do not store it: only who is online gets it")
	asJSON := f.Bool("json", false, "print one JSON object per message")
	device := f.device(0, "the kind of device that the token is for (app)")
	tokenFile := f.tokenFile("the token of --uid")
	words, err := f.parse(env, args)
	if err != nil {
		return err
	}
	switch {
	case *uid == "":
		return f.wrong("--uid is missing")
	case (*to == "") == (*group == ""):
		return f.wrong("give one of --to and --group")
	}
	m := wukong.Send{ChannelID: []byte(*to), ChannelType: wukong.ChannelPerson}
	if *group != "" {
		m.ChannelID, m.ChannelType = []byte(*group), wukong.ChannelGroup
	}
	if *volatile {
		m.Flags |= wukong.FlagNoPersist
	}
	if *tokenFile == "-" && len(words) == 0 {
		return f.wrong("--token-file - and messages cannot both come from standard input")
	}
	token, err := readToken(env, *tokenFile)
	if err != nil {
		return err
	}
	c, err := Dial(ctx, *addr, Login{UID: *uid, Token: token, DeviceFlag: uint8(*device)})
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if len(words) > 0 {
		return sendOne(env, c, &m, strings.Join(words, " "), *asJSON)
	}
	lines := bufio.NewScanner(env.Stdin)
	lines.Buffer(nil, wukong.MaxPayload)
	for lines.Scan() {
		if err := sendOne(env, c, &m, lines.Text(), *asJSON); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("cannot read standard input: %w", err)
	}
	return nil
}

func sendOne(env Env, c *Client, m *wukong.Send, text string, asJSON bool) error {
	m.ClientSeq++
	m.ClientMsgNo = []byte(randomHex(16))
	m.Payload = []byte(text)
	m.MsgKey = nil
	c.SetDeadline(time.Now().Add(answerTime))
	c.AppendSend(m)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("cannot send: %w", err)
	}
	for {
		f, err := c.Next()
		if err != nil {
			return fmt.Errorf("cannot tell whether the message was stored: no SENDACK: %w", err)
		}
		switch f.Type {
		case wukong.TypeSendack:
			var a wukong.Sendack
			if err := a.Decode(f); err != nil {
				return fmt.Errorf("cannot read the SENDACK: %w", err)
			}
			if a.ClientSeq != m.ClientSeq {
				continue
			}
			if a.Reason != wukong.ReasonSuccess {
				return fmt.Errorf("cannot send to %s: the broker refused it with reason %d (%v)%s", m.ChannelID, a.Reason, a.Reason, hint(a.Reason))
			}
			if asJSON {
				return printJSON(env, map[string]any{"message_seq": a.MessageSeq, "message_id": a.MessageID, "client_msg_no": string(m.ClientMsgNo)})
			}
			_, err = fmt.Fprintf(env.Stdout, "sent seq %d id %d\n", a.MessageSeq, a.MessageID)
			return err
		case wukong.TypeDisconnect:
			return fmt.Errorf("cannot send: %w", errEnded)
		}
		// A RECV for the sender is not acknowledged here: its own device gets
		// it later.
	}
}

func hint(r wukong.Reason) string {
	switch r {
	case wukong.ReasonSubscriberNotExist:
		return "; is there such a group, and is --uid a member? See 'gatepost channel --help'"
	case wukong.ReasonSystemError:
		return "; the log takes nothing, is the disk full? See 'gatepost status'"
	case wukong.ReasonRateLimit:
		return "; this connection sends more than net.rate allows"
	}
	return ""
}

// listen prints what a user receives, and acknowledges it.
func listen(ctx context.Context, env Env, args []string) error {
	f := newFlags("listen", "--uid ME [flags]", "Prints the messages a user receives and acknowledges them. When the broker goes\naway it connects again, unless the first connect failed.")
	addr := f.String("addr", DefaultAddr, "`HOST:PORT` of the broker")
	uid := f.String("uid", "", "`UID` of the receiver")
	device := f.device(0, "the kind of device (app); each has its own read position")
	tokenFile := f.tokenFile("the token of --uid")
	count := f.Int("count", 0, "end after `N` messages; 0: never")
	once := f.Bool("no-reconnect", false, "end when the connection ends")
	asJSON := f.Bool("json", false, "print one JSON object per message")
	if err := f.none(env, args); err != nil {
		return err
	}
	if *uid == "" {
		return f.wrong("--uid is missing")
	}
	token, err := readToken(env, *tokenFile)
	if err != nil {
		return err
	}
	l := listenState{env: env, left: *count, json: *asJSON, seen: make(map[int64]struct{})}
	login := Login{UID: *uid, Token: token, DeviceFlag: uint8(*device)}
	pause := 100 * time.Millisecond
	for first := true; ; first = false {
		c, err := Dial(ctx, *addr, login)
		if err == nil {
			pause = 100 * time.Millisecond
			err = l.run(ctx, c)
			c.Close()
		}
		var refused *RefusedError
		switch {
		case ctx.Err() != nil, err == nil:
			return nil
		case first && l.connects == 0, errors.As(err, &refused), *once, errors.Is(err, errEnded):
			return err
		}
		fmt.Fprintf(env.Stderr, "gatepost listen: %v; connecting again\n", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, 10*time.Second)
	}
}

// errEnded is what a DISCONNECT means; it does not say which.
var errEnded = errors.New("the broker ended the connection: the user logged in elsewhere, was kicked or banned, or lost the token; 'gatepost channel info UID --type 1' says whether there is a ban")

// maxSeen bounds the ids by which listen knows messages that come again.
const maxSeen = 100_000

type listenState struct {
	env      Env
	left     int
	json     bool
	connects int
	seen     map[int64]struct{}
}

// run prints until the connection ends. nil: the count is reached.
func (l *listenState) run(ctx context.Context, c *Client) error {
	l.connects++
	defer context.AfterFunc(ctx, func() { c.Close() })()
	var r wukong.Recv
	for {
		f, ok, err := c.Take()
		if err != nil {
			return err
		}
		if !ok {
			if err := c.Flush(); err != nil {
				return fmt.Errorf("cannot acknowledge: %w", err)
			}
			c.SetReadDeadline(time.Now().Add(time.Minute))
			if err := c.Read(); isTimeout(err) && ctx.Err() == nil {
				c.AppendPing()
			} else if err != nil {
				return fmt.Errorf("cannot receive: %w", err)
			}
			continue
		}
		switch f.Type {
		case wukong.TypeDisconnect:
			return fmt.Errorf("cannot go on listening: %w", errEnded)
		case wukong.TypeRecv:
			if err := c.Open(f, &r); err != nil {
				return err
			}
			printed, err := l.print(&r)
			if err != nil {
				return err
			}
			c.AppendRecvack(&r) // printed, so it may be forgotten
			if printed && l.left > 0 {
				if l.left--; l.left == 0 {
					return c.Flush()
				}
			}
		}
	}
}

// print prints a message, unless it was printed before.
func (l *listenState) print(r *wukong.Recv) (printed bool, err error) {
	if _, again := l.seen[r.MessageID]; again {
		return false, nil
	}
	if len(l.seen) >= maxSeen {
		clear(l.seen)
	}
	l.seen[r.MessageID] = struct{}{}
	if l.json {
		err = json.NewEncoder(l.env.Stdout).Encode(map[string]any{
			"from": string(r.FromUID), "channel_id": string(r.ChannelID), "channel_type": r.ChannelType,
			"message_id": r.MessageID, "message_seq": r.MessageSeq, "timestamp": r.Timestamp, "payload": string(r.Payload),
		})
	} else {
		_, err = fmt.Fprintf(l.env.Stdout, "%s  %s  seq %d  %s\n", r.FromUID, r.ChannelID, r.MessageSeq, r.Payload)
	}
	if err != nil {
		return false, fmt.Errorf("cannot print: %w", err)
	}
	return true, nil
}
