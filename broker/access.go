package broker

import (
	"bytes"
	"hash/maphash"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"gatepost/message"
)

const accessShards = 64

// Access answers, on any goroutine and without a lock, whether a user may log in
// and whether they may send to a channel. Apply replaces immutable snapshots.
// Lists and Info count here only; whether the channel and its member are there
// apply decides again, so that an answer that was true at admission and no longer
// is does no harm.
type Access struct {
	seed     maphash.Seed
	began    time.Time                                  // of times here, which go on when the clock is set
	channels [message.ChannelAgents + 1]shards[*roster] // by type
	accounts shards[*atomic.Pointer[message.Account]]
	// persons counts the rosters of persons: while there is none, nothing need
	// be looked up for a message from one to another.
	persons atomic.Int64
	systems atomic.Int64 // likewise the users who may send wherever they want
	room    *room        // for channels
	// strict says that a person is sent to by those on their list only.
	strict bool
}

// shards is a map that is replaced in parts.
type shards[V any] [accessShards]atomic.Pointer[map[string]V]

func (s *shards[V]) find(hash uint64, key []byte) (v V) {
	if m := s[hash%accessShards].Load(); m != nil {
		v = (*m)[string(key)]
	}
	return v
}

// set replaces one entry. Apply only.
func (s *shards[V]) set(hash uint64, key string, v V) {
	m := s.clone(hash)
	m[key] = v
	s[hash%accessShards].Store(&m)
}

// drop removes one entry. Apply only.
func (s *shards[V]) drop(hash uint64, key string) {
	m := s.clone(hash)
	delete(m, key)
	s[hash%accessShards].Store(&m)
}

func (s *shards[V]) clone(hash uint64) map[string]V {
	if m := s[hash%accessShards].Load(); m != nil {
		return maps.Clone(*m)
	}
	return make(map[string]V)
}

// roster is who may send to a channel.
type roster struct {
	now   atomic.Pointer[rules]
	heard atomic.Int64 // ns since Access.began, when the application was asked for it last; 0: not since the start
}

// rules are replaced as a whole.
type rules struct {
	members map[string]struct{}
	deny    map[string]struct{}
	allow   map[string]struct{}
	info    message.Info
}

func newAccess(o *Options) *Access {
	return &Access{seed: maphash.MakeSeed(), began: time.Now(), strict: o.Strict, room: newRoom(o.MaxChannels, o.UserChannels)}
}

// rules returns what holds for a channel, nil if it has none.
func (a *Access) rules(typ uint8, id []byte) *rules {
	if !message.KnownType(typ) {
		return nil
	}
	if r := a.channels[typ].find(maphash.Bytes(a.seed, id), id); r != nil {
		return r.now.Load()
	}
	return nil
}

// Account returns what is known of a user, nil if nothing is. It is never
// changed.
func (a *Access) Account(uid []byte) *message.Account {
	if p := a.accounts.find(maphash.Bytes(a.seed, uid), uid); p != nil {
		return p.Load()
	}
	return nil
}

// MayPublish returns message.ReasonSuccess or why not. It does not allocate. Whether
// there may be one more channel is another question, see Claim.
// channelID is the storage id; uid must not contain '@'.
func (a *Access) MayPublish(typ uint8, channelID, uid []byte) uint8 {
	if !message.KnownType(typ) {
		return message.ReasonChannelType
	}
	r := a.rules(typ, channelID)
	if reason := a.limited(r, uid); reason != message.ReasonSuccess {
		return reason
	}
	if a.Banned(uid) { // the connection ends, this came before
		return message.ReasonBan
	}
	persons := a.persons.Load() > 0
	if r == nil && !message.SelfMade(typ) {
		return message.ReasonSubscriberNotExist
	}
	if message.Public(typ) || a.systems.Load() > 0 && a.Account(uid).IsSystem() {
		return message.ReasonSuccess
	}
	switch typ {
	case message.ChannelPerson:
		if !persons && !a.strict {
			return message.ReasonSuccess
		}
		return a.mayReach(other(channelID, uid), uid)
	case message.ChannelAgent:
		if other(channelID, uid) == nil {
			return message.ReasonSubscriberNotExist
		}
		return message.ReasonSuccess
	case message.ChannelVisitors:
		if bytes.Equal(channelID, uid) {
			return message.ReasonSuccess
		}
		if r == nil {
			return message.ReasonSubscriberNotExist
		}
	}
	if _, ok := r.deny[string(uid)]; ok {
		return message.ReasonInBlacklist
	}
	if _, ok := r.members[string(uid)]; !ok {
		return message.ReasonSubscriberNotExist
	}
	if _, ok := r.allow[string(uid)]; !ok && len(r.allow) > 0 {
		return message.ReasonNotInWhitelist
	}
	return message.ReasonSuccess
}

// limited says what stands against a message whoever sends it: who may send
// nothing, a channel to which nothing is sent. r is what holds for the channel.
func (a *Access) limited(r *rules, uid []byte) uint8 {
	if a.persons.Load() > 0 {
		if own := a.rules(message.ChannelPerson, uid); own != nil && own.info&message.InfoSendBan != 0 {
			return message.ReasonSendBan
		}
	}
	if r != nil {
		switch {
		case r.info&message.InfoBan != 0:
			return message.ReasonBan
		case r.info&message.InfoDisband != 0:
			return message.ReasonDisband
		}
	}
	return message.ReasonSuccess
}

// Barred says what stands against a message whoever is in the channel: message.
// ReasonSuccess if nothing does. It is the part of MayPublish and MayPublishAny that
// needs no member.
func (a *Access) Barred(typ uint8, channelID, uid []byte) uint8 {
	return a.limited(a.rules(typ, channelID), uid)
}

// Banned says whether a user may not log in.
func (a *Access) Banned(uid []byte) bool {
	if a.persons.Load() == 0 {
		return false
	}
	r := a.rules(message.ChannelPerson, uid)
	return r != nil && r.info&message.InfoBan != 0
}

// mayReach says whether one person may send to another.
func (a *Access) mayReach(to, from []byte) uint8 {
	if a.systems.Load() > 0 && a.Account(to).IsSystem() {
		return message.ReasonSuccess // everybody may write to the system's users
	}
	r := a.rules(message.ChannelPerson, to)
	if r != nil {
		if _, ok := r.deny[string(from)]; ok {
			return message.ReasonInBlacklist
		}
	}
	if a.strict && !bytes.Equal(to, from) {
		if r == nil {
			return message.ReasonNotInWhitelist
		}
		if _, ok := r.allow[string(from)]; !ok && r.info&message.InfoStrangers == 0 {
			return message.ReasonNotInWhitelist
		}
	}
	return message.ReasonSuccess
}

// other returns the other one of a pair, nil if uid is none of it.
func other(pair, uid []byte) []byte {
	x, y, _ := bytes.Cut(pair, []byte{'@'})
	switch {
	case bytes.Equal(x, uid):
		return y
	case bytes.Equal(y, uid):
		return x
	}
	return nil
}

// MayPublishAny is MayPublish for the application's server, which sends for a user,
// need not be a member and is on no list.
func (a *Access) MayPublishAny(typ uint8, channelID, uid []byte) uint8 {
	if !message.KnownType(typ) {
		return message.ReasonChannelType
	}
	r := a.rules(typ, channelID)
	if reason := a.limited(r, uid); reason != message.ReasonSuccess {
		return reason
	}
	if !message.SelfMade(typ) && r == nil {
		return message.ReasonChannelNotExist
	}
	return message.ReasonSuccess
}

// Members returns how many members a channel has, and whether there is one.
func (a *Access) Members(typ uint8, channelID string) (int, bool) {
	r := a.rules(typ, []byte(channelID))
	if r == nil {
		return 0, false
	}
	return len(r.members), true
}

// Subscribers returns a copy of the list of members, guests included, in no order,
// and whether there is such a channel.
func (a *Access) Subscribers(typ uint8, channelID string) ([]string, bool) {
	r := a.rules(typ, []byte(channelID))
	if r == nil {
		return nil, false
	}
	return slices.Collect(maps.Keys(r.members)), true
}

// Due says whether a channel is there, and whether the application is to be asked
// for it: not since the start, or longer ago than age, if that is not 0. It says so
// once. Channels that need not be made are there.
func (a *Access) Due(typ uint8, channelID []byte, now time.Time, age time.Duration) (known, due bool) {
	if !message.KnownType(typ) || message.Named(typ) {
		return true, false
	}
	r := a.channels[typ].find(maphash.Bytes(a.seed, channelID), channelID)
	if r == nil {
		return false, false
	}
	at, ns := r.heard.Load(), a.since(now)
	return true, (at == 0 || age > 0 && ns-at >= int64(age)) && r.heard.CompareAndSwap(at, ns)
}

// since is a time as ns since the start, and not 0.
func (a *Access) since(now time.Time) int64 { return max(1, int64(now.Sub(a.began))) }

// Heard notes that the application was asked for a channel.
func (a *Access) Heard(typ uint8, channelID []byte, now time.Time) {
	if r := a.channels[typ].find(maphash.Bytes(a.seed, channelID), channelID); r != nil {
		r.heard.Store(a.since(now))
	}
}

// Info returns what is set of a channel, and whether there is one.
func (a *Access) Info(typ uint8, channelID string) (message.Info, bool) {
	r := a.rules(typ, []byte(channelID))
	if r == nil {
		return 0, false
	}
	return r.info, true
}

// IsMember reports whether a channel has a member.
func (a *Access) IsMember(typ uint8, channelID, uid string) bool {
	r := a.rules(typ, []byte(channelID))
	if r == nil {
		return false
	}
	_, ok := r.members[uid]
	return ok
}

// Lists returns copies of the lists of those who may not and who alone may send
// to a channel, in no order.
func (a *Access) Lists(typ uint8, channelID string) (deny, allow []string) {
	r := a.rules(typ, []byte(channelID))
	if r == nil {
		return nil, nil
	}
	for uid := range r.deny {
		deny = append(deny, uid)
	}
	for uid := range r.allow {
		allow = append(allow, uid)
	}
	return deny, allow
}

// Systems returns the users who may send wherever they want, in no order.
func (a *Access) Systems() (uids []string) {
	for i := range a.accounts {
		if m := a.accounts[i].Load(); m != nil {
			for uid, p := range *m {
				if p.Load().IsSystem() {
					uids = append(uids, uid)
				}
			}
		}
	}
	return uids
}

// setRules replaces what holds for a channel; nil removes it. Apply only.
func (a *Access) setRules(typ uint8, id string, now *rules) {
	hash := maphash.String(a.seed, id)
	r := a.channels[typ].find(hash, []byte(id))
	switch {
	case r != nil && now != nil:
		r.now.Store(now)
		return
	case now != nil:
		r = new(roster)
		r.now.Store(now)
		a.channels[typ].set(hash, id, r)
	case r != nil:
		a.channels[typ].drop(hash, id)
	default:
		return
	}
	if typ == message.ChannelPerson {
		if now != nil {
			a.persons.Add(1)
		} else {
			a.persons.Add(-1)
		}
	}
}

// setAccount replaces what is known of a user; nil removes it. Apply only.
func (a *Access) setAccount(uid string, now *message.Account) {
	hash := maphash.String(a.seed, uid)
	p := a.accounts.find(hash, []byte(uid))
	was := p != nil && p.Load().IsSystem()
	switch {
	case p != nil && now != nil:
		p.Store(now)
	case now != nil:
		p = new(atomic.Pointer[message.Account])
		p.Store(now)
		a.accounts.set(hash, uid, p)
	case p != nil:
		a.accounts.drop(hash, uid)
	}
	if is := now.IsSystem(); is && !was {
		a.systems.Add(1)
	} else if was && !is {
		a.systems.Add(-1)
	}
}
