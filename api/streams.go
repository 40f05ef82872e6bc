package api

import (
	"bytes"
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"gatepost/message"
)

// The pieces of streams are gathered in memory, so that the one record that ends a
// stream holds what they add up to. These are the limits; they are inside what
// limit.go says of HTTP.
const (
	maxStreams   = 1024      // that are remembered, with those that have ended
	streamsBytes = 2 << 20   // of all of them
	streamBytes  = 256 << 10 // of one
	streamCost   = 512       // bytes that one takes without content
	laneCost     = 256       // bytes that a key of one takes without content
	// streamIdle is how long nobody must have said anything of a stream without
	// an end before it makes room for another one.
	streamIdle = time.Minute
)

const (
	keyMain   = "main"       // of events that say none
	keyFinish = "__finish__" // of stream.finish
)

var (
	errStreamsFull = errors.New("too many streams are open, try again")
	errStreamBig   = fmt.Errorf("the pieces of one message would have more than %d bytes", streamBytes)
)

// lane is what the events with one key of one message make together.
type lane struct {
	Status     string
	Seq        uint64 // of the newest that is stored
	ID         string // of the newest event
	Type       string
	Visibility string
	Occurred   int64           // unix milliseconds
	Payload    json.RawMessage // of the newest that is stored
	EndReason  uint8
	Error      string
	snapshot   json.RawMessage // nil: text, if there is any
	text       []byte          // what pieces of text add up to
	escaped    int             // bytes of text as JSON
}

func (l *lane) ended() bool { return l.Status != "open" }

func (l *lane) size(key string) int {
	return laneCost + len(key) + len(l.ID) + len(l.Type) + len(l.Payload) + len(l.Error) + len(l.snapshot) + l.escaped
}

// content is what the pieces add up to, as JSON, nil if there were none.
func (l *lane) content() json.RawMessage {
	if l.snapshot != nil || len(l.text) == 0 {
		return l.snapshot
	}
	return toJSON(text{"text", string(l.text)})
}

// text is the snapshot of a lane whose pieces are text.
type text struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
}

// toJSON is for what cannot fail. Nothing is escaped for HTML: that is six times
// the size.
func toJSON(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("BUG: what is JSON cannot be written as JSON: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}

// add appends a piece. Text is joined, anything else replaces what was there.
func (l *lane) add(payload json.RawMessage) {
	var piece struct {
		Kind  string `json:"kind"`
		Delta string `json:"delta"`
	}
	switch {
	case json.Unmarshal(payload, &piece) == nil && piece.Kind == "text":
		l.thaw()
		l.text = append(l.text, piece.Delta...)
		l.escaped += len(toJSON(piece.Delta))
	case len(payload) > 0:
		l.set(bytes.Clone(payload))
	}
}

// set replaces what was gathered.
func (l *lane) set(snapshot json.RawMessage) { l.snapshot, l.text, l.escaped = snapshot, nil, 0 }

// thaw makes text of a snapshot that is text, so that pieces can be added; another
// one is dropped.
func (l *lane) thaw() {
	if l.snapshot == nil {
		return
	}
	var was text
	if json.Unmarshal(l.snapshot, &was) != nil || was.Kind != "text" {
		was.Text = ""
	}
	l.set(nil)
	l.text, l.escaped = []byte(was.Text), len(toJSON(was.Text))
}

// lanes are what the events of one message make, by key.
type lanes map[string]*lane

func (ls lanes) lane(key string) *lane {
	l := ls[key]
	if l == nil {
		l = &lane{Status: "open"}
		ls[key] = l
	}
	return l
}

// take adds a stored event. A lane that has ended stays as it is.
func (ls lanes) take(r *message.Record, seq uint64) {
	first, rest, _ := bytes.Cut(r.Payload, []byte{'\n'})
	var t tail
	if r.Flags&message.FlagEvent == 0 || json.Unmarshal(first, &t) != nil {
		return
	}
	var k kept
	_ = json.Unmarshal(rest, &k) // records of before have none
	id, typ := r.Stream()
	kind := string(typ)
	if kind == eventFinish {
		t.Key = keyFinish // records of before have what was said
	} else if t.Key == "" {
		t.Key = keyMain
	}
	l := ls.lane(t.Key)
	if l.ended() {
		return
	}
	l.Seq, l.ID, l.Type, l.Visibility, l.Occurred = seq, string(id), kind, t.Visibility, k.Occurred
	if l.Occurred == 0 {
		l.Occurred = r.Timestamp
	}
	l.Payload, l.Status = bytes.Clone(t.Payload), statusOf(kind)
	if kind == eventSnapshot {
		l.set(bytes.Clone(t.Payload))
	} else if l.ended() {
		var said struct {
			Snapshot  json.RawMessage `json:"snapshot"`
			EndReason any             `json:"end_reason"`
			Error     any             `json:"error"`
		}
		_ = json.Unmarshal(t.Payload, &said)
		if k.Snapshot == nil {
			k.Snapshot = said.Snapshot
		}
		if k.Snapshot != nil {
			l.set(bytes.Clone(k.Snapshot))
		}
		l.EndReason = reasonOf(said.EndReason)
		l.Error, _ = said.Error.(string)
	}
	for key, snapshot := range k.Lanes { // that ended with the message
		if o := ls.lane(key); !o.ended() {
			o.Seq, o.ID, o.Type, o.Visibility, o.Occurred, o.Status = seq, l.ID, l.Type, l.Visibility, l.Occurred, "closed"
			if string(snapshot) != "null" {
				o.set(bytes.Clone(snapshot))
			}
		}
	}
}

// reasonOf reads an end_reason, a number or a number as text.
func reasonOf(v any) uint8 {
	switch v := v.(type) {
	case float64:
		if v >= 0 && v <= 255 {
			return uint8(v)
		}
	case string:
		var n uint8
		if json.Unmarshal([]byte(v), &n) == nil {
			return n
		}
	}
	return 0
}

// stream is one message whose pieces are gathered. Who has its turn writes it, with
// the lock of streams; with either it can be read.
type stream struct {
	key    streamOf
	lanes  lanes
	turn   chan struct{} // one event of a stream at a time: pieces keep their order
	looked bool          // what is stored of it is in lanes
	users  int           // that have the turn or wait for it
	size   int
	used   time.Time
	place  *list.Element
}

// streamOf names the message of a stream.
type streamOf struct {
	typ         uint8
	channel, no string // channel as it is stored
}

// ended reports whether no piece can follow.
func (st *stream) ended() bool {
	for key, l := range st.lanes {
		if !l.ended() && key != keyFinish {
			return false
		}
	}
	return len(st.lanes) > 0
}

// streams remembers the streams of a server. What is in it after a crash is lost,
// what ended a stream is in the log with all of its pieces.
type streams struct {
	now     func() time.Time
	evicted atomic.Int64 // streams without an end that made room

	mu    sync.Mutex
	all   map[streamOf]*stream // guarded by mu
	order *list.List           // *stream, the longest unused first; guarded by mu
	bytes int                  // guarded by mu
}

func newStreams() *streams {
	return &streams{now: time.Now, all: make(map[streamOf]*stream), order: list.New()}
}

// enter returns the stream of a message, new if there was none, when it is the
// caller's turn. After it comes leave.
func (s *streams) enter(ctx context.Context, key streamOf, wait time.Duration) (*stream, error) {
	s.mu.Lock()
	st := s.all[key]
	if st == nil {
		cost := streamCost + len(key.channel) + len(key.no)
		if !s.makeRoom(cost, 1) {
			s.mu.Unlock()
			return nil, errStreamsFull
		}
		st = &stream{key: key, lanes: make(lanes), turn: make(chan struct{}, 1), size: cost}
		s.all[key], st.place = st, s.order.PushBack(st)
		s.bytes += cost
	}
	st.users++
	s.mu.Unlock()
	patience := time.NewTimer(wait)
	defer patience.Stop()
	var err error
	select {
	case st.turn <- struct{}{}:
		return st, nil
	case <-ctx.Done():
		err = ctx.Err()
	case <-patience.C:
		err = fmt.Errorf("another event of the message was not done within %v, try again", wait)
	}
	s.mu.Lock()
	st.users--
	s.mu.Unlock()
	return nil, err
}

// leave ends the turn. A stream of which nothing is known is not kept.
func (s *streams) leave(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	<-st.turn
	st.users--
	st.used = s.now()
	s.order.MoveToBack(st.place)
	if st.users == 0 && len(st.lanes) == 0 {
		s.drop(st)
	}
}

func (s *streams) drop(st *stream) {
	s.order.Remove(st.place)
	delete(s.all, st.key)
	s.bytes -= st.size
}

// makeRoom reports whether there is room for so many bytes and streams, and puts out
// the longest unused that have ended, then those that are idle. At most all streams
// are looked at, twice. With mu.
func (s *streams) makeRoom(size, count int) bool {
	fits := func() bool { return s.bytes+size <= streamsBytes && len(s.all)+count <= maxStreams }
	for _, open := range []bool{false, true} {
		for e := s.order.Front(); e != nil && !fits(); {
			st := e.Value.(*stream)
			e = e.Next()
			if st.users > 0 || !st.ended() && (!open || s.now().Sub(st.used) < streamIdle) {
				continue
			}
			if !st.ended() {
				s.evicted.Add(1)
			}
			s.drop(st)
		}
	}
	return fits()
}

// change lets f write the lanes of a stream whose turn the caller has.
func (s *streams) change(st *stream, f func(lanes)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(st.lanes)
	size := streamCost + len(st.key.channel) + len(st.key.no)
	for key, l := range st.lanes {
		if l.ended() { // it is in the log
			l.set(nil)
			l.Payload = nil
		}
		size += l.size(key)
	}
	s.bytes += size - st.size
	st.size = size
}

// admit reports why a stream whose turn the caller has cannot take so many bytes.
func (s *streams) admit(st *stream, size int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.size+size > streamBytes {
		return errStreamBig
	}
	if !s.makeRoom(size, 0) {
		return errStreamsFull
	}
	return nil
}

// open adds to what is stored of a message what is gathered of it.
func (s *streams) open(key streamOf, ls lanes) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.all[key]
	if st == nil {
		return
	}
	for key, l := range st.lanes {
		if was := ls[key]; !l.ended() && (was == nil || !was.ended()) {
			now := *l
			now.snapshot, now.text = now.content(), nil
			ls[key] = &now
		}
	}
}
