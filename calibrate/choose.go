package calibrate

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"gatepost/hwprofile"
)

// Choice is a value of a key, as it stands in a profile, and why.
type Choice struct {
	Key, Value string
	Why        []string // what was measured, a line each
}

// Rules of Choices.
const (
	// lingerFrom is how slow a sync must be for a wait in front of it to be
	// worth something: a quarter of it then, five milliseconds at most.
	lingerFrom = 8 * time.Millisecond
	lingerMost = 5 * time.Millisecond
	// goodRate and goodTail say which loops are as good as the best: the fewest
	// of them are chosen, the other processors are the log's and the core's.
	goodRate = 0.9
	goodTail = 1.5
	// tooFast is a sync that no card does without keeping the bytes in memory.
	tooFast = 50 * time.Microsecond
)

// small is the sync that decides: of a group of few messages.
func (r *Result) small() (s Sync, ok bool) {
	for _, s := range r.Syncs {
		if s.Size == 4<<10 && s.Append.Count > 0 && s.Recycled.Count > 0 {
			return s, true
		}
	}
	return s, false
}

// Choices makes values of figures.
func (r *Result) Choices() (all []Choice) {
	if s, ok := r.small(); ok {
		engine, took := "recycled", s.Recycled.P50
		if s.Append.P50 < s.Recycled.P50*9/10 {
			engine, took = "tidwall", s.Append.P50
		}
		all = append(all, Choice{"wal.engine", fmt.Sprintf("%q", engine), []string{
			fmt.Sprintf("4 KiB and a sync: %s into a file that was written before, %s to the end of one that grows", short(s.Recycled), short(s.Append))}})
		linger := time.Duration(0)
		if took >= lingerFrom {
			linger = min(took/4, lingerMost).Round(100 * time.Microsecond)
		}
		all = append(all, Choice{"wal.linger", fmt.Sprintf("%q", linger), []string{
			fmt.Sprintf("a quarter of a sync if that takes %v or more, %v at most", lingerFrom, lingerMost)}})
	}
	if best, ok := r.best(); ok {
		wait := "block"
		if best.Yield {
			wait = "yield"
		}
		var why []string
		for _, l := range r.Loops {
			why = append(why, l.String())
		}
		all = append(all, Choice{"net.loops", fmt.Sprint(best.Count), append(why,
			fmt.Sprintf("the fewest with %.0f %% of the best rate and %.1f times the best p99 at most", goodRate*100, goodTail))},
			Choice{"net.wait", fmt.Sprintf("%q", wait), []string{"see net.loops"}})
	}
	return all
}

// best are the fewest loops that are about as good as any.
func (r *Result) best() (best Loops, ok bool) {
	rate, tail := 0.0, time.Duration(0)
	for _, l := range r.Loops {
		if l.Rate > rate {
			rate = l.Rate
		}
	}
	for _, l := range r.Loops {
		if l.Rate >= goodRate*rate && (tail == 0 || l.P99 < tail) {
			tail = l.P99
		}
	}
	for _, l := range r.Loops {
		good := l.Rate >= goodRate*rate && float64(l.P99) <= goodTail*float64(tail)
		if good && (!ok || l.Count < best.Count || l.Count == best.Count && l.better(best)) {
			best, ok = l, true
		}
	}
	return best, ok
}

// better reports whether one way to wait is better than the other with as many
// loops. Blocking has to be so clearly: under load the log takes longer than the
// goroutine here, and yielding is what hides that.
func (l Loops) better(than Loops) bool {
	if l.Yield {
		return l.Rate > goodRate*than.Rate
	}
	return goodRate*l.Rate > than.Rate
}

// String is one line.
func (l Loops) String() string {
	wait := "blocking"
	if l.Yield {
		wait = "yielding"
	}
	return fmt.Sprintf("%d loops, %s: %.0f frames/s, p50 %v, p99 %v", l.Count, wait, l.Rate, l.P50.Round(time.Microsecond), l.P99.Round(time.Microsecond))
}

func short(s Spread) string {
	return fmt.Sprintf("p50 %v p99 %v of %d", s.P50.Round(time.Microsecond), s.P99.Round(time.Microsecond), s.Count)
}

// Warnings says what is odd about a machine.
func (r *Result) Warnings(f hwprofile.Facts) (all []string) {
	if s, ok := r.small(); ok && (f.Storage == hwprofile.SD || f.Storage == hwprofile.EMMC) && min(s.Append.P50, s.Recycled.P50) < tooFast {
		all = append(all, fmt.Sprintf("a sync takes %v: no card writes as fast; it keeps bytes in memory that a power cut takes", min(s.Append.P50, s.Recycled.P50)))
	}
	return all
}

// Text is calibrated.profile: the values with what was measured, and what must not
// have changed for them to hold.
func Text(choices []Choice, r *Result, f hwprofile.Facts, version string, at time.Time) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Made by gatepost %s calibrate on %s, in %v, with %d bytes written.\n", version, at.UTC().Format(time.DateTime+" MST"), r.Took.Round(time.Millisecond), r.Written)
	b.WriteString("# A start that finds another machine than [fingerprint] says so and ignores this file.\n\n")
	b.WriteString("[profile]\nname = \"calibrated\"\n\n[fingerprint]\n")
	for _, m := range f.Fingerprint() {
		fmt.Fprintf(&b, "%s = %q\n", m.Fact, m.Value)
	}
	section := ""
	for _, c := range choices {
		of, key, _ := strings.Cut(c.Key, ".")
		if of != section {
			fmt.Fprintf(&b, "\n[%s]\n", of)
			section = of
		}
		for _, line := range c.Why {
			fmt.Fprintf(&b, "# measured: %s\n", line)
		}
		fmt.Fprintf(&b, "%s = %s\n", key, c.Value)
	}
	b.WriteString("\n# Measured besides:\n")
	for _, s := range r.Syncs {
		fmt.Fprintf(&b, "#   %6d bytes and a sync: written again %s; appended %s\n", s.Size, short(s.Recycled), short(s.Append))
	}
	if r.ConnBytes > 0 {
		fmt.Fprintf(&b, "#   an idle connection: %d bytes of this process\n", r.ConnBytes)
	}
	return b.Bytes()
}
