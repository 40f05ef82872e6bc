package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/wukong"
)

const (
	maxTalks   = 1000 // lines of one answer
	maxPage    = 1_000_000
	maxRecents = 100 // messages of one line
	recents    = 15  // of one channel, if nobody says how many

	millisecond = int64(time.Millisecond) // in nanoseconds
)

// talk is one line of a list of conversations.
type talk struct {
	ID      string   `json:"channel_id"`
	Type    uint8    `json:"channel_type"`
	Unread  uint64   `json:"unread"`
	Time    int64    `json:"timestamp"` // unix seconds, of the newest message
	Last    uint64   `json:"last_msg_seq"`
	LastNo  string   `json:"last_client_msg_no"`
	Offset  uint64   `json:"offset_msg_seq"` // what is up to it was taken off the list
	ReadTo  uint64   `json:"readed_to_msg_seq"`
	Version int64    `json:"version"` // unix nanoseconds, like those of the public servers
	Recents []stored `json:"recents"`
}

// listing is the body of /conversation/sync.
type listing struct {
	UID     string `json:"uid"`
	Version int64  `json:"version"`       // lines that changed since; 0, and what is a day ahead: all
	Seqs    string `json:"last_msg_seqs"` // what the client has: "channel:type:seq|..."
	Count   int    `json:"msg_count"`     // recent messages of each line
	Unread  int    `json:"only_unread"`
	Without []int  `json:"exclude_channel_types"`
	Page    int    `json:"page"` // from 1 on; 0: 1
	Size    int    `json:"page_size"`
}

func (l *listing) check() error {
	if err := checkName("uid", l.UID); err != nil {
		return err
	}
	l.Count, l.Size = min(l.Count, maxRecents), min(l.Size, maxTalks)
	if l.Version > time.Now().Add(24*time.Hour).UnixNano() { // it is of another server, or of a clock that was wrong
		l.Version = 0
	}
	switch {
	case l.Count < 0:
		return fmt.Errorf("msg_count is %d, 0 to %d are possible", l.Count, maxRecents)
	case l.Size < 0:
		return fmt.Errorf("page_size is %d, 1 to %d are possible", l.Size, maxTalks)
	case l.Page < 0 || l.Page > maxPage:
		return fmt.Errorf("page is %d, 1 to %d are possible", l.Page, maxPage)
	}
	return nil
}

// known are the newest sequences that a client says it has, by channel:type.
type known map[string]uint64

// known reads what a client has of its channels. What is no entry is passed over:
// SDKs write "null", and ids may have a "|".
func (l *listing) known() known {
	have := make(known)
	for part := range strings.SplitSeq(l.Seqs, "|") {
		if cut := strings.LastIndexByte(part, ':'); cut > 0 {
			if seq, err := strconv.ParseUint(part[cut+1:], 10, 64); err == nil {
				have[part[:cut]] = seq
			}
		}
	}
	return have
}

// of returns what a client has of a channel, and whether it has said so. More than
// there is counts as nothing: it is of a channel that was deleted and made again, or
// of before a backup was restored.
func (k known) of(id string, typ uint8, last uint64) (seq uint64, said bool) {
	seq, said = k[id+":"+strconv.Itoa(int(typ))]
	return had(seq, last), said
}

// had is a sequence that a client says it has, 0 if there is no such.
func had(seq, last uint64) uint64 {
	if seq > last {
		return 0
	}
	return seq
}

// talks answers POST /conversation/sync: the newest first.
func (s *Server) talks(w http.ResponseWriter, r *http.Request) {
	var l listing
	err := decode(w, r, maxBody, &l)
	if err == nil {
		err = l.check()
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot list conversations: %w", err))
		return
	}
	all, err := s.core.Talks(r.Context(), l.UID)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("cannot list conversations: %w", err))
		return
	}
	have, rd := l.known(), s.reader(r.Context())
	rd.room *= 4
	all = slices.DeleteFunc(all, func(t broker.Talk) bool {
		seq, known := have.of(showID(t.Channel, l.UID), t.Channel.Type, t.Last)
		return slices.Contains(l.Without, int(t.Channel.Type)) || showID(t.Channel, l.UID) == systemUID ||
			l.Version > 0 && t.Version*millisecond <= l.Version && (!known || t.Last <= seq) ||
			l.Unread != 0 && rd.unread(&t) == 0
	})
	slices.SortFunc(all, func(a, b broker.Talk) int {
		if a.Newest != b.Newest {
			return int(min(max(b.Newest-a.Newest, -1), 1))
		}
		return strings.Compare(a.Channel.ID, b.Channel.ID)
	})
	size, page := l.Size, max(l.Page, 1)
	if size == 0 {
		size = maxTalks
	}
	all = all[min(len(all), (page-1)*size):]
	lines := make([]talk, 0, min(len(all), size))
	for _, t := range all[:min(len(all), size)] {
		if lines = append(lines, rd.line(&t, &l, have)); rd.err != nil {
			rd.fail(w, "conversations")
			return
		}
	}
	reply(w, http.StatusOK, lines)
}

// showID is the id of a channel as a user sees it.
func showID(ch *message.Channel, uid string) string {
	if ch.Type == message.ChannelPerson {
		return string(wukong.PersonPeer([]byte(ch.ID), []byte(uid)))
	}
	return ch.ID
}

// unread is how many messages of a conversation are not read and have not expired.
func (rd *reader) unread(t *broker.Talk) uint64 {
	if t.Expires <= t.Read {
		return t.Unread
	}
	return t.Unread - min(t.Unread, rd.expired(t.Channel, t.Read+1, min(t.Expires, t.Last)))
}

// line makes a line of the answer. The newest message of each line is read in any
// case, for its number.
func (rd *reader) line(t *broker.Talk, l *listing, have known) talk {
	p := place{UID: l.UID, ID: showID(t.Channel, l.UID), Type: int(t.Channel.Type)}
	line := talk{ID: p.ID, Type: t.Channel.Type, Time: t.Newest / 1000, Last: t.Last, Offset: t.Deleted, ReadTo: t.Read,
		Version: t.Version * millisecond, Recents: []stored{}}
	line.Unread = rd.unread(t)
	ch, first, last := p.find(rd.s.archive)
	if ch == nil {
		return line
	}
	seen, _ := have.of(p.ID, t.Channel.Type, last)
	rd.each = textSize(p.ID)
	found := past{First: max(first, t.Deleted+1, seen+1), Last: last}
	if l.Count > 0 && found.First <= last && rd.room > 0 {
		rd.readDown(ch, &question{limit: l.Count, down: true}, &found)
	}
	if n := len(found.Messages); n > 0 {
		line.LastNo = found.Messages[n-1].ClientMsgNo
		slices.Reverse(found.Messages) // the newest first
		line.Recents = rd.show(&p, found.Messages, false)
	} else if page := rd.page(ch, last, 1); page != nil {
		var r message.Record
		if len(page.Seqs) > 0 && page.Batch.Record(0, &r) == nil {
			line.LastNo = string(r.ClientMsgNo)
		}
		page.Batch.Release()
	}
	return line
}

// reading is the body of a request that changes one conversation.
type reading struct {
	UID    string `json:"uid"`
	ID     string `json:"channel_id"`
	Type   int    `json:"channel_type"`
	Seq    uint64 `json:"message_seq"` // up to it; 0: all there is
	Unread uint64 `json:"unread"`
}

// changeTalk returns the handler of a change of one conversation.
func (s *Server) changeTalk(op message.ConversationOp) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var c reading
		err := decode(w, r, smallBody, &c)
		p := place{UID: c.UID, ID: c.ID, Type: c.Type}
		if err == nil {
			err = p.check(true)
		}
		if err == nil {
			err = checkName("uid", c.UID)
		}
		if err != nil {
			fail(w, http.StatusBadRequest, fmt.Errorf("cannot change a conversation: %w", err))
			return
		}
		n := c.Seq
		if op == message.OpUnread {
			n = c.Unread
		}
		s.carryOut(w, r, fmt.Sprintf("the conversation of %q with %q", c.UID, c.ID), []message.Record{{
			Kind: message.KindConversation, FromUID: []byte(c.UID), ChannelType: uint8(c.Type),
			ChannelID: storageID(c.Type, c.UID, c.ID), Payload: message.AppendConversation(nil, op, n)}}, message.ReasonSuccess)
	}
}

// talkMessages answers POST /conversation/syncMessages: the newest messages of
// some channels behind what the client has of each.
func (s *Server) talkMessages(w http.ResponseWriter, r *http.Request) {
	var c struct {
		UID      string `json:"uid"`
		Channels []struct {
			ID   string `json:"channel_id"`
			Type int    `json:"channel_type"`
			Seq  uint64 `json:"last_msg_seq"`
		} `json:"channels"`
		Count int `json:"msg_count"`
	}
	err := decode(w, r, maxBody, &c)
	switch n := len(c.Channels); {
	case err != nil:
	case n == 0 || n > maxTalks:
		err = fmt.Errorf("channels has %d entries, 1 to %d are possible", n, maxTalks)
	case c.Count < 0:
		err = fmt.Errorf("msg_count is %d, 1 to %d are possible", c.Count, maxRecents)
	case c.Count == 0:
		c.Count = recents
	}
	c.Count = min(c.Count, maxRecents)
	type part struct {
		ID       string   `json:"channel_id"`
		Type     int      `json:"channel_type"`
		Messages []stored `json:"messages"`
		More     int      `json:"more,omitempty"` // 1: the answer had no room for all of them
	}
	var all []part
	rd := s.reader(r.Context())
	rd.room *= 4
	for _, ch := range c.Channels {
		p := place{UID: c.UID, ID: ch.ID, Type: ch.Type}
		if err == nil {
			err = p.check(true)
		}
		if err != nil {
			fail(w, http.StatusBadRequest, fmt.Errorf("cannot read messages: %w", err))
			return
		}
		rd.each = textSize(p.ID)
		found := past{Messages: []entry{}}
		kept, first, last := p.find(s.archive)
		one := part{ID: p.ID, Type: p.Type}
		if found.First, found.Last = max(first, had(ch.Seq, last)+1), last; kept != nil && found.First <= last {
			if found.Next = last; rd.room > 0 {
				found.Next = 0
				rd.readDown(kept, &question{limit: c.Count, down: true}, &found)
			}
			if found.Next > 0 && len(found.Messages)+found.Lost < c.Count {
				one.More = 1
			}
		}
		one.Messages = rd.show(&p, found.Messages, false)
		all = append(all, one)
		if rd.err != nil {
			rd.fail(w, "messages")
			return
		}
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot read messages: %w", err))
		return
	}
	reply(w, http.StatusOK, all)
}
