package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatepost/broker"
	"gatepost/diskio"
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
	Lost     atomic.Int64 // that were dropped before it was
	Failing  atomic.Bool  // the last request failed
}

// Webhook tells the application of messages and of who is online. One goroutine
// goes through some channels at a time, each in order, behind a position
// that is stored, and moves on when the application has answered with 2xx: each
// message is told at least once, whatever ends in between. What it holds is one
// page of some channels, however long the application does not answer.
type Webhook struct {
	o       WebhookOptions
	core    *broker.Broker
	log     Proposer
	archive Archive
	app     application
	stats   *WebhookStats
	held    []held // in the order of their times

	began time.Time
	said  atomic.Int64 // ns after began when warn said something last; 0: never
}

// held is a channel whose messages the application does not take, or the disk
// does not give.
type held struct {
	channel *message.Channel
	until   time.Time // then it is tried again
}

// errRefused says that the application was reached and does not take what it was
// told, and would not if it was told again at once.
var errRefused = errors.New("the application refuses it")

const (
	// refusedFor is how many timeouts of a request a channel waits whose messages
	// were refused; the others go on.
	refusedFor   = 3
	unreadFor    = time.Second // that a channel waits whose messages could not be read
	hookChannels = 8           // channels of one round
	hookMessages = 100         // messages of a channel in a round, and of one request
	hookBytes    = 256 << 10   // of them in a channel, but always one message
	statusEvery  = 2 * time.Second
	statusLines  = 1000      // of one request
	statusBytes  = 256 << 10 // of them, but always one line
	backOffFirst = 250 * time.Millisecond
	backOffMost  = time.Minute
)

// NewWebhook returns a webhook; nothing happens before Run.
func NewWebhook(o WebhookOptions, core *broker.Broker, log Proposer, archive Archive) *Webhook {
	h := &Webhook{began: time.Now(), o: o, core: core, log: log, archive: archive, stats: o.Stats, app: newApplication(o.URL, o.Secret, o.Timeout)}
	if h.stats == nil {
		h.stats = new(WebhookStats)
	}
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
		for h.propose([]message.Record{record}) != nil && pause(ctx, time.Second) {
		}
	}
	if h.o.URL == "" {
		return
	}
	defer h.app.client.CloseIdleConnections()
	defer h.stats.Failing.Store(false)
	var due, lapse <-chan time.Time // for who is online
	if h.o.Status {
		lapse = time.After(max(h.o.Timeout, 2*statusEvery)) // who was there before the start is back by then, or went
	}
	ready := func() {
		if due == nil && h.o.Status {
			due = time.After(statusEvery)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.again(ctx):
			continue
		case <-lapse:
			lapse = nil
			if h.core.Lapse(ctx) != nil {
				return
			}
			continue
		case <-due:
			due = nil
			if !h.statuses(ctx) {
				return
			}
			continue
		case <-h.core.HooksReady():
			ready()
		}
		for more := true; more; {
			var err error
			if more, err = h.round(ctx); err != nil {
				return // only the end makes it fail
			}
			select { // however many messages there are, they do not hold up who is online
			case <-due:
				due = nil
				if !h.statuses(ctx) {
					return
				}
			case <-h.core.HooksReady():
				ready()
			default:
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
	told, entries := make([]uint64, len(work)), make([][]stored, len(work))
	results := make([]error, len(work)) // nil, errRefused, one that passes, or the end
	side := func(what func(i int) error) {
		var channels sync.WaitGroup // side by side, each in its order
		for i := range work {
			if results[i] == nil {
				channels.Go(func() { results[i] = what(i) })
			}
		}
		channels.Wait()
	}
	for i := range work {
		told[i], entries[i], results[i] = h.read(&work[i])
	}
	if h.o.Offline {
		side(func(i int) error { return h.offline(ctx, work[i].Channel, entries[i]) })
	}
	if h.o.Notify {
		var all []stored
		for i := range work {
			if results[i] == nil {
				all = append(all, entries[i]...)
			}
		}
		if err := h.notify(ctx, all); errors.Is(err, errRefused) { // it is one of them
			side(func(i int) error { return h.notify(ctx, entries[i]) })
		}
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	var records []message.Record
	for i := range work {
		ch := work[i].Channel
		switch err := results[i]; {
		case errors.Is(err, errRefused):
			h.wait(ch, refusedFor*h.o.Timeout)
			continue
		case err != nil:
			h.wait(ch, unreadFor)
			continue
		}
		h.stats.Messages.Add(int64(len(entries[i])))
		records = append(records, message.Record{Kind: message.KindCursor, ChannelType: ch.Type,
			ChannelID: []byte(ch.ID), MessageID: int64(told[i]), Timestamp: time.Now().UnixMilli(), Payload: message.AppendBorn(nil, ch)})
		if err := h.core.Told(ctx, ch, told[i]); err != nil {
			return false, err
		}
	}
	if len(records) == 0 {
		return true, nil
	}
	if err := h.propose(records); err != nil { // it is told once more after a crash
		h.o.Logger.Debug("positions of the webhook are not in the log", "err", err)
	}
	return true, nil
}

// notify tells of messages, some at a time.
func (h *Webhook) notify(ctx context.Context, all []stored) error {
	for len(all) > 0 {
		n := min(len(all), hookMessages)
		if err := h.post(ctx, EventNotify, all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// again gives back the channels that have waited long enough, and says when the
// next one has.
func (h *Webhook) again(ctx context.Context) (next <-chan time.Time) {
	now := time.Now()
	for len(h.held) > 0 && !now.Before(h.held[0].until) {
		if h.core.Told(ctx, h.held[0].channel, 0) != nil {
			return nil
		}
		h.held = h.held[1:]
	}
	if len(h.held) == 0 {
		h.held = nil
		return nil
	}
	return time.After(h.held[0].until.Sub(now))
}

// wait keeps a channel back for a while.
func (h *Webhook) wait(ch *message.Channel, d time.Duration) {
	w := held{ch, time.Now().Add(d)}
	at, _ := slices.BinarySearchFunc(h.held, w, func(a, b held) int { return a.until.Compare(b.until) })
	h.held = slices.Insert(h.held, at, w)
}

// read returns the next messages of a channel and up to which sequence that is, or
// an error that passes when there are none before what cannot be read now.
func (h *Webhook) read(w *broker.Work) (told uint64, all []stored, err error) {
	page, err := h.archive.Read(w.Channel, w.From, hookMessages, hookBytes)
	defer page.Batch.Release()
	switch diskio.Classify(err) {
	case diskio.OK:
	case diskio.Passing:
		h.warn("cannot read messages for the application; will retry", "channel", w.Channel.ID, "from", page.Next, "err", err)
		if page.Next <= w.From {
			return 0, nil, err
		}
	default:
		h.o.Logger.Error("the application is not told of messages that cannot be read", "channel", w.Channel.ID, "from", w.From, "lost", page.Lost, "err", err)
	}
	if lost := min(page.First, w.Last+1); lost > w.From { // retention was faster
		h.stats.Lost.Add(int64(lost - w.From))
		h.warn("messages were dropped before the application was told of them: store.budget or the rule of their channel is too little for as long as it did not answer", "channel", w.Channel.ID, "from", w.From, "to", lost-1, "so_far", h.stats.Lost.Load())
	}
	found := past{}
	found.take(page, w.Last, 0)
	for i := range found.Messages {
		e := found.Messages[i : i+1]
		shown := message.ShownID([]byte(w.Channel.ID))
		p := place{ID: string(shown), Type: int(w.Channel.Type)}
		if w.Channel.Type == message.ChannelPerson {
			p.ID = string(wukong.PersonPeer(shown, []byte(e[0].From)))
		}
		all = append(all, p.show(e)...)
	}
	// Of a page that brings nothing the channel is gone or its end is lost.
	if told = min(page.Next-1, w.Last); told < w.From {
		told = w.Last
	}
	return told, all, nil
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

// statuses tells who came and went, some at a time. It reports false at the end.
func (h *Webhook) statuses(ctx context.Context) bool {
	for {
		all, err := h.core.Statuses(ctx, statusLines)
		if err != nil {
			return false
		}
		page := len(all)
		for len(all) > 0 {
			var lines []string
			bytes := 0
			for _, s := range all {
				online := 0
				if s.Online {
					online = 1
				}
				l := fmt.Sprintf("%s-%d-%d-%d-%d-%d", s.UID, s.Device, online, s.Conn<<loopBits|uint64(s.Loop), s.Flag, s.Total)
				if bytes += textSize(l) + 1; bytes > statusBytes && len(lines) > 0 {
					break
				}
				lines = append(lines, l)
			}
			if h.post(ctx, EventStatus, lines) != nil {
				return false
			}
			h.toldOf(all[:len(lines)])
			all = all[len(lines):]
		}
		if page < statusLines {
			return true
		}
	}
}

// toldOf notes in the log whom the application takes for online now.
func (h *Webhook) toldOf(all []broker.Status) {
	type device struct {
		uid  string
		flag uint8
	}
	last := make(map[device]int, len(all))
	for i, s := range all {
		last[device{s.UID, s.Device}] = i
	}
	var records []message.Record
	for i, s := range all {
		if last[device{s.UID, s.Device}] != i || s.Told == (s.Flag > 0) {
			continue
		}
		c := message.UserChange{Op: message.OpCame, Token: message.Token{Device: s.Device}}
		if s.Told {
			c.Op = message.OpWent
		}
		records = append(records, message.Record{Kind: message.KindUser, FromUID: []byte(s.UID), Payload: message.AppendUserChange(nil, &c)})
	}
	if len(records) == 0 {
		return
	}
	if err := h.propose(records); err != nil { // after a crash nobody knows whom the application takes for online
		h.o.Logger.Debug("whom the application takes for online is not in the log", "err", err)
	}
}

// post makes a request again and again until it is answered with 2xx. It fails when
// ctx ends, and with errRefused.
func (h *Webhook) post(ctx context.Context, event string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		panic("BUG: an event cannot be written: " + err.Error())
	}
	said := time.Time{}
	for wait := backOffFirst; ; wait = min(2*wait, backOffMost) {
		_, err := h.app.call(ctx, url.Values{"event": {event}}, text, 0)
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
		var answer *statusError
		if event != EventStatus && errors.As(err, &answer) && unfit(answer.status) {
			h.warn("the application refuses messages; their channel waits and is told again, the others go on", "event", event, "err", err)
			return errRefused
		}
		h.stats.Failing.Store(true)
		if now := time.Now(); now.Sub(said) >= backOffMost {
			said = now
			h.o.Logger.Warn("the application is not told: its webhook failed and is tried again; what is behind waits in the store", "event", event, "err", err)
		}
		// Spread, so that many boxes do not come back at the same moment.
		if !pause(ctx, wait/2+rand.N(wait)) {
			return ctx.Err()
		}
	}
}

// unfit says whether a status speaks of what is in a request, not of who makes it
// or of the application.
func unfit(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusRequestEntityTooLarge || status == http.StatusUnprocessableEntity
}

// warn says something once in a while.
func (h *Webhook) warn(text string, args ...any) {
	now := max(1, int64(time.Since(h.began)))
	if said := h.said.Load(); (said == 0 || now-said >= int64(backOffMost)) && h.said.CompareAndSwap(said, now) {
		h.o.Logger.Warn(text, args...)
	}
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
