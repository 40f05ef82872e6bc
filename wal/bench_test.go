package wal

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

// The engines beside the floor of the disk: a bare write and sync of the same
// bytes, appended, and over what is there. One after the other in small turns,
// so that other work on the disk meets all of them; the ratios count.
func BenchmarkEngines(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("group=%dx256", n), func(b *testing.B) {
			const turn = 64
			frame := make([]byte, headerSize+n*(256+53))
			dir := b.TempDir()
			raw := func(name string, size int64) func() {
				f, err := os.Create(filepath.Join(dir, name))
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { f.Close() })
				if size > 0 {
					if _, err := f.Write(make([]byte, size)); err != nil {
						b.Fatal(err)
					}
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				at := int64(0)
				return func() {
					if size > 0 && at+int64(len(frame)) > size {
						at = 0
					}
					if _, err := f.WriteAt(frame, at); err != nil {
						b.Fatal(err)
					}
					at += int64(len(frame))
					if err := unix.Fdatasync(int(f.Fd())); err != nil {
						b.Fatal(err)
					}
				}
			}
			engine := func(name string, recycle bool) func() {
				l, _ := open(b, filepath.Join(dir, name), func(o *Options) { o.NoSync, o.Recycle, o.RollSize = false, recycle, 8<<20 })
				b.Cleanup(func() { l.Close() })
				for l.at.generation < 3 { // which is when files are used again
					if _, _, err := l.append(frame, n); err != nil {
						b.Fatal(err)
					}
				}
				return func() {
					if _, _, err := l.append(frame, n); err != nil {
						b.Fatal(err)
					}
					if g := l.at.generation; g > 2 {
						if err := l.Retire(g - 1); err != nil {
							b.Fatal(err)
						}
					}
				}
			}
			steps := []struct {
				name string
				do   func()
				took time.Duration
			}{
				{"append", raw("append", 0), 0}, {"overwrite", raw("overwrite", 8<<20), 0},
				{"tidwall", engine("tidwall", false), 0}, {"recycled", engine("recycled", true), 0},
			}
			for b.Loop() {
				for i := range steps {
					began := time.Now()
					for range turn {
						steps[i].do()
					}
					steps[i].took += time.Since(began)
				}
			}
			for _, s := range steps {
				b.ReportMetric(float64(s.took.Microseconds())/float64(b.N*turn), s.name+"-us/group")
			}
			b.ReportMetric(float64(steps[1].took)/float64(steps[3].took), "recycled/overwrite")
			b.ReportMetric(float64(steps[0].took)/float64(steps[2].took), "tidwall/append")
		})
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
