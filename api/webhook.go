package api

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/wukong"
)

// Events that an application can be told of. Their names and bodies are those of
// the public servers.
const (
	EventOffline = "msg.offline"       // a message has receivers who are not connected
	EventNotify  = "msg.notify"        // messages were stored
	EventStatus  = "user.onlinestatus" // users came and went
)

// WebhookOptions say where and how an application is told.
type WebhookOptions struct {
	URL     string // "": nowhere
	Offline bool   // which events
	Notify  bool
	Status  bool
	Secret  []byte        // for the signature; empty: none
	Timeout time.Duration // of one request
	WasOn   bool          // what the log says of the last start, see broker.HooksOn
	Stats   *WebhookStats // that go on counting; nil: new ones
	Logger  *slog.Logger
}

// WebhookStats counts; readable on any goroutine.
type WebhookStats struct {
	Posts    atomic.Int64 // requests that were answered with 2xx
	Failures atomic.Int64 // those that were not, and are made again
	Messages atomic.Int64 // that the application was told of
	Failing  atomic.Bool  // the last request failed
}

// Webhook tells the application of messages and of who is online: one goroutine,
// one request at a time. It goes through each channel in order, behind a position
// that is stored, and moves on when the application has answered with 2xx: each
// message is told at least once, whatever ends in between. What it holds is one
// page of some channels, however long the application does not answer.
type Webhook struct {
	o       WebhookOptions
	core    *broker.Broker
	log     Proposer
	archive Archive
	client  http.Client
	stats   *WebhookStats
}

const (
	hookChannels = 8         // channels of one round
	hookMessages = 100       // messages of a channel in a round, and of one request
	hookBytes    = 256 << 10 // of them in a channel, but always one message
	statusEvery  = 2 * time.Second
	backOffFirst = 250 * time.Millisecond
	backOffMost  = time.Minute
)

// NewWebhook returns a webhook; nothing happens before Run.
func NewWebhook(o WebhookOptions, core *broker.Broker, log Proposer, archive Archive) *Webhook {
	h := &Webhook{o: o, core: core, log: log, archive: archive, stats: o.Stats}
	if h.stats == nil {
		h.stats = new(WebhookStats)
	}
	h.client = http.Client{Timeout: o.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return h
}

// Stats returns the counters. Any goroutine.
func (h *Webhook) Stats() *WebhookStats { return h.stats }

// Run tells the application until ctx ends.
func (h *Webhook) Run(ctx context.Context) {
	if on := h.o.URL != ""; on != h.o.WasOn {
		record := message.Record{Kind: message.KindHooks, Payload: []byte{0}}
		if on {
			record.Payload[0] = 1
		}
		for h.propose([]message.Record{record}) != nil && h.pause(ctx, time.Second) {
		}
	}
	if h.o.URL == "" {
		return
	}
	defer h.client.CloseIdleConnections()
	defer h.stats.Failing.Store(false)
	var due <-chan time.Time // for who is online
	for {
		select {
		case <-ctx.Done():
			return
		case <-due:
			due = nil
			if !h.statuses(ctx) {
				return
			}
		case <-h.core.HooksReady():
			if due == nil && h.o.Status {
				due = time.After(statusEvery)
			}
			for more := true; more; {
				var err error
				if more, err = h.round(ctx); err != nil {
					return // only the end makes it fail
				}
			}
		}
	}
}

// round tells of some channels that wait; then there may be more.
func (h *Webhook) round(ctx context.Context) (more bool, err error) {
	work, err := h.core.Work(ctx, hookChannels)
	if err != nil || len(work) == 0 {
		return false, err
	}
	var notes []stored
	var records []message.Record
	for i := range work {
		told, entries := h.read(&work[i])
		if h.o.Offline {
			if err := h.offline(ctx, work[i].Channel, entries); err != nil {
				return false, err
			}
		}
		notes = append(notes, entries...)
		records = append(records, message.Record{Kind: message.KindCursor, ChannelType: work[i].Channel.Type,
			ChannelID: []byte(work[i].Channel.ID), MessageID: int64(told), Timestamp: time.Now().UnixMilli()})
	}
	for rest := notes; h.o.Notify && len(rest) > 0; {
		n := min(len(rest), hookMessages)
		if err := h.post(ctx, EventNotify, rest[:n]); err != nil {
			return false, err
		}
		rest = rest[n:]
	}
	h.stats.Messages.Add(int64(len(notes)))
	for i := range work {
		if err := h.core.Told(ctx, work[i].Channel, uint64(records[i].MessageID)); err != nil {
			return false, err
		}
	}
	if err := h.propose(records); err != nil { // it is told once more after a crash
		h.o.Logger.Debug("positions of the webhook are not in the log", "err", err)
	}
	return true, nil
}

// read returns the next messages of a channel and up to which sequence that is.
func (h *Webhook) read(w *broker.Work) (told uint64, all []stored) {
	page, err := h.archive.Read(w.Channel, w.From, hookMessages, hookBytes)
	defer page.Batch.Release()
	if err != nil {
		h.o.Logger.Error("the application is not told of messages that cannot be read", "channel", w.Channel.ID, "from", w.From, "lost", page.Lost, "err", err)
	}
	found := past{}
	found.take(page, w.Last)
	for i := range found.Messages {
		e := found.Messages[i : i+1]
		p := place{ID: w.Channel.ID, Type: int(w.Channel.Type)}
		if w.Channel.Type == message.ChannelPerson {
			p.ID = string(wukong.PersonPeer([]byte(w.Channel.ID), []byte(e[0].From)))
		}
		all = append(all, p.show(e)...)
	}
	// Of a page that brings nothing the channel is gone or its end is lost.
	if told = min(page.Next-1, w.Last); told < w.From {
		told = w.Last
	}
	return told, all
}

// absent is a message with its receivers who are not connected.
type absent struct {
	stored
	To []string `json:"to_uids"`
}

// offline tells of each message that has receivers who are not connected and of
// whom no device acknowledged it.
func (h *Webhook) offline(ctx context.Context, ch *message.Channel, all []stored) error {
	if len(all) == 0 {
		return nil
	}
	away, err := h.core.Absent(ctx, ch)
	if err != nil || len(away) == 0 {
		return err
	}
	for i := range all {
		m := absent{stored: all[i]}
		for _, a := range away {
			if a.Read < m.Seq && a.UID != m.From {
				m.To = append(m.To, a.UID)
			}
		}
		if len(m.To) > 0 {
			if err := h.post(ctx, EventOffline, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// statuses tells who came and went. It reports false at the end.
func (h *Webhook) statuses(ctx context.Context) bool {
	all, err := h.core.Statuses(ctx)
	if err != nil {
		return false
	}
	lines := make([]string, 0, len(all))
	for _, s := range all {
		online := 0
		if s.Online {
			online = 1
		}
		lines = append(lines, fmt.Sprintf("%s-%d-%d-%d-%d-%d", s.UID, s.Device, online, s.Conn<<loopBits|uint64(s.Loop), s.Flag, s.Total))
	}
	return len(lines) == 0 || h.post(ctx, EventStatus, lines) == nil
}

// post makes a request again and again until it is answered with 2xx, and fails
// only when ctx ends.
func (h *Webhook) post(ctx context.Context, event string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		panic("BUG: an event cannot be written: " + err.Error())
	}
	said := time.Time{}
	for wait := backOffFirst; ; wait = min(2*wait, backOffMost) {
		err := h.once(ctx, event, text)
		if err == nil {
			if h.stats.Failing.Swap(false) {
				h.o.Logger.Info("the application answers again", "event", event)
			}
			h.stats.Posts.Add(1)
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		h.stats.Failures.Add(1)
		h.stats.Failing.Store(true)
		if now := time.Now(); now.Sub(said) >= backOffMost {
			said = now
			h.o.Logger.Warn("the application is not told: its webhook failed and is tried again; nothing is lost, what is behind waits", "event", event, "err", err)
		}
		// Spread, so that many boxes do not come back at the same moment.
		if !h.pause(ctx, wait/2+rand.N(wait)) {
			return ctx.Err()
		}
	}
}

func (h *Webhook) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// SignatureHeader says who made a request to a webhook:
//
//	t=<unix seconds>,v1=<hex of HMAC-SHA-256 under the secret of "<t>.<body>">
const SignatureHeader = "X-Gatepost-Signature"

// once makes one request.
func (h *Webhook) once(ctx context.Context, event string, text []byte) error {
	u, err := url.Parse(h.o.URL)
	if err != nil {
		return err
	}
	q := u.Query()
	q.Set("event", event)
	u.RawQuery = q.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(text))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	if len(h.o.Secret) > 0 {
		r.Header.Set(SignatureHeader, sign(h.o.Secret, time.Now().Unix(), text))
	}
	res, err := h.client.Do(r)
	if err != nil {
		var named *url.Error // its text has the whole address, which may have a secret
		if errors.As(err, &named) {
			err = named.Err
		}
		return fmt.Errorf("cannot reach %s: %w", u.Host, err)
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection is used again
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("%s answers %s", u.Host, res.Status)
	}
	return nil
}

func sign(secret []byte, unix int64, text []byte) string {
	m := hmac.New(sha256.New, secret)
	t := strconv.FormatInt(unix, 10)
	m.Write([]byte(t + "."))
	m.Write(text)
	return "t=" + t + ",v1=" + hex.EncodeToString(m.Sum(nil))
}

// propose hands records to the log that nobody waits for.
func (h *Webhook) propose(records []message.Record) error {
	b := message.NewBatch(false)
	for i := range records {
		b.Add(&records[i], message.Origin{})
	}
	err := h.log.Propose(b)
	if err != nil {
		b.Release()
	}
	return err
}
