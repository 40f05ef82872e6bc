package api

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"gatepost/message"
)

// Events are the pieces of a message that is not finished, such as the answer of a
// language model. A piece (stream.delta) is pushed to who is connected and gathered
// in memory, see streams; every other event is a record of the log with a sequence
// in the events of its channel. 200 says that it is on disk, with what the pieces
// before it add up to.

const (
	eventDelta    = "stream.delta" // the only type that is not stored
	eventSnapshot = "stream.snapshot"
	eventFinish   = "stream.finish" // ends all keys of a message
)

// statusOf says what an event makes of its stream. Types that nobody knows leave it
// open.
func statusOf(eventType string) string {
	switch eventType {
	case "stream.close", eventFinish:
		return "closed"
	case "stream.error":
		return "error"
	case "stream.cancel":
		return "cancelled"
	}
	return "open"
}

// event is the body of /message/event.
type event struct {
	ID          string          `json:"channel_id"`
	Type        int             `json:"channel_type"`
	FromUID     string          `json:"from_uid"`
	ClientMsgNo string          `json:"client_msg_no"` // of the message that it belongs to
	EventID     string          `json:"event_id"`      // the same again gets the first answer again
	EventType   string          `json:"event_type"`
	EventKey    string          `json:"event_key"` // tells streams of one message apart
	Visibility  string          `json:"visibility"`
	Occurred    int64           `json:"occurred_at"` // unix milliseconds
	Payload     json.RawMessage `json:"payload"`
}

// tail is what an event's record holds, and what follows in an EVENT.
type tail struct {
	Key        string          `json:"event_key"`
	Status     string          `json:"stream_status"`
	Visibility string          `json:"visibility,omitempty"`
	Payload    json.RawMessage `json:"payload,omitempty"`
}

// kept follows the tail in a record, behind a line feed, and is not pushed: who is
// connected had the pieces.
type kept struct {
	Occurred int64                      `json:"occurred_at,omitempty"`
	Snapshot json.RawMessage            `json:"snapshot,omitempty"` // what the pieces add up to
	Lanes    map[string]json.RawMessage `json:"lanes,omitempty"`    // the same by key, of those that end with the message
}

// record checks an event and makes its record, without what was gathered.
func (e *event) record(maxPayload int) (r message.Record, err error) {
	e.ClientMsgNo, e.EventID, e.EventKey = strings.TrimSpace(e.ClientMsgNo), strings.TrimSpace(e.EventID), strings.TrimSpace(e.EventKey)
	e.EventType, e.Visibility = strings.ToLower(strings.TrimSpace(e.EventType)), strings.TrimSpace(e.Visibility)
	if e.EventKey == "" {
		e.EventKey = keyMain
	}
	if e.EventType == eventFinish {
		e.EventKey = keyFinish
	}
	if e.FromUID == "" {
		e.FromUID = systemUID
	}
	if e.EventID == "" {
		var id [16]byte
		rand.Read(id[:])
		e.EventID = hex.EncodeToString(id[:])
	}
	if err := checkName("from_uid", e.FromUID); err != nil {
		return r, err
	}
	if err := checkType(e.Type); err != nil {
		return r, err
	}
	if err := checkChannel(uint8(e.Type), e.ID); err != nil {
		return r, err
	}
	if err := checkNo(e.ClientMsgNo); err != nil {
		return r, err
	}
	for _, named := range []struct{ field, value string }{
		{"event_type", e.EventType}, {"event_id", e.EventID}, {"event_key", e.EventKey}, {"visibility", e.Visibility},
	} {
		if err := message.CheckName(named.value, maxEvent); err != nil {
			return r, fmt.Errorf("%s: %w", named.field, err)
		}
	}
	switch {
	case e.ClientMsgNo == "":
		return r, errors.New("client_msg_no is empty")
	case e.EventType == "":
		return r, errors.New("event_type is empty")
	case len(e.Payload) > maxPayload:
		return r, fmt.Errorf("payload has %d bytes, the limit is %d (net.max_payload)", len(e.Payload), maxPayload)
	}
	text, err := json.Marshal(tail{Key: e.EventKey, Status: statusOf(e.EventType), Visibility: e.Visibility, Payload: e.Payload})
	if err != nil {
		return r, fmt.Errorf("payload: %w", err)
	}
	return message.Record{
		Kind: message.KindMessage, Flags: message.FlagServer | message.FlagEvent | message.FlagStream, ChannelType: uint8(e.Type),
		ChannelID: message.EventsOf(nil, storageID(e.Type, e.FromUID, e.ID)), FromUID: []byte(e.FromUID), ClientMsgNo: []byte(e.ClientMsgNo),
		Topic: message.AppendStream(nil, []byte(e.EventID), []byte(e.EventType)), Payload: text,
	}, nil
}

// gathered is what the record of an event holds besides what was said. The caller
// has the stream's turn.
func (e *event) gathered(ls lanes) (k kept) {
	k.Occurred = e.Occurred
	switch l := ls[e.EventKey]; {
	case e.EventType == eventFinish:
		k.Lanes = make(map[string]json.RawMessage)
		for key, l := range ls {
			if key != keyFinish && !l.ended() {
				k.Lanes[key] = l.content()
			}
		}
	case l != nil && statusOf(e.EventType) != "open":
		k.Snapshot = l.content()
	}
	return k
}

// event answers POST /message/event.
func (s *Server) event(w http.ResponseWriter, r *http.Request) {
	var e event
	var record message.Record
	err := decode(w, r, maxBody, &e)
	if err == nil {
		record, err = e.record(s.limits.Load().MaxPayload)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot take an event: %w", err))
		return
	}
	id := storageID(e.Type, e.FromUID, e.ID)
	if reason := s.core.Access().MayPublishAny(uint8(e.Type), id, record.FromUID); reason != message.ReasonSuccess {
		refuse(w, reason, e.ID)
		return
	}
	st, err := s.streams.enter(r.Context(), streamOf{uint8(e.Type), string(id), e.ClientMsgNo}, s.o.Wait)
	if err != nil {
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("cannot take an event for %q: %w", e.ID, err))
		return
	}
	defer s.streams.leave(st)
	if !st.looked {
		rd := s.reader(r.Context())
		ls := rd.recall(uint8(e.Type), id, e.ClientMsgNo, 0, recallEvents)
		if rd.err != nil { // whether the stream has ended is not known
			rd.fail(w, "the events before this one")
			return
		}
		s.streams.change(st, func(now lanes) { maps.Copy(now, ls) })
		st.looked = true
	}
	answer := func(eventID string, seq uint64, status string) {
		reply(w, http.StatusOK, map[string]any{"status": http.StatusOK, "data": map[string]any{
			"client_msg_no": e.ClientMsgNo, "event_key": e.EventKey, "event_id": eventID, "msg_event_seq": seq,
			"stream_status": status, "channel_id": e.ID, "channel_type": e.Type, "from_uid": e.FromUID}})
	}
	delta := e.EventType == eventDelta
	l, finish := st.lanes[e.EventKey], st.lanes[keyFinish]
	switch {
	case l != nil && l.ID == e.EventID && l.Type == e.EventType:
		answer(l.ID, l.Seq, l.Status)
		return
	case delta && (l != nil && l.ended() || finish != nil):
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot take a piece for %q: the stream %q of message %q has ended", e.ID, e.EventKey, e.ClientMsgNo))
		return
	case l != nil && l.ended(): // how it ended
		answer(l.ID, l.Seq, l.Status)
		return
	}
	if delta || e.EventType == eventSnapshot || l == nil {
		// Written again, text has at most twice the bytes.
		err = s.streams.admit(st, laneCost+len(e.EventKey)+len(e.EventID)+len(e.EventType)+2*len(e.Payload))
	}
	if err != nil {
		status := http.StatusServiceUnavailable
		if errors.Is(err, errStreamBig) {
			status = http.StatusBadRequest
		}
		fail(w, status, fmt.Errorf("cannot take an event for %q: %w", e.ID, err))
		return
	}
	if !delta {
		record.Payload = append(append(record.Payload, '\n'), toJSON(e.gathered(st.lanes))...)
	}
	answers, status, err := s.commit(r.Context(), []message.Record{record}, delta)
	switch {
	case err != nil:
		fail(w, status, fmt.Errorf("cannot take an event for %q: %w", e.ID, err))
	case answers[0].reason != message.ReasonSuccess:
		refuse(w, answers[0].reason, e.ID)
	default:
		seq := answers[0].seq
		s.streams.change(st, func(ls lanes) {
			if !delta {
				ls.take(&record, seq)
				return
			}
			l := ls.lane(e.EventKey)
			l.add(e.Payload)
			l.ID, l.Type, l.Visibility, l.Occurred = e.EventID, e.EventType, e.Visibility, e.Occurred
		})
		answer(e.EventID, seq, statusOf(e.EventType))
	}
}

// pastEvent is one event of an answer: what those with one key make together.
type pastEvent struct {
	Seq        uint64          `json:"msg_event_seq"`
	EventID    string          `json:"event_id"`
	EventKey   string          `json:"event_key"`
	EventType  string          `json:"event_type"`
	Visibility string          `json:"visibility"`
	Occurred   int64           `json:"occurred_at"` // unix milliseconds
	Status     string          `json:"stream_status"`
	Payload    json.RawMessage `json:"payload,omitempty"`
}

// events are those behind a sequence, ascending.
func (ls lanes) events(from uint64, key string, private bool) (all []pastEvent) {
	all = []pastEvent{}
	for k, l := range ls {
		if l.Seq <= from || key != "" && k != key || !private && (l.Visibility == "private" || l.Visibility == "restricted") {
			continue
		}
		e := pastEvent{l.Seq, l.ID, k, l.Type, l.Visibility, l.Occurred, l.Status, l.content()}
		if len(e.Payload) == 0 {
			e.Payload = l.Payload
		}
		if len(e.Payload) == 0 {
			e.Payload = toJSON(map[string]any{"status": l.Status, "end_reason": l.EndReason})
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b pastEvent) int {
		return cmp.Or(cmp.Compare(a.Seq, b.Seq), strings.Compare(a.EventKey, b.EventKey))
	})
	return all
}

// eventSync answers POST /message/eventsync: what is stored of the events of one
// message, the newest with each key.
func (s *Server) eventSync(w http.ResponseWriter, r *http.Request) {
	var c struct {
		place
		FromUID string `json:"from_uid"`
		No      string `json:"client_msg_no"`
		Key     string `json:"event_key"`
		From    uint64 `json:"from_msg_event_seq"` // not included
		Limit   int    `json:"limit"`
		Private uint8  `json:"include_private"` // 1: those with visibility private and restricted too
	}
	err := decode(w, r, smallBody, &c)
	if c.UID == "" {
		c.UID = c.FromUID
	}
	if err == nil {
		err = c.check(true)
	}
	c.No, c.Key = strings.TrimSpace(c.No), strings.TrimSpace(c.Key)
	if err == nil && (c.No == "" || len(c.No) > message.MaxClientMsgNo) {
		err = fmt.Errorf("client_msg_no has %d bytes, 1 to %d are possible", len(c.No), message.MaxClientMsgNo)
	}
	if err == nil && c.Limit < 0 {
		err = fmt.Errorf("limit is %d, it must not be negative", c.Limit)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot read events: %w", err))
		return
	}
	if c.Limit == 0 {
		c.Limit = 200
	}
	c.Limit = min(c.Limit, 2000)
	rd := s.reader(r.Context())
	all := rd.recall(uint8(c.Type), storageID(c.Type, c.UID, c.ID), c.No, c.From, syncEvents).events(c.From, c.Key, c.Private == 1)
	if rd.err != nil {
		rd.fail(w, "events")
		return
	}
	more, next := 0, c.From
	if len(all) > c.Limit {
		more, all = 1, all[:c.Limit]
	}
	if len(all) > 0 {
		next = all[len(all)-1].Seq
	}
	reply(w, http.StatusOK, map[string]any{"status": http.StatusOK, "data": map[string]any{
		"client_msg_no": c.No, "from_msg_event_seq": c.From, "next_msg_event_seq": next, "more": more,
		"events": all, "filtered_by_event_key": c.Key}})
}
