package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/queue"
)

// DatasourceOptions say where and how the application is asked.
type DatasourceOptions struct {
	URL     string        // "": nowhere
	Secret  []byte        // for the signature; empty: none
	Timeout time.Duration // of one request
	MaxAge  time.Duration // of what was answered; 0: for ever
}

// DatasourceStats counts; readable on any goroutine.
type DatasourceStats struct {
	Requests atomic.Int64 // that were answered with 2xx
	Failures atomic.Int64 // that were not
	Changes  atomic.Int64 // channels of which an answer was new
	Failing  atomic.Bool  // the application was not reached when it was asked last
}

// Datasource asks the application who is in a channel, and who may send to it. The
// commands and their bodies are those of the public servers. What it answers
// becomes records of the log: it holds across restarts, and for as long as the
// application cannot be reached.
//
// A channel is asked for when the first message to it comes, which waits, and
// again when what was answered is old and one more message comes, which does not.
// One goroutine owns all that is known of inquiries; each is made in one of its own.
type Datasource struct {
	o      DatasourceOptions
	server *Server
	app    application
	log    *slog.Logger
	stats  DatasourceStats
	inbox  *queue.Queue[inquiry]

	// Of the goroutine of Run.
	running  int
	busy     map[place]*asking   // that wait for their turn or for an answer
	lines    map[string]*line    // by user who sent to them
	turns    []string            // users with somebody in line, the next one first
	denied   map[place]time.Time // until when they are not asked for again
	quiet    time.Time           // until then the application is not asked at all
	wait     time.Duration       // the next such pause
	outboxes []broker.Outbox
}

// inquiry is what comes in: somebody wants to know of a channel, or an answer.
type inquiry struct {
	of   place
	uid  string // who sent a message to it
	conn uint64 // that waits; 0: nobody does
	loop uint16

	answered bool
	err      error
}

// asking is a channel that the application is asked for.
type asking struct {
	who   []inquiry // that wait for the answer
	asked bool      // its turn has come
}

// line is what one user wants to be asked for. Each has a line of their own and a
// share of what is asked at a time, so that nobody holds up others.
type line struct {
	places  []place
	running int
}

const (
	maxInquiries  = 4    // at a time
	maxShare      = 2    // of them for one user
	maxInLine     = 1024 // inquiries that wait for their turn
	maxOwnLine    = 32   // of them of one user
	maxDenied     = 10_000
	deniedFor     = 10 * time.Second // how long "there is no such channel" holds
	quietFirst    = time.Second
	quietMost     = time.Minute
	maxAnswer     = 8 << 20 // bytes
	systemsAgain  = 10 * time.Second
	cmdInfo       = "getChannelInfo"
	cmdMembers    = "getSubscribers"
	cmdDeny       = "getBlacklist"
	cmdAllow      = "getWhitelist"
	cmdSystemUIDs = "getSystemUIDs"
)

// errNobody says that the application was asked and knows of no such channel.
var errNobody = errors.New("the application names nobody in it")

func newDatasource(o DatasourceOptions, s *Server) *Datasource {
	return &Datasource{
		o: o, server: s, app: newApplication(o.URL, o.Secret, o.Timeout), log: s.o.Logger,
		inbox: queue.New(maxInLine, 0, func(q *inquiry) int {
			if q.answered {
				return 0 // there are as many as are asked
			}
			return 1
		}),
		busy: make(map[place]*asking), lines: make(map[string]*line), denied: make(map[place]time.Time),
	}
}

// Stats returns the counters. Any goroutine.
func (d *Datasource) Stats() *DatasourceStats { return &d.stats }

// Inquire is called with every message that nothing else stands against, with who
// sent it. It reports whether the message waits until a Known comes for the
// connection: then its channel is there, or is not to be had. Any goroutine.
func (d *Datasource) Inquire(typ uint8, channelID []byte, uid string, conn uint64, loop uint16, now time.Time) bool {
	switch known, due := d.server.core.Access().Due(typ, channelID, now, d.o.MaxAge); {
	case !known:
		return d.inbox.Push(inquiry{of: place{ID: string(channelID), Type: int(typ)}, uid: uid, conn: conn, loop: loop}) == nil
	case due: // if there are too many, it is asked for when it is due again
		_ = d.inbox.Push(inquiry{of: place{ID: string(channelID), Type: int(typ)}, uid: uid})
	}
	return false
}

// Run asks until ctx ends. out are all outboxes.
func (d *Datasource) Run(ctx context.Context, out []broker.Outbox) {
	d.outboxes = out
	defer d.app.client.CloseIdleConnections()
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { d.systems(ctx) })
	stop := context.AfterFunc(ctx, d.inbox.Close)
	defer stop()
	var got []inquiry
	for {
		var ok bool
		if got, ok = d.inbox.PopBatch(got[:0], 64, 0); !ok {
			return
		}
		for i := range got {
			if got[i].answered {
				d.running--
				if l := d.lines[got[i].uid]; l != nil {
					l.running--
					d.forget(got[i].uid, l)
				}
				d.settle(got[i].of, got[i].err)
			} else {
				d.note(got[i])
			}
		}
		clear(got)
		for d.running < maxInquiries {
			of, uid, ok := d.next()
			if !ok {
				break
			}
			d.running++
			all.Go(func() { _ = d.inbox.Push(inquiry{of: of, uid: uid, answered: true, err: d.learn(ctx, of)}) })
		}
	}
}

// next takes the channel whose turn it is: users take turns, those who have their
// share are passed over.
func (d *Datasource) next() (of place, uid string, ok bool) {
	for range len(d.turns) {
		uid := d.turns[0]
		d.turns = d.turns[1:]
		l := d.lines[uid]
		if l.running >= maxShare {
			d.turns = append(d.turns, uid)
			continue
		}
		for len(l.places) > 0 && !ok {
			of = l.places[0]
			l.places = l.places[1:]
			w := d.busy[of] // nil: it was asked for in another's line, and answered
			if ok = w != nil && !w.asked; ok {
				w.asked = true
				l.running++
			}
		}
		if len(l.places) > 0 {
			d.turns = append(d.turns, uid)
		}
		if d.forget(uid, l); ok {
			return of, uid, true
		}
	}
	return place{}, "", false
}

// forget drops a line in which nobody is.
func (d *Datasource) forget(uid string, l *line) {
	if l.running == 0 && len(l.places) == 0 {
		delete(d.lines, uid)
	}
}

// enqueue puts a channel at the end of a user's line. It reports false if there are
// too many in it, or in all lines together.
func (d *Datasource) enqueue(of place, uid string) bool {
	l := d.lines[uid]
	if l == nil {
		l = new(line)
	}
	if len(l.places) >= maxOwnLine || len(d.busy) >= maxInLine {
		return false
	}
	if len(l.places) == 0 {
		d.turns = append(d.turns, uid)
	}
	l.places = append(l.places, of)
	d.lines[uid] = l
	return true
}

// note puts a channel in line, or answers at once.
func (d *Datasource) note(q inquiry) {
	if w := d.busy[q.of]; w != nil {
		if q.conn != 0 {
			w.who = append(w.who, q)
			if !w.asked { // it may be far behind in the line of another
				d.enqueue(q.of, q.uid)
			}
		}
		return
	}
	now := time.Now()
	_, known := d.server.core.Access().Members(uint8(q.of.Type), q.of.ID)
	if known && q.conn != 0 || now.Before(d.denied[q.of]) || now.Before(d.quiet) {
		d.tell(q)
		return
	}
	if !d.enqueue(q.of, q.uid) {
		d.tell(q)
		return
	}
	w := new(asking)
	if q.conn != 0 {
		w.who = []inquiry{q}
	}
	d.busy[q.of] = w
}

// settle ends an inquiry.
func (d *Datasource) settle(of place, err error) {
	now := time.Now()
	var apart *reachError
	if unreached := errors.As(err, &apart); unreached != d.stats.Failing.Swap(unreached) {
		if unreached {
			d.log.Warn("the application cannot be asked for channels; those that are known go on, messages to others are refused until it answers", "channel", of.ID, "type", of.Type, "err", err)
		} else {
			d.log.Info("the application answers again when it is asked for channels")
			d.quiet, d.wait = time.Time{}, 0
		}
	}
	switch {
	case err == nil:
		delete(d.denied, of)
	case apart == nil:
		deny(d.denied, of, now)
		d.log.Debug("the application was asked for a channel in vain", "channel", of.ID, "type", of.Type, "err", err)
	case !now.Before(d.quiet): // the first of those that failed together
		d.wait = min(max(2*d.wait, quietFirst), quietMost)
		d.quiet = now.Add(d.wait)
	}
	if w := d.busy[of]; w != nil {
		for _, q := range w.who {
			d.tell(q)
		}
	}
	delete(d.busy, of)
}

// deny notes that there is no such channel. When there are too many of them, those
// that are over are forgotten, or all.
func deny(denied map[place]time.Time, of place, now time.Time) {
	if len(denied) >= maxDenied {
		maps.DeleteFunc(denied, func(_ place, until time.Time) bool { return !now.Before(until) })
	}
	if len(denied) >= maxDenied {
		clear(denied)
	}
	denied[of] = now.Add(deniedFor)
}

// tell lets a message go on.
func (d *Datasource) tell(q inquiry) {
	if q.conn != 0 {
		d.outboxes[q.loop].Post([]broker.Delivery{{Kind: broker.Known, Conn: q.conn}})
	}
}

// ask makes one request; into is what the answer is read into.
func (d *Datasource) ask(ctx context.Context, cmd string, of *place, into any) error {
	type channel struct {
		ID   string `json:"channel_id"`
		Type int    `json:"channel_type"`
	}
	body := struct {
		Cmd  string   `json:"cmd"`
		Data *channel `json:"data,omitempty"`
	}{Cmd: cmd}
	if of != nil {
		body.Data = &channel{of.ID, of.Type}
	}
	text, err := json.Marshal(body)
	if err != nil {
		panic("BUG: a question cannot be written: " + err.Error())
	}
	answer, err := d.app.call(ctx, nil, text, maxAnswer)
	if err == nil {
		if err = unmarshal(answer, into); err != nil {
			err = fmt.Errorf("the answer is not what is expected: %w", err)
		}
	}
	if err != nil {
		d.stats.Failures.Add(1)
		return fmt.Errorf("%s: %w", cmd, err)
	}
	d.stats.Requests.Add(1)
	return nil
}

// learn asks for one channel and carries out what is new.
func (d *Datasource) learn(ctx context.Context, of place) error {
	var members, deny, allow []string
	for _, q := range []struct {
		cmd  string
		into *[]string
	}{{cmdMembers, &members}, {cmdDeny, &deny}, {cmdAllow, &allow}} {
		if err := d.ask(ctx, q.cmd, &of, q.into); err != nil {
			return err
		}
		for i, uid := range *q.into {
			if err := checkName(fmt.Sprintf("%s: entry %d", q.cmd, i), uid); err != nil {
				return err
			}
		}
		if n := len(*q.into); n > d.server.limits.Load().MaxMembers {
			return fmt.Errorf("%s names %d users, the limit is %d (broker.max_group_members)", q.cmd, n, d.server.limits.Load().MaxMembers)
		}
	}
	var flags change
	var refused *statusError
	if err := d.ask(ctx, cmdInfo, &of, &flags); err != nil && !errors.As(err, &refused) { // it need not know this command
		return err
	}
	info, mentioned, err := flags.info()
	if err != nil {
		return fmt.Errorf("%s: %w", cmdInfo, err)
	}
	typ, access := uint8(of.Type), d.server.core.Access()
	have, known := access.Subscribers(typ, of.ID)
	if len(members) == 0 { // of a channel that is known here: made by other means
		return errNobody
	}
	var parts []message.Record
	if !known || !sameNames(have, members) {
		parts = records(message.OpReset, typ, of.ID, members)
	}
	haveDeny, haveAllow := access.Lists(typ, of.ID)
	if !sameNames(haveDeny, deny) {
		parts = append(parts, records(message.OpDenyOnly, typ, of.ID, deny)...)
	}
	if !sameNames(haveAllow, allow) {
		parts = append(parts, records(message.OpAllowOnly, typ, of.ID, allow)...)
	}
	if haveInfo, _ := access.Info(typ, of.ID); mentioned && haveInfo != info {
		parts = append(parts, records(message.OpInfo, typ, of.ID, []string{string([]byte{byte(info)})})...)
	}
	if len(parts) > 0 {
		if err := d.carryOut(ctx, parts); err != nil {
			return fmt.Errorf("what the application answered is not stored: %w", err)
		}
		d.stats.Changes.Add(1)
	}
	access.Heard(typ, []byte(of.ID), time.Now())
	return nil
}

// carryOut commits records.
func (d *Datasource) carryOut(ctx context.Context, parts []message.Record) error {
	answers, _, err := d.server.commit(ctx, parts, false)
	if err != nil {
		return err
	}
	for _, a := range answers {
		switch a.reason {
		case message.ReasonSuccess:
		case message.ReasonNotAllowSend:
			return fmt.Errorf("%w: %w", errCrowded, errNobody)
		default:
			return fmt.Errorf("the log refused it (reason %d), see the broker's log", a.reason)
		}
	}
	return nil
}

// systems asks who may send wherever they want, at the start and when the answer
// is old.
func (d *Datasource) systems(ctx context.Context) {
	for {
		next := d.o.MaxAge
		var refused *statusError
		if err := d.learnSystems(ctx); err != nil && ctx.Err() == nil {
			next = systemsAgain
			if errors.As(err, &refused) && refused.status != http.StatusServiceUnavailable { // it does not know this command
				next = d.o.MaxAge
			}
			d.log.Debug("the application was asked for the system users", "err", err)
		}
		if next == 0 || !pause(ctx, next) {
			return
		}
	}
}

func (d *Datasource) learnSystems(ctx context.Context) error {
	var uids []string
	if err := d.ask(ctx, cmdSystemUIDs, nil, &uids); err != nil {
		return err
	}
	if len(uids) > d.server.limits.Load().MaxMembers {
		return fmt.Errorf("%s names %d users, the limit is %d (broker.max_group_members)", cmdSystemUIDs, len(uids), d.server.limits.Load().MaxMembers)
	}
	var parts []message.Record
	change := func(uid string, op message.UserOp) {
		parts = append(parts, message.Record{Kind: message.KindUser, FromUID: []byte(uid),
			Payload: message.AppendUserChange(nil, &message.UserChange{Op: op})})
	}
	have := d.server.core.Access().Systems()
	for _, uid := range uids {
		if err := checkName(cmdSystemUIDs, uid); err != nil {
			return err
		}
		if !slices.Contains(have, uid) {
			change(uid, message.OpSystem)
		}
	}
	for _, uid := range have {
		if !slices.Contains(uids, uid) {
			change(uid, message.OpOrdinary)
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return d.carryOut(ctx, parts)
}

// sameNames says whether two lists have the same names, in any order and however
// often.
func sameNames(a, b []string) bool {
	set := make(map[string]bool, len(a))
	for _, uid := range a {
		set[uid] = false
	}
	met := 0
	for _, uid := range b {
		seen, ok := set[uid]
		if !ok {
			return false
		}
		if !seen {
			set[uid] = true
			met++
		}
	}
	return met == len(set)
}
