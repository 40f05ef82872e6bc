package broker

import (
	"context"

	"gatepost/message"
)

// Talk is one line of a user's list of conversations.
type Talk struct {
	Channel *message.Channel
	Last    uint64 // newest sequence
	Newest  int64  // unix milliseconds at which that message was taken in
	Read    uint64 // up to it nothing is unread
	Deleted uint64 // see message.Conversation
	Version int64  // grows with every change of the line; unix milliseconds
	Unread  uint64 // messages that are, with those that have expired
	Expires uint64 // newest sequence of a message that expires; 0: there is none
}

// Online is one connection of a user.
type Online struct {
	UID    string
	Conn   uint64
	Loop   uint16
	Device uint8 // flag
	Master bool
}

// ask lets apply call f between two events, and returns when it has.
func (b *Broker) ask(ctx context.Context, f func()) error {
	done := make(chan struct{})
	if err := b.inbox.Push(event{ask: func() { f(); close(done) }}); err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Talks returns the conversations of a user, in no order. Any goroutine. It
// fails only after Close and with ctx; then the result is not to be used.
func (b *Broker) Talks(ctx context.Context, uid string) ([]Talk, error) {
	var all []Talk
	err := b.ask(ctx, func() {
		u := b.users[uid]
		if u == nil {
			return
		}
		all = make([]Talk, 0, u.in.len())
		for _, m := range u.in.list() {
			if t, ok := m.line(m.channel); ok {
				all = append(all, t)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// line returns what a user's list says of a channel, if it is on it.
func (m *membership) line(ch *channel) (t Talk, ok bool) {
	t = Talk{Channel: ch.Channel, Last: ch.last, Newest: ch.newest, Read: m.joined, Version: ch.newest}
	if m.talk != nil {
		t.Read = max(t.Read, m.talk.Read)
		t.Read, t.Deleted = max(t.Read, m.talk.Deleted), m.talk.Deleted
		t.Version = max(t.Version, m.talk.Changed)
	}
	t.Unread, t.Expires = ch.last-min(t.Read, ch.last), ch.expires
	return t, ch.last > t.Deleted && (ch.last > m.joined || !message.Named(ch.Type)) && !m.guest && message.Listed(ch.Type) && !message.Reserved([]byte(ch.ID))
}

// Connections returns where users are online: of each user and device flag one
// connection, however often a user is named. Any goroutine; see Talks.
func (b *Broker) Connections(ctx context.Context, uids []string) ([]Online, error) {
	var all []Online
	err := b.ask(ctx, func() {
		seen := make(map[*user]struct{})
		for _, uid := range uids {
			u := b.users[uid]
			if u == nil {
				continue
			}
			if _, ok := seen[u]; ok {
				continue
			}
			seen[u] = struct{}{}
			var flags [256]bool
			for _, c := range u.online {
				if !flags[c.device] {
					flags[c.device] = true
					all = append(all, Online{UID: uid, Conn: c.conn, Loop: c.loop, Device: c.device, Master: c.master})
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Everybody returns connections of all users, at most limit, in no order, and how
// many there are. Any goroutine; see Talks.
func (b *Broker) Everybody(ctx context.Context, limit int) ([]Online, int, error) {
	var all []Online
	total := 0
	err := b.ask(ctx, func() {
		for uid, u := range b.users {
			total += len(u.online)
			for _, c := range u.online {
				if len(all) < limit {
					all = append(all, Online{UID: uid, Conn: c.conn, Loop: c.loop, Device: c.device, Master: c.master})
				}
			}
		}
	})
	if err != nil {
		return nil, 0, err
	}
	return all, total, nil
}

// End ends connections of a user: all, or the one with that number on that loop.
// With reason 0 they are not told why. It returns how many. Any goroutine; see
// Talks.
func (b *Broker) End(ctx context.Context, uid string, which *Online, reason uint8) (int, error) {
	ended := 0
	err := b.ask(ctx, func() {
		u := b.users[uid]
		if u == nil {
			return
		}
		for _, c := range u.online {
			if which == nil || which.Conn == c.conn && which.Loop == c.loop {
				b.stats.Kicks.Add(1)
				b.post(c.loop, Delivery{Kind: Kick, Conn: c.conn, Reason: reason})
				ended++
			}
		}
	})
	if err != nil {
		return 0, err
	}
	return ended, nil
}
