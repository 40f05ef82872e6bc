package metrics

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestEveryValueFallsIntoTheBucketThatClaimsIt(t *testing.T) {
	if bucketOf(math.MaxInt64) != buckets-1 || upperBound(buckets-1) != math.MaxInt64 {
		t.Fatalf("the largest value is in bucket %d up to %d, want the last of %d", bucketOf(math.MaxInt64), upperBound(buckets-1), buckets)
	}
	below := int64(-1)
	for i := range buckets {
		upper := upperBound(i)
		if bucketOf(upper) != i || bucketOf(below+1) != i {
			t.Fatalf("bucket %d of (%d, %d]: its ends fall into %d and %d", i, below, upper, bucketOf(below+1), bucketOf(upper))
		}
		if i > 0 && float64(upper-below-1) > float64(below+1)/sub {
			t.Fatalf("bucket %d of (%d, %d] is wider than 1/%d", i, below, upper, sub)
		}
		below = upper
	}
}

func TestQuantilesAreNeverTooSmallAndAtMostASixteenthTooLarge(t *testing.T) {
	for range 50 {
		seed := rand.Uint64()
		r := rand.New(rand.NewPCG(seed, 0))
		var h Histogram
		values := make([]int64, 1+r.IntN(3000))
		sum := uint64(0)
		for i := range values {
			values[i] = r.Int64N(1 << r.IntN(62))
			sum += uint64(values[i])
			h.Observe(values[i])
		}
		slices.Sort(values)
		s := h.Snapshot()
		if s.Count != uint64(len(values)) || s.Sum != sum {
			t.Fatalf("seed %d: count %d sum %d, want %d and %d", seed, s.Count, s.Sum, len(values), sum)
		}
		for _, q := range []float64{-1, 0, 0.001, 0.5, 0.9, 0.99, 0.999, 1, 2, math.Inf(1), math.NaN()} {
			rank := 1
			if q > 0 {
				rank = int(math.Ceil(min(q, 1) * float64(len(values))))
			}
			exact, got := values[rank-1], s.Quantile(q)
			if got < exact || float64(got-exact) > float64(exact)/16 {
				t.Fatalf("seed %d: quantile %v is %d, exactly %d", seed, q, got, exact)
			}
		}
	}
}

func TestSmallNumbersAreExact(t *testing.T) {
	var h Histogram
	if h.Quantile(0.5) != 0 {
		t.Fatalf("the median of nothing is %d, want 0", h.Quantile(0.5))
	}
	for v := range int64(33) {
		h.Observe(v)
	}
	if got := h.Quantile(0.5); got != 16 {
		t.Fatalf("the median of 0..32 is %d, want 16", got)
	}
	h.Observe(-5)
	if s := h.Snapshot(); s.counts[0] != 2 || s.Sum != 32*33/2 {
		t.Fatalf("a negative value did not count as zero: %d zeros, sum %d", s.counts[0], s.Sum)
	}
}

func TestSubLeavesWhatCameBetween(t *testing.T) {
	var h Histogram
	h.Observe(1_000_000)
	before := h.Snapshot()
	h.Observe(7)
	h.Observe(8)
	s := h.Snapshot()
	s.Sub(&before)
	if s.Count != 2 || s.Sum != 15 || s.Quantile(1) != 8 {
		t.Fatalf("count %d sum %d max %d, want 2, 15, 8", s.Count, s.Sum, s.Quantile(1))
	}
}

func TestObservingFromManySidesLosesNothing(t *testing.T) {
	var h Histogram
	var c Counter
	var g Gauge
	var wg sync.WaitGroup
	for p := range int64(4) {
		wg.Go(func() {
			for i := range int64(10_000) {
				h.Observe(i * p)
				c.Inc()
				g.Add(2)
				g.Add(-1)
			}
		})
	}
	wg.Wait()
	if s := h.Snapshot(); s.Count != 40_000 || c.Load() != 40_000 || g.Load() != 40_000 {
		t.Fatalf("%d observed, %d counted, gauge %d; want 40000 of each", s.Count, c.Load(), g.Load())
	}
}

func TestMeasuringAllocatesNothing(t *testing.T) {
	var h Histogram
	var c Counter
	var g Gauge
	v := int64(1)
	if n := testing.AllocsPerRun(1000, func() {
		h.Observe(v)
		c.Inc()
		c.Add(v)
		g.Set(v)
		v += v/3 + 1
		v &= math.MaxInt64
	}); n != 0 {
		t.Fatalf("%v allocations, want 0", n)
	}
}

// example is a registry with one of each.
func example() *Registry {
	var sent, refused Counter
	var conns Gauge
	var latency, group Histogram
	sent.Add(1 << 60)
	refused.Inc()
	conns.Set(-3)
	for _, ns := range []int64{1, 16_384, 16_385, 1_000_000, 1 << 40} {
		latency.Observe(ns)
	}
	for _, n := range []int64{0, 1, 2, 4, 5, 4096} {
		group.Observe(n)
	}
	r := NewRegistry()
	r.Counter("gatepost_messages_total", `Messages by result; a \ and a`+"\nnew line.", &sent, "result", "sent")
	r.Gauge("gatepost_connections", "Connections now.", &conns)
	r.Histogram("gatepost_sync_seconds", "Time of one sync.", Seconds(), &latency, "disk", "a")
	r.Histogram("gatepost_group_items", "Records per group.", Plain(), &group)
	r.Counter("gatepost_messages_total", `Messages by result; a \ and a`+"\nnew line.", &refused, "result", `re"fu\sed`+"\n\xff")
	r.GaugeFunc("gatepost_load", "Load.", func() float64 { return 0.25 })
	r.GaugeFunc("gatepost_unknown", "Not known.", func() float64 { return math.NaN() })
	r.CounterFunc("gatepost_bytes_total", "Bytes.", func() int64 { return 42 }, "direction", "in", "loop", "0")
	return r
}

const exampleText = `# HELP gatepost_messages_total Messages by result; a \\ and a\nnew line.
# TYPE gatepost_messages_total counter
gatepost_messages_total{result="sent"} 1152921504606846976
gatepost_messages_total{result="re\"fu\\sed\n` + "\uFFFD" + `"} 1
# HELP gatepost_connections Connections now.
# TYPE gatepost_connections gauge
gatepost_connections -3
# HELP gatepost_sync_seconds Time of one sync.
# TYPE gatepost_sync_seconds histogram
gatepost_sync_seconds_bucket{disk="a",le="1.6384e-05"} 2
gatepost_sync_seconds_bucket{disk="a",le="6.5536e-05"} 3
gatepost_sync_seconds_bucket{disk="a",le="0.000262144"} 3
gatepost_sync_seconds_bucket{disk="a",le="0.001048576"} 4
gatepost_sync_seconds_bucket{disk="a",le="0.004194304"} 4
gatepost_sync_seconds_bucket{disk="a",le="0.016777216"} 4
gatepost_sync_seconds_bucket{disk="a",le="0.067108864"} 4
gatepost_sync_seconds_bucket{disk="a",le="0.268435456"} 4
gatepost_sync_seconds_bucket{disk="a",le="1.073741824"} 4
gatepost_sync_seconds_bucket{disk="a",le="4.294967296"} 4
gatepost_sync_seconds_bucket{disk="a",le="17.179869184"} 4
gatepost_sync_seconds_bucket{disk="a",le="68.719476736"} 4
gatepost_sync_seconds_bucket{disk="a",le="+Inf"} 5
gatepost_sync_seconds_sum{disk="a"} 1099.512660546
gatepost_sync_seconds_count{disk="a"} 5
# HELP gatepost_group_items Records per group.
# TYPE gatepost_group_items histogram
gatepost_group_items_bucket{le="1"} 2
gatepost_group_items_bucket{le="4"} 4
gatepost_group_items_bucket{le="16"} 5
gatepost_group_items_bucket{le="64"} 5
gatepost_group_items_bucket{le="256"} 5
gatepost_group_items_bucket{le="1024"} 5
gatepost_group_items_bucket{le="4096"} 6
gatepost_group_items_bucket{le="16384"} 6
gatepost_group_items_bucket{le="65536"} 6
gatepost_group_items_bucket{le="262144"} 6
gatepost_group_items_bucket{le="1.048576e+06"} 6
gatepost_group_items_bucket{le="4.194304e+06"} 6
gatepost_group_items_bucket{le="1.6777216e+07"} 6
gatepost_group_items_bucket{le="+Inf"} 6
gatepost_group_items_sum 4108
gatepost_group_items_count 6
# HELP gatepost_load Load.
# TYPE gatepost_load gauge
gatepost_load 0.25
# HELP gatepost_unknown Not known.
# TYPE gatepost_unknown gauge
gatepost_unknown NaN
# HELP gatepost_bytes_total Bytes.
# TYPE gatepost_bytes_total counter
gatepost_bytes_total{direction="in",loop="0"} 42
`

func TestTheTextIsWhatScrapersExpect(t *testing.T) {
	var b strings.Builder
	if err := example().WritePrometheus(&b); err != nil {
		t.Fatal(err)
	}
	got, want := strings.Split(b.String(), "\n"), strings.Split(exampleText, "\n")
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("line %d of %d, want %d lines:\ngot  %q\nwant %q", i+1, len(got), len(want), got[min(i, len(got)-1)], want[min(i, len(want)-1)])
		}
	}
}

func TestTheJSONSaysTheSame(t *testing.T) {
	var b strings.Builder
	if err := example().WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(b.String()), &got); err != nil {
		t.Fatalf("%v in %s", err, b.String())
	}
	want := map[string]any{
		`gatepost_messages_total{result="sent"}`:                          float64(1 << 60),
		`gatepost_messages_total{result="re\"fu\\sed\n` + "\uFFFD" + `"}`: 1.0,
		`gatepost_connections`:                                            -3.0,
		`gatepost_load`:                                                   0.25,
		`gatepost_unknown`:                                                nil,
		`gatepost_bytes_total{direction="in",loop="0"}`:                   42.0,
	}
	for name, v := range want {
		if g, ok := got[name]; !ok || g != v {
			t.Errorf("%s is %v, want %v", name, g, v)
		}
	}
	group, _ := got["gatepost_group_items"].(map[string]any)
	for name, v := range map[string]float64{"count": 6, "sum": 4108, "p50": 2, "p90": 4096, "p99": 4096, "p999": 4096, "max": 4096} {
		if group[name] != v {
			t.Errorf("%s of the group histogram is %v, want %v", name, group[name], v)
		}
	}
	if len(got) != len(want)+2 {
		t.Errorf("%d values, want %d", len(got), len(want)+2)
	}
}

func TestAnEmptyRegistryIsStillJSON(t *testing.T) {
	var b strings.Builder
	NewRegistry().WriteJSON(&b)
	if !json.Valid([]byte(b.String())) {
		t.Fatalf("%q is not JSON", b.String())
	}
}

type brokenPipe struct{ error }

func (b brokenPipe) Write([]byte) (int, error) { return 0, b.error }

func TestAReaderThatIsGoneIsReported(t *testing.T) {
	gone := brokenPipe{io.ErrClosedPipe}
	if err := errors.Join(example().WritePrometheus(gone), example().WriteJSON(gone)); !errors.Is(err, io.ErrClosedPipe) {
		t.Fatalf("got %v, want %v", err, io.ErrClosedPipe)
	}
}

func TestMistakesInTheProgramPanicWhenRegistered(t *testing.T) {
	f := func(want string, register func(r *Registry, c *Counter)) {
		t.Helper()
		defer func() {
			t.Helper()
			got, _ := recover().(string)
			if !strings.HasPrefix(got, "BUG: ") || !strings.Contains(got, want) {
				t.Fatalf("panic %q, want one about %q", got, want)
			}
		}()
		register(NewRegistry(), new(Counter))
	}
	f("name", func(r *Registry, c *Counter) { r.Counter("9lives", "", c) })
	f("name", func(r *Registry, c *Counter) { r.Counter("", "", c) })
	f("pairs", func(r *Registry, c *Counter) { r.Counter("a", "", c, "only name") })
	f("label", func(r *Registry, c *Counter) { r.Counter("a", "", c, "le", "1") })
	f("label", func(r *Registry, c *Counter) { r.Counter("a", "", c, "__reserved", "1") })
	f("twice", func(r *Registry, c *Counter) { r.Counter("a", "", c); r.Counter("a", "", c) })
	f("again", func(r *Registry, c *Counter) { r.Counter("a", "", c); r.Counter("a", "else", c, "x", "y") })
	f("again", func(r *Registry, c *Counter) { r.Counter("a", "", c); r.Gauge("a", "", new(Gauge), "x", "y") })
}

func BenchmarkObserve(b *testing.B) {
	b.Run("alone", func(b *testing.B) {
		var h Histogram
		v := int64(1)
		for b.Loop() {
			h.Observe(v & 0xfffff)
			v += 977
		}
	})
	b.Run("all cores", func(b *testing.B) {
		var h Histogram
		b.RunParallel(func(pb *testing.PB) {
			for v := int64(1); pb.Next(); v += 977 {
				h.Observe(v & 0xfffff)
			}
		})
	})
}

func BenchmarkWritePrometheus(b *testing.B) {
	r := example()
	for b.Loop() {
		r.WritePrometheus(io.Discard)
	}
}

func TestTheRuntimeCountsAllocations(t *testing.T) {
	r := NewRegistry()
	r.Runtime()
	mallocs := func() int {
		var b strings.Builder
		var all map[string]int
		if r.WriteJSON(&b) != nil || json.Unmarshal([]byte(b.String()), &all) != nil {
			t.Fatal(b.String())
		}
		return all["gatepost_go_mallocs_total"]
	}
	const n = 100_000
	kept := make([]*[64]byte, n) // on the heap, because it is kept
	before := mallocs()
	for i := range kept {
		kept[i] = new([64]byte)
	}
	if grown := mallocs() - before; grown < n-1000 || grown > n+n/10 {
		t.Errorf("%d objects made, %d counted", len(kept), grown)
	}
}
