package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"
)

// history prints messages that a broker keeps.
func history(ctx context.Context, env Env, args []string) error {
	f := newFlags("history", "--uid ME --to UID [flags]\n--group ID [--uid ME] [flags]",
		"Prints the messages of a channel that are kept, the oldest first. With --down it\nprints the last ones in front of --from instead of the first ones behind it.")
	addr := f.String("http", DefaultHTTP, "`HOST:PORT` of the broker's HTTP")
	uid := f.String("uid", "", "`UID` of one of the two, or of a member of the group")
	to := f.String("to", "", "`UID` of the other one")
	group := f.String("group", "", "`ID` of the group")
	from := f.Uint64("from", 0, "sequence to begin with; 0: the oldest, with --down the newest")
	limit := f.Int("limit", 100, "`N` messages at most; 0: all")
	down := f.Bool("down", false, "go from --from towards the oldest")
	id := f.Int64("message-id", 0, "print only the message with this id")
	no := f.String("client-msg-no", "", "print only the message with this `NUMBER`")
	asJSON := f.Bool("json", false, "print one JSON object per message; payloads are base64")
	if err := f.none(env, args); err != nil {
		return err
	}
	q, err := channelQuery(f, *uid, *to, *group)
	switch {
	case err != nil:
		return err
	case *limit < 0:
		return f.wrong("--limit is %d, 0 and more are possible", *limit)
	}
	set := func(name, value string) {
		if value != "" && value != "0" {
			q.Set(name, value)
		}
	}
	set("message_id", strconv.FormatInt(*id, 10))
	set("client_msg_no", *no)
	if *down {
		q.Set("order", "down")
	}
	var pages [][]message // going down the newest come first
	left, next, lost := *limit, *from, 0
	for {
		set("from", strconv.FormatUint(next, 10))
		const most = 1000
		n := most
		if *limit > 0 {
			n = min(left, most)
		}
		q.Set("limit", strconv.Itoa(n))
		page, err := fetchHistory(ctx, *addr, q)
		if err != nil {
			return err
		}
		lost += page.Lost
		left -= len(page.Messages) + page.Lost
		if *down {
			pages = append(pages, page.Messages)
		} else if err := printHistory(env, page.Messages, *asJSON); err != nil {
			return err
		}
		if next = page.Next; next == 0 || *limit > 0 && left <= 0 {
			break
		}
	}
	for i := len(pages) - 1; i >= 0; i-- {
		if err := printHistory(env, pages[i], *asJSON); err != nil {
			return err
		}
	}
	if lost > 0 {
		fmt.Fprintf(env.Stderr, "gatepost history: %d messages of this stretch are damaged and left out\n", lost)
	}
	return nil
}

// channelQuery returns the parameters that name a channel: the pair of uid and to,
// or a group, that uid must be a member of, if it is there.
func channelQuery(f *flags, uid, to, group string) (url.Values, error) {
	q := url.Values{}
	switch {
	case (to == "") == (group == ""):
		return nil, f.wrong("give one of --to and --group")
	case to != "" && uid == "":
		return nil, f.wrong("--uid is missing: the other one of the pair")
	case to != "":
		q.Set("to", to)
	default:
		q.Set("group", group)
	}
	if uid != "" {
		q.Set("uid", uid)
	}
	return q, nil
}

// message is one message of an answer, historyPage an answer of /history.
type message struct {
	Seq         uint64 `json:"message_seq"`
	ID          int64  `json:"message_id"`
	From        string `json:"from_uid"`
	ClientMsgNo string `json:"client_msg_no"`
	Timestamp   int64  `json:"timestamp"`
	Expire      uint32 `json:"expire,omitempty"`
	Topic       string `json:"topic,omitempty"`
	Payload     []byte `json:"payload"`
}

type historyPage struct {
	First    uint64    `json:"first_seq"` // that is kept
	Last     uint64    `json:"last_seq"`
	Next     uint64    `json:"next_seq"` // 0: there is no more
	Lost     int       `json:"lost"`
	Messages []message `json:"messages"`
}

func fetchHistory(ctx context.Context, addr string, q url.Values) (page historyPage, err error) {
	err = ask(ctx, "GET", addr, "/history?"+q.Encode(), nil, &page, "read history")
	return page, err
}

func printHistory(env Env, messages []message, asJSON bool) error {
	for i := range messages {
		m := &messages[i]
		var err error
		if asJSON {
			err = json.NewEncoder(env.Stdout).Encode(m)
		} else {
			_, err = fmt.Fprintf(env.Stdout, "%d  %s  %s  %s\n", m.Seq, time.UnixMilli(m.Timestamp).Format("2006-01-02 15:04:05"), m.From, m.Payload)
		}
		if err != nil {
			return fmt.Errorf("cannot print: %w", err)
		}
	}
	return nil
}
