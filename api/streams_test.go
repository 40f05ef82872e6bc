package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gatepost/message"
)

// Pieces of text are joined, on top of a snapshot of text too; any other piece
// replaces what was there.
func TestPiecesAreGathered(t *testing.T) {
	for _, c := range []struct {
		name, snapshot, want string
		pieces               []string
	}{
		{"text", "", `{"kind":"text","text":"a<b\"c"}`, []string{`{"kind":"text","delta":"a<"}`, `{"kind":"text","delta":"b\"c"}`}},
		{"text behind a snapshot", `{"kind":"text","text":"so far "}`, `{"kind":"text","text":"so far and on"}`, []string{`{"kind":"text","delta":"and on"}`}},
		{"text behind another snapshot", `{"rows":2}`, `{"kind":"text","text":"x"}`, []string{`{"kind":"text","delta":"x"}`}},
		{"anything else", "", `[2]`, []string{`{"kind":"text","delta":"x"}`, `[1]`, `[2]`}},
		{"nothing", "", ``, []string{``}},
	} {
		l := lane{Status: "open"}
		if c.snapshot != "" {
			l.set(json.RawMessage(c.snapshot))
		}
		for _, p := range c.pieces {
			l.add(json.RawMessage(p))
		}
		if got := string(l.content()); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if n := len(l.content()); l.size("main") < n {
			t.Errorf("%s: %d bytes are counted as %d", c.name, n, l.size("main"))
		}
	}
}

// stored makes the record of an event, as the log has it.
func storedEvent(t testing.TB, ls lanes, kind, key, payload string) message.Record {
	t.Helper()
	e := event{ID: "g", Type: 2, ClientMsgNo: "n", EventID: kind + key, EventType: kind, EventKey: key, Payload: json.RawMessage(payload)}
	r, err := e.record(1 << 15)
	if err != nil {
		t.Fatal(err)
	}
	r.Payload = append(append(r.Payload, '\n'), toJSON(e.gathered(ls))...)
	return r
}

// One record holds what was gathered, and that of a finish what was gathered of
// every key without an end; records of before can be read.
func TestTheEndHoldsThePieces(t *testing.T) {
	gathered, read := make(lanes), make(lanes)
	for _, key := range []string{"main", "thought", "silent"} {
		gathered.lane(key).add(json.RawMessage(fmt.Sprintf(`{"kind":"text","delta":%q}`, strings.Repeat(key, 2))))
	}
	gathered.lane("silent").set(nil)
	r := storedEvent(t, gathered, "stream.error", "main", `{"error":"why","end_reason":3}`)
	if bytes.Contains(r.Payload[:bytes.IndexByte(r.Payload, '\n')], []byte("mainmain")) {
		t.Error("what was gathered is pushed")
	}
	gathered.take(&r, 5)
	read.take(&r, 5)
	r = storedEvent(t, gathered, "stream.finish", "any", ``)
	read.take(&r, 9)
	var m stored
	m.stream(read, false)
	if m.End != 1 || m.Error != "why" || m.EndReason != 3 || string(m.StreamData) != "mainmain" || !m.Meta.Done || m.Meta.Count != 3 || m.Meta.Open != 0 || m.Meta.Last != 9 {
		t.Errorf("%+v %+v", m, m.Meta)
	}
	if l := read["thought"]; string(l.content()) != `{"kind":"text","text":"thoughtthought"}` || l.Status != "closed" || l.Seq != 9 {
		t.Errorf("%+v", l)
	}
	if l := read["silent"]; l.content() != nil {
		t.Errorf("a key without pieces has %s", l.content())
	}
	if e := read.events(5, "", false); len(e) != 3 || e[0].Seq != 9 {
		t.Errorf("events behind 5: %+v", e)
	}
	if e := read.events(0, "main", false); len(e) != 1 || string(e[0].Payload) != `{"kind":"text","text":"mainmain"}` {
		t.Errorf("events of main: %+v", e)
	}
	// As they were written before: no second part, no key, and "finished".
	old := make(lanes)
	for i, text := range []string{`{"event_key":"","stream_status":"closed","payload":{"text":"all"}}`, `{"event_key":"main","stream_status":"finished"}`} {
		kind := []string{"stream.close", "stream.finish"}[i]
		old.take(&message.Record{Flags: message.FlagEvent | message.FlagStream, Topic: message.AppendStream(nil, []byte("e"), []byte(kind)), Payload: []byte(text)}, uint64(i+1))
	}
	if e := old.events(0, "", false); len(e) != 2 || string(e[0].Payload) != `{"text":"all"}` || e[0].EventKey != "main" || e[1].EventKey != "__finish__" || e[1].Status != "closed" {
		t.Errorf("records of before: %+v", e)
	}
	old.lane("main").Visibility = "private"
	if e := old.events(0, "", false); len(e) != 1 {
		t.Errorf("what is private is shown: %+v", e)
	}
}

// There are never more streams or bytes than may be: those that have ended make
// room first, then those that are idle, and nobody else.
func TestStreamsAreBounded(t *testing.T) {
	s := newStreams()
	now := time.Unix(1000, 0)
	s.now = func() time.Time { return now }
	open := func(no string, f func(lanes)) error {
		st, err := s.enter(context.Background(), streamOf{2, "g", no}, time.Second)
		if err != nil {
			return err
		}
		defer s.leave(st)
		if err := s.admit(st, 1000); err != nil {
			return err
		}
		s.change(st, f)
		return nil
	}
	piece := func(ls lanes) { ls.lane("main").add(json.RawMessage(`{"kind":"text","delta":"x"}`)) }
	end := func(ls lanes) { ls.lane("main").Status = "closed" }
	for i := range maxStreams {
		f := piece
		if i == 7 {
			f = end
		}
		if err := open(fmt.Sprint(i), f); err != nil {
			t.Fatal(err)
		}
	}
	has := func(no string) bool { return s.all[streamOf{2, "g", no}] != nil }
	if err := open("new", piece); err != nil || has("7") || !has("0") || len(s.all) != maxStreams {
		t.Errorf("%v: the one that has ended is there: %t, the oldest: %t, %d in all", err, has("7"), has("0"), len(s.all))
	}
	if err := open("newer", piece); !errors.Is(err, errStreamsFull) {
		t.Errorf("one more: %v", err)
	}
	if now = now.Add(streamIdle); true {
		if err := open("newer", piece); err != nil || has("0") || s.evicted.Load() != 1 {
			t.Errorf("one more when all are idle: %v, the oldest is there: %t, %d evicted", err, has("0"), s.evicted.Load())
		}
	}
	big := func(ls lanes) { ls.lane("main").set(bytes.Repeat([]byte{'1'}, streamBytes-2000)) }
	for i := range 20 {
		now = now.Add(streamIdle)
		if err := open(fmt.Sprint("big", i), big); err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, st := range s.all {
			sum += st.size
		}
		if sum != s.bytes || sum > streamsBytes+streamBytes {
			t.Fatalf("%d bytes are counted as %d, the limit is %d", sum, s.bytes, streamsBytes)
		}
	}
	if err := open("big19", piece); err != nil {
		t.Error(err)
	}
	if err := open("big19", big); err != nil {
		t.Error(err)
	}
	st, err := s.enter(context.Background(), streamOf{2, "g", "big19"}, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.admit(st, 3000); !errors.Is(err, errStreamBig) {
		t.Errorf("more than one stream may have: %v", err)
	}
	if _, err := s.enter(context.Background(), st.key, time.Nanosecond); err == nil {
		t.Error("two have their turn")
	}
	s.leave(st)
}

// shelf is an archive of one channel of events, whose reads are counted.
type shelf struct {
	records []message.Record
	read    int
}

func (a *shelf) Find(uint8, []byte) (*message.Channel, uint64, uint64) {
	return &message.Channel{}, 1, uint64(len(a.records))
}

func (a *shelf) Read(_ *message.Channel, from uint64, limit, _ int) (*message.Page, error) {
	p := &message.Page{Batch: message.NewBatch(false), First: 1, Next: from}
	for ; p.Next <= uint64(len(a.records)) && len(p.Seqs) < limit; p.Next++ {
		p.Batch.Add(&a.records[p.Next-1], message.Origin{})
		p.Seqs = append(p.Seqs, p.Next)
		a.read++
	}
	return p, nil
}

// A page of history is looked up in one pass of bounded work, which finds streams
// that lie far apart.
func TestAPageIsLookedUpOnce(t *testing.T) {
	s, _ := newServer(t)
	a := new(shelf)
	s.archive = a
	const n, step = 100_000, 2 * idSlack
	for i := range n {
		r := storedEvent(t, lanes{}, "stream.close", "main", `{"snapshot":{"kind":"text","text":"t"}}`)
		r.ClientMsgNo, r.MessageID = []byte(fmt.Sprint("n", i)), int64(i+1)*step
		a.records = append(a.records, r)
	}
	at := func(is ...int) (all []*stored) {
		for _, i := range is {
			all = append(all, &stored{ClientMsgNo: fmt.Sprint("n", i), ID: int64(i+1)*step - 1})
		}
		return all
	}
	found := s.reader(t.Context()).replay(2, []byte("g"), at(10, 40_000, 90_000))
	for no, ls := range found {
		if ls["main"] == nil {
			t.Errorf("%s was not found", no)
		}
	}
	var all []int
	for i := range 1000 {
		all = append(all, i*100)
	}
	a.read = 0
	s.reader(t.Context()).replay(2, []byte("g"), at(all...))
	if a.read > pageEvents+pageEvents/seekEvents*20 {
		t.Errorf("%d events were read for one page", a.read)
	}
	a.read = 0
	if ls := s.reader(t.Context()).recall(2, []byte("g"), "n99999", 0, recallEvents); ls["main"] == nil || a.read != recallEvents {
		t.Errorf("%v, %d events were read", ls, a.read)
	}
	if ls := s.reader(t.Context()).recall(2, []byte("g"), "n3", 2, syncEvents); ls["main"] == nil {
		t.Error("what follows a sequence was not found")
	}
}
