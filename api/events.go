package api

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"gatepost/message"
)

// Events are the pieces of a message that is not finished, such as the answer of a
// language model. A piece (stream.delta) is pushed to who is connected and gathered
// in memory; every other event is a record of the log with a sequence in the events
// of its channel, and 200 says that it is on disk. The one that ends a stream holds
// all that was gathered of it.

const (
	eventDelta    = "stream.delta" // the only type that is not stored
	eventSnapshot = "stream.snapshot"
	eventFinish   = "stream.finish"
)

// statusOf says what an event makes of its stream.
func statusOf(eventType string) string {
	switch eventType {
	case "stream.close", eventFinish:
		return streamClosed
	case "stream.error":
		return streamFailed
	case "stream.cancel":
		return streamCancelled
	}
	return streamOpen
}

// event is the body of /message/event.
type event struct {
	ID          string          `json:"channel_id"`
	Type        int             `json:"channel_type"`
	FromUID     string          `json:"from_uid"`
	ClientMsgNo string          `json:"client_msg_no"` // of the message that it belongs to
	EventID     string          `json:"event_id"`      // the same again gets the first answer again
	EventType   string          `json:"event_type"`
	EventKey    string          `json:"event_key"` // tells streams of one message apart; "main" if it is empty
	Visibility  string          `json:"visibility"`
	OccurredAt  int64           `json:"occurred_at"`
	Payload     json.RawMessage `json:"payload"`
}

// tail is what an event's record holds, and what follows in an EVENT.
type tail struct {
	Key        string          `json:"event_key"`
	Status     string          `json:"stream_status"`
	Visibility string          `json:"visibility,omitempty"`
	OccurredAt int64           `json:"occurred_at,omitempty"`
	Payload    json.RawMessage `json:"payload,omitempty"`
}

func (e *event) record(maxPayload int) (r message.Record, err error) {
	e.EventType = strings.ToLower(strings.TrimSpace(e.EventType))
	if e.EventKey = strings.TrimSpace(e.EventKey); e.EventKey == "" {
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
	for name, text := range map[string]string{"client_msg_no": e.ClientMsgNo, "event_type": e.EventType} {
		if text == "" || len(text) > maxName {
			return r, fmt.Errorf("%s has %d bytes, 1 to %d are possible", name, len(text), maxName)
		}
	}
	switch {
	case len(e.EventID) > maxName || len(e.EventKey) > maxName || len(e.Visibility) > maxName:
		return r, fmt.Errorf("event_id has %d bytes, event_key %d, visibility %d, the limit is %d", len(e.EventID), len(e.EventKey), len(e.Visibility), maxName)
	case len(e.Payload) > maxPayload:
		return r, fmt.Errorf("payload has %d bytes, the limit is %d (net.max_payload)", len(e.Payload), maxPayload)
	}
	return message.Record{
		Kind: message.KindMessage, Flags: message.FlagServer | message.FlagEvent | message.FlagStream, ChannelType: uint8(e.Type),
		ChannelID: message.EventsOf(nil, storageID(e.Type, e.FromUID, e.ID)), FromUID: []byte(e.FromUID), ClientMsgNo: []byte(e.ClientMsgNo),
		Topic: message.AppendStream(nil, []byte(e.EventID), []byte(e.EventType)),
	}, nil
}

// tail makes the payload of an event's record.
func (e *event) tail() ([]byte, error) {
	text, err := json.Marshal(tail{Key: e.EventKey, Status: statusOf(e.EventType), Visibility: e.Visibility, OccurredAt: e.OccurredAt, Payload: e.Payload})
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	return text, nil
}

// stream names the stream that an event belongs to.
func (e *event) stream() streamKey {
	return streamKey{uint8(e.Type), string(storageID(e.Type, e.FromUID, e.ID)), e.ClientMsgNo, e.EventKey}
}

// event answers POST /message/event.
func (s *Server) event(w http.ResponseWriter, r *http.Request) {
	var e event
	var record message.Record
	err := decode(w, r, maxBody, &e)
	if err == nil {
		record, err = e.record(s.limits.Load().MaxPayload)
	}
	delta, ends := e.EventType == eventDelta, statusOf(e.EventType) != streamOpen
	if err == nil {
		if reason := s.core.Access().MayPublishAny(record.ChannelType, []byte(e.stream().channel), record.FromUID); reason != message.ReasonSuccess {
			refuse(w, reason, e.ID)
			return
		}
		if delta && !s.streams.add(e.stream(), e.Payload, time.Now()) {
			err = fmt.Errorf("the stream %q of the message has ended", e.EventKey)
		}
		if snapshot, open := s.streams.peek(e.stream()); ends && open && snapshot != nil {
			e.Payload = merged(e.Payload, snapshot)
		}
	}
	if err == nil {
		record.Payload, err = e.tail()
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot take an event: %w", err))
		return
	}
	answers, status, err := s.commit(r.Context(), []message.Record{record}, delta)
	if ends && err == nil && answers[0].reason == message.ReasonSuccess {
		s.streams.end(e.stream(), time.Now())
	}
	switch {
	case err != nil && status == 0: // who asked is gone
	case err != nil:
		fail(w, status, fmt.Errorf("cannot take an event for %q: %w", e.ID, err))
	case answers[0].reason != message.ReasonSuccess:
		refuse(w, answers[0].reason, e.ID)
	default:
		reply(w, http.StatusOK, map[string]any{"status": http.StatusOK, "data": map[string]any{
			"client_msg_no": e.ClientMsgNo, "event_key": e.EventKey, "event_id": e.EventID, "msg_event_seq": answers[0].seq,
			"stream_status": statusOf(e.EventType), "channel_id": e.ID, "channel_type": e.Type, "from_uid": e.FromUID}})
	}
}

// pastEvent is one event of an answer.
type pastEvent struct {
	Seq        uint64          `json:"msg_event_seq"`
	EventID    string          `json:"event_id"`
	EventKey   string          `json:"event_key"`
	EventType  string          `json:"event_type"`
	Visibility string          `json:"visibility"`
	OccurredAt int64           `json:"occurred_at"`
	Payload    json.RawMessage `json:"payload,omitempty"`
}

// eventSync answers POST /message/eventsync: what is stored of the events of one
// message, ascending.
func (s *Server) eventSync(w http.ResponseWriter, r *http.Request) {
	var c struct {
		place
		FromUID string `json:"from_uid"`
		No      string `json:"client_msg_no"`
		Key     string `json:"event_key"`
		From    uint64 `json:"from_msg_event_seq"` // not included
		Limit   int    `json:"limit"`
		Private int    `json:"include_private"`
	}
	err := decode(w, r, smallBody, &c)
	if c.UID == "" {
		c.UID = c.FromUID
	}
	if err == nil {
		err = c.check(true)
	}
	switch {
	case err != nil:
	case c.No == "":
		err = errors.New("client_msg_no is empty")
	case c.Limit < 0:
		err = fmt.Errorf("limit is %d, 1 to %d are possible", c.Limit, maxHistory)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot read events: %w", err))
		return
	}
	if c.Limit = min(c.Limit, maxHistory); c.Limit == 0 {
		c.Limit = 200
	}
	all, more := []pastEvent{}, 0
	ch, first, last := s.archive.Find(uint8(c.Type), message.EventsOf(nil, storageID(c.Type, c.UID, c.ID)))
	for next, bytes := max(first, min(c.From, maxSeq)+1), 0; ch != nil && next <= last && more == 0; {
		page, err := s.archive.Read(ch, next, historyStep, historyBytes)
		if err != nil {
			s.o.Logger.Error("events lost", "channel", ch.ID, "from", next, "lost", page.Lost, "err", err)
		}
		for i, seq := range page.Seqs {
			var m message.Record
			if err := page.Batch.Record(i, &m); err != nil {
				panic("BUG: a page that was read cannot be read: " + err.Error())
			}
			var t tail
			if string(m.ClientMsgNo) != c.No || json.Unmarshal(m.Payload, &t) != nil || c.Key != "" && t.Key != c.Key ||
				c.Private == 0 && (t.Visibility == "private" || t.Visibility == "restricted") {
				continue
			}
			if len(all) == c.Limit || bytes > historyBytes {
				more = 1
				break
			}
			id, typ := m.Stream()
			if t.OccurredAt == 0 {
				t.OccurredAt = m.Timestamp
			}
			all = append(all, pastEvent{seq, string(id), t.Key, string(typ), t.Visibility, t.OccurredAt, t.Payload})
			bytes += m.Size()
		}
		if page.Next <= next {
			last = 0 // the channel is gone
		}
		next = page.Next
		page.Batch.Release()
		if r.Context().Err() != nil {
			return
		}
	}
	next := c.From
	if len(all) > 0 {
		next = all[len(all)-1].Seq
	}
	reply(w, http.StatusOK, map[string]any{"status": http.StatusOK, "data": map[string]any{"client_msg_no": c.No,
		"from_msg_event_seq": c.From, "next_msg_event_seq": next, "more": more, "events": all, "filtered_by_event_key": c.Key}})
}
