package broker

import (
	"hash/maphash"
	"maps"
	"sync/atomic"

	"gatepost/message"
)

const accessShards = 256

// Access answers, on any goroutine and without a lock, whether a user may
// send to a channel. Apply replaces immutable snapshots; apply itself decides
// again, so that an answer that was true at admission and no longer is does no
// harm.
type Access struct {
	seed   maphash.Seed
	shards [accessShards]atomic.Pointer[map[string]*roster]
	// pairs is the hashes of the ids of all person channels while there may be
	// no more of them; nil: there may.
	pairs atomic.Pointer[map[uint64]struct{}]
}

// roster is the members of a group, replaced as a whole.
type roster struct {
	members atomic.Pointer[map[string]struct{}]
}

func newAccess() *Access {
	a := &Access{seed: maphash.MakeSeed()}
	for i := range a.shards {
		a.shards[i].Store(&map[string]*roster{})
	}
	return a
}

// MayPublish returns message.ReasonSuccess or why not. It does not allocate.
func (a *Access) MayPublish(channelType uint8, channelID, uid []byte) uint8 {
	switch channelType {
	case message.ChannelPerson:
		if pairs := a.pairs.Load(); pairs != nil {
			if _, ok := (*pairs)[maphash.Bytes(a.seed, channelID)]; !ok {
				return message.ReasonNotAllowSend
			}
		}
		return message.ReasonSuccess
	case message.ChannelGroup:
		r := (*a.shards[maphash.Bytes(a.seed, channelID)%accessShards].Load())[string(channelID)]
		if r == nil {
			return message.ReasonSubscriberNotExist
		}
		if _, ok := (*r.members.Load())[string(uid)]; !ok {
			return message.ReasonSubscriberNotExist
		}
		return message.ReasonSuccess
	}
	return message.ReasonChannelType
}

// MayPublishAny is MayPublish for the application's server, which need not be a
// member.
func (a *Access) MayPublishAny(channelType uint8, channelID []byte) uint8 {
	if channelType != message.ChannelGroup {
		return a.MayPublish(channelType, channelID, nil)
	}
	if (*a.shards[maphash.Bytes(a.seed, channelID)%accessShards].Load())[string(channelID)] == nil {
		return message.ReasonChannelNotExist
	}
	return message.ReasonSuccess
}

// Members returns how many members a group has, and whether there is one.
func (a *Access) Members(channelID string) (int, bool) {
	r := (*a.shards[maphash.String(a.seed, channelID)%accessShards].Load())[channelID]
	if r == nil {
		return 0, false
	}
	return len(*r.members.Load()), true
}

// IsMember reports whether a group has a member. It does not allocate.
func (a *Access) IsMember(channelID, uid string) bool {
	r := (*a.shards[maphash.String(a.seed, channelID)%accessShards].Load())[channelID]
	if r == nil {
		return false
	}
	_, ok := (*r.members.Load())[uid]
	return ok
}

// set replaces the members of a group; nil removes the group. Apply only.
func (a *Access) set(channelID string, members map[string]struct{}) {
	shard := &a.shards[maphash.String(a.seed, channelID)%accessShards]
	groups := *shard.Load()
	r := groups[channelID]
	if r != nil && members != nil {
		r.members.Store(&members)
		return
	}
	groups = maps.Clone(groups)
	if members == nil {
		delete(groups, channelID)
	} else {
		r = new(roster)
		r.members.Store(&members)
		groups[channelID] = r
	}
	shard.Store(&groups)
}
