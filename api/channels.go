package api

import (
	"errors"
	"fmt"
	"net/http"

	"gatepost/message"
)

// change is the body of a request that changes a channel. Flags are 0 or 1.
type change struct {
	ID          string   `json:"channel_id"`
	Type        int      `json:"channel_type"`
	Reset       int      `json:"reset"`
	Guests      int      `json:"temp_subscriber"`
	Subscribers []string `json:"subscribers"`
	UIDs        []string `json:"uids"` // of lists
	UID         string   `json:"uid"`  // of /channel/delete: the other one of a pair

	Large     *int `json:"large"`
	Ban       *int `json:"ban"`
	Disband   *int `json:"disband"`
	SendBan   *int `json:"send_ban"`
	Strangers *int `json:"allow_stranger"`
}

// info returns the flags that are set, and whether any was mentioned.
func (c *change) info() (info message.Info, mentioned bool, err error) {
	for _, f := range []struct {
		name  string
		value *int
		bit   message.Info
	}{{"large", c.Large, message.InfoLarge}, {"ban", c.Ban, message.InfoBan}, {"disband", c.Disband, message.InfoDisband},
		{"send_ban", c.SendBan, message.InfoSendBan}, {"allow_stranger", c.Strangers, message.InfoStrangers}} {
		switch {
		case f.value == nil:
			continue
		case *f.value == 1:
			info |= f.bit
		case *f.value != 0:
			return 0, false, fmt.Errorf("%s is %d, 0 and 1 are possible", f.name, *f.value)
		}
		mentioned = true
	}
	return info, mentioned, nil
}

// action is one kind of change to a channel: what it does to it, once the body is
// read, and of whom it speaks.
type action struct {
	path string
	op   func(c *change) message.ChangeOp
	list bool  // names are in uids, not in subscribers
	none bool  // nobody is named
	need bool  // somebody has to be named
	here bool  // a channel that is not there is as it should be
	typ  uint8 // of the channel, if nobody says
}

// actions are the changes of channels. Lists of persons, and what is set of them,
// are those of channel_type 1 and their uid.
func actions() []action {
	always := func(op message.ChangeOp) func(*change) message.ChangeOp {
		return func(*change) message.ChangeOp { return op }
	}
	return []action{
		{path: "/channel", op: func(c *change) message.ChangeOp {
			if c.Reset != 0 {
				return message.OpReset
			}
			return message.OpCreate
		}},
		{path: "/channel/info", op: always(message.OpInfo), none: true},
		{path: "/channel/delete", op: always(message.OpDelete), none: true, here: true},
		{path: "/channel/subscriber_add", need: true, typ: message.ChannelGroup, op: func(c *change) message.ChangeOp {
			switch {
			case c.Reset != 0:
				return message.OpReset
			case c.Guests != 0:
				return message.OpAddGuests
			}
			return message.OpAdd
		}},
		{path: "/channel/subscriber_remove", op: always(message.OpRemove), need: true, typ: message.ChannelGroup},
		{path: "/channel/subscriber_remove_all", op: always(message.OpReset), none: true},
		{path: "/channel/blacklist_add", op: always(message.OpDeny), list: true, need: true},
		{path: "/channel/blacklist_set", op: always(message.OpDenyOnly), list: true},
		{path: "/channel/blacklist_remove", op: always(message.OpDenyNot), list: true, need: true},
		{path: "/channel/blacklist_remove_all", op: always(message.OpDenyOnly), none: true},
		{path: "/channel/whitelist_add", op: always(message.OpAllow), list: true, need: true},
		{path: "/channel/whitelist_set", op: always(message.OpAllowOnly), list: true},
		{path: "/channel/whitelist_remove", op: always(message.OpAllowNot), list: true, need: true},
		{path: "/channel/whitelist_remove_all", op: always(message.OpAllowOnly), none: true},
		{path: "/tmpchannel/subscriber_set", op: func(c *change) message.ChangeOp {
			c.Type = int(message.ChannelTemp)
			return message.OpReset
		}, list: true},
	}
}

// change returns the handler of one kind of change.
func (s *Server) change(a action) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var c change
		var parts []message.Record
		err := decode(w, r, maxBody, &c)
		if c.Type == 0 {
			c.Type = int(a.typ)
		}
		if err == nil {
			parts, err = s.plan(a, &c)
		}
		if err != nil {
			fail(w, http.StatusBadRequest, fmt.Errorf("cannot change a channel: %w", err))
			return
		}
		fine := message.ReasonSuccess
		if a.here {
			fine = message.ReasonChannelNotExist
		}
		s.carryOut(w, r, fmt.Sprintf("channel %q", c.ID), parts, fine)
	}
}

// plan checks a change and returns its records.
func (s *Server) plan(a action, c *change) ([]message.Record, error) {
	op := a.op(c)
	names, field := c.Subscribers, "subscribers"
	if a.list {
		names, field = c.UIDs, "uids"
	}
	if a.none {
		names = nil
	}
	info, mentioned, err := c.info()
	if err != nil {
		return nil, err
	}
	if c.Type < 1 || c.Type > int(message.ChannelAgents) {
		return nil, fmt.Errorf("channel_type is %d, 1 to %d are possible", c.Type, message.ChannelAgents)
	}
	typ := uint8(c.Type)
	if err := checkChannel(typ, c.ID); err != nil {
		return nil, err
	}
	member := op == message.OpReset || op == message.OpAdd || op == message.OpRemove || op == message.OpAddGuests || op == message.OpCreate && len(names) > 0
	switch {
	case a.need && len(names) == 0:
		return nil, fmt.Errorf("%s is empty", field)
	case member && message.Pair(typ):
		return nil, fmt.Errorf("channel_type is %d: the members of a pair are those in its id", typ)
	case op == message.OpInfo && !mentioned:
		return nil, errors.New("none of large, ban, disband, send_ban, allow_stranger is there")
	}
	for i, uid := range names {
		if err := checkName(fmt.Sprintf("%s[%d]", field, i), uid); err != nil {
			return nil, err
		}
	}
	if err := s.room(op, typ, c.ID, names); err != nil {
		return nil, err
	}
	if c.UID != "" {
		if op != message.OpDelete || typ != message.ChannelPerson {
			return nil, errors.New("uid is there: only the removal of a pair of users (channel_type 1) has one")
		}
		if err := checkName("uid", c.UID); err != nil {
			return nil, err
		}
		return records(op, typ, string(storageID(c.Type, c.UID, c.ID)), nil), nil
	}
	var parts []message.Record
	if mentioned {
		parts = records(message.OpInfo, typ, c.ID, []string{string([]byte{byte(info)})})
	}
	if op != message.OpInfo {
		parts = append(parts, records(op, typ, c.ID, names)...)
	}
	return parts, nil
}

// checkChannel checks the id of a channel.
func checkChannel(typ uint8, id string) error {
	if err := message.CheckChannelID(typ, []byte(id)); err != nil {
		return fmt.Errorf("channel_id is %.200q: %w", id, err)
	}
	return nil
}

// room says why a change would make too much of something.
func (s *Server) room(op message.ChangeOp, typ uint8, id string, names []string) error {
	switch op {
	case message.OpRemove, message.OpDelete, message.OpDenyNot, message.OpAllowNot:
		return nil
	}
	access := s.core.Access()
	have, _ := access.Members(typ, id)
	is := func(uid string) bool { return access.IsMember(typ, id, uid) }
	deny, allow := []string(nil), []string(nil)
	switch op {
	case message.OpDeny, message.OpAllow:
		deny, allow = access.Lists(typ, id)
		list := deny
		if op == message.OpAllow {
			list = allow
		}
		on := make(map[string]struct{}, len(list))
		for _, uid := range list {
			on[uid] = struct{}{}
		}
		have, is = len(on), func(uid string) bool { _, ok := on[uid]; return ok }
	case message.OpReset, message.OpDenyOnly, message.OpAllowOnly:
		have, is = 0, func(string) bool { return false }
	}
	fresh := make(map[string]struct{}, len(names))
	for _, uid := range names {
		if !is(uid) {
			fresh[uid] = struct{}{}
		}
	}
	if n, most := have+len(fresh), s.limits.Load().MaxMembers; n > most {
		return fmt.Errorf("the channel would have %d members, or as many on its list; the limit is %d (broker.max_group_members)", n, most)
	}
	return nil
}

// records returns a change as records, several if it is large. What replaces a
// list is one: nobody must see the channel between old and new.
func records(op message.ChangeOp, typ uint8, id string, names []string) (all []message.Record) {
	for whole := op == message.OpReset || op == message.OpDenyOnly || op == message.OpAllowOnly; ; {
		part := names
		if !whole {
			part = names[:min(len(names), changeMembers)]
		}
		all = append(all, message.Record{Kind: message.KindChannel, ChannelType: typ, ChannelID: []byte(id),
			Payload: message.AppendChange(nil, op, part)})
		if names = names[len(part):]; len(names) == 0 {
			return all
		}
	}
}

// listed is one line of a list.
type listed struct {
	UID string `json:"uid"`
}

// lists answers GET /channel/blacklist and /channel/whitelist.
func (s *Server) lists(allow bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		p, err := placeOf(r.URL.Query(), false)
		if err != nil {
			fail(w, http.StatusBadRequest, fmt.Errorf("cannot read a list: %w", err))
			return
		}
		list, other := s.core.Access().Lists(uint8(p.Type), p.ID)
		if allow {
			list = other
		}
		all := make([]listed, 0, len(list))
		for _, uid := range list {
			all = append(all, listed{uid})
		}
		reply(w, http.StatusOK, all)
	}
}

// subscribers answers GET /channel/subscribers, which the public servers do not
// have: the members, guests included.
func (s *Server) subscribers(w http.ResponseWriter, r *http.Request) {
	p, err := placeOf(r.URL.Query(), false)
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot list members: %w", err))
		return
	}
	uids, ok := s.core.Access().Subscribers(uint8(p.Type), p.ID)
	if !ok {
		fail(w, http.StatusNotFound, fmt.Errorf("cannot list members: %w", noSuch(&p)))
		return
	}
	all := make([]listed, 0, len(uids))
	for _, uid := range uids {
		all = append(all, listed{uid})
	}
	reply(w, http.StatusOK, all)
}

// noSuch says that there is no channel.
func noSuch(p *place) error {
	if p.Type == int(message.ChannelPerson) {
		return fmt.Errorf("nothing is set of the person %q", p.ID)
	}
	return fmt.Errorf("there is no channel %q of type %d", p.ID, p.Type)
}

// info answers GET /channel/info, which the public servers do not have: what
// POST /channel/info has set, and how many members there are.
func (s *Server) info(w http.ResponseWriter, r *http.Request) {
	p, err := placeOf(r.URL.Query(), false)
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot show a channel: %w", err))
		return
	}
	access := s.core.Access()
	info, ok := access.Info(uint8(p.Type), p.ID)
	if !ok {
		fail(w, http.StatusNotFound, fmt.Errorf("cannot show a channel: %w", noSuch(&p)))
		return
	}
	members, _ := access.Members(uint8(p.Type), p.ID)
	set := func(bit message.Info) int {
		if info&bit != 0 {
			return 1
		}
		return 0
	}
	reply(w, http.StatusOK, map[string]any{"channel_id": p.ID, "channel_type": p.Type, "members": members,
		"large": set(message.InfoLarge), "ban": set(message.InfoBan), "disband": set(message.InfoDisband),
		"send_ban": set(message.InfoSendBan), "allow_stranger": set(message.InfoStrangers)})
}
