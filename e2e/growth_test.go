package e2e

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// growth is what one message cost while something else grew. It is measured
// and drawn, not asserted: see scripts/growth.sh.
type growth struct {
	t    *testing.T
	rows []growthRow
}

type growthRow struct {
	axis, unit string // what grew, and what the cost is of
	n          int
	cpu        float64 // µs of the broker, the mean of some rounds
	least      float64 // of one round
	most       float64
	p50        time.Duration // of a window, a message or a page, see unit
	rss        int64         // bytes, at the end
}

// growthRounds is how often each point is measured.
const growthRounds = 5

// measure runs f some times. f does so many units of work and returns how long
// single ones took. A checkpoint that f has caused belongs to it.
func (g *growth) measure(b *broker, axis, unit string, n, work int, f func() []time.Duration) {
	g.t.Helper()
	g.settled(b)
	var cpu []float64
	var took []time.Duration
	sum := 0.0
	for range growthRounds {
		before := cpuTime(g.t, b)
		took = append(took, f()...)
		g.settled(b)
		cost := float64((cpuTime(g.t, b) - before).Nanoseconds()) / 1000 / float64(work)
		cpu = append(cpu, cost)
		sum += cost
	}
	slices.Sort(cpu)
	slices.Sort(took)
	r := growthRow{axis, unit, n, sum / growthRounds, cpu[0], cpu[growthRounds-1], took[len(took)/2], b.status("VmRSS")}
	g.rows = append(g.rows, r)
	g.t.Logf("%s %d: %.2f µs a %s (%.2f to %.2f), p50 %v, RSS %d MiB", axis, n, r.cpu, unit, r.least, r.most, r.p50, r.rss>>20)
}

// settled waits until no checkpoint is under way.
func (g *growth) settled(b *broker) {
	for end := time.Now().Add(5 * never); b.counters()["gatepost_checkpointing"] != 0; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatal("a checkpoint does not come to its end")
		}
	}
}

// timed lets all send so many windows each and returns how long these took.
func timed(t *testing.T, all []*marcher, windows int) (took []time.Duration) {
	t.Helper()
	for _, m := range all {
		m.took = m.took[:0]
	}
	march(t, all, windows)
	for _, m := range all {
		took = append(took, m.took...)
	}
	return took
}

// tens is 10, 100 and so on up to most.
func tens(most int) (all []int) {
	for n := 10; n <= most; n *= 10 {
		all = append(all, n)
	}
	return all
}

func TestGrowth(t *testing.T) {
	if os.Getenv("GATEPOST_GROWTH") == "" {
		t.Skip("takes many minutes and a quiet machine: scripts/growth.sh")
	}
	g := &growth{t: t}
	for _, part := range []struct {
		name string
		f    func()
	}{{"channels", g.channels}, {"users", g.users}, {"group", g.group}, {"stored", g.stored}, {"connections", g.connections}} {
		if only := os.Getenv("GATEPOST_GROWTH_ONLY"); only == "" || only == part.name {
			t.Run(part.name, func(sub *testing.T) { g.t = sub; part.f() })
		}
	}
	if dir := os.Getenv("GATEPOST_GROWTH"); !t.Failed() {
		for name, text := range map[string]string{"growth.md": growthTable(g.rows), "growth.svg": growthPlot(g.rows)} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Error(err)
			}
		}
	}
}

// large are the options of a broker for a million channels and users.
func large(b *broker) {
	for _, o := range []option{plain, set("log.level", "warn"), set("memory.limit", "8GiB"), set("broker.max_channels", "2000000"), set("broker.user_channels", "0"), set("net.max_connections", "19900"), set("api.max_changes", "64"), set("broker.max_group_members", "20000")} {
		o(b)
	}
}

// channels: 50 senders write to all pairs of users in turn; nobody else is online.
func (g *growth) channels() {
	const senders, windows = 50, 100
	for _, kind := range []struct {
		axis string
		with []option
	}{{"channels", []option{large, noCheckpoint}}, {"channels, with checkpoints", []option{large}}} {
		for _, n := range tens(1_000_000) {
			b := start(g.t, kind.with...)
			active := make([]*marcher, min(n, senders))
			for i := range active {
				active[i] = newMarcher(g.t, b, fmt.Sprint("from", i), person)
			}
			for i := range n {
				m := active[i%len(active)]
				m.channels = append(m.channels, fmt.Sprint("to", i))
			}
			march(g.t, active, n/len(active)/guardWindow+1) // all channels are there
			w := windows * senders / len(active)
			g.measure(b, kind.axis, "message", n, len(active)*w*guardWindow, func() []time.Duration { return timed(g.t, active, w) })
			b.end()
		}
	}
}

// noCheckpoint makes generations of the log that no test here fills, so that
// what is measured is the way of a message alone.
func noCheckpoint(b *broker) { set("wal.roll_size", "1GiB")(b) }

// users: groups of ten, of whom one is online and sends; each message goes to the
// next group, so that all users are met.
func (g *growth) users() {
	const senders, windows, size = 50, 100, 10
	for _, n := range tens(1_000_000) {
		b := start(g.t, large, noCheckpoint)
		active := make([]*marcher, min(n/size, senders))
		for i := range active {
			active[i] = newMarcher(g.t, b, fmt.Sprint("from", i), group)
		}
		each(32, n/size, func(_, k int) {
			members := []string{active[k%len(active)].uid}
			for u := range size - 1 {
				members = append(members, fmt.Sprint("user", k, "-", u))
			}
			if code, text, err := b.call("POST", "/channel", object{"channel_id": fmt.Sprint("g", k), "channel_type": group, "subscribers": members}); err != nil || code != 200 {
				g.t.Errorf("group %d: %d %s %v", k, code, text, err)
			}
		})
		for k := range n / size {
			m := active[k%len(active)]
			m.channels = append(m.channels, fmt.Sprint("g", k))
		}
		march(g.t, active, n/size/len(active)/guardWindow+1)
		w := windows * senders / len(active)
		g.measure(b, "users", "message", n, len(active)*w*guardWindow, func() []time.Duration { return timed(g.t, active, w) })
		b.end()
	}
}

// group: one sends to a group whose members are all online and acknowledge.
func (g *growth) group() {
	const deliveries = 640_000
	b := start(g.t, large)
	var got atomic.Int64
	var uids []string
	for _, n := range []int{2, 10, 100, 1000, 10_000} {
		for i := len(uids); i < n; i++ {
			uids = append(uids, fmt.Sprint("to", i))
			b.must(g.t, dialer{uid: uids[i], buffer: 4 << 10, local: fmt.Sprintf("127.0.0.%d", 2+i%8), onRecv: func(*recv) { got.Add(1) }})
		}
		id, from := fmt.Sprint("g", n), fmt.Sprint("from", n)
		b.channel(id, append([]string{from}, uids...)...)
		all := []*marcher{newMarcher(g.t, b, from, group, id)}
		w := min(deliveries/n/guardWindow, 2000)
		deliver := func() []time.Duration {
			want := got.Load() + int64(w*guardWindow*n)
			took := timed(g.t, all, w)
			await(g.t, &got, want)
			return took
		}
		deliver()
		g.measure(b, "group size", "delivery", n, w*guardWindow*n, deliver)
	}
}

// stored: publishing to 500 channels, and pages of 100 from random places of
// what is stored.
func (g *growth) stored() {
	const senders, channels, windows, pages, page = 50, 500, 20, 300, 100
	b := start(g.t, large)
	r := random(g.t)
	var all []*marcher
	for i := range senders {
		m := newMarcher(g.t, b, fmt.Sprint("from", i), person)
		for k := i; k < channels; k += senders {
			m.channels = append(m.channels, fmt.Sprint("to", k))
		}
		all = append(all, m)
	}
	total := 0
	for n := 100_000; n <= 10_000_000; n *= 10 {
		const round = senders * windows * guardWindow
		if w := (n - total) / senders / guardWindow; w > 0 {
			march(g.t, all, w)
			total += w * senders * guardWindow
		}
		pageOf := func(k, from int) {
			q := url.Values{"uid": {fmt.Sprint("from", k%senders)}, "to": {fmt.Sprint("to", k)}, "from": {strconv.Itoa(from)}, "limit": {strconv.Itoa(page)}}
			var answer struct {
				Messages []struct{}
			}
			b.ask(g.t, "GET", "/history?"+q.Encode(), "", 200, &answer)
			if len(answer.Messages) != page {
				g.t.Fatalf("a page from %d on of channel %d has %d messages, want %d", from, k, len(answer.Messages), page)
			}
		}
		g.measure(b, "stored (page of 100)", "page", n, pages, func() (took []time.Duration) {
			for range pages {
				k, from := r.IntN(channels), 1+r.IntN(total/channels-page)
				began := time.Now()
				pageOf(k, from)
				took = append(took, time.Since(began))
			}
			return took
		})
		g.measure(b, "stored (publish)", "message", n, round, func() []time.Duration { total += round; return timed(g.t, all, windows) })
	}
}

// connections: ten of them at a time send one message and wait for the answer, in
// turn, so that a message is always one read and one write.
func (g *growth) connections() {
	const workers, messages = 10, 60_000
	b := start(g.t, large)
	var all []*marcher
	for _, n := range []int{10, 100, 1000, 10_000, 19_500} {
		for i := len(all); i < n; i++ {
			m := &marcher{kind: person, channels: []string{fmt.Sprint("to", i)}, done: make(chan struct{}, 1), noise: rand.NewChaCha8([32]byte{1})}
			m.client = b.must(g.t, dialer{uid: fmt.Sprint("from", i), buffer: 512, local: fmt.Sprintf("127.0.0.%d", 2+i%8), onAck: func(sendack) { m.done <- struct{}{} }})
			all = append(all, m)
		}
		payload := []byte(strings.Repeat("x", guardPayload))
		talk := func() []time.Duration {
			took := make([][]time.Duration, workers)
			each(workers, workers, func(_, w int) {
				for i := range messages / workers {
					m := all[(i*workers+w)%n]
					m.sent++
					began := time.Now()
					if err := m.write(m.make(m.out[:0], send{channel: m.channels[0], kind: person, no: strconv.Itoa(m.sent)}, payload)); err != nil {
						g.t.Error(err)
						return
					}
					select {
					case <-m.done:
					case <-time.After(never):
						g.t.Errorf("%s has no answer: %v", m.uid, m.alive())
						return
					}
					took[w] = append(took[w], time.Since(began))
				}
			})
			return slices.Concat(took...)
		}
		talk() // everybody once, and with 19,500 three times
		g.measure(b, "connections", "message", n, messages, talk)
	}
}

// cheapest is the least cost on each axis. The first point is not it where few
// send, and groups of the log are small.
func cheapest(rows []growthRow) map[string]float64 {
	least := map[string]float64{}
	for _, r := range rows {
		if c, ok := least[r.axis]; !ok || r.cpu < c {
			least[r.axis] = r.cpu
		}
	}
	return least
}

// growthTable is Markdown.
func growthTable(rows []growthRow) string {
	var s strings.Builder
	least := cheapest(rows)
	s.WriteString("| what grows | to | server CPU µs | × the least | rounds, from to | p50 | RSS MiB |\n|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&s, "| %s | %s | %.2f a %s | %.1f | %.2f-%.2f | %s | %d |\n", r.axis, thousands(r.n), r.cpu, r.unit, r.cpu/least[r.axis], r.least, r.most, r.p50.Round(10*time.Microsecond), r.rss>>20)
	}
	return s.String()
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// growthPlot draws each cost as a multiple of the least on its axis, over powers of
// ten.
func growthPlot(rows []growthRow) string {
	const width, height, left, top, right, bottom = 760, 420, 60, 30, 190, 50
	colours := []string{"#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2"}
	var axes []string
	points := map[string][]growthRow{}
	least, most, dearest, base := math.Inf(1), 0.0, 2.0, cheapest(rows)
	for _, r := range rows {
		if points[r.axis] == nil {
			axes = append(axes, r.axis)
		}
		points[r.axis] = append(points[r.axis], r)
		least, most = min(least, math.Log10(float64(r.n))), max(most, math.Log10(float64(r.n)))
		dearest = max(dearest, r.cpu/base[r.axis])
	}
	dearest = math.Ceil(dearest)
	x := func(n float64) float64 { return left + (math.Log10(n)-least)/(most-least)*(width-left-right) }
	y := func(cost float64) float64 { return height - bottom - cost/dearest*(height-top-bottom) }
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&s, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	fmt.Fprintf(&s, `<text x="%d" y="18">Processor time of the broker for one message, delivery or page, as a multiple of the least</text>`+"\n", left)
	for d := math.Ceil(least); d <= most; d++ {
		at := x(math.Pow(10, d))
		fmt.Fprintf(&s, `<path d="M%.1f %dV%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle">%s</text>`+"\n",
			at, top, height-bottom, at, height-bottom+18, thousands(int(math.Round(math.Pow(10, d)))))
	}
	for c := 0.0; c <= dearest; c++ {
		fmt.Fprintf(&s, `<path d="M%d %.1fH%d" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.0f×</text>`+"\n",
			left, y(c), width-right, left-6, y(c)+4, c)
	}
	for i, axis := range axes {
		colour, line := colours[i%len(colours)], ""
		for _, r := range points[axis] {
			px, py := x(float64(r.n)), y(r.cpu/base[axis])
			line += fmt.Sprintf(" %.1f,%.1f", px, py)
			fmt.Fprintf(&s, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", px, py, colour)
		}
		fmt.Fprintf(&s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", line[1:], colour)
		fmt.Fprintf(&s, `<path d="M%d %dh16" stroke="%s" stroke-width="2"/><text x="%d" y="%d">%s</text>`+"\n",
			width-right+16, top+20*i+10, colour, width-right+38, top+20*i+14, axis)
	}
	s.WriteString("</svg>\n")
	return s.String()
}
