package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// tail prints messages as they are stored.
func tail(ctx context.Context, env Env, args []string) error {
	f := newFlags("tail", "--group ID [--uid ME] [flags]\n--uid ME --to UID [flags]",
		`Prints the messages of a channel as they are stored, until it is interrupted.
Nobody's read position changes. When the broker goes away it waits and goes on
where it was; what is missing is said on standard error. It asks again and again:
for every message at once there is 'gatepost listen'.`)
	addr := f.http()
	uid := f.String("uid", "", "`UID` of one of the two, or of a member of the group")
	to := f.String("to", "", "`UID` of the other one")
	group := f.String("group", "", "`ID` of the group")
	from := f.String("from", "end", "`SEQ|end`: the sequence to begin with, 0 for the oldest; end for what is new")
	interval := f.Duration("interval", time.Second, "`TIME` between two requests when nothing is new")
	count := f.Int("count", 0, "end after `N` messages; 0: never")
	asJSON := f.Bool("json", false, "print one JSON object per message; payloads are base64")
	if err := f.none(env, args); err != nil {
		return err
	}
	q, err := channelQuery(f, *uid, *to, *group)
	if err != nil {
		return err
	}
	seq, err := strconv.ParseUint(*from, 10, 63)
	switch {
	case *from != "end" && err != nil:
		return f.wrong("--from is %q: a sequence, or end", *from)
	case *interval < 10*time.Millisecond:
		return f.wrong("--interval is %v, 10ms and more are possible", *interval)
	case *count < 0:
		return f.wrong("--count is %d, 0 and more are possible", *count)
	}
	t := follower{env: env, json: *asJSON, left: *count, next: seq}
	pause, away, begun := *interval, false, false
	for {
		page, err := t.ask(ctx, *addr, q, *from == "end" && !begun)
		if err == nil {
			if away {
				fmt.Fprintf(env.Stderr, "gatepost tail: the broker answers again, going on with message %d\n", t.next)
			}
			pause, away, begun = *interval, false, true
			before := t.next
			if done, err := t.take(&page); done || err != nil {
				return err
			}
			if page.Next != 0 && t.next > before {
				continue // there is more
			}
		} else {
			var no *failure
			refused := errors.As(err, &no) && no.status < http.StatusInternalServerError
			switch {
			case ctx.Err() != nil:
				return nil
			case !begun, refused:
				return err
			case !away:
				fmt.Fprintf(env.Stderr, "gatepost tail: %v; trying again\n", err)
			}
			away, pause = true, min(max(2*pause, 100*time.Millisecond), 10*time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// follower is a place in a channel.
type follower struct {
	env  Env
	json bool
	left int    // messages to print; 0: no bound
	next uint64 // to print; 0: the oldest
	last uint64 // newest that the broker has spoken of
}

// ask reads a page from t.next on, or only where the end is.
func (t *follower) ask(ctx context.Context, addr string, q url.Values, end bool) (historyPage, error) {
	q.Set("from", strconv.FormatUint(t.next, 10))
	q.Set("limit", "1000")
	if !end {
		return fetchHistory(ctx, addr, q)
	}
	q.Set("from", strconv.FormatUint(1<<63-1, 10)) // nothing is there
	page, err := fetchHistory(ctx, addr, q)
	t.next = page.Last + 1
	return page, err
}

// take prints a page and what is missing in it, and moves on. done: the count is
// reached.
func (t *follower) take(p *historyPage) (done bool, err error) {
	say := func(format string, args ...any) {
		fmt.Fprintf(t.env.Stderr, "gatepost tail: "+format+"\n", args...)
	}
	if p.Last < t.last {
		say("the newest message is %d and was %d: the channel was damaged, or made anew; going on with %d, 'gatepost history' shows what there is", p.Last, t.last, p.Last+1)
		t.next = p.Last + 1
	}
	t.last = p.Last
	if t.next == 0 {
		t.next = max(p.First, 1)
	}
	if t.next < p.First {
		say("messages %d to %d are not kept any more", t.next, p.First-1)
		t.next = p.First
	}
	missing := func(to uint64) {
		if t.next < to {
			say("messages %d to %d are damaged and left out", t.next, to-1)
		}
	}
	for i := range p.Messages {
		m := &p.Messages[i]
		if m.Seq < t.next {
			continue
		}
		missing(m.Seq)
		if err := printHistory(t.env, p.Messages[i:i+1], t.json); err != nil {
			return false, err
		}
		t.next = m.Seq + 1
		if t.left > 0 {
			if t.left--; t.left == 0 {
				return true, nil
			}
		}
	}
	end := p.Next // of what was asked for
	if end == 0 {
		end = p.Last + 1
	}
	if end > t.next {
		missing(end)
		t.next = end
	}
	return false, nil
}
