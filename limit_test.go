package main

import (
	"runtime/debug"
	"testing"

	"gatepost/config"
)

// The heap is bounded by the budget, and by GOMEMLIMIT where that is less: Go has
// taken it over before main begins.
func TestTheHeapLimitIsTheLesserOfTwo(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Cleanup(func() { debug.SetMemoryLimit(before) })
	cfg := new(config.Config)
	cfg.Memory.Limit = 100 << 20
	cfg.Net.RingPool = 10 << 20
	for _, c := range []struct{ environment, want int64 }{{1 << 62, 80 << 20}, {80<<20 + 1, 80 << 20}, {64 << 20, 64 << 20}} {
		debug.SetMemoryLimit(c.environment)
		if got := heapLimit(cfg); got != c.want {
			t.Errorf("GOMEMLIMIT=%d: a limit of %d, want %d", c.environment, got, c.want)
		}
	}
}
