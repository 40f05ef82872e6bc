package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// parcel is the item of these tests.
type parcel struct {
	name   string
	weight int
}

func weighParcel(p *parcel) int { return p.weight }

// names tells a batch in one line.
func names(ps []parcel) (out []string) {
	for _, p := range ps {
		out = append(out, p.name)
	}
	return out
}

func wantNames(t *testing.T, got []parcel, want ...string) {
	t.Helper()
	if !slices.Equal(names(got), want) {
		t.Fatalf("got items %v, want %v", names(got), want)
	}
}

func wantErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Fatalf("got error %v, want %v", got, want)
	}
}

func wantHeld(t *testing.T, q *Queue[parcel], items, weight int) {
	t.Helper()
	if q.Len() != items || q.Weight() != weight {
		t.Fatalf("queue holds %d items of weight %d, want %d of %d", q.Len(), q.Weight(), items, weight)
	}
}

func TestItemsLeaveInTheOrderTheyCame(t *testing.T) {
	q := New(0, 0, weighParcel)
	for _, name := range []string{"a", "b", "c"} {
		wantErr(t, q.Push(parcel{name, 1}), nil)
	}
	wantHeld(t, q, 3, 3)
	got, ok := q.PopBatch(nil, 0, 0)
	wantNames(t, got, "a", "b", "c")
	if !ok {
		t.Fatal("an open queue said that it is over")
	}
	wantHeld(t, q, 0, 0)
}

func TestPopAppendsBehindWhatTheCallerHas(t *testing.T) {
	q := New(0, 0, weighParcel)
	q.Push(parcel{"b", 1})
	got := q.TryPopBatch([]parcel{{"a", 1}}, 0, 0)
	wantNames(t, got, "a", "b")
	got = q.TryPopBatch(got, 0, 0) // empty: as it was
	wantNames(t, got, "a", "b")
}

func TestAFullQueueRefusesByItems(t *testing.T) {
	q := New(2, 0, weighParcel)
	wantErr(t, q.Push(parcel{"a", 1}), nil)
	wantErr(t, q.Push(parcel{"b", 1000}), nil)
	wantErr(t, q.Push(parcel{"c", 1}), ErrFull)
	wantNames(t, q.TryPopBatch(nil, 1, 0), "a")
	wantErr(t, q.Push(parcel{"c", 1}), nil)
	wantNames(t, q.TryPopBatch(nil, 0, 0), "b", "c")
}

func TestAFullQueueRefusesByWeight(t *testing.T) {
	q := New(0, 10, weighParcel)
	wantErr(t, q.Push(parcel{"a", 6}), nil)
	wantErr(t, q.Push(parcel{"b", 5}), ErrFull)
	wantErr(t, q.Push(parcel{"c", 4}), nil)
	wantHeld(t, q, 2, 10)
	wantErr(t, q.Push(parcel{"d", 1}), ErrFull)
	wantHeld(t, q, 2, 10)
}

func TestAnItemHeavierThanTheBoundPassesAlone(t *testing.T) {
	q := New(0, 10, weighParcel)
	wantErr(t, q.Push(parcel{"control", 0}), nil)
	wantErr(t, q.Push(parcel{"giant", 99}), nil)
	wantErr(t, q.Push(parcel{"small", 1}), ErrFull)
	wantErr(t, q.Push(parcel{"giant 2", 99}), ErrFull)
	wantHeld(t, q, 2, 99)
	wantNames(t, q.TryPopBatch(nil, 0, 0), "control", "giant")
	wantErr(t, q.Push(parcel{"small", 1}), nil)
	wantErr(t, q.Push(parcel{"giant 2", 99}), ErrFull)
}

func TestWeightlessItemsPassAFullQueueAndTakeNobodysPlace(t *testing.T) {
	q := New(2, 10, weighParcel)
	for i := range 100 {
		wantErr(t, q.Push(parcel{fmt.Sprint("ack ", i), 0}), nil)
	}
	wantErr(t, q.Push(parcel{"a", 5}), nil)
	wantErr(t, q.Push(parcel{"b", 5}), nil)
	wantErr(t, q.Push(parcel{"c", 5}), ErrFull)
	wantErr(t, q.Push(parcel{"last ack", 0}), nil)
	wantHeld(t, q, 103, 10)
	got := q.TryPopBatch(nil, 0, 0)
	wantNames(t, got[100:], "a", "b", "last ack")
}

func TestANegativeWeightIsNoCredit(t *testing.T) {
	q := New(0, 10, weighParcel)
	wantErr(t, q.Push(parcel{"a", -100}), nil)
	wantHeld(t, q, 1, 0)
}

func TestWithoutAWeigherEveryItemWeighsOne(t *testing.T) {
	q := New[string](0, 2, nil)
	if err := errors.Join(q.Push("a"), q.Push("b")); err != nil {
		t.Fatal(err)
	}
	wantErr(t, q.Push("c"), ErrFull)
}

func TestABatchEndsAtItsLimitsButNeverBeforeItsFirstItem(t *testing.T) {
	q := New(0, 0, weighParcel)
	q.PushMany([]parcel{{"giant", 50}, {"a", 4}, {"b", 4}, {"ack", 0}, {"c", 4}, {"ack 2", 0}})
	wantNames(t, q.TryPopBatch(nil, 0, 10), "giant")
	wantNames(t, q.TryPopBatch(nil, 0, 10), "a", "b", "ack")
	wantNames(t, q.TryPopBatch(nil, 1, 10), "c")
	wantNames(t, q.TryPopBatch(nil, 1, 10), "ack 2")
	wantHeld(t, q, 0, 0)
}

func TestMoreForABatchKeepsTheBoundsOfTheWholeBatch(t *testing.T) {
	q := New(0, 100, weighParcel)
	wantNames(t, q.PopMore(nil, 0, 0)) // empty: as it was
	if n := q.PushMany([]parcel{{"a", 4}, {"b", 4}, {"ack", 0}, {"c", 4}, {"giant", 50}, {"d", 1}}); n != 6 {
		t.Fatal(n)
	}
	got := q.TryPopBatch(nil, 1, 0)
	got = q.PopMore(got, 1, 0)
	wantNames(t, got, "a") // as many as there may be
	got = q.PopMore(got, 0, 10)
	wantNames(t, got, "a", "b", "ack") // 4 more would be 12
	got = q.PopMore(got, 3, 100)
	wantNames(t, got, "a", "b", "ack")
	got = q.PopMore(got, 0, 12)
	wantNames(t, got, "a", "b", "ack", "c")
	got = q.PopMore(got, 0, 12) // the next weighs more than all that is left
	wantNames(t, got, "a", "b", "ack", "c")
	wantHeld(t, q, 2, 51)
	got = q.PopMore(got, 0, 0)
	wantNames(t, got, "a", "b", "ack", "c", "giant", "d")
	wantHeld(t, q, 0, 0)
	wantNames(t, q.PopMore(nil, 0, 0))
}

func TestPushManyStopsAtTheFirstRefusal(t *testing.T) {
	q := New(0, 10, weighParcel)
	items := []parcel{{"a", 6}, {"b", 6}, {"c", 1}, {"ack", 0}}
	if n := q.PushMany(items); n != 1 {
		t.Fatalf("%d items taken, want 1", n)
	}
	wantNames(t, q.TryPopBatch(nil, 0, 0), "a")
	if n := q.PushMany(items[1:]); n != 3 {
		t.Fatalf("%d items taken, want 3", n)
	}
	wantNames(t, q.TryPopBatch(nil, 0, 0), "b", "c", "ack")
	if n := q.PushMany(nil); n != 0 {
		t.Fatalf("%d items taken of none", n)
	}
}

func TestTheWeightIsTheOneAtThePush(t *testing.T) {
	q := New(0, 10, func(p **parcel) int { return (*p).weight })
	p := &parcel{"a", 7}
	q.Push(p)
	p.weight = 1
	if q.TryPopBatch(nil, 0, 0); q.Weight() != 0 {
		t.Fatalf("an empty queue weighs %d", q.Weight())
	}
}

func TestAfterCloseProducersFailAndTheConsumerDrains(t *testing.T) {
	q := New(1, 0, weighParcel)
	q.Push(parcel{"a", 1})
	q.Close()
	q.Close()
	wantErr(t, q.Push(parcel{"b", 1}), ErrClosed)
	wantErr(t, q.Push(parcel{"ack", 0}), ErrClosed)
	wantErr(t, q.PushWait(parcel{"b", 1}), ErrClosed)
	if n := q.PushMany([]parcel{{"b", 1}}); n != 0 {
		t.Fatalf("a closed queue took %d items", n)
	}
	got, ok := q.PopBatch(nil, 0, 0)
	wantNames(t, got, "a")
	if !ok {
		t.Fatal("the queue said that it is over with the last item still in hand")
	}
	if got, ok = q.PopBatch(got[:0], 0, 0); ok || len(got) != 0 {
		t.Fatalf("a closed and empty queue gave %v, %v", got, ok)
	}
}

func TestPushWaitGoesOnWhenThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(1, 0, weighParcel)
		q.Push(parcel{"a", 1})
		q.Push(parcel{"ack", 0})
		done := make(chan error, 1)
		go func() { done <- q.PushWait(parcel{"b", 1}) }()
		synctest.Wait()
		wantNames(t, q.TryPopBatch(nil, 1, 0), "a")
		wantErr(t, <-done, nil)
		wantNames(t, q.TryPopBatch(nil, 0, 0), "ack", "b")
	})
}

func TestCloseWakesWhoeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		full, empty := New(1, 0, weighParcel), New(1, 0, weighParcel)
		full.Push(parcel{"a", 1})
		done := make(chan error, 3)
		for range 2 {
			go func() { done <- full.PushWait(parcel{"b", 1}) }()
		}
		go func() {
			if _, ok := empty.PopBatch(nil, 0, 0); ok {
				done <- errors.New("the consumer got an item from an empty queue")
			}
			done <- ErrClosed
		}()
		synctest.Wait()
		full.Close()
		empty.Close()
		for range 3 {
			wantErr(t, <-done, ErrClosed)
		}
		wantNames(t, full.TryPopBatch(nil, 0, 0), "a")
	})
}

func TestAWaitingConsumerIsWokenByEveryKindOfPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(0, 0, weighParcel)
		got := make(chan string)
		go func() {
			for {
				ps, ok := q.PopBatch(nil, 1, 0)
				if !ok {
					close(got)
					return
				}
				got <- ps[0].name
			}
		}()
		for i, push := range []func(p parcel){
			func(p parcel) { q.Push(p) },
			func(p parcel) { q.PushWait(p) },
			func(p parcel) { q.PushMany([]parcel{p}) },
		} {
			time.Sleep(time.Second) // of the bubble's clock: the consumer sleeps
			push(parcel{fmt.Sprint(i), i})
			if name := <-got; name != fmt.Sprint(i) {
				t.Fatalf("got %q, want %d", name, i)
			}
		}
		q.Close()
		<-got
	})
}

func TestPoppedAndRefusedItemsAreForgotten(t *testing.T) {
	q := New(1, 0, func(p **parcel) int { return (*p).weight })
	q.Push(&parcel{"a", 1})
	q.Push(&parcel{"refused", 1})
	q.Push(&parcel{"ack", 0})
	wantErr(t, q.Push(&parcel{"refused", 1}), ErrFull)
	q.TryPopBatch(nil, 0, 0)
	for i, s := range q.slots {
		if s.item != nil || s.weight != 0 {
			t.Fatalf("slot %d still holds %v of weight %d", i, s.item, s.weight)
		}
	}
}

func TestTheRingGrowsToNeedAndShrinksWhenLongEmpty(t *testing.T) {
	q := New(0, 0, weighParcel)
	for range 10000 {
		q.Push(parcel{"a", 1})
	}
	if len(q.slots) != 16384 {
		t.Fatalf("a ring of %d slots for 10000 items, want 16384", len(q.slots))
	}
	q.TryPopBatch(nil, 0, 0)
	for range 2 * shrinkEvery {
		q.Push(parcel{"a", 1})
		q.TryPopBatch(nil, 0, 0)
	}
	if len(q.slots) != minSlots {
		t.Fatalf("a ring of %d slots after long quiet, want %d", len(q.slots), minSlots)
	}
}

func TestARingThatIsNeededNowAndThenIsKept(t *testing.T) {
	q := New(0, 0, weighParcel)
	for range 10 {
		for range 1000 {
			q.Push(parcel{"a", 1})
		}
		for range shrinkEvery / 2 {
			q.TryPopBatch(nil, 0, 0)
		}
		if len(q.slots) != 1024 {
			t.Fatalf("a ring of %d slots, want 1024", len(q.slots))
		}
	}
}

// naive is what the queue promises, without a ring.
type naive struct {
	maxItems, maxWeight int
	items               []parcel
	closed              bool
}

func (m *naive) push(p parcel) error {
	heavy, weight := 0, 0
	for _, held := range m.items {
		if held.weight > 0 {
			heavy++
			weight += held.weight
		}
	}
	switch {
	case m.closed:
		return ErrClosed
	case p.weight > 0 && heavy > 0 && m.maxItems > 0 && heavy+1 > m.maxItems,
		p.weight > 0 && heavy > 0 && m.maxWeight > 0 && weight+p.weight > m.maxWeight:
		return ErrFull
	}
	m.items = append(m.items, p)
	return nil
}

func (m *naive) pop(maxItems, maxWeight int) (out []parcel) {
	weight := 0
	for len(m.items) > 0 {
		p := m.items[0]
		if maxItems > 0 && len(out) == maxItems || len(out) > 0 && maxWeight > 0 && weight+p.weight > maxWeight {
			break
		}
		weight += p.weight
		out, m.items = append(out, p), m.items[1:]
	}
	return out
}

func TestTheQueueBehavesLikeTheNaiveModel(t *testing.T) {
	for round := range 200 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		maxItems, maxWeight := r.IntN(40), r.IntN(200)
		q, m := New(maxItems, maxWeight, weighParcel), &naive{maxItems: maxItems, maxWeight: maxWeight}
		for step := range 1000 {
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("seed %d round %d step %d bounds %d/%d: %s", seed, round, step, maxItems, maxWeight, fmt.Sprintf(format, args...))
			}
			p := parcel{fmt.Sprint(step), max(0, r.IntN(60)-20)}
			switch r.IntN(5) {
			case 0, 1:
				if got, want := q.Push(p), m.push(p); got != want {
					fail("Push(%v) = %v, want %v", p, got, want)
				}
			case 2:
				ps := []parcel{p, {p.name + "'", r.IntN(9)}, {p.name + "''", r.IntN(2)}}
				want := 0
				for want < len(ps) && m.push(ps[want]) == nil {
					want++
				}
				if got := q.PushMany(ps); got != want {
					fail("PushMany(%v) = %d, want %d", ps, got, want)
				}
			case 3:
				mi, mw := r.IntN(6), r.IntN(100)
				if got, want := q.TryPopBatch(nil, mi, mw), m.pop(mi, mw); !slices.Equal(got, want) {
					fail("TryPopBatch(%d, %d) = %v, want %v", mi, mw, got, want)
				}
			case 4:
				if len(m.items) == 0 {
					continue
				}
				mi, mw := r.IntN(50), r.IntN(500)
				got, ok := q.PopBatch(nil, mi, mw)
				if want := m.pop(mi, mw); !ok || !slices.Equal(got, want) {
					fail("PopBatch(%d, %d) = %v, %v, want %v", mi, mw, got, ok, want)
				}
			}
			if step == 950 {
				q.Close()
				m.closed = true
			}
			weight := 0
			for _, held := range m.items {
				weight += held.weight
			}
			if q.Len() != len(m.items) || q.Weight() != weight {
				fail("holds %d of weight %d, want %d of %d", q.Len(), q.Weight(), len(m.items), weight)
			}
		}
	}
}

func TestManyProducersLoseNothingAndKeepTheirOrder(t *testing.T) {
	const producers, each = 8, 3000
	type ticket struct{ producer, number, weight int }
	q := New(50, 500, func(k *ticket) int { return k.weight })
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			var many []ticket
			for i := range each {
				k := ticket{p, i, i % 20}
				switch p % 3 {
				case 0:
					if err := q.PushWait(k); err != nil {
						t.Errorf("producer %d: %v", p, err)
						return
					}
				case 1:
					for q.Push(k) != nil {
						runtime.Gosched()
					}
				case 2:
					if many = append(many, k); len(many) < 7 && i < each-1 {
						continue
					}
					for len(many) > 0 {
						many = many[q.PushMany(many):]
						runtime.Gosched()
					}
				}
			}
		})
	}
	go func() { wg.Wait(); q.Close() }()
	var next [producers]int
	var batch []ticket
	for ok := true; ok; {
		batch, ok = q.PopBatch(batch[:0], 32, 100)
		for _, k := range batch {
			if k.number != next[k.producer] {
				t.Fatalf("producer %d: got number %d, want %d", k.producer, k.number, next[k.producer])
			}
			next[k.producer]++
		}
	}
	for p, n := range next {
		if n != each {
			t.Errorf("producer %d: %d items arrived of %d", p, n, each)
		}
	}
}

func TestTheSteadyStateAllocatesNothing(t *testing.T) {
	q := New(0, 1<<20, func(p *parcel) int { return p.weight })
	items := make([]parcel, 100)
	dst := make([]parcel, 0, 256)
	if n := testing.AllocsPerRun(1000, func() {
		q.Push(parcel{"a", 3})
		q.PushWait(parcel{"b", 0})
		q.PushMany(items)
		dst = q.TryPopBatch(dst[:0], 50, 0)
		dst, _ = q.PopBatch(dst[:0], 0, 0)
	}); n != 0 {
		t.Fatalf("%v allocations per round, want 0", n)
	}
}

func BenchmarkPushPop(b *testing.B) {
	// The item is as large as a log proposal or a delivery.
	type delivery struct {
		_      [4]*int
		_      [4]uint64
		weight int
	}
	weigh := func(d *delivery) int { return d.weight }
	drain := func(q *Queue[delivery], done chan<- int) {
		n, dst := 0, make([]delivery, 0, 512)
		for ok := true; ok; n += len(dst) {
			dst, ok = q.PopBatch(dst[:0], 512, 0)
		}
		done <- n
	}
	run := func(b *testing.B, producers, many int) {
		b.ReportAllocs()
		q, done := New(4096, 0, weigh), make(chan int)
		go drain(q, done)
		var wg sync.WaitGroup
		for p := range producers {
			share := b.N / producers
			if p == 0 {
				share += b.N % producers
			}
			wg.Go(func() {
				items := make([]delivery, many)
				for i := range items {
					items[i].weight = 100
				}
				for left := share; left > 0; {
					if many == 1 {
						q.PushWait(items[0])
						left--
						continue
					}
					n := q.PushMany(items[:min(left, many)])
					if left -= n; n == 0 {
						runtime.Gosched()
					}
				}
			})
		}
		wg.Wait()
		q.Close()
		if n := <-done; n != b.N {
			b.Fatalf("%d items arrived of %d", n, b.N)
		}
	}
	for _, producers := range []int{1, 4} {
		for _, many := range []int{1, 64} {
			b.Run(fmt.Sprintf("producers=%d/many=%d", producers, many), func(b *testing.B) { run(b, producers, many) })
		}
	}
	b.Run("one goroutine/many=64", func(b *testing.B) {
		b.ReportAllocs()
		q, items, dst := New(0, 0, weigh), make([]delivery, 64), make([]delivery, 0, 64)
		for n := 0; n < b.N; n += 64 {
			q.PushMany(items)
			dst = q.TryPopBatch(dst[:0], 0, 0)
		}
	})
	b.Run("a channel for comparison/producers=4", func(b *testing.B) {
		c, done := make(chan delivery, 4096), make(chan int)
		go func() {
			n := 0
			for range c {
				n++
			}
			done <- n
		}()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range b.N / 4 {
					c <- delivery{weight: 100}
				}
			})
		}
		wg.Wait()
		close(c)
		<-done
	})
}

func TestFillSaysWhereTheEndIs(t *testing.T) {
	q := New(3, 100, func(n *int) int { return *n })
	for _, n := range []int{40, 0, 50} {
		if err := q.Push(n); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := q.Fill(), (Fill{Items: 2, MaxItems: 3, Weight: 90, MaxWeight: 100}); got != want {
		t.Errorf("found %+v, want %+v", got, want)
	}
}
