package e2e

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// resident is one connection of a busy site: it checks the order of everything
// that it receives, keeping a sequence for each channel.
type resident struct {
	*client
	site *site
	mu   sync.Mutex
	last map[string]uint32 // newest sequence received or sent, by channel
	got  int
}

// site is many groups with many members, and most of them connected.
type site struct {
	wrong   atomic.Pointer[string]
	heard   atomic.Int64
	acked   atomic.Int64
	people  []*resident
	groups  [][]int // members of each group
	expects atomic.Int64
}

func (s *site) complain(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	s.wrong.CompareAndSwap(nil, &text)
}

func (r *resident) onRecv(m *recv) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got++
	key := fmt.Sprint(m.kind, m.channel)
	if before := r.last[key]; m.seq <= before {
		r.site.complain("%s received seq %d of %s behind %d (DUP %t)", r.uid, m.seq, key, before, m.dup())
	}
	r.last[key] = m.seq
	r.site.heard.Add(1)
}

func (r *resident) onAck(a sendack) {
	if a.reason != reasonSuccess {
		r.site.complain("%s: SENDACK %+v", r.uid, a)
	}
	r.site.acked.Add(1)
}

// A busy site: groups of a hundred, most of whose members are connected, who talk
// in groups and to each other. Everybody receives everything, in order, and the
// memory does not grow with what is said.
func TestBusySite(t *testing.T) {
	groups, people, says := pick(100, 1000), pick(300, 2000), pick(3_000, 60_000)
	const size = 100
	limit := int64(pick(128, 256)) << 20 // of small, and of a mid box: 100,000 memberships are too many for a small one
	b := start(t, plain, smallBut("memory.limit", fmt.Sprint(limit)+"B", "broker.max_channels", fmt.Sprint(pick(30000, 60000))))
	r := random(t)
	s := &site{}
	for i := range people {
		p := &resident{site: s, last: map[string]uint32{}}
		p.client = b.must(t, dialer{uid: fmt.Sprint("p", i), buffer: 2048, ws: i%4 == 0, local: fmt.Sprintf("127.0.0.%d", 2+i%8), onRecv: p.onRecv, onAck: p.onAck})
		s.people = append(s.people, p)
	}
	for g := range groups {
		members := r.Perm(people)[:min(size, people)]
		names := make([]string, len(members))
		for i, m := range members {
			names[i] = fmt.Sprint("p", m)
		}
		s.groups = append(s.groups, members)
		b.channel(fmt.Sprint("g", g), names...)
	}
	talk := func(from int) {
		t.Helper()
		const speakers = 8
		each(speakers, says, func(w, i int) {
			rnd := rand.New(rand.NewPCG(uint64(from+i), 7))
			g := rnd.IntN(groups)
			p := s.people[s.groups[g][rnd.IntN(size)]]
			to, n := send{channel: fmt.Sprint("g", g), kind: group}, size-1
			if rnd.IntN(4) == 0 {
				other := rnd.IntN(people)
				if "p"+fmt.Sprint(other) == p.uid {
					other = (other + 1) % people
				}
				to, n = send{channel: fmt.Sprint("p", other), kind: person}, 1
			}
			to.no = fmt.Sprintf("%d-%d", from, i)
			p.post(t, to, "what people say to each other at work")
			s.expects.Add(int64(n))
			for s.expects.Load()-s.heard.Load() > 200_000 && s.wrong.Load() == nil { // the clients are on the same machine
				time.Sleep(time.Millisecond)
			}
		})
		deadline := time.Now().Add(never)
		for s.wrong.Load() == nil && (s.heard.Load() < s.expects.Load() || s.acked.Load() < int64(from+says)) {
			if time.Now().After(deadline) {
				t.Fatalf("%d of %d RECVs, %d of %d SENDACKs", s.heard.Load(), s.expects.Load(), s.acked.Load(), from+says)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	talk(0)
	before := quiet(b)
	talk(says)
	after := quiet(b)
	if wrong := s.wrong.Load(); wrong != nil {
		t.Fatal(*wrong)
	}
	if got, want := s.heard.Load(), s.expects.Load(); got != want {
		t.Errorf("%d RECVs, want %d", got, want)
	}
	t.Logf("%d groups of %d, %d connections: %d messages, %d deliveries; memory %d MiB, after as much again %d MiB",
		groups, size, people, 2*says, s.heard.Load(), before>>20, after>>20)
	if rss := b.status("VmRSS"); rss > limit {
		t.Errorf("the process has %d MiB, its budget is %d", rss>>20, limit>>20)
	}
}

// A group of 10,000, many of them connected: a SEND is answered and reaches all.
func TestLargeGroup(t *testing.T) {
	const members = 10_000
	online := pick(500, 5_000)
	b := start(t, plain, set("net.max_connections", "15000"))
	names := make([]string, members)
	for i := range names {
		names[i] = fmt.Sprint("m", i)
	}
	b.channel("large", names...)
	var heard atomic.Int64
	var wrong atomic.Int64
	each(16, online, func(_, i int) {
		next := uint32(1)
		_, ack, err := b.login(dialer{uid: names[i+1], buffer: 512, local: fmt.Sprintf("127.0.0.%d", 2+i%8), onRecv: func(m *recv) {
			if m.seq != next {
				wrong.Add(1)
			}
			next++
			heard.Add(1)
		}})
		if err != nil || ack.reason != reasonSuccess {
			wrong.Add(1)
		}
	})
	out := newLedger()
	speaker := b.must(t, dialer{uid: names[0], onAck: out.onAck})
	before := quiet(b)
	const n = 200
	for i := range n {
		speaker.post(t, send{channel: "large", kind: group, no: fmt.Sprint(i)}, "hello all")
	}
	out.wait(t, n, 0)
	for deadline := time.Now().Add(never); heard.Load() < int64(n*online); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d RECVs", heard.Load(), n*online)
		}
	}
	for i, a := range out.acks {
		if a.reason != reasonSuccess || a.seq != uint32(i+1) {
			t.Fatalf("SENDACK number %d is %+v", i+1, a)
		}
	}
	if wrong.Load() > 0 || heard.Load() != int64(n*online) {
		t.Errorf("%d RECVs, want %d; %d out of order", heard.Load(), n*online, wrong.Load())
	}
	t.Logf("%d of %d members connected: %d deliveries; memory %d MiB before, %d MiB behind", online, members, heard.Load(), before>>20, quiet(b)>>20)
}
