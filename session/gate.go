package session

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"gatepost/ack"
	"gatepost/broker"
	"gatepost/guesses"
	"gatepost/jsonrpc"
	"gatepost/message"
	"gatepost/netio"
	"gatepost/queue"
	"gatepost/wukong"
)

// Proposer takes batches for the log: the committer of one box, or a pair.
// Propose never blocks. It takes over the batch unless it fails; queue.ErrFull
// means that the batch can be proposed again later, every other error that the
// log does not take it.
type Proposer interface {
	Propose(*message.Batch) error
}

// Options are the limits of a gate.
type Options struct {
	Encryption     bool          // payloads are encrypted per connection
	Tokens         bool          // who logs in must have the token that was set for their device flag; it says the level
	Master         bool          // level of devices without tokens, see broker.Attach
	MaxPayload     int           // plain bytes of a message
	Rate           int           // SENDs per second and connection, bursts of one second; 0: no limit
	GroupBytes     int           // a round's batch is proposed as soon as it has this many bytes
	InflightMax    int           // unacknowledged pushes of a connection
	InflightTotal  int           // and of all connections of this loop, beyond a floor for each
	CursorInterval time.Duration // between two proposals of read positions
	MailboxItems   int           // pushes that may wait for the loop
	MailboxBytes   int
	Retry          ack.Options
	NodeID         uint64 // told to clients from version 4 on
	MessageIDFloor int64  // ids given are above it
	// Inquire is called with every SEND that its sender may send if they are in its
	// channel, and
	// reports whether the SEND waits until a Known comes for its connection. nil:
	// what is not here is not there.
	Inquire func(typ uint8, channelID []byte, uid string, conn uint64, loop uint16, now time.Time) bool
	Logger  *slog.Logger
}

// Limits are the options that may change while a gate runs, see there.
type Limits struct {
	MaxPayload int
	Rate       int
	Retry      ack.Options // but for its Tick and Slots
}

// Stats counts what a gate did; readable on any goroutine.
type Stats struct {
	Live        atomic.Int64 // logged-in connections
	Logins      atomic.Int64
	LoginsFail  atomic.Int64 // refused with a CONNACK
	LoginsLate  atomic.Int64 // of them those that wait for it, see late
	Sends       atomic.Int64 // SENDs admitted
	SendsRefuse atomic.Int64 // SENDs refused at admission
	LogFull     atomic.Int64 // rounds in which the log's queue did not take the batch
	LogRefused  atomic.Int64 // records that the log refused: full disk, failed log
	Recvs       atomic.Int64 // RECVs written, resends included
	RecvAcks    atomic.Int64 // RECVACKs that settled a push
	Resends     atomic.Int64 // RECVs written again because no RECVACK came
	Gone        atomic.Int64 // pushes of what is not stored that found no room
	GivenUp     atomic.Int64 // pushes that used up their tries; they wait for the next connect
	Behind      atomic.Int64 // channels of connections that are being caught up now
	CatchUps    atomic.Int64 // pages asked for to catch up
	Inflight    atomic.Int64 // pushes waiting for a RECVACK
	Kicked      atomic.Int64
	BadFrames   atomic.Int64 // connections closed because of what they sent
}

// Gate serves the connections of one loop. See the package comment for what
// may be called elsewhere.
type Gate struct {
	o      Options
	loop   *netio.Loop
	index  uint16
	core   *broker.Broker
	access *broker.Access
	log    Proposer
	limits atomic.Pointer[Limits] // to be taken over; nil: none
	fetch  *broker.Reader
	box    mailbox
	stats  Stats
	ids    message.IDs
	now    time.Time // of this round

	// What the round received, by Batch.Volatile. A batch that the log's
	// queue refused stays; stalled says so.
	batches []*message.Batch // of the round, in the order in which they go to the log
	stalled bool
	waiters []uint64 // connections with pauseLog

	inflight  *ack.Table
	streams   []stream // slab; see stream.id
	free      int32    // head of the free list in streams, -1 if none
	find      map[streamKey]int32
	dirty     []int32          // streams with a read position to propose
	cursorsAt time.Time        // when they are proposed, and what was refused
	marks     []*message.Batch // read positions that go to the log next
	// unsaved are read positions that the log refused, under their record without
	// number and time; kept is how many bytes they take.
	unsaved map[string]unsaved
	kept    int
	marked  int64 // number of the newest batch of read positions that the log has taken
	marking int64 // and of the newest that was begun

	behind    int      // streams that are behind
	reserved  int      // streams that apply was asked to begin
	frozen    int      // streams in which a push was given up
	scans     []uint64 // connections that ask apply when marks are gone
	resting   []int32  // streams whose page could not be read
	restUntil time.Time

	ciphers map[uint64]*wukong.Cipher   // by connection, of the recent ones
	held    map[uint64][]wukong.Sendack // by connection: refusals that wait for the answers before them
	unsent  map[uint64][]wukong.Sendack // by connection: answers for which there was no room
	crypto  wukong.Scratch

	parts map[uint64]jsonrpc.Splitter // by connection that speaks JSON-RPC: of its incomplete object
	asked map[uint64][]asked          // and its SENDs that wait for an answer
	asks  uint32                      // ClientSeq of the newest of them

	items  []broker.Delivery // scratch of a round
	send   wukong.Send
	record message.Record
	stored message.Record
	recv   wukong.Recv
	call   jsonrpc.Request
	out    []byte
	data   []byte
	id     []byte
	born   []byte // payload of a cursor
	topic  []byte
	uid    []byte

	guesses    guesses.Table
	guessPause time.Duration // before the answer to a guess; set before the loop begins
	late       []late        // answers to guesses, the oldest first

	complaints complaints
	oddClock   bool      // it was said that the clock cannot be right
	refusedAt  time.Time // when it was last said that the log takes nothing
}

type streamKey struct {
	conn    uint64
	channel *message.Channel
}

// maxCiphers bounds the ciphers kept ready, 600 bytes each.
const maxCiphers = 1024

// A connection is not read any further while maxUnread bytes of its output do
// not leave or maxUnanswered of its SENDs wait for the log. Together they keep
// the output of a sender that reads nothing in one ring of 64 KiB; answers in
// JSON are longer, see peer.maxUnanswered.
const (
	maxUnread     = 16 << 10
	maxUnanswered = 2048
)

// stallRetry is how long a refused batch waits for the next try. The committer
// does not wake loops: while its queue is full it is busy, and a sync takes
// about this long.
const stallRetry = 2 * time.Millisecond

// New returns the gate of a loop. Its mailbox is ready for Post at once.
func New(o Options, loop *netio.Loop, core *broker.Broker, log Proposer, fetch *broker.Reader) *Gate {
	g := &Gate{
		o: o, loop: loop, index: uint16(loop.Index()),
		core: core, access: core.Access(), log: log, fetch: fetch,
		ids:      message.NewIDs(loop.Index(), o.MessageIDFloor),
		now:      time.Now(),
		inflight: ack.New(o.Retry),
		out:      make([]byte, 0, 1024),
		free:     -1,
		find:     make(map[streamKey]int32),
		ciphers:  make(map[uint64]*wukong.Cipher),
		unsaved:  make(map[string]unsaved),
		held:     make(map[uint64][]wukong.Sendack),
		unsent:   make(map[uint64][]wukong.Sendack),
		parts:    make(map[uint64]jsonrpc.Splitter),
		asked:    make(map[uint64][]asked),

		guessPause: guessPause,
	}
	g.box.queue = queue.New(o.MailboxItems, o.MailboxBytes, (*broker.Delivery).Weight)
	g.box.wake = loop.Wake
	g.box.gone = &g.stats.Gone
	g.box.spans = maxMissed
	g.complaints.log = o.Logger
	return g
}

// Waiting is what is left for the loop and not yet looked at. Any goroutine.
func (g *Gate) Waiting() queue.Fill { return g.box.queue.Fill() }

// Post leaves deliveries for the loop; see broker.Outbox. Any goroutine.
func (g *Gate) Post(ds []broker.Delivery) { g.box.post(ds) }

// SetLimits changes limits, for what comes in from now on. Any
// goroutine.
func (g *Gate) SetLimits(l Limits) {
	g.limits.Store(&l)
	g.loop.Wake()
}

// Stats returns the counters. Any goroutine.
func (g *Gate) Stats() *Stats { return &g.stats }

// Reasons for a close that the gate decides on. The first group is a client's
// fault and is counted as a bad frame.
var (
	errNotConnect = errors.New("the first frame is not CONNECT")
	errAgain      = errors.New("a second CONNECT")
	errServerOnly = errors.New("a frame that only servers send")
	errText       = errors.New("a text message to a connection that speaks binary")

	errLogin   = errors.New("login refused")
	errKicked  = errors.New("ended by the broker: the user logged in elsewhere, was banned or lost the token, or an operator ended it")
	errUnknown = errors.New("the log does not know whether it has a message of this client, which is to ask again")
	errOutput  = errors.New("the answer to a login does not fit into the connection's output")
	errClosed  = errors.New("the broker shuts down")
)

// OnOpen is called for a new connection.
func (g *Gate) OnOpen(c *netio.Conn) {
	c.Data = &peer{conn: c, streams: -1}
}

// OnRead takes the complete frames that are there.
func (g *Gate) OnRead(c *netio.Conn) error {
	g.adopt() // what comes in behind a reload is under the new limits
	p := c.Data.(*peer)
	src := c.Peek()
	done := 0
	defer func() { c.Discard(done) }()
	if p.version == 0 && len(src) > 0 {
		at := blank(src)
		if at == len(src) && at <= maxSpace && !c.Text() {
			return nil // what is behind it says
		}
		switch {
		case c.Text():
			p.version = versionJSON
			c.SendText()
		case at == len(src) || at > maxSpace || src[at] != '{': // binary
		case c.WebSocket(): // only clients whose payloads are objects do that
			p.setStyle(jsonrpc.StyleObject)
		default:
			p.version = versionJSON
		}
	}
	if c.Text() && !p.json() {
		return g.bad(p, errText)
	}
	for done < len(src) {
		if p.state == stateClosing {
			done = len(src)
			return nil
		}
		if c.Pending() >= maxUnread || len(of(g.unsent, c.ID())) > 0 { // no more questions
			g.pause(p, pauseDeaf)
			c.WantDrained()
			return nil
		}
		if p.owed >= p.maxUnanswered() || len(of(g.held, c.ID())) > 0 {
			g.pause(p, pauseOwed)
			return nil
		}
		n, wait, err := g.next(p, src[done:])
		if err != nil {
			return g.bad(p, err)
		}
		if wait != 0 {
			g.pause(p, wait)
			return nil
		}
		if n == 0 {
			return nil
		}
		done += n
	}
	return nil
}

// pause stops reading a connection until resume has been called for the reason,
// and for each other one.
func (g *Gate) pause(p *peer, why pause) {
	if why == pauseLog && p.paused&pauseLog == 0 {
		g.waiters = append(g.waiters, p.conn.ID())
	}
	p.paused |= why
	p.conn.PauseRead()
}

// resume takes away a reason why a connection is not read.
func (g *Gate) resume(p *peer, why pause) {
	if p.paused&why == 0 {
		return
	}
	if p.paused &^= why; p.paused == 0 {
		p.conn.ResumeRead()
	}
}

// next handles the frame or the JSON object at the front of src, n bytes, 0 if
// it is not complete yet. With wait it has done nothing: the same has to come again
// when that is over.
func (g *Gate) next(p *peer, src []byte) (n int, wait pause, err error) {
	if p.json() {
		return g.object(p, src)
	}
	f, n, err := wukong.Split(src)
	if err != nil || n == 0 {
		return 0, 0, err
	}
	wait, err = g.frame(p, f)
	return n, wait, err
}

// frame handles one frame; wait is that of next.
func (g *Gate) frame(p *peer, f wukong.Frame) (wait pause, err error) {
	if p.state == stateNew {
		if f.Type != wukong.TypeConnect {
			return 0, fmt.Errorf("%w but %v", errNotConnect, f.Type)
		}
		return 0, g.connect(p, f)
	}
	switch f.Type {
	case wukong.TypeSend:
		return g.publish(p, f)
	case wukong.TypeRecvack:
		return 0, g.recvack(p, f)
	case wukong.TypePing:
		if dst := p.conn.Out(1); dst != nil {
			p.conn.Commit(len(wukong.AppendPong(dst[:0])))
		}
	case wukong.TypeDisconnect:
		p.conn.Finish() // behind the answers to what came before
	case wukong.TypePong, wukong.TypeSub: // nothing is promised for them
	case wukong.TypeConnect:
		return 0, errAgain
	default:
		return 0, fmt.Errorf("%w: %v", errServerOnly, f.Type)
	}
	return 0, nil
}

// bad counts and logs what no client should send.
func (g *Gate) bad(p *peer, err error) error {
	g.stats.BadFrames.Add(1)
	g.complaints.add(g.now, "connection closed for what it sent", "remote", p.conn.RemoteAddr(), "uid", p.uid, "err", err)
	return err
}

// OnBreach logs what broke the rules below the frames.
func (g *Gate) OnBreach(c *netio.Conn, reason error) {
	uid := ""
	if p, ok := c.Data.(*peer); ok {
		uid = p.uid
	}
	g.stats.BadFrames.Add(1)
	g.complaints.add(g.now, "connection closed for what it sent", "remote", c.RemoteAddr(), "uid", uid, "err", reason)
}

// OnWritable is called when a connection's output has room again.
func (g *Gate) OnWritable(c *netio.Conn) {
	p := c.Data.(*peer)
	p.dry = false
	if !g.sendUnsent(p) {
		return
	}
	g.resume(p, pauseDeaf)
	g.catchUpAll(p)
}

// OnClose takes a connection out of all tables.
func (g *Gate) OnClose(c *netio.Conn, _ error) {
	p := c.Data.(*peer)
	c.Data = nil
	delete(g.parts, c.ID())
	if p.uid == "" { // it never logged in
		return
	}
	g.stats.Live.Add(-1)
	read := g.drop(p)
	delete(g.ciphers, c.ID())
	delete(g.unsent, c.ID())
	delete(g.held, c.ID())
	delete(g.asked, c.ID())
	// Only Close makes Detach fail, and then nobody needs it.
	_ = g.core.Detach(p.attach(g.index, ""), read)
}

// adopt takes over limits that were changed.
func (g *Gate) adopt() {
	if l := g.limits.Load(); l != nil && g.limits.CompareAndSwap(l, nil) {
		g.o.MaxPayload, g.o.Rate, g.o.Retry = l.MaxPayload, l.Rate, l.Retry
		g.inflight.Tune(l.Retry)
	}
}

// OnRound works off the mailbox and the clocks and hands the round's batch to
// the log.
func (g *Gate) OnRound(now time.Time) time.Duration {
	g.now = now
	if !g.oddClock && g.index == 0 && !message.FollowsClock(now) {
		g.oddClock = true
		g.o.Logger.Warn("clock not believed, message ids go on without it", "clock", now.UTC())
	}
	g.adopt()
	g.deliver()
	next := g.inflight.Tick(now, g.due)
	g.stats.Inflight.Store(int64(g.inflight.Len()))
	if d := g.rested(); d >= 0 {
		next = earlier(next, d)
	}
	if d := g.cursors(); d >= 0 {
		next = earlier(next, d)
	}
	if d := g.answerLate(now); d >= 0 {
		next = earlier(next, d)
	}
	g.scansGoOn()
	g.propose()
	if g.stalled {
		next = earlier(next, stallRetry)
	}
	return next
}

// earlier returns the shorter of two sleeps; below 0 is for ever.
func earlier(a, b time.Duration) time.Duration {
	if a < 0 || b >= 0 && b < a {
		return b
	}
	return a
}

// cipher returns the cipher of a connection.
func (g *Gate) cipher(p *peer) *wukong.Cipher {
	id := p.conn.ID()
	c := g.ciphers[id]
	if c == nil {
		if len(g.ciphers) >= maxCiphers {
			clear(g.ciphers)
		}
		c = g.crypto.NewCipher(*p.keys)
		g.ciphers[id] = c
	}
	return c
}

// complaints logs what clients do wrong, ten lines a second at most.
type complaints struct {
	log        *slog.Logger
	second     int64
	lines      int
	suppressed int
}

func (c *complaints) add(now time.Time, text string, args ...any) {
	if s := now.Unix(); s != c.second {
		if c.suppressed > 0 {
			c.log.Warn("log lines left out", "lines", c.suppressed)
		}
		c.second, c.lines, c.suppressed = s, 0, 0
	}
	if c.lines++; c.lines > 10 {
		c.suppressed++
		return
	}
	c.log.Warn(text, args...)
}
