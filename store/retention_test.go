package store

import (
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gatepost/message"
)

// What is kept, after random operations with rules and restarts: everything
// from the first sequence on that the rules want, and nothing that they do not.
func TestRetentionAgainstAModel(t *testing.T) {
	r := random(t)
	w := newWorld(t)
	w.kill()
	const count, budget, file = 700, 600_000, 60_000
	w.blockCap = file
	w.change = func(o *Options) {
		o.Keep = map[uint8]message.Keep{2: {Count: count}}
		o.Budget, o.Reserve = budget, 100_000
		o.LogSize = w.log.size
	}
	w.open()
	ids := []string{"a", "b", "c"}
	restarts, failures, squeezed, dropped := 0, 0, 0, int64(0)
	for range 15_000 {
		switch n := r.IntN(1000); {
		case n < 990:
			w.say(ids[min(r.IntN(10), 2)], payload(r))
		case n < 992:
			w.drop(ids[r.IntN(len(ids))])
		case n < 998:
			if w.roll() {
				w.write()
				now := time.UnixMilli(int64(len(w.log.groups)))
				if r.IntN(10) == 0 { // the transaction of the retention fails
					w.store.meta.o.fail = func(string) error { return errors.New("full") }
					if err := w.store.retain(now); err != nil {
						failures++
					}
					w.store.meta.o.fail = func(string) error { return nil }
					if w.store.meta.failed != nil {
						if _, err := w.store.reopen(); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := w.store.retain(now); err != nil {
					t.Fatal(err)
				}
				if size := w.store.size(); size > budget+16_384 && len(w.store.blocks.files()) > 1 {
					t.Fatalf("%d bytes are kept, the budget is %d", size, budget)
				} else if size > budget-2*file {
					squeezed++
				}
				for id, ch := range w.channels {
					_, first, last := w.store.Find(2, []byte(id))
					if c := w.store.series[ch]; len(c.blocks) > 0 && first+count+uint64(c.blocks[0].count) < c.logged { // whole blocks go
						t.Fatalf("channel %s has %d to %d in blocks, %d are to be kept", id, first, last, count)
					}
				}
			}
		default:
			firsts := w.firsts()
			dropped += w.store.stats.Dropped.Load()
			w.kill()
			w.open()
			if len(w.report.Trouble) > 0 {
				t.Fatalf("trouble after a restart: %q", w.report.Trouble)
			}
			for id, first := range w.firsts() {
				if first < firsts[id] {
					t.Fatalf("channel %s began at %d before the restart, at %d after", id, firsts[id], first)
				}
			}
			restarts++
			w.checkKept()
		}
	}
	w.checkKept()
	t.Logf("%d groups, %d dropped, %d restarts, %d failures, near the budget %d times", len(w.log.groups), dropped, restarts, failures, squeezed)
	if restarts < 5 || dropped == 0 || squeezed == 0 {
		t.Error("too little for a proof")
	}
}

func (w *world) firsts() map[string]uint64 {
	all := make(map[string]uint64)
	for id := range w.channels {
		_, all[id], _ = w.store.Find(2, []byte(id))
	}
	return all
}

// checkKept reads every channel from sequence 1 on: the page begins with the
// first that is kept, and everything behind it is there.
func (w *world) checkKept() {
	w.t.Helper()
	for id, want := range w.model {
		ch := w.channels[id]
		_, first, last := w.store.Find(2, []byte(id))
		if last != uint64(len(want)) {
			w.t.Fatalf("channel %s ends at %d, want %d", id, last, len(want))
		}
		for next := uint64(1); next <= last; {
			page, err := w.store.Read(ch, next, 200, 100_000)
			if err != nil || page.Lost > 0 || page.First != first || page.Next <= next {
				w.t.Fatalf("channel %s from %d: %d lost, first %d, next %d, %v; want first %d", id, next, page.Lost, page.First, page.Next, err, first)
			}
			next = max(next, first)
			var rec message.Record
			for i, seq := range page.Seqs {
				if err := page.Batch.Record(i, &rec); err != nil || seq != next || string(rec.Payload) != string(want[seq-1]) {
					w.t.Fatalf("channel %s: sequence %d where %d should be (%v)", id, seq, next, err)
				}
				next++
			}
			page.Batch.Release()
		}
	}
}

// retained carries out the retention so long after the store was opened.
func (w *world) retained(since time.Duration) {
	w.t.Helper()
	w.now = since
	if err := w.store.retain(w.store.began.Add(since)); err != nil {
		w.t.Fatal(err)
	}
}

// Age and bytes drop whole blocks.
func TestRetentionByAgeAndBytes(t *testing.T) {
	r := random(t)
	for name, keep := range map[string]message.Keep{"age": {Age: 20 * time.Minute}, "bytes": {Bytes: 20_000}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.kill()
			w.change = func(o *Options) { o.Keep = map[uint8]message.Keep{2: keep} }
			w.open()
			noise := make([]byte, 200)
			for i := range 10 { // a checkpoint each ten minutes
				for range 100 {
					for i := range noise {
						noise[i] = byte(r.Uint32())
					}
					w.say("a", append([]byte(nil), noise...))
				}
				w.now = time.Duration(i+1) * 10 * time.Minute
				w.checkpoint()
			}
			w.retained(100*time.Minute + time.Millisecond)
			_, first, _ := w.store.Find(2, []byte("a"))
			if name == "age" && first != 801 || name == "bytes" && (first < 801 || first > 1001) {
				t.Errorf("by %s the channel begins at %d", name, first)
			}
			w.checkKept()
			w.kill()
			w.open()
			if _, again, _ := w.store.Find(2, []byte("a")); again != first {
				t.Errorf("after a restart it begins at %d, before at %d", again, first)
			}
			w.checkKept()
		})
	}
}

// A box boots in 1970, is told the time, its year is wrong and put right, it goes back
// an hour or a day, and it is started again anywhere: no message goes before it has been
// kept for its time, and each goes once it has, however wrong its stamp is.
func TestAgeDoesNotAskTheClock(t *testing.T) {
	r := random(t)
	const day = 24 * time.Hour
	w := newWorld(t)
	w.kill()
	w.change = func(o *Options) { o.Keep = map[uint8]message.Keep{2: {Age: day}} }
	w.open()
	wall := time.Duration(0) // since 1970
	w.wall = func() int64 { return wall.Milliseconds() }
	lived := time.Duration(0)  // all that the box was on
	var stored []time.Duration // by lived, of each message
	restarts := 0
	for step := range 400 {
		switch r.IntN(12) {
		case 0:
			wall += 25 * 365 * day
		case 1:
			wall -= time.Hour
		case 2:
			wall -= day
		case 3:
			wall = 66 * 365 * day // 2036
		case 4:
			wall = 56 * 365 * day
		case 5:
			wall = 0
		case 6:
			if err := w.store.note(w.store.began.Add(w.now)); err != nil { // as a clean stop does
				t.Fatal(err)
			}
			w.kill()
			w.open()
			w.now, restarts = 1, restarts+1
			wall = []time.Duration{0, wall, wall + 10*365*day}[r.IntN(3)]
		}
		ran := time.Duration(r.IntN(240)) * time.Minute
		wall, lived, w.now = wall+ran, lived+ran, w.now+ran
		w.say("c", fmt.Append(nil, step))
		stored = append(stored, lived)
		w.checkpoint()
		w.retained(w.now)
		_, first, _ := w.store.Find(2, []byte("c"))
		for i, at := range stored {
			if kept, age := uint64(i+1) >= first, lived-at; kept != (age <= day) && (age-day).Abs() > time.Minute { // a restart costs less than a millisecond here
				t.Fatalf("step %d: message %d is kept: %t, it was stored %v ago", step, i+1, kept, age)
			}
		}
	}
	w.checkKept()
	if _, first, last := w.store.Find(2, []byte("c")); first < 300 || first == last+1 {
		t.Errorf("%d to %d are kept", first, last)
	}
	// Nothing comes any more, and what is left goes in its time too.
	w.retained(w.now + day + time.Minute)
	if _, first, last := w.store.Find(2, []byte("c")); first != last+1 {
		t.Errorf("%d to %d are kept after a day", first, last)
	}
	w.kill()
	if restarts < 10 {
		t.Error("too few restarts for a proof")
	}
}

// A crash forgets a few minutes of age at most: what is to go goes, only later.
func TestACrashForgetsLittleOfTheAge(t *testing.T) {
	w := newWorld(t)
	w.kill()
	w.change = func(o *Options) { o.Keep = map[uint8]message.Keep{2: {Age: time.Hour}} }
	w.open()
	w.now = time.Minute
	w.say("c", []byte("x"))
	w.checkpoint()
	for range 3 { // killed each half an hour, five minutes after the last note
		w.retained(25 * time.Minute)
		if err := w.store.note(w.store.began.Add(w.now)); err != nil {
			t.Fatal(err)
		}
		w.retained(30 * time.Minute)
		w.kill()
		w.open()
	}
	if _, first, _ := w.store.Find(2, []byte("c")); first != 2 {
		t.Errorf("after three times 25 minutes the message that is to be kept an hour is there (first %d)", first)
	}
	w.kill()
}

// A channel's own rule is instead of that of its type, also after a restart.
func TestRetentionByAChannelsOwnRule(t *testing.T) {
	r := random(t)
	w := newWorld(t)
	w.kill()
	w.change = func(o *Options) { o.Keep = map[uint8]message.Keep{2: {Count: 300}} }
	w.keeps = map[string]*message.Keep{"all": {}, "few": {Count: 100}}
	w.open()
	noise := make([]byte, 500)
	more := func() {
		for range 10 {
			for range 100 {
				for i := range noise {
					noise[i] = byte(r.Uint32())
				}
				for _, id := range []string{"all", "few", "type"} {
					w.say(id, append([]byte(nil), noise...))
				}
			}
			w.checkpoint()
		}
		if err := w.store.retain(time.Now()); err != nil {
			t.Fatal(err)
		}
		w.checkKept()
	}
	expect := func(when string, want map[string]uint64) {
		t.Helper()
		for id, first := range w.firsts() {
			if first != want[id] {
				t.Errorf("%s: channel %s begins at %d, want %d", when, id, first, want[id])
			}
		}
	}
	more()
	expect("at first", map[string]uint64{"all": 1, "few": 901, "type": 701})
	w.kill()
	w.open()
	more()
	expect("after a restart", map[string]uint64{"all": 1, "few": 1901, "type": 1701})
	delete(w.keeps, "all")
	more()
	expect("without its own rule", map[string]uint64{"all": 2701, "few": 2901, "type": 2701})
}

// Files in which nothing is left go wherever they are, and pages forget them: a
// restart misses nothing. What lives in the files around them stays.
func TestDeadFilesGo(t *testing.T) {
	r := random(t)
	w := newWorld(t)
	w.kill()
	w.blockCap = 60_000
	w.open()
	noise := make([]byte, 500)
	say := func(channel string, n int) {
		for range n {
			for i := range noise {
				noise[i] = byte(r.Uint32())
			}
			w.say(channel, append([]byte(nil), noise...))
		}
	}
	say("old", 10) // in the first file, and noise behind it in two more
	say("noise", 250)
	w.checkpoint()
	say("noise", 500)
	w.checkpoint()
	say("new", 10)
	w.checkpoint()
	before := len(w.store.blocks.files())
	if err := w.store.retain(time.Now()); err != nil || len(w.store.blocks.files()) != before {
		t.Fatalf("%d files of %d while all are in use, %v", len(w.store.blocks.files()), before, err)
	}
	w.drop("noise")
	w.checkpoint()
	w.store.meta.o.fail = func(string) error { return errors.New("full") }
	if err := w.store.retain(time.Now()); err == nil {
		t.Fatal("no error where the metadata cannot be written")
	}
	if _, err := w.store.reopen(); err != nil {
		t.Fatal(err)
	}
	if err := w.store.retain(time.Now()); err != nil {
		t.Fatal(err)
	}
	after := w.store.blocks.files()
	if len(after) >= before-4 || after[0].number != 1 {
		t.Fatalf("%d files of %d are left: %v", len(after), before, after)
	}
	w.checkKept()
	w.kill()
	w.open()
	if len(w.report.Trouble) > 0 {
		t.Errorf("trouble after a restart: %q", w.report.Trouble)
	}
	w.checkKept()
	t.Logf("%d files, %d are left", before, len(after))
}

// New rules hold for an open store at once: what is too much by them goes with no
// checkpoint, and block files have another size from then on.
func TestNewRules(t *testing.T) {
	r := random(t)
	w := newWorld(t)
	for i := range 3000 {
		w.say("a", payload(r))
		if i%50 == 49 {
			w.checkpoint()
		}
	}
	before := len(w.store.blocks.files())
	w.store.SetRules(Rules{Keep: map[uint8]message.Keep{2: {Count: 500}}, BlockFile: 20_000})
	end := w.run()
	for deadline := time.Now().Add(10 * time.Second); w.store.stats.Dropped.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing was dropped")
		}
	}
	if _, first, last := w.store.Find(2, []byte("a")); first < 1000 {
		t.Errorf("%d to %d are kept, want about 500", first, last)
	}
	end()
	if before == 0 || w.store.blocks.o.FileSize != 20_000 {
		t.Errorf("%d block files before, the next ones get %d bytes, want 20000", before, w.store.blocks.o.FileSize)
	}
}

// While checkpoints fail, as on a full disk, what is too much goes all the same: by the
// rules at the first failure, and by new ones at once. The checkpoint that failed is
// whole when it works in the end, and so is what is kept, also after a restart.
func TestRulesHoldWhileCheckpointsFail(t *testing.T) {
	for name, c := range map[string]struct{ before, now Rules }{
		"count":                     {now: Rules{Keep: map[uint8]message.Keep{2: {Count: 20}}}},
		"age":                       {now: Rules{Keep: map[uint8]message.Keep{2: {Age: time.Millisecond}}}},
		"budget":                    {now: Rules{Budget: 100_000}},
		"count, from the beginning": {before: Rules{Keep: map[uint8]message.Keep{2: {Count: 20}}}},
	} {
		t.Run(name, func(t *testing.T) {
			r := random(t)
			w := newWorld(t)
			w.kill()
			w.blockCap = 20_000
			w.open()
			noise := make([]byte, 400)
			say := func(n int) {
				for range n {
					for i := range noise {
						noise[i] = byte(r.Uint32())
					}
					w.say("c", append([]byte(nil), noise...))
				}
			}
			for range 40 {
				say(10)
				w.checkpoint()
			}
			say(200)
			w.kill()
			w.change = func(o *Options) {
				o.retry, o.patience = time.Millisecond, time.Nanosecond
				if c.before.Keep != nil {
					o.Rules = c.before
				}
			}
			w.open()
			if !w.roll() {
				t.Fatal("no checkpoint was taken")
			}
			// It fails in the middle: some blocks are written by then.
			bad := atomic.Bool{}
			bad.Store(true)
			last := w.log.groups[len(w.log.groups)-5].at.Offset
			read := w.store.o.ReadLog
			w.store.o.ReadLog = func(p []byte, generation uint64, offset int64) error {
				if bad.Load() && offset+int64(len(p)) > last {
					return syscall.EMFILE
				}
				return read(p, generation, offset)
			}
			end := w.run()
			until := func(what string, done func() bool) {
				t.Helper()
				for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("in 20 s %s (%d attempts failed)", what, w.store.stats.Failures.Load())
					}
				}
			}
			until("no checkpoint failed", func() bool { return w.store.stats.Failures.Load() > 0 })
			if c.now.Keep != nil || c.now.Budget > 0 {
				if n := w.store.stats.Dropped.Load(); n != 0 {
					t.Errorf("%d messages are dropped without a rule", n)
				}
				c.now.BlockFile = 20_000
				w.store.SetRules(c.now)
			}
			until("nothing was dropped", func() bool { return w.store.stats.Dropped.Load() > 0 })
			if w.store.stats.Checkpoints.Load() != 0 {
				t.Error("the checkpoint was completed: this proves nothing")
			}
			bad.Store(false)
			w.checkKept()
			until("the checkpoint was not completed", func() bool { return !w.store.Checkpointing() })
			end()
			w.open()
			defer func() { w.kill() }()
			if len(w.report.Trouble) > 0 || w.store.Index() != uint64(len(w.log.groups)) {
				t.Errorf("after a restart the checkpoint has %d groups of %d, trouble: %q", w.store.Index(), len(w.log.groups), w.report.Trouble)
			}
			w.checkKept()
			if audit, err := Check(w.dir); err != nil || len(audit.Damage) > 0 {
				t.Errorf("check: %v, %v", audit.Damage, err)
			}
		})
	}
}
