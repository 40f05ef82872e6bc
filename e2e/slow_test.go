package e2e

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"
)

// small makes the broker as small as the profile of a small box.
func small(b *broker) { smallBut()(b) }

// smallBut is small with other values for some keys.
func smallBut(other ...string) option {
	values := [][2]string{
		{"memory.limit", "128MiB"}, {"net.loops", "1"}, {"net.ring_pool", "16MiB"}, {"net.out_limit", "128KiB"},
		{"queue.log_bytes", "4MiB"}, {"queue.apply_bytes", "4MiB"}, {"queue.mailbox_bytes", "2MiB"},
		{"queue.log_items", "2048"}, {"queue.apply_items", "512"}, {"queue.mailbox_items", "2048"},
		{"broker.dedup_window", "50000"}, {"broker.max_channels", "30000"}, {"session.inflight_max", "256"}, {"session.inflight_total", "65536"},
		{"wal.group_bytes", "512KiB"}, {"wal.roll_size", "8MiB"}, {"net.max_connections", "5000"}, {"memory.gc_percent", "50"},
	}
	return func(b *broker) {
		for _, kv := range values {
			if i := slices.Index(other, kv[0]); i >= 0 {
				kv[1] = other[i+1]
			}
			set(kv[0], kv[1])(b)
		}
	}
}

// A receiver that does not read: the broker's memory stays under its limit
// while much more than that is sent, and everything arrives in order when it
// reads again.
func TestSlowReceiver(t *testing.T) {
	const size, limit = 16 << 10, 128 << 20
	n := pick(12_000, 60_000) // 187 MiB, 937 MiB
	b := start(t, plain, small)
	in := newLedger()
	bob := b.must(t, dialer{uid: "bob", rcvbuf: 16 << 10, onRecv: in.onRecv})
	quick := newLedger() // another device of bob's that does read
	b.must(t, dialer{uid: "bob", flag: 2, device: "quick", onRecv: quick.onRecv})
	bob.pause(true)
	out := newLedger()
	alice := b.must(t, dialer{uid: "alice", onAck: out.onAck})

	done := make(chan error, 1)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		_, err := alice.pipeline(n, size, func(int) send { return send{channel: "bob", kind: person} }, "slow", stop)
		done <- err
	}()
	var peak int64
	watch := func() { peak = max(peak, b.status("VmRSS")) }
	for sending := true; sending; watch() {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			sending = false
		case <-time.After(20 * time.Millisecond):
		}
	}
	out.wait(t, n, 0)
	watch()
	t.Logf("%d MiB sent past a receiver that does not read; RSS at most %d MiB (VmHWM %d), limit %d", n*size>>20, peak>>20, b.status("VmHWM")>>20, limit>>20)
	if hwm := b.status("VmHWM"); hwm > limit {
		t.Errorf("RSS went up to %d MiB, the limit is %d", hwm>>20, limit>>20)
	}
	check := func(who string, got []*recv) {
		t.Helper()
		if len(got) != n {
			t.Fatalf("%s received %d of %d", who, len(got), n)
		}
		for k, m := range got {
			if m.seq != uint32(k+1) || binary.BigEndian.Uint64(m.payload) != uint64(k) || m.id != out.acks[k].id {
				t.Fatalf("%s: message %d is %v", who, k, m)
			}
		}
	}
	check("the quick device", quick.distinct(t, n))
	in.mu.Lock()
	if len(in.got) >= n/2 {
		t.Errorf("the slow receiver has %d of %d messages already: it was not slow", len(in.got), n)
	}
	in.mu.Unlock()
	bob.pause(false)
	check("the slow receiver", in.distinct(t, n))
	if err := bob.alive(); err != nil {
		t.Errorf("the slow receiver lost its connection: %v", err)
	}
	if hwm := b.status("VmHWM"); hwm > limit {
		t.Errorf("RSS went up to %d MiB while catching up, the limit is %d", hwm>>20, limit>>20)
	}
}

// A sender that does not read its SENDACKs, and one that sends half a frame:
// neither costs more than its share, neither disturbs the others.
func TestSlowSenders(t *testing.T) {
	const limit = 128 << 20
	b := start(t, plain, small)
	var slow []*client
	for i := range 50 {
		c := b.must(t, dialer{uid: "deaf" + string(rune('A'+i)), rcvbuf: 4 << 10})
		c.pause(true)
		slow = append(slow, c)
	}
	stop := make(chan struct{})
	for _, c := range slow {
		go c.pipeline(1<<30, 10, func(int) send { return send{channel: "nobody", kind: person} }, c.uid, stop)
	}
	login := hello("half")
	login.key = ""
	half := append(login.append(nil), 0x30, 0xff, 0xff, 0x3f) // 1 MiB is announced
	for range 50 {
		b.raw(t).put(append(half, make([]byte, 3000)...)...)
	}
	x, y := b.must(t, dialer{uid: "good"}), b.must(t, dialer{uid: "fine"})
	end := make(chan struct{})
	time.AfterFunc(3*time.Second, func() { close(end) })
	n, err := talk(x, y, end)
	if err != nil {
		t.Errorf("good traffic was disturbed: %v", err)
	}
	hwm := b.status("VmHWM")
	t.Logf("%d good messages beside 50 deaf senders and 50 halves; RSS at most %d MiB", n, hwm>>20)
	if hwm > limit {
		t.Errorf("RSS went up to %d MiB, the limit is %d", hwm>>20, limit>>20)
	}
	close(stop)
	for _, c := range slow {
		c.close()
	}
	b.running()
}
