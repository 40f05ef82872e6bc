package api

import (
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/metrics"
	"gatepost/wukong"
)

// box is a server over a core that runs and a store in memory whose disk can fail.
type box struct {
	*Server
	core  *broker.Broker
	index uint64

	mu            sync.Mutex
	ids           map[string]*message.Channel
	kept          map[*message.Channel][]message.Record
	fault         error  // of reads that reach the sequence from
	from          uint64 // guarded by mu
	reads, failed int    // messages that were read, and reads that failed
}

// newBox returns a box with the group g, of alice and bob.
func newBox(t testing.TB) *box {
	t.Helper()
	x := newBoxOf(t, nil)
	if code, text := post(x.Server, "/channel", group("g", "alice", "bob")); code != 200 {
		t.Fatal(code, text)
	}
	return x
}

// newBoxOf returns an empty box of which change, if there is one, has set more.
func newBoxOf(t testing.TB, change func(*Options)) *box {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	x := &box{ids: make(map[string]*message.Channel), kept: make(map[*message.Channel][]message.Record)}
	x.core = broker.New(broker.Options{Logger: logger, DedupWindow: 1000, MaxChannels: 100, InboxItems: 16, InboxBytes: 1 << 20}, x)
	o := Options{Limits: Limits{MaxMembers: 10, MaxPayload: 1 << 15}, Health: func() error { return nil },
		Backup: func(w io.Writer) error { _, err := w.Write([]byte("a backup")); return err }, Logger: logger}
	if change != nil {
		change(&o)
	}
	x.Server = New(o, x.core, x, x, metrics.NewRegistry())
	done := make(chan error)
	go func() { done <- x.core.Run([]broker.Outbox{x.Server}) }()
	t.Cleanup(func() {
		x.core.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return x
}

// Propose is the log: what it takes is durable at once.
func (x *box) Propose(b *message.Batch) error {
	x.mu.Lock()
	x.index++
	index := x.index
	x.mu.Unlock()
	return x.core.Commit(message.Committed{Index: index, Generation: 1, Batch: b})
}

// say stores a message of a group or, with the id "a@b", of a pair.
func (x *box) say(t testing.TB, r message.Record) {
	t.Helper()
	if r.Kind = message.KindMessage; r.ChannelType == 0 {
		r.ChannelType = message.ChannelGroup
	}
	if r.ChannelID == nil {
		r.ChannelID = []byte("g")
	}
	if r.FromUID == nil {
		r.FromUID = []byte("bob")
	}
	if r.Timestamp == 0 {
		r.Timestamp = time.Now().UnixMilli()
	}
	r.Flags |= message.FlagServer
	x.mu.Lock()
	key := append([]byte{r.ChannelType}, r.ChannelID...)
	n := 0
	if ch := x.ids[string(key)]; ch != nil {
		n = len(x.kept[ch])
	}
	if r.MessageID == 0 {
		r.MessageID = int64(x.index+1) << 30
	}
	x.mu.Unlock()
	if r.ClientMsgNo == nil {
		r.ClientMsgNo = []byte(fmt.Sprint("n", n+1))
	}
	b := message.NewBatch(false)
	b.Add(&r, message.Origin{})
	if err := x.Propose(b); err != nil {
		t.Fatal(err)
	}
	if _, err := x.core.Connections(t.Context(), nil); err != nil { // behind it
		t.Fatal(err)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	ch := x.ids[string(key)]
	if ch == nil || len(x.kept[ch]) != n+1 {
		t.Fatalf("the message was not stored: %+v", r)
	}
	x.kept[ch][n] = r
}

// fail lets reads fail with an error from a sequence on; nil: they work again.
func (x *box) fail(err error, from uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.fault, x.from = err, from
}

// ask makes a request and returns the status and text of the answer.
func (x *box) ask(method, target, body string) (code int, text string) {
	w := httptest.NewRecorder()
	x.http.Handler.ServeHTTP(w, newRequest(method, target, strings.NewReader(body)))
	return w.Code, w.Body.String()
}

func (x *box) Put(ch *message.Channel, seq uint64, _ message.Location) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ids[string(append([]byte{ch.Type}, ch.ID...))] = ch
	x.kept[ch] = append(x.kept[ch], message.Record{})
	if uint64(len(x.kept[ch])) != seq {
		panic("a sequence is missing")
	}
}

func (x *box) Drop(ch *message.Channel) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.ids, string(append([]byte{ch.Type}, ch.ID...)))
}

func (x *box) Checkpoint(*message.Snapshot, bool) bool { return false }

func (x *box) Find(typ uint8, id []byte) (*message.Channel, uint64, uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if ch := x.ids[string(append([]byte{typ}, id...))]; ch != nil {
		return ch, 1, uint64(len(x.kept[ch]))
	}
	return nil, 0, 0
}

func (x *box) Read(ch *message.Channel, from uint64, limit, maxBytes int) (*message.Page, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	all := x.kept[ch]
	p := &message.Page{Batch: message.NewBatch(false), First: 1, Last: uint64(len(all)), Next: max(from, 1)}
	for ; p.Next <= p.Last && len(p.Seqs) < limit && (len(p.Seqs) == 0 || p.Batch.Size() < maxBytes); p.Next++ {
		if x.fault != nil && p.Next >= x.from {
			x.failed++
			return p, x.fault
		}
		p.Batch.Add(&all[p.Next-1], message.Origin{})
		p.Seqs = append(p.Seqs, p.Next)
		x.reads++
	}
	return p, nil
}

// streamed is a message with the stream bit.
func streamed(no string) message.Record {
	return message.Record{ClientMsgNo: []byte(no), Setting: wukong.SettingStream, Payload: []byte("a stream")}
}
