package api

import (
	"encoding/json"
	"net/http"
	"strconv"
	"sync"
	"time"

	"gatepost/message"
	"gatepost/wukong"
)

// Keys and statuses of streams are those of the public servers.
const (
	keyMain   = "main"       // of a stream that has no name
	keyFinish = "__finish__" // of stream.finish: all streams of the message are done

	streamOpen      = "open"
	streamClosed    = "closed"
	streamFailed    = "error"
	streamCancelled = "cancelled"
)

// Pieces that are gathered take 4 MiB at the most. What is too much of one stream is
// left out at its end; the stream that was quiet for longest makes room for another
// one: then what is stored at its end lacks what came before.
const (
	maxStreams     = 1024
	maxStreamBytes = 64 << 10
	maxAllStreams  = 4 << 20
)

// streamKey names one stream of one message.
type streamKey struct {
	typ              uint8
	channel, no, key string // storage id, client_msg_no, event_key
}

// flow is what came of one stream.
type flow struct {
	text   []byte          // of pieces of text
	raw    json.RawMessage // the newest piece of another kind
	cut    bool            // there was more text
	ended  bool
	active time.Time
}

func (f *flow) size() int { return len(f.text) + len(f.raw) }

// snapshot is what has come, as JSON; nil: nothing.
func (f *flow) snapshot() json.RawMessage {
	switch {
	case len(f.text) > 0:
		s := textSnapshot{Kind: "text", Text: string(f.text), Cut: f.cut}
		text, err := json.Marshal(s)
		if err != nil {
			panic("BUG: a text cannot be written: " + err.Error())
		}
		return text
	case len(f.raw) > 0:
		return f.raw
	}
	return nil
}

type textSnapshot struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
	Cut  bool   `json:"truncated,omitempty"`
}

// streams gathers the pieces of messages that are not finished, for the event that
// ends them. They are in memory only: after a restart what comes is gathered.
type streams struct {
	mu    sync.Mutex
	all   map[streamKey]*flow // guarded by mu
	bytes int                 // of them; guarded by mu
}

func newStreams() *streams { return &streams{all: make(map[streamKey]*flow)} }

// add takes a piece. It reports false if the stream has ended.
func (s *streams) add(k streamKey, piece json.RawMessage, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.all[k]
	if f == nil {
		s.room(1)
		f = new(flow)
		s.all[k] = f
	}
	if f.ended {
		return false
	}
	f.active = now
	s.bytes -= f.size()
	var p struct {
		Kind  string `json:"kind"`
		Delta string `json:"delta"`
	}
	if json.Unmarshal(piece, &p) == nil && p.Kind == "text" {
		n := min(len(p.Delta), maxStreamBytes-len(f.text))
		f.text = append(f.text, p.Delta[:n]...)
		f.cut = f.cut || n < len(p.Delta)
	} else if len(piece) > 0 {
		f.raw = append(f.raw[:0], piece...)
	}
	s.bytes += f.size()
	s.room(0)
	return true
}

// room drops the quietest until there are few enough, with so many more.
func (s *streams) room(more int) {
	for len(s.all) > 0 && (len(s.all)+more > maxStreams || s.bytes > maxAllStreams) {
		var oldest streamKey
		first := true
		for k, f := range s.all {
			if first || f.active.Before(s.all[oldest].active) {
				oldest, first = k, false
			}
		}
		s.bytes -= s.all[oldest].size()
		delete(s.all, oldest)
	}
}

// peek returns what has come of a stream that has not ended.
func (s *streams) peek(k streamKey) (snapshot json.RawMessage, open bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.all[k]
	if f == nil || f.ended {
		return nil, false
	}
	return f.snapshot(), true
}

// end forgets what has come of a stream, and that it has ended for a while.
func (s *streams) end(k streamKey, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.all[k]; f != nil {
		s.bytes -= f.size()
		*f = flow{ended: true, active: now}
		return
	}
	s.room(1)
	s.all[k] = &flow{ended: true, active: now}
}

// merged puts a snapshot into the payload of the event that ends a stream.
func merged(payload, snapshot json.RawMessage) json.RawMessage {
	body := map[string]json.RawMessage{}
	if len(payload) > 0 && json.Unmarshal(payload, &body) != nil {
		body = map[string]json.RawMessage{"raw_payload": payload}
	}
	if body == nil { // null
		body = map[string]json.RawMessage{}
	}
	body["snapshot"] = snapshot
	text, err := json.Marshal(body)
	if err != nil {
		return payload // it has something that is no JSON: it is refused later
	}
	return text
}

// streamMeta is what a message tells of its streams.
type streamMeta struct {
	HasEvents bool        `json:"has_events"`
	Completed bool        `json:"completed"`
	Version   uint64      `json:"event_version,omitempty"`
	Last      uint64      `json:"last_msg_event_seq,omitempty"`
	Count     int         `json:"event_count,omitempty"`
	Open      int         `json:"open_event_count,omitempty"`
	Events    []*streamOf `json:"events,omitempty"`
}

// streamOf is one stream.
type streamOf struct {
	Key       string          `json:"event_key"`
	Status    string          `json:"status"`
	Last      uint64          `json:"last_msg_event_seq,omitempty"`
	Snapshot  json.RawMessage `json:"snapshot,omitempty"`
	EndReason uint8           `json:"end_reason,omitempty"`
	Error     string          `json:"error,omitempty"`
}

// syncHint says where to read on.
type syncHint struct {
	ClientMsgNo string `json:"client_msg_no"`
	From        uint64 `json:"from_msg_event_seq"`
}

// of returns the stream with a key, new if there is none.
func (m *streamMeta) of(key string) *streamOf {
	for _, s := range m.Events {
		if s.Key == key {
			return s
		}
	}
	s := &streamOf{Key: key, Status: streamOpen}
	m.Events = append(m.Events, s)
	return s
}

// take carries out one stored event.
func (m *streamMeta) take(typ string, t *tail, seq uint64) {
	m.HasEvents = true
	m.Last = max(m.Last, seq)
	if t.Key == keyFinish {
		m.Completed = true
		return
	}
	s := m.of(t.Key)
	if s.Status != streamOpen {
		return // it has ended
	}
	s.Last = seq
	var p struct {
		Snapshot  json.RawMessage `json:"snapshot"`
		EndReason json.RawMessage `json:"end_reason"` // 1 or "1"
		Error     string          `json:"error"`
	}
	_ = json.Unmarshal(t.Payload, &p) // what is no object has none of them
	switch s.Status = statusOf(typ); {
	case typ == eventSnapshot:
		s.Snapshot = t.Payload
	case s.Status != streamOpen && len(p.Snapshot) > 0:
		s.Snapshot = p.Snapshot
	}
	switch s.Status {
	case streamClosed:
		reason, _ := strconv.ParseUint(string(trimQuotes(p.EndReason)), 10, 8) // 0: none
		s.EndReason = uint8(reason)
	case streamFailed:
		s.Error = p.Error
	}
}

func trimQuotes(p []byte) []byte {
	if len(p) >= 2 && p[0] == '"' {
		return p[1 : len(p)-1]
	}
	return p
}

// maxStreamEvents is how many events are looked through for the messages of one
// answer. They follow their messages soon, so that a page has its own in it.
const maxStreamEvents = 2000

// streamed adds to messages of one channel what came of their streams. Those that
// have none cost nothing.
func (s *Server) streamed(r *http.Request, p *place, all []stored) {
	metas := make(map[string]*streamMeta)
	first := int64(0)
	for i := range all {
		if m := &all[i]; m.Setting&wukong.SettingStream != 0 && m.ClientMsgNo != "" {
			metas[m.ClientMsgNo] = new(streamMeta)
			if first == 0 || m.ID < first {
				first = m.ID
			}
		}
	}
	if len(metas) == 0 {
		return
	}
	id := storageID(p.Type, p.UID, p.ID)
	if ch, oldest, last := s.archive.Find(uint8(p.Type), message.EventsOf(nil, id)); ch != nil {
		in := past{First: oldest, Last: last}
		looked, bytes := 0, 0
		for next := s.seek(ch, first-idSlack, in); next <= last && looked < maxStreamEvents && bytes < historyBytes && r.Context().Err() == nil; {
			page := s.page(ch, next, historyStep)
			var e message.Record
			for i, seq := range page.Seqs {
				var t tail
				if page.Batch.Record(i, &e) != nil {
					continue
				}
				looked++
				bytes += e.Size()
				if m := metas[string(e.ClientMsgNo)]; m != nil && json.Unmarshal(e.Payload, &t) == nil {
					_, typ := e.Stream()
					m.take(string(typ), &t, seq)
				}
			}
			on := page.Next
			page.Batch.Release()
			if on <= next {
				break
			}
			next = on
		}
	}
	for i := range all {
		m := &all[i]
		meta := metas[m.ClientMsgNo]
		if meta == nil || m.Setting&wukong.SettingStream == 0 {
			continue
		}
		if snapshot, open := s.streams.peek(streamKey{uint8(p.Type), string(id), m.ClientMsgNo, keyMain}); open {
			meta.HasEvents = true
			if of := meta.of(keyMain); of.Status == streamOpen {
				of.Snapshot = snapshot
			}
		}
		if meta.HasEvents {
			meta.show(m)
		}
	}
}

// show puts what is known of streams into a message.
func (m *streamMeta) show(to *stored) {
	m.Count, m.Version = len(m.Events), m.Last
	for _, s := range m.Events {
		if s.Status == streamOpen {
			m.Open++
		}
		if s.Key != keyMain {
			continue
		}
		var text textSnapshot
		if json.Unmarshal(s.Snapshot, &text) == nil && text.Kind == "text" {
			to.StreamData = []byte(text.Text)
		} else if len(s.Snapshot) > 0 {
			to.StreamData = s.Snapshot
		}
		if s.Status != streamOpen {
			to.End = 1
		}
		to.EndReason, to.Error = s.EndReason, s.Error
	}
	to.EventMeta, to.EventHint = m, &syncHint{ClientMsgNo: to.ClientMsgNo}
}
