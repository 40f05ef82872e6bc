package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// load is senders at full rate: one to a person, three to a group, all
// pipelined, with a member of the group listening. It remembers every SENDACK
// and every RECV, so that audit can ask a broker for them afterwards.
type load struct {
	name    string // of this round; part of all uids and channels
	outs    []*ledger
	sent    []int
	heard   *ledger
	clients []*client
	stop    chan struct{}
	done    sync.WaitGroup
}

const loadSenders = 4

func (l *load) sender(i int) string { return fmt.Sprintf("%s-s%d", l.name, i) }
func (l *load) person() string      { return l.name + "-bob" }
func (l *load) group() string       { return l.name + "-group" }

// number is the client_msg_no of the k-th message of sender i, k from 0.
func (l *load) number(i, k int) string { return fmt.Sprintf("%s-%d-%d", l.name, i, k) }

// to is where sender i sends.
func (l *load) to(i int) send {
	if i == 0 {
		return send{channel: l.person(), kind: person}
	}
	return send{channel: l.group(), kind: group}
}

// startLoad connects and begins to send at most limit messages from each
// sender.
func startLoad(t testing.TB, b *broker, name string, limit, size int) *load {
	t.Helper()
	l := &load{name: name, sent: make([]int, loadSenders), stop: make(chan struct{}), heard: newLedger()}
	members := []string{l.person(), name + "-ear"}
	for i := 1; i < loadSenders; i++ {
		members = append(members, l.sender(i))
	}
	b.channel(l.group(), members...)
	l.clients = append(l.clients, b.must(t, dialer{uid: name + "-ear", onRecv: l.heard.onRecv}))
	for i := range loadSenders {
		out := newLedger()
		l.outs = append(l.outs, out)
		c := b.must(t, dialer{uid: l.sender(i), onAck: out.onAck, onRecv: func(*recv) {}, ws: i == 2})
		l.clients = append(l.clients, c)
		l.done.Go(func() {
			l.sent[i], _ = c.pipeline(limit, size, func(int) send { return l.to(i) }, fmt.Sprintf("%s-%d", name, i), l.stop)
		})
	}
	return l
}

// acks is how many SENDACKs came so far.
func (l *load) acks() (n int) {
	for _, o := range l.outs {
		o.mu.Lock()
		n += len(o.acks)
		o.mu.Unlock()
	}
	return n
}

// under waits until the load runs.
func (l *load) under(t testing.TB, acks int) {
	t.Helper()
	for end := time.Now().Add(never); l.acks() < acks; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d SENDACKs, waiting for %d", l.acks(), acks)
		}
	}
}

// over is called after the broker died: nothing more comes in.
func (l *load) over() {
	close(l.stop)
	l.done.Wait()
	for _, c := range l.clients {
		c.mu.Lock()
		c.wait(never, func() bool { return false })
		c.mu.Unlock()
		c.close()
	}
}

// history is what a broker has of one load.
type history struct {
	lost     []string // acknowledged or received before, and not there now
	wrong    []string // sequences, ids, order, duplicates
	acked    int
	received int
	stored   int
}

func (h *history) String() string {
	return fmt.Sprintf("%d acknowledged, %d received, %d stored, %d lost, %d wrong", h.acked, h.received, h.stored, len(h.lost), len(h.wrong))
}

// clean ends the test if anything is missing or wrong.
func (h *history) clean(t testing.TB, when string) {
	t.Helper()
	if len(h.lost)+len(h.wrong) > 0 {
		t.Fatalf("%s: %v\n%s", when, h, strings.Join(append(h.lost, h.wrong...)[:min(20, len(h.lost)+len(h.wrong))], "\n"))
	}
}

// resend sends again, as a client would, everything that was not acknowledged
// and some of what was. Each message must get the answer that it had or would
// have had.
func (l *load) resend(t testing.TB, b *broker) (wrong []string) {
	t.Helper()
	for i := range loadSenders {
		known := map[uint32]sendack{}
		for _, a := range l.outs[i].acks {
			known[a.client] = a
		}
		from := max(0, len(l.outs[i].acks)-50)
		out := newLedger()
		c := b.must(t, dialer{uid: l.sender(i), onAck: out.onAck, onRecv: func(*recv) {}})
		var p []byte
		for k := from; k < l.sent[i]; k++ {
			s, payload := l.to(i), make([]byte, 8)
			s.no, s.seq = l.number(i, k), uint32(k+1)
			binary.BigEndian.PutUint64(payload, uint64(k))
			if p = c.make(p, s, payload); len(p) > 32<<10 || k+1 == l.sent[i] {
				if err := c.write(p); err != nil {
					t.Fatal(err)
				}
				p = p[:0]
			}
		}
		out.wait(t, l.sent[i]-from, 0)
		for _, a := range out.acks {
			old, acked := known[a.client]
			switch {
			case a.reason != reasonSuccess:
				wrong = append(wrong, fmt.Sprintf("sender %d: resend answered %+v", i, a))
			case acked && (old.id != a.id || old.seq != a.seq):
				wrong = append(wrong, fmt.Sprintf("sender %d: resend answered %+v, first it was %+v", i, a, old))
			case i == 0 && a.seq != a.client:
				wrong = append(wrong, fmt.Sprintf("sender 0: resend of number %d got seq %d", a.client, a.seq))
			}
			if !acked {
				l.outs[i].acks = append(l.outs[i].acks, a)
			}
		}
		c.close()
	}
	return wrong
}

// audit reads everything the broker has of the load, on a device of flag that
// never connected before, and compares.
func (l *load) audit(t testing.TB, b *broker, flag byte) *history {
	t.Helper()
	in := newLedger()
	bob := b.must(t, dialer{uid: l.person(), flag: flag, device: fmt.Sprint("audit", flag), onRecv: in.onRecv})
	defer bob.close()
	// One more message to each channel says how far to read. A group that was
	// lost takes none; then its messages are lost too.
	total := 0
	for i := range 2 {
		c := b.must(t, dialer{uid: l.sender(i), flag: flag, device: fmt.Sprint("end", flag), onRecv: func(*recv) {}})
		s := l.to(i)
		s.no = fmt.Sprintf("end-%d-%d", i, flag)
		switch a := c.send(t, s, "end"); {
		case a.reason == reasonSuccess:
			total += int(a.seq)
		case a.reason != reasonNotSubscriber || i == 0:
			t.Fatalf("after the restart: SENDACK %+v", a)
		}
		c.close()
	}
	return l.compare(in.distinct(t, total))
}

// compare looks for everything that was acknowledged or received in what is
// stored.
func (l *load) compare(stored []*recv) *history {
	h := &history{}
	byPlace := map[place]*recv{}
	numbers := map[string]uint32{}
	last := map[string]int{}
	for _, m := range stored {
		byPlace[place{m.channel, m.seq}] = m
		if strings.HasPrefix(m.no, "end-") {
			continue
		}
		h.stored++
		key := m.from + " " + m.no
		if at, twice := numbers[key]; twice {
			h.wrong = append(h.wrong, fmt.Sprintf("%s is stored twice, as seq %d and %d", key, at, m.seq))
		}
		numbers[key] = m.seq
		k := int(binary.BigEndian.Uint64(append(m.payload, make([]byte, 8)...)))
		before, ok := last[m.from]
		if !ok {
			before = -1
		}
		if k != before+1 {
			h.wrong = append(h.wrong, fmt.Sprintf("%s: message %d behind message %d", m.from, k, before))
		}
		last[m.from] = k
	}
	for i, out := range l.outs {
		for _, a := range out.acks {
			if a.reason != reasonSuccess {
				if at, ok := numbers[l.sender(i)+" "+l.number(i, int(a.client)-1)]; ok {
					h.wrong = append(h.wrong, fmt.Sprintf("sender %d: refused with SENDACK %+v, and stored as %d", i, a, at))
				}
				continue
			}
			h.acked++
			m := byPlace[place{l.seen(i), a.seq}]
			if m == nil || m.id != a.id || m.no != l.number(i, int(a.client)-1) {
				h.lost = append(h.lost, fmt.Sprintf("sender %d: SENDACK %+v, stored there is %v", i, a, m))
			}
		}
	}
	for _, r := range l.heard.got {
		h.received++
		if m := byPlace[place{r.channel, r.seq}]; m == nil || m.id != r.id {
			h.lost = append(h.lost, fmt.Sprintf("received before: %v, stored there is %v", r, m))
		}
	}
	return h
}

// place is where a message is kept.
type place struct {
	channel string
	seq     uint32
}

// seen is the channel sender i sends to, as the person of the load sees it.
func (l *load) seen(i int) string {
	if i == 0 {
		return l.sender(0)
	}
	return l.group()
}

// distinct waits for n different messages and returns them. They must come in
// order of their sequences, without holes; what was pushed twice carries DUP.
func (l *ledger) distinct(t testing.TB, n int) []*recv {
	t.Helper()
	next := map[string]uint32{}
	var all []*recv
	for at := 0; len(all) < n; {
		l.wait(t, 0, at+1)
		l.mu.Lock()
		got := l.got[at:]
		l.mu.Unlock()
		at += len(got)
		for _, m := range got {
			if m.dup() && m.seq <= next[m.channel] {
				continue
			}
			if m.seq != next[m.channel]+1 {
				t.Fatalf("%v, want seq %d", m, next[m.channel]+1)
			}
			next[m.channel]++
			all = append(all, m)
		}
	}
	return all
}

// kill -9 at a random moment of a full-rate load. The log is rolled every MiB,
// so that kills land in every phase of a checkpoint.
func TestKillUnderLoad(t *testing.T) {
	for _, engine := range engines() {
		t.Run(engine, func(t *testing.T) { killUnderLoad(t, engine) })
	}
}

// engines are the ways in which a log is written.
func engines() []string { return []string{"recycled", "tidwall"} }

func killUnderLoad(t *testing.T, engine string) {
	r := random(t)
	b := start(t, set("wal.engine", engine), set("broker.dedup_window", "400000"), set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB"))
	var loads []*load
	for round := range pick(15, 100) {
		b.end()
		b.encrypted = round%3 == 2
		b.start()
		l := startLoad(t, b, fmt.Sprintf("r%d", round), 15_000, 20+r.IntN(200))
		l.under(t, 1+r.IntN(2000))
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
		b.kill()
		l.over()
		if round%2 == 1 { // die in the middle of the recovery too
			startAndKill(t, b, r)
		}
		b.start()
		if round%4 == 3 { // half of the time nobody resends
			h := l.audit(t, b, 0)
			h.clean(t, fmt.Sprint("round ", round))
			t.Logf("round %d: %v", round, h)
		} else {
			known := l.acks()
			if wrong := l.resend(t, b); len(wrong) > 0 {
				t.Fatalf("round %d: %s", round, strings.Join(wrong[:min(10, len(wrong))], "\n"))
			}
			h := l.audit(t, b, 0)
			h.clean(t, fmt.Sprint("round ", round))
			t.Logf("round %d: %v; %d acknowledged before the kill", round, h, known)
		}
		loads = append(loads, l)
	}
	b.kill()
	b.encrypted = false
	b.start()
	for round, l := range loads { // all rounds are still there, on a new device
		l.audit(t, b, 1).clean(t, fmt.Sprintf("round %d, at the end", round))
	}
	checkpoints := strings.Count(b.log.String(), "msg=checkpoint ")
	t.Logf("%d checkpoints", checkpoints)
	if checkpoints < 5 {
		t.Errorf("%d checkpoints: the kills cannot have met many", checkpoints)
	}
}

// startAndKill starts the binary and kills it at once, most often before it is
// ready.
func startAndKill(t testing.TB, b *broker, r *rand.Rand) {
	t.Helper()
	after := time.Duration(r.IntN(60)) * time.Millisecond
	if err := b.launch(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(after)
	b.kill()
}
