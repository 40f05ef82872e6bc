package broker

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"gatepost/message"
)

// room admits the records that make channels, on any goroutine, so that there are
// never more channels than Options.MaxChannels. What is admitted and not applied yet
// holds a claim, which travels in message.Origin and is given back by apply, or by
// whoever finds that the log does not take the record.
//
// Messages of devices make at most devicesShare of all channels, and each user so
// many in an hour: a device must not keep the application from making groups. What
// is set of persons, bans and lists, is counted by itself, so that a full box can
// still ban somebody.
type room struct {
	limit   int // 0: none
	perUser int // channels that the messages of one user may make in an hour; 0: no limit
	known   atomic.Pointer[table]

	mu      sync.Mutex
	claims  map[uint64]*claim
	counts  [3]int // channels and claims on new ones, as cost counts them
	spent   map[uint64]spending
	refused atomic.Int64
}

// claim is the records on their way that may make one channel.
type claim struct {
	records int
	class   class
	cost    int
	made    bool // the channel is there, and counted as such
}

// class is what a channel counts as.
type class uint8

const (
	ofDevices class = iota // is there with its first message
	ofApplication
	ofPersons // what is set of a person
)

func classOf(typ uint8, id []byte) class {
	switch {
	case isPerson(typ, id):
		return ofPersons
	case message.SelfMade(typ) && !message.Reserved(id):
		return ofDevices
	}
	return ofApplication
}

// costBytes of a channel's id count as one more channel: names stand in core, store
// and metadata. A pair of users with 128 bytes each takes 2.1 times what one with
// short names takes, measured on 2026-12-01.
const costBytes = 96

func cost(id []byte) int { return 1 + len(id)/costBytes }

// devicesShare is the part of all channels that messages of devices may make, in
// quarters.
const devicesShare = 3

// spending is how many channels a user made lately: it falls by perUser in an hour.
type spending struct {
	level float64
	at    time.Time
}

// maxSpenders is how many users' spending is remembered, some 1 MiB of it.
const maxSpenders = 16384

func newRoom(limit, perUser int) *room {
	r := &room{limit: limit, perUser: perUser, claims: make(map[uint64]*claim), spent: make(map[uint64]spending)}
	r.known.Store(newTable(0))
	return r
}

// full says whether messages of devices may make no more channels.
func (r *room) full() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.fits(ofDevices, 1)
}

// fits reports whether there may be one more channel of a class. With r.mu held.
func (r *room) fits(c class, cost int) bool {
	switch all := r.counts[ofDevices] + r.counts[ofApplication]; {
	case r.limit == 0:
		return true
	case c == ofPersons:
		return r.counts[ofPersons]+cost <= r.limit
	case c == ofDevices && r.counts[ofDevices]+cost > max(r.limit*devicesShare/4, 1):
		return false
	default:
		return all+cost <= r.limit
	}
}

// claim admits one record of a channel that was not known when the caller looked.
// user is 0 if no device makes it.
func (r *room) claim(key uint64, c class, cost int, user uint64, now time.Time) (claimed, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.claims[key] == nil {
		if r.known.Load().has(key) {
			return false, true
		}
		count := c
		if c == ofDevices && user == 0 {
			c = ofApplication // may use all the room there is
		}
		if !r.fits(c, cost) || user != 0 && !r.spend(user, now) {
			r.refused.Add(1)
			return false, false
		}
		r.counts[count] += cost
		r.claims[key] = &claim{class: count, cost: cost}
	}
	r.claims[key].records++
	return true, true
}

// spend takes note that a user makes one more channel, if that is not too many.
func (r *room) spend(user uint64, now time.Time) bool {
	if r.perUser == 0 {
		return true
	}
	s, ok := r.spent[user]
	if s.level = max(0, s.level-float64(r.perUser)*now.Sub(s.at).Hours()); s.level+1 > float64(r.perUser) {
		return false
	}
	if !ok && len(r.spent) >= maxSpenders {
		for other := range r.spent { // any one
			delete(r.spent, other)
			break
		}
	}
	s.level, s.at = s.level+1, now
	r.spent[user] = s
	return true
}

// release gives a claim back.
func (r *room) release(key uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.claims[key]
	if c == nil {
		return
	}
	if c.records--; c.records > 0 {
		return
	}
	delete(r.claims, key)
	if !c.made {
		r.counts[c.class] -= c.cost
	}
}

// made notes a channel that is new. Apply only.
func (r *room) made(key uint64, c class, cost int) {
	r.known.Store(r.known.Load().with(key))
	r.mu.Lock()
	defer r.mu.Unlock()
	if claimed := r.claims[key]; claimed != nil && !claimed.made {
		claimed.made = true
		return
	}
	r.counts[c] += cost
}

// gone notes that a channel was deleted. Apply only.
func (r *room) gone(key uint64, c class, cost int) {
	r.known.Load().drop(key)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts[c] -= cost
}

// table is a set of hashes that one goroutine changes and all may read. Hashes stand
// at the first free place from their own on; 0 is a free place, 1 one that was given
// back.
type table struct {
	places []atomic.Uint64 // a power of two
	used   int             // places that are not 0
	live   int             // hashes
}

const dropped = 1

func newTable(live int) *table {
	n := 64
	for n < 2*live+2 {
		n *= 2
	}
	return &table{places: make([]atomic.Uint64, n)}
}

// find returns the place of a hash, or -1 and the free place where it would be.
func (t *table) find(hash uint64) (at, free int) {
	mask := len(t.places) - 1
	for i := int(hash>>1) & mask; ; i = (i + 1) & mask {
		switch t.places[i].Load() {
		case hash:
			return i, -1
		case 0:
			return -1, i
		}
	}
}

func (t *table) has(hash uint64) bool {
	at, _ := t.find(hash)
	return at >= 0
}

// with returns a table with one more hash: t, or a larger one.
func (t *table) with(hash uint64) *table {
	at, free := t.find(hash)
	if at >= 0 {
		return t
	}
	if 4*(t.used+1) > 3*len(t.places) {
		larger := newTable(2 * (t.live + 1))
		for i := range t.places {
			if h := t.places[i].Load(); h > dropped {
				_, free := larger.find(h)
				larger.places[free].Store(h)
				larger.used, larger.live = larger.used+1, larger.live+1
			}
		}
		return larger.with(hash)
	}
	t.places[free].Store(hash)
	t.used, t.live = t.used+1, t.live+1
	return t
}

func (t *table) drop(hash uint64) {
	if at, _ := t.find(hash); at >= 0 {
		t.places[at].Store(dropped)
		t.live--
	}
}

// roomKey is the hash of a channel.
func (a *Access) roomKey(typ uint8, id []byte) uint64 {
	return max((maphash.Bytes(a.seed, id) + uint64(typ)*0x9e3779b97f4a7c15), dropped+1)
}

// Claim admits a record that may make a channel: server says that the application
// makes it and not a device. When it returns claimed, Release has to be called once
// for the record: message.Origin.Claimed lets apply do it. ok is false if there may
// be no more channels. Any goroutine; without a lock where the channel is there.
func (a *Access) Claim(r *message.Record, server bool, now time.Time) (claimed, ok bool) {
	switch r.Kind {
	case message.KindMessage:
		if !message.SelfMade(r.ChannelType) || message.Reserved(r.ChannelID) {
			return false, true // makes none, or one that belongs to its channel
		}
	case message.KindChannel:
		if len(r.Payload) == 0 || !makes(message.ChangeOp(r.Payload[0])) {
			return false, true
		}
	default:
		return false, true
	}
	key := a.roomKey(r.ChannelType, r.ChannelID)
	if a.room.known.Load().has(key) {
		return false, true
	}
	user := uint64(0)
	if !server && !(a.systems.Load() > 0 && a.Account(r.FromUID).IsSystem()) {
		user = max(maphash.Bytes(a.seed, r.FromUID), 1)
	}
	return a.room.claim(key, classOf(r.ChannelType, r.ChannelID), cost(r.ChannelID), user, now)
}

// Release gives the claim of a record back.
func (a *Access) Release(r *message.Record) { a.room.release(a.roomKey(r.ChannelType, r.ChannelID)) }

// ReleaseAll gives the claims of a batch back that the log does not take.
func (a *Access) ReleaseAll(b *message.Batch) {
	var r message.Record
	for i := range b.Len() {
		if b.Origin(i).Claimed && b.Record(i, &r) == nil {
			a.Release(&r)
		}
	}
}
