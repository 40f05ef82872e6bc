package api

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"gatepost/message"
)

// Events are the pieces of a message that is not finished, such as the answer of a
// language model. A piece (stream.delta) is pushed to who is connected and kept
// nowhere; every other event is a record of the log with a sequence in the events
// of its channel, and 200 says that it is on disk.

// eventDelta is the only type that is not stored.
const eventDelta = "stream.delta"

// statusOf says what an event makes of its stream.
func statusOf(eventType string) string {
	switch eventType {
	case "stream.close":
		return "closed"
	case "stream.finish":
		return "finished"
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
	Payload     json.RawMessage `json:"payload"`
}

// tail is what an event's record holds, and what follows in an EVENT.
type tail struct {
	Key     string          `json:"event_key"`
	Status  string          `json:"stream_status"`
	Payload json.RawMessage `json:"payload,omitempty"`
}

func (e *event) record(maxPayload int) (r message.Record, err error) {
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
	case !strings.HasPrefix(e.EventType, "stream."):
		return r, fmt.Errorf("event_type is %q, stream.delta, stream.close, stream.finish, stream.error, stream.cancel and others that begin with stream. are possible", e.EventType)
	case len(e.EventID) > maxName || len(e.EventKey) > maxName:
		return r, fmt.Errorf("event_id has %d bytes, event_key %d, the limit is %d", len(e.EventID), len(e.EventKey), maxName)
	case len(e.Payload) > maxPayload:
		return r, fmt.Errorf("payload has %d bytes, the limit is %d (net.max_payload)", len(e.Payload), maxPayload)
	}
	text, err := json.Marshal(tail{Key: e.EventKey, Status: statusOf(e.EventType), Payload: e.Payload})
	if err != nil {
		return r, fmt.Errorf("payload: %w", err)
	}
	return message.Record{
		Kind: message.KindMessage, Flags: message.FlagServer | message.FlagEvent | message.FlagStream, ChannelType: uint8(e.Type),
		ChannelID: message.EventsOf(nil, storageID(e.Type, e.FromUID, e.ID)), FromUID: []byte(e.FromUID), ClientMsgNo: []byte(e.ClientMsgNo),
		Topic: message.AppendStream(nil, []byte(e.EventID), []byte(e.EventType)), Payload: text,
	}, nil
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
	answers, status, err := s.commit(r.Context(), []message.Record{record}, e.EventType == eventDelta)
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
	ClientMsgNo string          `json:"client_msg_no"`
	EventID     string          `json:"event_id"`
	EventType   string          `json:"event_type"`
	EventKey    string          `json:"event_key"`
	Seq         uint64          `json:"msg_event_seq"`
	Status      string          `json:"stream_status"`
	FromUID     string          `json:"from_uid"`
	ID          string          `json:"channel_id"`
	Type        int             `json:"channel_type"`
	Timestamp   int64           `json:"timestamp"` // unix seconds
	Payload     json.RawMessage `json:"payload,omitempty"`
}

// eventSync answers POST /message/eventsync: what is stored of the events of one
// message, or of all of a channel, ascending.
func (s *Server) eventSync(w http.ResponseWriter, r *http.Request) {
	var c struct {
		place
		FromUID string `json:"from_uid"`
		No      string `json:"client_msg_no"`
		Key     string `json:"event_key"`
		From    uint64 `json:"from_msg_event_seq"` // included
		Limit   int    `json:"limit"`
	}
	err := decode(w, r, smallBody, &c)
	if c.UID == "" {
		c.UID = c.FromUID
	}
	if err == nil {
		err = c.check(true)
	}
	if err == nil && (c.Limit < 0 || c.Limit > maxHistory) {
		err = fmt.Errorf("limit is %d, 1 to %d are possible", c.Limit, maxHistory)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot read events: %w", err))
		return
	}
	if c.Limit == 0 {
		c.Limit = 100
	}
	all := []pastEvent{}
	ch, first, last := s.archive.Find(uint8(c.Type), message.EventsOf(nil, storageID(c.Type, c.UID, c.ID)))
	for next, bytes := max(first, c.From), 0; ch != nil && next <= last && len(all) < c.Limit && bytes < historyBytes; {
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
			if c.No != "" && string(m.ClientMsgNo) != c.No || json.Unmarshal(m.Payload, &t) != nil || c.Key != "" && t.Key != c.Key {
				continue
			}
			id, typ := m.Stream()
			all = append(all, pastEvent{string(m.ClientMsgNo), string(id), string(typ), t.Key, seq, t.Status, string(m.FromUID),
				c.ID, c.Type, m.Timestamp / 1000, t.Payload})
			if bytes += m.Size(); len(all) == c.Limit {
				break
			}
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
	reply(w, http.StatusOK, all)
}
