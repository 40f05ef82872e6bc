package store

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gatepost/message"
)

// random returns a source of random numbers whose seed is printed.
func random(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 7))
}

// logbook is a log in memory: generations of groups, and what was retired.
type logbook struct {
	mu         sync.Mutex
	bytes      map[uint64][]byte
	generation uint64
	groups     []logged // all, also of retired generations
	bad        map[int64]bool
}

// logged is one group: one message or change.
type logged struct {
	generation uint64
	at         message.Location
	channel    string
	drop       bool
	record     message.Record
}

func (l *logbook) read(p []byte, generation uint64, offset int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.bytes[generation]
	if !ok {
		return fs.ErrNotExist
	}
	if l.bad[offset] {
		return syscall.EIO
	}
	if copy(p, b[offset:]) < len(p) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (l *logbook) retire(below uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for g := range l.bytes {
		if g < below {
			delete(l.bytes, g)
		}
	}
	return nil
}

func (l *logbook) size() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.bytes {
		n += int64(len(b))
	}
	return n
}

func (l *logbook) oldest() uint64 {
	oldest := uint64(0)
	for g := range l.bytes {
		if oldest == 0 || g < oldest {
			oldest = g
		}
	}
	return oldest
}

// world is a store with its log and a naive model of both.
type world struct {
	t     testing.TB
	dir   string
	log   *logbook
	store *Store
	ready int // groups that the core has applied

	channels map[string]*message.Channel // of the core
	changed  map[string]bool
	last     map[string]uint64
	model    map[string][][]byte // payloads by channel, sequence 1 first
	answers  []message.Answer
	keeps    map[string]*message.Keep // rules of single channels
	blockCap int64
	now      time.Duration // since the store was opened, as checkpoints see it; 0: the clock
	wall     func() int64  // unix ms, the stamp of the next message; nil: its number
	change   func(*Options)
	report   Report
	restored message.Restored
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, dir: t.TempDir(), log: &logbook{bytes: make(map[uint64][]byte), generation: 1, bad: make(map[int64]bool)},
		model: make(map[string][][]byte), blockCap: 100_000}
	w.log.bytes[1] = nil
	w.open()
	return w
}

func (w *world) options() Options {
	o := Options{Dir: w.dir, Rules: Rules{BlockFile: w.blockCap}, NoSync: true, segment: 1 << 20, part: 7, ReadLog: w.log.read, Retire: w.log.retire, Oldest: w.log.oldest()}
	if w.change != nil {
		w.change(&o)
	}
	return o
}

// open opens the store and replays the log behind its checkpoint.
func (w *world) open() {
	w.t.Helper()
	if err := w.tryOpen(); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) tryOpen() error {
	w.t.Helper()
	s, restored, report, err := Open(w.options())
	if err != nil {
		return err
	}
	w.store, w.report, w.restored = s, report, restored
	w.channels, w.changed, w.last = make(map[string]*message.Channel), make(map[string]bool), make(map[string]uint64)
	for _, st := range restored.Channels {
		w.channels[st.Channel.ID] = st.Channel
		w.last[st.Channel.ID] = st.Last
	}
	w.answers = slices.Collect(restored.Answers)
	for _, a := range w.answers { // else the replay finds answered what it has to carry out
		if a.MessageID > int64(s.Index()) {
			w.t.Fatalf("an answer to group %d came back with a checkpoint of %d groups", a.MessageID, s.Index())
		}
	}
	w.answers = w.answers[max(0, len(w.answers)-window):] // the store keeps whole parts
	for w.ready = int(s.Index()); w.ready < len(w.log.groups); {
		w.apply(&w.log.groups[w.ready])
	}
	return nil
}

// apply does what the core does with a group.
func (w *world) apply(g *logged) {
	w.ready++
	if g.drop {
		if ch := w.channels[g.channel]; ch != nil {
			w.store.Drop(ch)
			delete(w.channels, g.channel)
			delete(w.last, g.channel)
			delete(w.changed, g.channel)
		}
		return
	}
	ch := w.channels[g.channel]
	if ch == nil {
		ch = &message.Channel{ID: g.channel, Type: 2}
		w.channels[g.channel] = ch
	}
	w.last[g.channel]++
	w.changed[g.channel] = true
	w.store.Put(ch, w.last[g.channel], g.at)
	w.answers = append(w.answers, message.Answer{Key: [2]uint64{uint64(w.ready), 1}, MessageID: int64(w.ready), Seq: w.last[g.channel]})
	w.answers = w.answers[max(0, len(w.answers)-window):]
}

const window = 50

// say commits a message.
func (w *world) say(channel string, payload []byte) {
	l := w.log
	r := message.Record{Kind: message.KindMessage, ChannelType: 2, ChannelID: []byte(channel), FromUID: []byte("alice"),
		MessageID: int64(len(l.groups) + 1), Timestamp: int64(len(l.groups)), Payload: payload}
	if w.wall != nil {
		r.Timestamp = w.wall()
	}
	at := message.Location{Generation: l.generation, Offset: int64(len(l.bytes[l.generation])), Size: uint32(r.Size()), Sum: message.Checksum(message.AppendRecord(nil, &r))}
	l.mu.Lock()
	l.bytes[l.generation] = message.AppendRecord(l.bytes[l.generation], &r)
	l.mu.Unlock()
	l.groups = append(l.groups, logged{generation: l.generation, at: at, channel: channel, record: r})
	w.model[channel] = append(w.model[channel], payload)
	w.apply(&l.groups[len(l.groups)-1])
}

func (w *world) drop(channel string) {
	w.log.groups = append(w.log.groups, logged{generation: w.log.generation, channel: channel, drop: true})
	delete(w.model, channel)
	w.apply(&w.log.groups[len(w.log.groups)-1])
}

// roll begins a generation of the log and hands the store a snapshot. It
// reports whether the store took it.
func (w *world) roll() bool {
	w.log.mu.Lock()
	w.log.generation++
	w.log.bytes[w.log.generation] = nil
	w.log.mu.Unlock()
	return w.snapshot()
}

func (w *world) snapshot() bool {
	var fresh []message.Answer // that no checkpoint has
	for _, a := range w.answers {
		if a.MessageID > int64(w.store.Index()) {
			fresh = append(fresh, a)
		}
	}
	if !w.store.Checkpoint(&message.Snapshot{
		Index: uint64(w.ready), Generation: w.log.generation, MaxMessageID: int64(w.ready), Secret: [16]byte{1, 2, 3}, Window: window,
		Changed: func(yield func(*message.ChannelState) bool) {
			for id := range w.changed {
				st := message.ChannelState{Channel: w.channels[id], Last: w.last[id], Keep: w.keeps[id], Members: []message.Member{
					{UID: "alice", Joined: 3, Read: []message.ReadPosition{{Device: 1, Seq: w.last[id]}, {Device: 2, Seq: 1}}}, {UID: id}}}
				if !yield(&st) {
					return
				}
			}
		},
		Answers: func(dst []message.Answer) []message.Answer { return append(dst, fresh...) },
	}, false) {
		return false
	}
	clear(w.changed)
	return true
}

// write carries out the checkpoint that was taken.
func (w *world) write() {
	w.t.Helper()
	f := <-w.store.work
	if w.now > 0 {
		f.at = w.store.began.Add(w.now)
	}
	if err := w.store.write(f); err != nil {
		w.t.Fatal(err)
	}
	w.store.finish(f)
	w.store.busy.Store(false)
}

// checkpoint rolls the log and writes a checkpoint.
func (w *world) checkpoint() {
	w.t.Helper()
	if !w.roll() {
		w.t.Fatal("no checkpoint was taken")
	}
	w.write()
}

// kill ends the store as a kill -9 does.
func (w *world) kill() {
	w.store.meta.close()
	w.store.blocks.close()
}

// check reads every channel in pages of some size and compares.
func (w *world) check(r *rand.Rand, lost int) {
	w.t.Helper()
	missing := 0
	for id, want := range w.model {
		ch := w.channels[id]
		if ch == nil {
			w.t.Fatalf("channel %s with %d messages is not there", id, len(want))
		}
		for next := uint64(1); next <= uint64(len(want)); {
			page, err := w.store.Read(ch, next, 1+r.IntN(300), 1+r.IntN(100_000))
			if err != nil && lost == 0 {
				w.t.Fatal(err)
			}
			if page.Last != uint64(len(want)) || page.Next <= next {
				w.t.Fatalf("channel %s has sequences up to %d, page from %d goes on at %d, want up to %d", id, page.Last, next, page.Next, len(want))
			}
			var rec message.Record
			for i, seq := range page.Seqs {
				if err := page.Batch.Record(i, &rec); err != nil {
					w.t.Fatal(err)
				}
				if seq < next || !bytes.Equal(rec.Payload, want[seq-1]) {
					w.t.Fatalf("channel %s, sequence %d: %.20q, want %.20q", id, seq, rec.Payload, want[seq-1])
				}
			}
			missing += int(page.Next-next) - len(page.Seqs)
			next = page.Next
			page.Batch.Release()
		}
	}
	if missing != lost {
		w.t.Errorf("%d messages are missing, want %d", missing, lost)
	}
}

func payload(r *rand.Rand) []byte {
	p := make([]byte, r.IntN(400))
	if r.IntN(50) == 0 {
		p = make([]byte, r.IntN(100_000))
	}
	if r.IntN(2) == 0 {
		for i := range p {
			p[i] = byte(r.Uint32())
		}
	}
	return p
}

// A store under random operations, with restarts in any state, against a model
// that keeps everything in memory.
func TestStoreAgainstAModel(t *testing.T) {
	r := random(t)
	w := newWorld(t)
	ids := []string{"a", "b", "c", "d", "e"}
	restarts, checkpoints := 0, 0
	for range 20_000 {
		switch n := r.IntN(1000); {
		case n < 985:
			w.say(ids[r.IntN(len(ids))], payload(r))
		case n < 987:
			w.drop(ids[r.IntN(len(ids))])
		case n < 994:
			w.roll()
		case n < 998:
			if len(w.store.work) > 0 {
				w.write()
				checkpoints++
			}
		default:
			if len(w.store.work) > 0 && r.IntN(2) == 0 { // killed before the transaction
				f := <-w.store.work
				// Parts of the answers may come in front of the last transaction.
				left := r.IntN(max((len(f.answers)+6)/7, 1))
				w.store.meta.o.fail = func(string) error {
					if left--; left < 0 {
						return errors.New("killed")
					}
					return nil
				}
				if err := w.store.write(f); err == nil {
					t.Fatal("a checkpoint without a transaction")
				}
			}
			w.kill()
			answers := slices.Clone(w.answers)
			w.open()
			if len(w.report.Trouble) > 0 {
				t.Fatalf("trouble after a restart: %q", w.report.Trouble)
			}
			if !slices.Equal(answers, w.answers) && w.store.Index() > 0 {
				t.Fatalf("%d answers before the restart, %d after", len(answers), len(w.answers))
			}
			restarts++
			w.check(r, 0)
		}
	}
	w.check(r, 0)
	t.Logf("%d groups, %d checkpoints, %d restarts", len(w.log.groups), checkpoints, restarts)
	if restarts < 5 || checkpoints < 10 {
		t.Error("too few for a proof")
	}
	for _, st := range w.restored.Channels {
		if len(st.Members) != 2 || st.Members[0].UID != "alice" || st.Members[0].Joined != 3 || len(st.Members[0].Read) != 2 {
			t.Errorf("channel %s came back with members %+v", st.Channel.ID, st.Members)
		}
	}
}

// The log must stop only when checkpoints fail and much is in the log alone.
func TestTheStoreSaysWhenTheLogIsTooFarAhead(t *testing.T) {
	w := newWorld(t)
	w.store.o.MaxUnsaved = 3
	for i := range 3 {
		if err := w.store.Ahead(); err != nil {
			t.Errorf("with %d messages: %v", i, err)
		}
		w.say("a", []byte("x"))
	}
	if err := w.store.Ahead(); err != nil {
		t.Errorf("while checkpoints work: %v", err)
	}
	w.store.stats.Behind.Store(true)
	if err := w.store.Ahead(); err == nil || !strings.Contains(err.Error(), "3 messages are in the log only, the limit is 3") {
		t.Errorf("while they fail: %v", err)
	}
	w.checkpoint()
	if err := w.store.Ahead(); err != nil {
		t.Errorf("behind the next that works: %v", err)
	}
}
