package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"gatepost/netio"
	"gatepost/queue"
	"gatepost/systemd"
)

// diskPatience is how long one write or sync, or the wait for a checkpoint, may
// take before it counts as a hang. SD cards that collect garbage hold a sync for
// several seconds, and the kernel resets a card that does not answer, several
// times over, for up to a minute before it gives it up with an error; killing
// the broker meanwhile drops every client and gains nothing, since its successor
// waits for the same card. After two minutes, when the kernel itself calls a task
// hung, nothing comes back by itself any more.
const diskPatience = 2 * time.Minute

// sign is something that moves as long as a part of the box is alive.
type sign struct {
	name string
	// look returns a number that differs whenever the part has moved, and how
	// long it may stay the same: below 0 for ever.
	look func() (count uint64, patience time.Duration)
}

// watch decides whether all signs are well. One goroutine looks.
type watch struct {
	signs []sign
	seen  []seen
}

type seen struct {
	count uint64
	since time.Time // when it was first seen
}

// hung returns the names of the parts that have not moved since the last look
// and should have.
func (w *watch) hung(now time.Time) (names []string) {
	if w.seen == nil {
		w.seen = make([]seen, len(w.signs))
	}
	for i, s := range w.signs {
		count, patience := s.look()
		if last := &w.seen[i]; last.since.IsZero() || last.count != count {
			*last = seen{count, now}
		} else if patience >= 0 && now.Sub(last.since) >= patience {
			names = append(names, s.name)
		}
	}
	return names
}

func loopSign(l *netio.Loop) sign {
	return sign{fmt.Sprintf("loop %d", l.Index()), func() (uint64, time.Duration) {
		n := l.Stats().Rounds.Load()
		l.Wake() // an idle loop makes its round now, to be seen next time
		return uint64(n), 0
	}}
}

func pulseSign(name string, p *queue.Pulse) sign {
	return sign{name, func() (uint64, time.Duration) {
		switch count, doing := p.Look(); doing {
		case queue.Rests:
			return count, -1
		case queue.Disk:
			return count, diskPatience
		default:
			return count, 0
		}
	}}
}

// signs are those of every loop, the log, apply and the fetch reader, without which
// nothing is pushed again and nobody is caught up.
func (b *box) signs() (all []sign) {
	for _, l := range b.server.Loops() {
		all = append(all, loopSign(l))
	}
	return append(all, pulseSign("the log", b.committer.Pulse()), pulseSign("apply", b.core.Pulse()), pulseSign("the fetch reader", b.reader.Pulse()))
}

// watch tells the service manager that the process lives, as long as all
// signs are well.
func (b *box) watch(ctx context.Context, manager systemd.Manager) {
	ticker := time.NewTicker(manager.Interval() / 3)
	defer ticker.Stop()
	w := watch{signs: b.signs()}
	w.hung(time.Now())
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if names := w.hung(time.Now()); len(names) > 0 {
			b.logger.Error("something hangs, the watchdog is not told", "what", strings.Join(names, ", "), "watchdog", manager.Interval())
			continue
		}
		notify(b.logger, manager, systemd.Watchdog)
	}
}

const (
	statusEvery = 5 * time.Second
	// extendEvery and extendBy: while a start makes progress it gets more time.
	extendEvery = 5 * time.Second
	extendBy    = 5 * time.Minute
)

// tally is what the status line is made of.
type tally struct {
	conns, sent, pushed, resent, behind int64
	trouble                             error
}

func (b *box) tally() (t tally) {
	t.conns = int64(b.server.Conns())
	for _, g := range b.gates {
		s := g.Stats()
		t.pushed += s.Recvs.Load()
		t.resent += s.Resends.Load()
		t.behind += s.Behind.Load()
	}
	core := b.core.Stats()
	t.sent = core.Messages.Load() + core.Volatile.Load()
	t.trouble = b.health()
	return t
}

// line says how a box is, from two tallies with a time between them.
func (t tally) line(before tally, d time.Duration) string {
	rate := func(now, before int64) int64 { return int64(float64(now-before)/d.Seconds() + 0.5) }
	var text strings.Builder
	if t.trouble != nil {
		fmt.Fprintf(&text, "NOT WELL: %v; ", t.trouble)
	}
	fmt.Fprintf(&text, "%d connections, %d messages/s in, %d/s out", t.conns, rate(t.sent, before.sent), rate(t.pushed, before.pushed))
	if n := rate(t.resent, before.resent); n > 0 {
		fmt.Fprintf(&text, ", %d/s of them again", n)
	}
	if t.behind > 0 {
		fmt.Fprintf(&text, ", %d channels of connections are being caught up", t.behind)
	}
	return text.String()
}

// status keeps the service manager's status line true. It is written when it
// has changed.
func (b *box) status(ctx context.Context, manager systemd.Manager) {
	ticker := time.NewTicker(statusEvery)
	defer ticker.Stop()
	said, before, at := "", b.tally(), time.Now()
	for {
		now := time.Now()
		if t := b.tally(); said == "" || now.Sub(at) >= statusEvery/2 {
			if line := t.line(before, max(now.Sub(at), time.Second)); line != said {
				notify(b.logger, manager, systemd.Status(line))
				said = line
			}
			before, at = t, now
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// starting asks for more time while a start makes progress, which done counts,
// until the function it returns is called.
func starting(manager systemd.Manager, every time.Duration, say func(state string), done func() int64) (stop func()) {
	if !manager.Present() {
		return func() {}
	}
	ended, left := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(left)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		last := int64(0)
		for {
			select {
			case <-ended:
				return
			case <-ticker.C:
			}
			if n := done(); n != last {
				last = n
				say(systemd.ExtendTimeout(extendBy) + "\n" + systemd.Status(fmt.Sprintf("recovering: %d records and blocks read", n)))
			}
		}
	}()
	return func() { close(ended); <-left }
}
