package broker

import (
	"context"
	"slices"

	"gatepost/message"
)

// hooks is what the application is to be told. That of messages is a sequence in
// each channel, so that a dead application costs no memory: channels wait, not
// messages.
type hooks struct {
	on       bool // follows from the log: told begins where it was switched on
	waiting  []*channel
	ready    chan struct{} // there may be something
	statuses []Status      // who came and went, in this order
	listing  []Status      // goes before statuses
	missed   bool          // there were too many statuses: a listing of all who are online comes next
}

// maxStatuses is how many changes of who is online wait for the application.
// Beyond that they are forgotten, and it is told once of all who are online.
const maxStatuses = 20_000

// Status says that a user came online with a device flag, or went.
type Status struct {
	UID    string
	Device uint8
	Online bool
	Conn   uint64
	Loop   uint16
	Flag   int  // connections of the user with that flag now
	Total  int  // and with any
	Told   bool // the log says that the application was told that they are online
}

// Work is a channel of which the application was not told all. Whoever takes it
// gives it back with Told.
type Work struct {
	Channel *message.Channel
	From    uint64 // first sequence that it was not told of
	Last    uint64 // newest
}

// Absent is a member with no connection.
type Absent struct {
	UID  string
	Read uint64 // the furthest that a device of theirs acknowledged
}

// HooksOn says what the log says of the hooks. Between Restore and Run.
func (b *Broker) HooksOn() bool { return b.hooks.on }

// hook switches the hooks on or off. On, what is there counts as told.
func (b *Broker) hook(r *message.Record) {
	on := len(r.Payload) == 1 && r.Payload[0] == 1
	if on && !b.hooks.on {
		for _, ch := range b.channels {
			ch.told = ch.last
			b.touch(ch)
		}
	}
	b.hooks.on = on
}

// tell puts a channel among those that wait, if there is something to be told.
func (b *Broker) tell(ch *channel) {
	if !b.hooks.on || !b.o.Hooks || ch.waiting || ch.gone || ch.told >= ch.last {
		return
	}
	ch.waiting = true
	b.hooks.waiting = append(b.hooks.waiting, ch)
	b.hooksReady()
}

func (b *Broker) hooksReady() {
	select {
	case b.hooks.ready <- struct{}{}:
	default:
	}
}

// told notes how far the application was told of a channel; nil: it is gone.
func (b *Broker) told(ch *channel, seq uint64) {
	if ch == nil || seq <= ch.told {
		return
	}
	ch.told = min(seq, ch.last)
	b.touch(ch)
}

// status notes that somebody came or went.
func (b *Broker) status(u *user, a *Attach, online bool) {
	if !b.o.Hooks {
		return
	}
	if len(b.hooks.statuses) >= maxStatuses {
		b.hooks.statuses, b.hooks.missed = nil, true
	}
	b.hooks.statuses = append(b.hooks.statuses, u.status(connection{conn: a.Conn, loop: a.Loop, device: a.Device}, online))
	b.hooksReady()
}

// status is what is said of one connection of a user.
func (u *user) status(c connection, online bool) Status {
	s := Status{UID: u.uid, Device: c.device, Online: online, Conn: c.conn, Loop: c.loop, Total: len(u.online)}
	for _, o := range u.online {
		if o.device == c.device {
			s.Flag++
		}
	}
	return s
}

// AskHooks says whether somebody asks for Work from now on, as Options.Hooks did
// for the beginning. What was taken with Work and not given back is offered again:
// nobody may hold any. It returns whether the log says that hooks are on. Any
// goroutine; see Talks.
func (b *Broker) AskHooks(ctx context.Context, on bool) (was bool, err error) {
	err = b.ask(ctx, func() {
		was = b.hooks.on
		b.o.Hooks = on
		b.hooks.waiting = nil
		if !on {
			b.hooks.statuses, b.hooks.listing, b.hooks.missed = nil, nil, false
		}
		for _, ch := range b.channels {
			if ch.waiting = false; message.EventsChannel([]byte(ch.ID)) == nil {
				b.tell(ch)
			}
		}
	})
	if err != nil {
		return false, err // apply may be about to write was
	}
	return was, nil
}

// HooksReady is written to when there may be something in Work or Statuses.
func (b *Broker) HooksReady() <-chan struct{} { return b.hooks.ready }

// Work returns channels of which the application was not told all, at most limit.
// Any goroutine; see Talks.
func (b *Broker) Work(ctx context.Context, limit int) ([]Work, error) {
	var taken []Work
	err := b.ask(ctx, func() {
		n := 0
		for _, ch := range b.hooks.waiting {
			if len(taken) == limit {
				break
			}
			n++
			if ch.gone || !b.hooks.on || ch.told >= ch.last {
				ch.waiting = false
				continue
			}
			taken = append(taken, Work{Channel: ch.Channel, From: ch.told + 1, Last: ch.last})
		}
		b.hooks.waiting = b.hooks.waiting[n:]
		if len(b.hooks.waiting) == 0 {
			b.hooks.waiting = nil
		}
	})
	if err != nil {
		return nil, err
	}
	return taken, nil
}

// Told gives a channel back that Work returned: the application was told of it up
// to a sequence. Any goroutine; see Talks.
func (b *Broker) Told(ctx context.Context, channel *message.Channel, seq uint64) error {
	return b.ask(ctx, func() {
		ch := b.channels[string(b.channelKey(channel.Type, []byte(channel.ID)))]
		if ch == nil || ch.Channel != channel {
			return // deleted meanwhile
		}
		b.told(ch, seq)
		ch.waiting = false
		b.tell(ch)
	})
}

// Absent returns the members of a channel who have no connection. Any goroutine;
// see Talks.
func (b *Broker) Absent(ctx context.Context, channel *message.Channel) ([]Absent, error) {
	var all []Absent
	err := b.ask(ctx, func() {
		ch := b.channels[string(b.channelKey(channel.Type, []byte(channel.ID)))]
		if ch == nil {
			return
		}
		for _, m := range ch.members {
			if len(m.user.online) > 0 || m.guest {
				continue
			}
			a := Absent{UID: m.user.uid, Read: m.joined}
			for _, r := range m.read {
				a.Read = max(a.Read, r.Seq)
			}
			all = append(all, a)
		}
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Lapse notes of everybody of whom the application was told that they are online,
// and who is not, that they went: a start ends all connections without a word. Any
// goroutine; see Talks.
func (b *Broker) Lapse(ctx context.Context) error {
	return b.ask(ctx, func() {
		for uid, a := range b.accounts {
			u := b.users[uid]
			if u == nil {
				u = &user{uid: uid}
			}
			for _, device := range a.Told {
				if s := u.status(connection{device: device}, false); s.Flag == 0 {
					b.hooks.listing = append(b.hooks.listing, s)
				}
			}
		}
		b.hooksReady()
	})
}

// Statuses returns who came and went, at most limit changes in their order, and
// takes them off; after too many, all who are online first. Any goroutine; see
// Talks.
func (b *Broker) Statuses(ctx context.Context, limit int) ([]Status, error) {
	var all []Status
	err := b.ask(ctx, func() {
		h := &b.hooks
		if h.missed && len(h.listing) == 0 {
			h.missed = false
			for _, u := range b.users {
				for i, c := range u.online {
					if !slices.ContainsFunc(u.online[:i], func(o connection) bool { return o.device == c.device }) {
						h.listing = append(h.listing, u.status(c, true))
					}
				}
			}
		}
		for _, from := range []*[]Status{&h.listing, &h.statuses} {
			n := min(limit-len(all), len(*from))
			all = append(all, (*from)[:n]...)
			if *from = (*from)[n:]; len(*from) == 0 {
				*from = nil
			}
		}
		for i := range all {
			if a := b.accounts[all[i].UID]; a != nil {
				all[i].Told = slices.Contains(a.Told, all[i].Device)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}
