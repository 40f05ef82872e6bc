package wal

import (
	"fmt"
	"strings"
	"testing"

	"gatepost/message"
)

// bench returns a committer on a fresh log, and groups of n batches of one
// 100-byte message each, made anew by each call.
func bench(tb testing.TB, n int, noSync bool) (c *Committer, group func() []*message.Batch) {
	l, _ := open(tb, tb.TempDir(), func(o *Options) { o.NoSync, o.RollSize = noSync, 64<<20 })
	tb.Cleanup(func() { l.Close() })
	c = NewCommitter(l, CommitterOptions{}, func(c message.Committed) error {
		if c.Err != nil {
			tb.Fatal(c.Err)
		}
		c.Batch.Release()
		return nil
	})
	batches := make([]*message.Batch, n)
	text := []byte(strings.Repeat("x", 100))
	r := message.Record{Kind: message.KindMessage, ChannelID: []byte("alice@bob"), FromUID: []byte("alice"), Payload: text}
	return c, func() []*message.Batch {
		for i := range batches {
			batches[i] = message.NewBatch(false)
			batches[i].Add(&r, message.Origin{})
		}
		return batches
	}
}

// The commit step itself allocates nothing. The library's copy of the segment
// grows now and then, which is less than once in a hundred groups.
func TestCommitDoesNotAllocate(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes pools forget")
	}
	for _, n := range []int{1, 16, 256} {
		c, group := bench(t, n, true)
		step := func() {
			if err := c.commit(group()); err != nil {
				t.Fatal(err)
			}
		}
		step()
		if got := testing.AllocsPerRun(300, step); got > 0 {
			t.Errorf("a group of %d: %v allocations, want 0", n, got)
		} else {
			t.Logf("a group of %d: %v allocations", n, got)
		}
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		for _, noSync := range []bool{false, true} {
			b.Run(fmt.Sprintf("group=%d/sync=%t", n, !noSync), func(b *testing.B) {
				c, group := bench(b, n, noSync)
				b.ReportAllocs()
				for b.Loop() {
					if err := c.commit(group()); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			})
		}
	}
}

func BenchmarkReplay(b *testing.B) {
	dir := b.TempDir()
	l, _ := open(b, dir)
	c := NewCommitter(l, CommitterOptions{}, func(c message.Committed) error { c.Batch.Release(); return nil })
	const groups, n = 2000, 16
	_, group := bench(b, n, true)
	for range groups {
		if err := c.commit(group()); err != nil {
			b.Fatal(err)
		}
	}
	closeLog(b, l)
	b.ReportAllocs()
	for b.Loop() {
		report, err := Check(dir, 0, 0)
		if err != nil || report.Records != groups*n {
			b.Fatal(report, err)
		}
		b.SetBytes(report.Bytes)
	}
	b.ReportMetric(float64(groups*n)*float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
