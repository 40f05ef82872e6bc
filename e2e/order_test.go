package e2e

import (
	"encoding/binary"
	"fmt"
	"sync"
	"testing"
	"time"
)

// pipeline sends n messages without waiting for a SENDACK, in segments of
// about 32 KiB. The k-th, counted from 0, has client_seq base+k+1, client_msg_no
// prefix-k and a payload that begins with k.
func (c *client) pipeline(n, size int, to func(k int) send, prefix string, stop <-chan struct{}) (sent int, err error) {
	payload := make([]byte, max(size, 8))
	var p []byte
	for k := 0; k < n; k++ {
		select {
		case <-stop:
			n = 0
		default:
			binary.BigEndian.PutUint64(payload, uint64(k))
			s := to(k)
			s.no = fmt.Sprintf("%s-%d", prefix, k)
			p = c.make(p, s, payload)
			sent++
		}
		if len(p) > 32<<10 || k+1 >= n {
			if err = c.write(p); err != nil {
				return sent, err
			}
			p = p[:0]
		}
	}
	return sent, nil
}

// ledger collects the SENDACKs and RECVs of one run.
type ledger struct {
	mu   sync.Mutex
	cond *sync.Cond
	acks []sendack
	got  []*recv
}

func newLedger() *ledger {
	l := &ledger{}
	l.cond = sync.NewCond(&l.mu)
	return l
}

func (l *ledger) onAck(a sendack) {
	l.mu.Lock()
	l.acks = append(l.acks, a)
	l.cond.Signal()
	l.mu.Unlock()
}

func (l *ledger) onRecv(m *recv) {
	l.mu.Lock()
	l.got = append(l.got, m)
	l.cond.Signal()
	l.mu.Unlock()
}

// wait returns when acks SENDACKs and recvs RECVs are there, or when nothing
// has come for a while.
func (l *ledger) wait(t testing.TB, acks, recvs int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	stalled := false
	for len(l.acks) < acks || len(l.got) < recvs {
		a, r := len(l.acks), len(l.got)
		timer := time.AfterFunc(never, func() { l.mu.Lock(); stalled = true; l.cond.Signal(); l.mu.Unlock() })
		for len(l.acks) == a && len(l.got) == r && !stalled {
			l.cond.Wait()
		}
		timer.Stop()
		if stalled {
			t.Fatalf("nothing more comes: %d of %d SENDACKs, %d of %d RECVs", a, acks, r, recvs)
		}
	}
}

// One connection, one person channel, 50,000 SENDs in flight.
func TestOrderOfOneConnection(t *testing.T) {
	const n = 50_000
	b := start(t)
	for round := range 20 {
		to := fmt.Sprintf("bob%d", round)
		in, out := newLedger(), newLedger()
		bob := b.must(t, dialer{uid: to, onRecv: in.onRecv})
		alice := b.must(t, dialer{uid: "alice", onAck: out.onAck})
		if _, err := alice.pipeline(n, 100, func(int) send { return send{channel: to, kind: person} }, to, nil); err != nil {
			t.Fatal(err)
		}
		out.wait(t, n, 0)
		in.wait(t, 0, n)
		for i, a := range out.acks {
			if a.reason != reasonSuccess || a.client != uint32(i+1) || a.seq != uint32(i+1) {
				t.Fatalf("round %d: SENDACK number %d is %+v", round, i+1, a)
			}
		}
		next := uint32(1)
		for i, m := range in.got {
			if m.dup() && m.seq < next {
				continue // a retry of a message already seen
			}
			if m.seq != next || m.id != out.acks[next-1].id || binary.BigEndian.Uint64(m.payload) != uint64(next-1) {
				t.Fatalf("round %d: RECV number %d is %v, want seq %d", round, i+1, m, next)
			}
			next++
		}
		if next != n+1 {
			t.Fatalf("round %d: received %d of %d", round, next-1, n)
		}
		alice.close()
		bob.close()
	}
}

// Eight connections, each to all of four groups in turn, one listener in all.
func TestOrderOfManyConnections(t *testing.T) {
	const senders, groups, each = 8, 4, 6_250
	b := start(t)
	members := []string{"listener"}
	for i := range senders {
		members = append(members, fmt.Sprint("s", i))
	}
	for round := range 20 {
		name := func(g int) string { return fmt.Sprintf("r%dg%d", round, g) }
		for g := range groups {
			b.channel(name(g), members...)
		}
		in := newLedger()
		listener := b.must(t, dialer{uid: "listener", onRecv: in.onRecv})
		outs := make([]*ledger, senders)
		var done sync.WaitGroup
		errs := make([]error, senders)
		clients := make([]*client, senders)
		for i := range senders {
			outs[i] = newLedger()
			clients[i] = b.must(t, dialer{uid: fmt.Sprint("s", i), device: fmt.Sprint("d", i), onAck: outs[i].onAck, onRecv: func(*recv) {}, ws: i%2 == 1})
			done.Go(func() {
				_, errs[i] = clients[i].pipeline(each, 64, func(k int) send { return send{channel: name((k + i) % groups), kind: group} }, fmt.Sprintf("%d-%d", round, i), nil)
			})
		}
		done.Wait()
		for i := range senders {
			if errs[i] != nil {
				t.Fatal(errs[i])
			}
			outs[i].wait(t, each, 0)
		}
		in.wait(t, 0, senders*each)
		acked := map[place]int64{}
		for i, out := range outs {
			last := make([]sendack, groups)
			for _, a := range out.acks {
				g := (int(a.client) - 1 + i) % groups
				if a.reason != reasonSuccess || a.client <= last[g].client || a.seq <= last[g].seq {
					t.Fatalf("round %d, sender %d, group %d: SENDACK %+v after %+v", round, i, g, a, last[g])
				}
				last[g] = a
				p := place{name(g), a.seq}
				if acked[p] != 0 {
					t.Fatalf("round %d: %v acknowledged twice", round, p)
				}
				acked[p] = a.id
			}
		}
		next := map[string]uint32{}
		order := map[string]int{}
		for _, m := range in.got {
			if m.dup() && m.seq <= next[m.channel] {
				continue
			}
			next[m.channel]++
			if m.seq != next[m.channel] || acked[place{m.channel, m.seq}] != m.id {
				t.Fatalf("round %d: received %v, want seq %d", round, m, next[m.channel])
			}
			key, k := m.channel+m.from, int(binary.BigEndian.Uint64(m.payload))
			if last, ok := order[key]; ok && k <= last {
				t.Fatalf("round %d: %s in %s: message %d after %d", round, m.from, m.channel, k, last)
			}
			order[key] = k
		}
		for g := range groups {
			if next[name(g)] != senders*each/groups {
				t.Fatalf("round %d: %d messages in %s, want %d", round, next[name(g)], name(g), senders*each/groups)
			}
		}
		listener.close()
		for _, c := range clients {
			c.close()
		}
	}
}
