package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"

	"gatepost/message"
	"gatepost/queue"
)

// Options are the sizes of a broker.
type Options struct {
	InboxItems  int // committed batches that may wait
	InboxBytes  int // and their bytes
	DedupWindow int // messages whose answers are remembered
	MaxChannels int // groups and pairs of users, and as many persons of whom something is set; 0: no limit
	// UserChannels is how many channels the messages of one user may make in an
	// hour. 0: no limit
	UserChannels int
	// CheckpointBytes is how many bytes of records the log must have behind a
	// checkpoint for the next to be worth it.
	CheckpointBytes int64
	MaxOfUser       int  // connections of one user; a further one ends the oldest; 0: no limit
	Hooks           bool // somebody asks for Work
	Strict          bool // a person is sent to by those on their list only
	Logger          *slog.Logger
}

// Stats counts what apply did; readable on any goroutine.
type Stats struct {
	Messages   atomic.Int64 // stored messages that got a sequence
	Volatile   atomic.Int64 // messages passed on without being stored
	Duplicates atomic.Int64 // resends answered with the first answer
	Refused    atomic.Int64 // records refused by apply or by the log
	Pushes     atomic.Int64 // deliveries to online connections
	Channels   atomic.Int64 // groups and pairs of users
	Users      atomic.Int64
	Kicks      atomic.Int64
	Memberless atomic.Int64 // channels whose members were found lost at the start
}

// Attach says that a user is online on a connection.
type Attach struct {
	UID      string
	DeviceID string
	Conn     uint64
	Tag      uint32 // of its read positions, see message.ReadPosition
	Loop     uint16
	Device   uint8
	Token    *message.Token // with which the login was checked; nil: none was needed
	Master   bool           // ends the user's other connections of the same device flag
}

// Position is how far a connection acknowledged a channel.
type Position struct {
	Channel *message.Channel
	Seq     uint64
}

// event is one thing in apply's inbox.
type event struct {
	committed message.Committed // if Batch is not nil
	attach    Attach
	detach    bool
	read      []Position // with detach
	catchUp   *CatchUp
	ask       func() // on apply's goroutine
}

// lookAhead is for how many messages at a time what the dedup window needs is
// brought into the cache: more than the misses that a processor has under way at
// once. Measured on 2026-11-28, see docs/benchmarks.md, "Sizes and waiting".
const lookAhead = 32

// nearby is what is brought into the cache for a message before it is applied.
type nearby struct {
	channel *channel // nil: there was none
	born    int64    // with which its key was made
	key     [2]uint64
}

// Broker is the core. All fields belong to apply but for access, stats and
// inbox, which are safe anywhere.
type Broker struct {
	o      Options
	store  Store
	access *Access
	stats  Stats
	inbox  *queue.Queue[event]
	pulse  queue.Pulse

	channels map[string]*channel
	users    map[string]*user
	dedup    *window
	maxID    int64
	changed  []*channel                  // differ from what the last checkpoint has of them
	accounts map[string]*message.Account // by uid; the pointers of access
	renewed  map[string]struct{}         // uids whose account the last checkpoint has not
	from     uint64                      // generation of the log that the next checkpoint begins behind; 0: not known yet
	index    uint64                      // of the newest group that was applied
	numbers  uint64                      // of memberships given so far
	marked   []int64                     // per loop: number of the newest batch of its read positions that came
	early    []event                     // CatchUps that wait for read positions
	// incomplete says that channels or members may be missing, because the
	// metadata or the log was damaged. It lasts until a checkpoint holds what came
	// after the damage. While it is set, deleted has the keys of deleted channels.
	incomplete bool
	deleted    map[string]struct{}
	unsaved    int64 // bytes of records that no checkpoint has
	full       bool  // there may be no more channels
	hooks      hooks
	state      message.ChannelState
	key        []byte
	devices    [16]byte // key of the hashes of device ids
	record     message.Record
	ahead      [lookAhead]message.Record // around the one that is applied; Kind 0: could not be read
	near       [lookAhead]nearby         // of the messages around the one that is applied
	keys       [lookAhead][2]uint64      // of the messages around the one that is applied
	outboxes   []Outbox                  // per loop
	outgoing   [][]Delivery              // per loop, posted once per round of the inbox and when there are many
}

// New returns a broker over a store that is as empty as it is.
func New(o Options, s Store) *Broker {
	return &Broker{
		o: o, store: s, access: newAccess(&o),
		inbox: queue.New(o.InboxItems, o.InboxBytes, func(e *event) int {
			if e.committed.Batch == nil {
				return 0
			}
			return 1 + e.committed.Batch.Size()
		}),
		channels: make(map[string]*channel),
		users:    make(map[string]*user),
		accounts: make(map[string]*message.Account),
		renewed:  make(map[string]struct{}),
		dedup:    newWindow(o.DedupWindow),
		hooks:    hooks{ready: make(chan struct{}, 1)},
		devices:  newSecret(),
	}
}

// Access returns the admission snapshot, safe on any goroutine.
func (b *Broker) Access() *Access { return b.access }

// Stats returns the counters, safe on any goroutine.
func (b *Broker) Stats() *Stats { return &b.stats }

// Pulse says how Run is: it rests while its inbox is empty, and is with the disk
// while it waits for a checkpoint.
func (b *Broker) Pulse() *queue.Pulse { return &b.pulse }

// MaxMessageID returns the largest message id that was replayed. Before Run.
func (b *Broker) MaxMessageID() int64 { return b.maxID }

// Restore begins with what a store has kept, before Replay.
func (b *Broker) Restore(r *message.Restored) {
	b.maxID, b.index, b.incomplete = r.MaxMessageID, r.Index, r.Incomplete
	if r.Answers != nil {
		b.dedup.restore(r.Secret, r.Answers)
	}
	b.hooks.on = r.Hooks
	for i := range r.Users {
		b.setAccount(r.Users[i].UID, r.Users[i].Account)
	}
	for i := range r.Channels {
		b.restore(&r.Channels[i])
	}
	for _, ch := range b.channels {
		if base := message.CommandsChannel([]byte(ch.ID)); base != nil {
			if of := b.channels[string(b.channelKey(ch.Type, base))]; of != nil {
				of.commands = ch
			}
		}
	}
}

// Ready says that nothing more is replayed. From now on Access may be asked.
func (b *Broker) Ready() {
	b.limit()
	b.reportMemberless()
	if b.o.Hooks {
		for _, ch := range b.channels {
			if message.EventsChannel([]byte(ch.ID)) == nil {
				b.tell(ch)
			}
		}
	}
}

// Replay applies a stored batch before Ready. It takes over the batch.
func (b *Broker) Replay(c message.Committed) error {
	err := b.apply(&c)
	c.Batch.Release()
	return err
}

// Commit takes a batch from the log. It may block; it fails only after Close.
func (b *Broker) Commit(c message.Committed) error {
	return b.inbox.PushWait(event{committed: c})
}

// Attach puts a connection online. Messages committed from now on are pushed
// to it, those missed before are reported as Missed.
func (b *Broker) Attach(a Attach) error { return b.inbox.Push(event{attach: a}) }

// Detach takes a connection offline. UID, Loop, Conn, Device and Tag must be
// those of Attach.
// read are positions that are on their way through the log too: said here they
// count at once, so that a user who comes back within a sync is not pushed what
// was acknowledged. The slice is taken over.
func (b *Broker) Detach(a Attach, read []Position) error {
	return b.inbox.Push(event{attach: a, detach: true, read: read})
}

// Waiting is what is durable and not yet applied.
func (b *Broker) Waiting() queue.Fill { return b.inbox.Fill() }

// Close lets Run return when the inbox is empty.
func (b *Broker) Close() { b.inbox.Close() }

// roundItems and roundBytes bound how much of the inbox is applied before the
// answers go out: one wake per loop per round.
const (
	roundItems = 64
	roundBytes = 4 << 20
)

// maxOutgoing is how many deliveries to one loop are collected before they go
// out, 90 KiB of them: one batch to a large group makes a million.
const maxOutgoing = 1024

// Run applies what comes in until Close. When it fails, it takes nothing more
// in: who waits in Commit gets an error.
func (b *Broker) Run(out []Outbox) error {
	defer b.inbox.Close()
	defer b.pulse.Say(queue.Rests)
	b.outboxes, b.outgoing, b.marked = out, make([][]Delivery, len(out)), make([]int64, len(out))
	var events []event
	for {
		var ok bool
		b.pulse.Say(queue.Rests)
		if events, ok = b.inbox.PopBatch(events[:0], roundItems, roundBytes); !ok {
			return nil
		}
		for i := range events {
			b.pulse.Say(queue.Works)
			if err := b.handle(&events[i]); err != nil {
				return err
			}
		}
		clear(events)
		b.limit()
		for loop := range b.outgoing {
			b.flush(loop)
		}
	}
}

// flush posts what there is for a loop.
func (b *Broker) flush(loop int) {
	ds := b.outgoing[loop]
	if len(ds) == 0 {
		return
	}
	b.outboxes[loop].Post(ds)
	clear(ds)
	b.outgoing[loop] = ds[:0]
}

func (b *Broker) handle(e *event) error {
	switch {
	case e.committed.Batch != nil:
		err := b.apply(&e.committed)
		e.committed.Batch.Release()
		return err
	case e.ask != nil:
		e.ask()
	case e.catchUp != nil:
		b.catchUp(e)
	case e.detach:
		b.detach(&e.attach, e.read)
	default:
		b.attach(&e.attach)
	}
	return nil
}

// post queues a delivery for the end of the round, or until there are many. On
// replay there is nobody.
func (b *Broker) post(loop uint16, d Delivery) {
	if int(loop) >= len(b.outgoing) {
		return
	}
	b.outgoing[loop] = append(b.outgoing[loop], d)
	if len(b.outgoing[loop]) >= maxOutgoing {
		b.flush(int(loop))
	}
}

// answer acknowledges a record to who waits for it, if anybody.
func (b *Broker) answer(o message.Origin, id int64, seq uint64, reason uint8) {
	if o.Conn == 0 {
		return
	}
	if reason != message.ReasonSuccess {
		b.stats.Refused.Add(1)
	}
	b.post(o.Loop, Delivery{Kind: Ack, Conn: o.Conn, ClientSeq: o.ClientSeq, Flags: o.Flags, MessageID: id, Seq: seq, Reason: reason})
}

// apply carries out the records of one committed batch. An error means that
// the log holds what this version cannot understand.
func (b *Broker) apply(c *message.Committed) error {
	batch := c.Batch
	if c.Err != nil {
		b.access.ReleaseAll(batch)
		b.notDurable(batch, c.Err)
		return nil
	}
	if !batch.Volatile() {
		b.checkpoint(c)
		b.follow(c.Index)
	}
	for i := range batch.Len() {
		r := &b.ahead[i%lookAhead]
		if i%lookAhead == 0 {
			b.prepare(batch, i)
		}
		if r.Kind == 0 {
			if err := batch.Record(i, r); err != nil {
				return fmt.Errorf("cannot apply record %d of log index %d (generation %d, offset %d): %w",
					i, c.Index, c.Generation, c.Offset+int64(batch.Offset(i)), err)
			}
		}
		switch r.Kind {
		case message.KindMessage:
			b.message(c, i, r)
			b.release(batch.Origin(i), r)
		case message.KindRefused:
			b.refused(batch.Origin(i), r)
		case message.KindCursor:
			b.cursor(r)
		case message.KindHooks:
			b.hook(r)
		case message.KindChannel, message.KindKeep, message.KindUser, message.KindConversation:
			o := batch.Origin(i)
			b.answer(o, o.MessageID, 0, b.change(r))
			b.release(o, r)
		default:
			return fmt.Errorf("cannot apply record %d of log index %d (generation %d, offset %d): its kind %d is unknown; was it written by a newer version?",
				i, c.Index, c.Generation, c.Offset+int64(batch.Offset(i)), r.Kind)
		}
	}
	if n := batch.Len(); n > 0 {
		b.markedBy(batch.Origin(n - 1))
		clear(b.ahead[:min(n, lookAhead)]) // they are views on the batch
	}
	return nil
}

// notDurable tells who waits for the records of a batch that they are not durable, or
// that nobody knows, and the loops which read positions they have to propose again.
func (b *Broker) notDurable(batch *message.Batch, err error) {
	r, reason := &b.record, message.ReasonSystemError
	if errors.Is(err, message.ErrUnknown) {
		reason = message.ReasonUnknown
	}
	for i := range batch.Len() {
		o := batch.Origin(i)
		if b.answer(o, o.MessageID, 0, reason); o.Conn != 0 || batch.Record(i, r) != nil {
			continue
		}
		if r.Kind == message.KindCursor && len(r.FromUID) > 0 && int(o.Loop) < len(b.outgoing) {
			batch.Retain()
			b.post(o.Loop, Delivery{Kind: Unsaved, Batch: batch, Off: uint32(batch.Offset(i))})
		}
	}
	if n := batch.Len(); n > 0 {
		b.markedBy(batch.Origin(n - 1))
	}
}

// prepare reads the records from i on. For the messages among them that are stored it
// finds the channels, computes the keys and has what the window needs for them at
// hand; those without a client_msg_no have none. What cannot be read apply reads
// again, for the error. A record in between may make or delete a channel: see message.
func (b *Broker) prepare(batch *message.Batch, i int) {
	n, wanted := min(batch.Len()-i, lookAhead), false
	for j := range n {
		r := &b.ahead[j]
		b.near[j] = nearby{}
		if batch.Record(i+j, r) != nil {
			r.Kind = 0
			continue
		}
		if r.Kind == message.KindMessage && len(r.ClientMsgNo) > 0 && !batch.Volatile() {
			ch := b.channels[string(b.channelKey(r.ChannelType, r.ChannelID))]
			born := r.MessageID // it makes the channel, if it is the first
			if ch != nil {
				born = ch.Born
			}
			b.keys[j], wanted = b.dedup.key(r.ChannelType, r.ChannelID, born, r.FromUID, r.ClientMsgNo), true
			b.near[j] = nearby{ch, born, b.keys[j]}
		}
	}
	if wanted {
		b.dedup.warm(b.keys[:n])
	}
}

// message gives a message its sequence, answers its sender and delivers it.
func (b *Broker) message(c *message.Committed, i int, r *message.Record) {
	batch, o := c.Batch, c.Batch.Origin(i)
	b.maxID = max(b.maxID, r.MessageID)
	if r.Flags&message.FlagEvent != 0 {
		b.event(c, i, r)
		return
	}
	var near nearby
	var ch *channel
	if batch.Volatile() {
		ch = b.passing(r.ChannelType, r.ChannelID)
	} else if near = b.near[i%lookAhead]; near.channel != nil && !near.channel.gone {
		ch = near.channel
	} else if ch = b.channels[string(b.channelKey(r.ChannelType, r.ChannelID))]; ch == nil && b.mayMake(r) {
		ch = b.channel(r.ChannelType, r.ChannelID, r.MessageID)
	}
	if ch == nil {
		b.answer(o, r.MessageID, 0, message.ReasonSubscriberNotExist)
		return
	}
	numbered := len(r.ClientMsgNo) > 0 && !batch.Volatile()
	if numbered {
		if near.born != ch.Born {
			near.key = b.dedup.key(r.ChannelType, r.ChannelID, ch.Born, r.FromUID, r.ClientMsgNo)
		}
		if b.repeat(o, near.key) { // whatever became of the sender since
			return
		}
	}
	sender := b.users[string(r.FromUID)]
	var own *membership
	if sender != nil {
		own = sender.in.get(ch)
	}
	server := r.Flags&message.FlagServer != 0
	if own == nil && !server && !message.Public(ch.Type) && !b.mayBeMember(ch) && !b.accounts[string(r.FromUID)].IsSystem() && !(batch.Volatile() && names(ch.Type, r.ChannelID, r.FromUID)) {
		b.answer(o, r.MessageID, 0, message.ReasonSubscriberNotExist)
		return
	}
	var seq uint64
	if !batch.Volatile() {
		if numbered {
			b.dedup.add(near.key, answer{r.MessageID, ch.last + 1})
		}
		ch.last++
		seq = ch.last
		ch.newest = max(ch.newest, r.Timestamp)
		if r.Expire > 0 {
			ch.expires = seq
		}
		b.touch(ch)
		b.store.Put(ch.Channel, seq, c.Location(i, r.Size()))
		b.stats.Messages.Add(1)
		b.tell(ch)
		// The sending device has what it sent: its position follows as long
		// as nothing of others lies between.
		if own != nil {
			own.spoke(seq)
			own.wrote = own.moving(r.Device, r.Tag) || own.wrote
			if at, _ := own.position(r.Device, r.Tag); !server && at == seq-1 {
				own.advance(r.Device, r.Tag, seq)
			}
		}
	} else {
		b.stats.Volatile.Add(1)
	}
	b.answer(o, r.MessageID, seq, message.ReasonSuccess)
	if b.outgoing == nil {
		return // replay: nobody is online
	}
	pushes := 0
	for _, m := range ch.members {
		for j := range m.user.online {
			to := &m.user.online[j]
			if to.conn == o.Conn && to.loop == o.Loop || seq != 0 && to.withholds(m) {
				continue
			}
			if seq != 0 {
				m.settle(to.device, to.tag)
			}
			batch.Retain()
			b.post(to.loop, Delivery{Kind: Push, Conn: to.conn, MessageID: r.MessageID, Seq: seq,
				Channel: ch.Channel, Member: m.number, Guest: m.guest, Batch: batch, Off: uint32(batch.Offset(i))})
			pushes++
		}
	}
	b.stats.Pushes.Add(int64(pushes))
}

// mayMake reports whether a message may make its channel, if that is one that a
// message makes: its sender is one of those whom its id names.
func (b *Broker) mayMake(r *message.Record) bool {
	return !message.Named(r.ChannelType) || r.Flags&message.FlagServer != 0 || names(r.ChannelType, r.ChannelID, r.FromUID) || b.accounts[string(r.FromUID)].IsSystem()
}

// release gives back the claim on a channel that admission made for a record.
func (b *Broker) release(o message.Origin, r *message.Record) {
	if o.Claimed {
		b.access.Release(r)
	}
}

// repeat gives a message that is stored its first answer, and reports whether it is.
func (b *Broker) repeat(o message.Origin, key [2]uint64) bool {
	first, ok := b.dedup.first(key)
	if ok {
		b.stats.Duplicates.Add(1)
		b.answer(o, first.messageID, first.seq, message.ReasonSuccess)
	}
	return ok
}

// refused answers a message that admission refuses and has counted.
func (b *Broker) refused(o message.Origin, r *message.Record) {
	ch := b.channels[string(b.channelKey(r.ChannelType, r.ChannelID))]
	if ch == nil || !b.repeat(o, b.dedup.key(ch.Type, r.ChannelID, ch.Born, r.FromUID, r.ClientMsgNo)) {
		b.post(o.Loop, Delivery{Kind: Ack, Conn: o.Conn, ClientSeq: o.ClientSeq, Flags: o.Flags, Reason: r.Setting})
	}
}

// cursor moves a read position. What it speaks of may be gone by now.
func (b *Broker) cursor(r *message.Record) {
	ch := b.channels[string(b.channelKey(r.ChannelType, r.ChannelID))]
	if ch != nil && !r.Concerns(ch.Channel) {
		return // that one was deleted
	}
	if len(r.FromUID) == 0 {
		b.told(ch, uint64(max(r.MessageID, 0)))
		return
	}
	u := b.users[string(r.FromUID)]
	if u == nil || ch == nil {
		return
	}
	if m := u.in.get(ch); m != nil {
		m.moving(r.Device, r.Tag)
		m.advance(r.Device, r.Tag, min(uint64(max(r.MessageID, 0)), ch.last))
		b.touch(ch)
	}
}

func (b *Broker) attach(a *Attach) {
	if !b.welcome(a) {
		b.stats.Kicks.Add(1)
		b.post(a.Loop, Delivery{Kind: Kick, Conn: a.Conn, Reason: message.ReasonConnectKick})
		return
	}
	u := b.user(a.UID)
	deviceID := b.deviceKey(a.DeviceID)
	kept := u.online[:0]
	for _, c := range u.online {
		sameDevice := c.deviceID == deviceID && deviceID != 0
		if c.device != a.Device || !a.Master && !sameDevice {
			kept = append(kept, c)
			continue
		}
		reason := message.ReasonConnectKick
		if sameDevice {
			reason = 0
		}
		b.stats.Kicks.Add(1)
		b.post(c.loop, Delivery{Kind: Kick, Conn: c.conn, Reason: reason})
	}
	for b.o.MaxOfUser > 0 && len(kept) >= b.o.MaxOfUser {
		b.stats.Kicks.Add(1)
		b.post(kept[0].loop, Delivery{Kind: Kick, Conn: kept[0].conn, Reason: message.ReasonConnectKick})
		kept = slices.Delete(kept, 0, 1)
	}
	u.online = kept
	b.enter(u, a, deviceID)
	b.status(u, a, true)
	b.begin(u, &u.online[len(u.online)-1])
}

// enter puts a connection of a user online.
func (b *Broker) enter(u *user, a *Attach, deviceID uint64) {
	u.online = append(u.online, connection{conn: a.Conn, loop: a.Loop, device: a.Device, master: a.Master, tag: a.Tag, deviceID: deviceID})
	b.stats.Users.Store(int64(len(b.users)))
}

func (b *Broker) detach(a *Attach, read []Position) {
	u := b.users[a.UID]
	if u == nil {
		return
	}
	for _, r := range read {
		ch := b.channels[string(b.channelKey(r.Channel.Type, []byte(r.Channel.ID)))]
		if ch == nil || ch.Channel != r.Channel {
			continue // deleted meanwhile
		}
		if m := u.in.get(ch); m != nil {
			m.moving(a.Device, a.Tag)
			m.advance(a.Device, a.Tag, min(r.Seq, ch.last))
			b.touch(ch)
		}
	}
	u.online = slices.DeleteFunc(u.online, func(c connection) bool { return c.conn == a.Conn && c.loop == a.Loop })
	if len(u.online) == 0 {
		u.online = nil
	}
	b.status(u, a, false)
	b.forget(u)
	b.stats.Users.Store(int64(len(b.users)))
}
