package metrics

import rt "runtime/metrics"

// Runtime makes known what Go's runtime counts: how many objects were ever put
// on the heap. Looking stops nobody; what a processor has handed out of the
// piece of memory it has in hand is counted when it takes the next one, up to
// some hundred objects of each size later.
func (r *Registry) Runtime() {
	r.CounterFunc("gatepost_go_mallocs_total", "Objects that were put on the heap.", func() int64 {
		// Objects below 16 bytes without pointers share a place and are counted apart.
		counts := []rt.Sample{{Name: "/gc/heap/allocs:objects"}, {Name: "/gc/heap/tiny/allocs:objects"}}
		rt.Read(counts)
		n := uint64(0)
		for _, c := range counts {
			if c.Value.Kind() == rt.KindUint64 {
				n += c.Value.Uint64()
			}
		}
		return int64(n)
	})
}
