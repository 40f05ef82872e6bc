package ack

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// dialogue plays calls against a table on a clock that only it moves, and
// remembers what was due.
type dialogue struct {
	t     *testing.T
	table *Table
	start time.Time
	now   time.Time
}

func newDialogue(t *testing.T, o Options) *dialogue {
	start := time.Unix(1_700_000_000, 0)
	return &dialogue{t, New(o), start, start}
}

func (d *dialogue) sent(conn uint64, id int64) {
	d.table.Sent(Key{conn, id}, conn*1000, uint64(id)*10, d.now)
}

// at moves the clock to this time after the start and checks who is due, as
// "conn/message try" or "conn/message last", in order, and the next wake-up.
func (d *dialogue) at(after time.Duration, want string, wantNext time.Duration) {
	d.t.Helper()
	d.now = d.start.Add(after)
	var got []string
	next := d.table.Tick(d.now, func(p Pending, last bool) {
		if p.Ref != p.Conn*1000 || p.Seq != uint64(p.MessageID)*10 {
			d.t.Errorf("at %v: %+v came back with another's ref or seq", after, p)
		}
		word := fmt.Sprint(p.Tries)
		if last {
			word = "last"
		}
		got = append(got, fmt.Sprintf("%d/%d %s", p.Conn, p.MessageID, word))
	})
	if got := strings.Join(got, ", "); got != want {
		d.t.Fatalf("at %v: due %q, want %q", after, got, want)
	}
	if next != wantNext {
		d.t.Fatalf("at %v: next in %v, want %v", after, next, wantNext)
	}
}

const s = time.Second

func TestAPushIsRepeatedWithDoublingWaitsAndThenGivenUp(t *testing.T) {
	d := newDialogue(t, Options{})
	d.at(0, "", -1)
	d.sent(1, 7)
	d.at(0, "", 10*s)
	d.at(9900*time.Millisecond, "", 100*time.Millisecond)
	d.at(10*s, "1/7 1", 20*s)
	d.at(30*s, "1/7 2", 40*s)
	d.at(70*s, "1/7 3", 60*s)
	d.at(130*s, "1/7 4", 60*s)
	d.at(190*s, "1/7 5", 60*s)
	d.at(249*s, "", 1*s)
	d.at(250*s, "1/7 last", -1)
	if d.table.Len() != 0 || d.table.Count(1) != 0 {
		t.Fatalf("%d entries left after the last", d.table.Len())
	}
}

func TestAnAcknowledgedPushIsNeverDue(t *testing.T) {
	d := newDialogue(t, Options{})
	d.sent(1, 7)
	d.sent(1, 8)
	p, ok := d.table.Acked(Key{1, 7})
	if want := (Pending{Key{1, 7}, 1000, 70, 0}); !ok || p != want {
		t.Fatalf("acked %+v, %v, want %+v", p, ok, want)
	}
	if _, ok := d.table.Acked(Key{1, 7}); ok {
		t.Fatal("the second acknowledgement found something")
	}
	if _, ok := d.table.Acked(Key{2, 8}); ok {
		t.Fatal("another connection acknowledged it")
	}
	d.at(10*s, "1/8 1", 20*s)
	if p, ok := d.table.Acked(Key{1, 8}); !ok || p.Tries != 1 {
		t.Fatalf("acked %+v, %v, want 1 try", p, ok)
	}
	d.at(60*s, "", -1)
}

func TestTheLastTryMayStillBeAcknowledged(t *testing.T) {
	d := newDialogue(t, Options{Tries: 1})
	d.sent(1, 7)
	d.at(10*s, "1/7 1", 20*s)
	if _, ok := d.table.Acked(Key{1, 7}); !ok {
		t.Fatal("nobody waited for the last try")
	}
}

func TestSendingAgainWaitsAnewAndKeepsTheTries(t *testing.T) {
	d := newDialogue(t, Options{})
	d.sent(1, 7)
	d.at(10*s, "1/7 1", 20*s)
	d.at(25*s, "", 5*s)
	d.sent(1, 7)
	if d.table.Len() != 1 || d.table.Count(1) != 1 {
		t.Fatalf("%d entries, want 1", d.table.Len())
	}
	d.at(44*s, "", 1*s)
	d.at(45*s, "1/7 2", 40*s)
}

func TestDroppingAConnectionLeavesTheOthers(t *testing.T) {
	d := newDialogue(t, Options{})
	for id := range int64(3) {
		d.sent(1, id)
		d.sent(2, id)
	}
	d.table.Drop(1)
	d.table.Drop(1)
	d.table.Drop(99)
	if d.table.Len() != 3 || d.table.Count(1) != 0 || d.table.Count(2) != 3 {
		t.Fatalf("%d entries, %d and %d per connection, want 3, 0, 3", d.table.Len(), d.table.Count(1), d.table.Count(2))
	}
	d.sent(1, 2)
	d.at(10*s, "2/0 1, 2/1 1, 2/2 1, 1/2 1", 20*s)
}

func TestNothingIsEarlyAndAllIsAtMostOneTickLate(t *testing.T) {
	d := newDialogue(t, Options{Tick: s})
	d.at(0, "", -1)
	d.now = d.start.Add(1) // a nanosecond into the tick
	d.sent(1, 7)
	d.at(10*s, "", 1*s)
	d.at(11*s, "1/7 1", 20*s)
}

func TestWhatIsFurtherThanTheWheelIsRoundWaits(t *testing.T) {
	d := newDialogue(t, Options{Tick: s, Slots: 8}) // 10 s is more than one turn
	d.sent(1, 7)
	d.at(2*s, "", 8*s)
	for after := 3 * s; after < 10*s; after += s {
		d.now = d.start.Add(after)
		d.table.Tick(d.now, func(p Pending, _ bool) { t.Fatalf("%+v was due after %v", p, after) })
	}
	d.at(10*s, "1/7 1", 4*s) // due in 20 s; its slot comes by in 4
}

func TestALoopThatSleptTooLongReportsAllOnce(t *testing.T) {
	for _, late := range []time.Duration{10 * s, 3 * time.Minute, 24 * time.Hour, 40 * 24 * time.Hour} {
		d := newDialogue(t, Options{})
		d.sent(1, 7)
		d.now = d.now.Add(2 * s)
		d.sent(1, 8)
		d.at(late+2*s, "1/7 1, 1/8 1", 20*s)
	}
}

func TestALongQuietTableStartsAfresh(t *testing.T) {
	d := newDialogue(t, Options{})
	d.sent(1, 7)
	d.table.Acked(Key{1, 7})
	d.now = d.start.Add(1000 * time.Hour)
	d.sent(1, 8)
	d.at(1000*time.Hour, "", 10*s)
	d.at(1000*time.Hour+10*s, "1/8 1", 20*s)
}

func TestAClockThatGoesBackHarmsNobody(t *testing.T) {
	d := newDialogue(t, Options{})
	d.at(60*s, "", -1)
	d.now = d.start.Add(30 * s)
	d.sent(1, 7)
	d.at(20*s, "", 40*s+100*time.Millisecond) // not before the tick that was seen
	d.at(61*s, "1/7 1", 20*s)
}

func TestWhoeverIsToldMayChangeTheTable(t *testing.T) {
	for _, late := range []time.Duration{0, 5 * s, time.Hour} {
		d := newDialogue(t, Options{})
		for id := range int64(5) {
			d.sent(1, id)
			d.sent(2, id)
		}
		told := 0
		d.now = d.now.Add(10*s + late)
		next := d.table.Tick(d.now, func(p Pending, last bool) {
			told++
			switch {
			case p.Conn == 1:
				d.table.Drop(2) // due too, not told yet
			case p.Conn == 2:
				t.Errorf("%+v was dropped and still due", p)
			}
			if p.MessageID == 1 {
				d.table.Acked(p.Key)             // itself
				d.table.Acked(Key{1, 2})         // the next
				d.sent(1, 3)                     // one that is due: it waits anew, without a try
				d.sent(3, 99)                    // a new one
				d.table.Sent(p.Key, 1, 1, d.now) // itself, as new
			}
		})
		if told != 3 || d.table.Len() != 5 || d.table.Count(2) != 0 { // told 1/0, 1/1, 1/4; left 0, 1, 3, 4 and 3/99
			t.Fatalf("%d told and %d left, want 3 and 5", told, d.table.Len())
		}
		if next != 10*s {
			t.Fatalf("next in %v, want 10s", next)
		}
	}
}

func TestAnEntryIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(entry{}); size > 48 {
		t.Fatalf("an entry takes %d bytes, at most 48 are allowed", size)
	}
}

func TestAnEmptyTableGivesItsMemoryBack(t *testing.T) {
	d := newDialogue(t, Options{})
	for id := range int64(100_000) {
		d.sent(uint64(id%1000), id)
	}
	for conn := range uint64(1000) {
		d.table.Drop(conn)
	}
	d.at(1*s, "", -1)
	if n := cap(d.table.entries) + len(d.table.keys.cells) + len(d.table.ids.cells); n > 100 {
		t.Fatalf("an empty table keeps %d cells and entries", n)
	}
	d.sent(1, 7)
	d.at(11*s, "1/7 1", 20*s)
}

// naive is what the table promises, kept in a map and searched from end to end.
type naive struct {
	o     Options
	armed map[Key]*naiveEntry
	count int // order of arming
}

type naiveEntry struct {
	p     Pending
	due   time.Time // exact; the table may be up to one tick later
	order int
}

func (m *naive) arm(e *naiveEntry, now time.Time) {
	wait := min(m.o.First<<e.p.Tries, m.o.Max)
	e.due = now.Add(wait)
	m.count++
	e.order = m.count
}

func TestTheTableBehavesLikeTheNaiveModel(t *testing.T) {
	for round := range 60 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		o := Options{Tick: 100 * time.Millisecond, First: time.Duration(1+r.IntN(20)) * 500 * time.Millisecond, Tries: 1 + r.IntN(6), Slots: 1 << r.IntN(11)}
		o.Max = o.First * time.Duration(1+r.IntN(8))
		table, m := New(o), &naive{o: o, armed: map[Key]*naiveEntry{}}
		now := time.Unix(1_700_000_000, 0)
		table.Tick(now, nil)
		fail := func(step int, format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d round %d step %d %+v: %s", seed, round, step, o, fmt.Sprintf(format, args...))
		}
		for step := range 3000 {
			k := Key{r.Uint64N(20), r.Int64N(50)}
			switch r.IntN(12) {
			case 0, 1, 2, 3, 4:
				e := m.armed[k]
				if e == nil {
					e = &naiveEntry{}
					m.armed[k] = e
				}
				e.p = Pending{k, r.Uint64(), r.Uint64(), e.p.Tries}
				m.arm(e, now)
				table.Sent(k, e.p.Ref, e.p.Seq, now)
			case 5, 6, 7:
				e, want := m.armed[k]
				p, ok := table.Acked(k)
				if ok != want || ok && p != e.p {
					fail(step, "Acked(%v) = %+v, %v, want %+v, %v", k, p, ok, e, want)
				}
				delete(m.armed, k)
			case 8:
				if r.IntN(5) > 0 {
					continue
				}
				table.Drop(k.Conn)
				for held := range m.armed {
					if held.Conn == k.Conn {
						delete(m.armed, held)
					}
				}
			default:
				now = now.Add(o.Tick * time.Duration(r.IntN(30))) // whole ticks: the model needs no rounding
				if r.IntN(40) == 0 {
					now = now.Add(time.Duration(r.IntN(1000)) * o.Tick)
				}
				var want []*naiveEntry
				for _, e := range m.armed {
					if !e.due.After(now) {
						want = append(want, e)
					}
				}
				slices.SortFunc(want, func(a, b *naiveEntry) int {
					return cmp.Compare(a.p.MessageID, b.p.MessageID)*2 + cmp.Compare(a.p.Conn, b.p.Conn)
				})
				type report struct {
					p    Pending
					last bool
				}
				var got []report
				next := table.Tick(now, func(p Pending, last bool) { got = append(got, report{p, last}) })
				slices.SortFunc(got, func(a, b report) int {
					return cmp.Compare(a.p.MessageID, b.p.MessageID)*2 + cmp.Compare(a.p.Conn, b.p.Conn)
				})
				if len(got) != len(want) {
					fail(step, "%d due, want %d", len(got), len(want))
				}
				for i, e := range want {
					last := int(e.p.Tries) == o.Tries
					if !last {
						e.p.Tries++
						m.arm(e, now)
					} else {
						delete(m.armed, e.p.Key)
					}
					if got[i] != (report{e.p, last}) {
						fail(step, "due %+v, want %+v last %v", got[i], e.p, last)
					}
				}
				if len(m.armed) == 0 && next >= 0 || len(m.armed) > 0 && next <= 0 {
					fail(step, "next in %v with %d in flight", next, len(m.armed))
				}
				for _, e := range m.armed {
					if e.due.Before(now.Add(next)) {
						fail(step, "next in %v, but %+v is due in %v", next, e.p, e.due.Sub(now))
					}
				}
			}
			counts := map[uint64]int{}
			for held := range m.armed {
				counts[held.Conn]++
			}
			if table.Len() != len(m.armed) || table.Count(k.Conn) != counts[k.Conn] {
				fail(step, "%d in flight, %d to %d; want %d, %d", table.Len(), table.Count(k.Conn), k.Conn, len(m.armed), counts[k.Conn])
			}
			if table.ids.n != len(counts) || table.keys.n != len(m.armed) {
				fail(step, "the indexes hold %d connections and %d keys, want %d and %d", table.ids.n, table.keys.n, len(counts), len(m.armed))
			}
		}
	}
}

func TestTheSteadyStateAllocatesNothing(t *testing.T) {
	table, now, id := New(Options{}), time.Unix(1_700_000_000, 0), int64(0)
	due := func(p Pending, last bool) {}
	round := func() {
		for range 100 {
			id++
			table.Sent(Key{uint64(id % 16), id}, 1, 1, now)
			if id%8 != 0 {
				table.Acked(Key{uint64(id % 16), id})
			}
		}
		table.Drop(uint64(id % 7))
		now = now.Add(500 * time.Millisecond)
		table.Tick(now, due)
	}
	for range 2000 {
		round()
	}
	if n := testing.AllocsPerRun(2000, round); n != 0 {
		t.Fatalf("%v allocations per round, want 0", n)
	}
}

func BenchmarkSentAcked(b *testing.B) {
	for _, window := range []int64{1, 1000, 100_000} {
		b.Run(fmt.Sprintf("in flight=%d", window), func(b *testing.B) {
			b.ReportAllocs()
			table, now := New(Options{}), time.Unix(1_700_000_000, 0)
			for id := range window {
				table.Sent(Key{uint64(id % 1000), id}, 1, 1, now)
			}
			for id := range int64(b.N) {
				table.Acked(Key{uint64(id % window % 1000), id % window})
				table.Sent(Key{uint64(id % window % 1000), id % window}, 1, 1, now)
			}
		})
	}
}

func BenchmarkTick(b *testing.B) {
	b.Run("nothing due", func(b *testing.B) {
		table, now := New(Options{}), time.Unix(1_700_000_000, 0)
		for id := range int64(10_000) {
			table.Sent(Key{uint64(id % 1000), id}, 1, 1, now)
		}
		for b.Loop() {
			table.Tick(now, nil)
		}
	})
	b.Run("per due entry", func(b *testing.B) {
		b.ReportAllocs()
		table, now, told := New(Options{Max: 10 * time.Second, Tries: 255}), time.Unix(1_700_000_000, 0), 0
		for id := range int64(10_000) {
			table.Sent(Key{uint64(id % 1000), id}, 1, 1, now)
		}
		due := func(p Pending, last bool) {
			if told++; last {
				table.Sent(p.Key, 1, 1, now)
			}
		}
		for told < b.N {
			now = now.Add(10 * time.Second)
			table.Tick(now, due)
		}
	})
}

func TestNewOptionsHoldForWhatIsArmedFromNowOn(t *testing.T) {
	d := newDialogue(t, Options{Tick: s, First: 10 * s, Max: 60 * s, Tries: 5})
	d.sent(1, 1)
	d.table.Tune(Options{Tick: 5 * s, First: 2 * s, Max: 4 * s, Tries: 2}) // the tick stays
	d.sent(1, 2)
	d.at(2*s, "1/2 1", 4*s)
	d.at(6*s, "1/2 2", 4*s)
	d.at(10*s, "1/1 1, 1/2 last", 4*s)
	d.at(14*s, "1/1 2", 4*s)
	d.at(18*s, "1/1 last", -1)
}
