package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// Messages without client_msg_no, which deduplication cannot hide: killed as soon
// as a checkpoint is complete, again and again, none is there twice, and none
// under another sequence than was acknowledged.
func TestKilledBehindACheckpoint(t *testing.T) {
	b := start(t, plain, set("net.loops", "4"), set("wal.roll_size", "4MiB"), set("wal.group_bytes", "256KiB"))
	const senders = 40
	members := []string{"ear"}
	for i := range senders {
		members = append(members, fmt.Sprint("s", i))
	}
	b.channel("g", members...)
	checkpoints := func() int { return strings.Count(b.log.String(), "msg=checkpoint ") }
	acked := map[string]uint32{} // by text
	for round := range pick(4, 25) {
		var all []*client
		var outs []*ledger
		var sent [senders][]string
		var running sync.WaitGroup
		stop := make(chan struct{})
		for i := range senders {
			out := newLedger()
			c := b.must(t, dialer{uid: members[i+1], onAck: out.onAck, onRecv: func(*recv) {}})
			all, outs = append(all, c), append(outs, out)
			running.Go(func() {
				for k := 0; ; k++ {
					text := fmt.Sprintf("%d-%d-%d-%s", round, i, k, strings.Repeat("x", 600))
					sent[i] = append(sent[i], text)
					if c.write(c.make(nil, send{channel: "g", kind: group}, []byte(text))) != nil {
						return
					}
					for { // one at a time, so that groups are of many connections
						out.mu.Lock()
						done := len(out.acks) > k
						out.mu.Unlock()
						if done {
							break
						}
						select {
						case <-stop:
							return
						case <-time.After(50 * time.Microsecond):
						}
					}
				}
			})
		}
		deadline := time.Now().Add(never)
		for was := checkpoints(); checkpoints() == was && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		}
		b.kill()
		close(stop)
		running.Wait()
		for i, out := range outs {
			all[i].close()
			for k, a := range out.acks {
				if a.reason == reasonSuccess {
					acked[sent[i][k]] = a.seq
				}
			}
		}
		b.start()
		where := map[string][]uint32{}
		for from := uint64(1); from != 0; {
			p := b.past(t, fmt.Sprintf("uid=ear&group=g&limit=1000&from=%d", from))
			for _, m := range p.Messages {
				where[string(m.Payload)] = append(where[string(m.Payload)], uint32(m.Seq))
			}
			from = uint64(p.Next)
		}
		doubled, moved, lost := 0, 0, 0
		for _, at := range where {
			if len(at) > 1 {
				doubled++
			}
		}
		for text, seq := range acked {
			switch at := where[text]; {
			case len(at) == 0:
				lost++
			case at[0] != seq:
				moved++
			}
		}
		t.Logf("round %d: %d acknowledged, %d stored, %d checkpoints", round, len(acked), len(where), checkpoints())
		if doubled+moved+lost > 0 {
			t.Fatalf("round %d: %d messages doubled, %d under another sequence than acknowledged, %d lost", round, doubled, moved, lost)
		}
	}
}

// A box that is started often and says little takes little of the disk.
func TestManyStartsStaySmall(t *testing.T) {
	for _, engine := range engines() {
		t.Run(engine, func(t *testing.T) {
			b := start(t, plain, set("wal.engine", engine), set("wal.roll_size", "4MiB"))
			size := func() (bytes int64) {
				t.Helper()
				err := filepath.Walk(filepath.Join(b.dir, "log"), func(_ string, info os.FileInfo, err error) error {
					if os.IsNotExist(err) {
						return nil
					}
					if err == nil && !info.IsDir() {
						bytes += info.Size()
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				return bytes
			}
			for i := range 15 {
				alice := b.must(t, dialer{uid: "alice"})
				alice.tell(t, "bob", fmt.Sprint("n", i), "x")
				alice.close()
				if i%2 == 0 {
					b.stop()
				} else {
					b.kill()
				}
				b.start()
				b.stop()
				b.start()
			}
			p := b.past(t, "uid=alice&to=bob")
			if len(p.Messages) != 15 {
				t.Errorf("%d messages are there, want 15", len(p.Messages))
			}
			if n := size(); n > 8<<20 {
				t.Errorf("the log takes %d KiB after 15 messages and 30 starts", n>>10)
			} else {
				t.Logf("the log takes %d KiB after 15 messages and 30 starts", n>>10)
			}
		})
	}
}
