package metrics

import rt "runtime/metrics"

// Runtime makes known what Go's runtime keeps of itself. Looking stops nobody.
func (r *Registry) Runtime() {
	// What a processor has handed out of the piece of memory it has in hand is
	// counted when it takes the next one, up to some hundred objects of each size
	// later. Those below 16 bytes without pointers share a place and are counted apart.
	r.CounterFunc("gatepost_go_mallocs_total", "Objects that were put on the heap.", func() int64 {
		return sum("/gc/heap/allocs:objects", "/gc/heap/tiny/allocs:objects")
	})
	r.GaugeFunc("gatepost_goroutines", "Goroutines.", func() float64 { return float64(sum("/sched/goroutines:goroutines")) })
	r.GaugeFunc("gatepost_gc_percent", "How much the heap may grow between two collections.", func() float64 { return float64(sum("/gc/gogc:percent")) })
}

// sum reads whole numbers of the runtime.
func sum(names ...string) (n int64) {
	samples := make([]rt.Sample, len(names))
	for i, name := range names {
		samples[i].Name = name
	}
	rt.Read(samples)
	for _, s := range samples {
		if s.Value.Kind() == rt.KindUint64 {
			n += int64(s.Value.Uint64())
		}
	}
	return n
}
