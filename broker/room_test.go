package broker

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatepost/message"
)

// claim asks for a record as admission does, and returns it with its origin.
func (b *box) claim(r message.Record, server bool) (batch *message.Batch, ok bool) {
	claimed, ok := b.Access().Claim(&r, server, time.Now())
	if !ok {
		return nil, false
	}
	b.id++
	r.MessageID = b.id
	batch = message.NewBatch(false)
	batch.Add(&r, message.Origin{Conn: 100, MessageID: b.id, Claimed: claimed})
	return batch, true
}

func (b *box) applyAll(batches ...*message.Batch) {
	b.t.Helper()
	for _, batch := range batches {
		b.index++
		if err := b.handle(&event{committed: message.Committed{Index: b.index, Batch: batch}}); err != nil {
			b.t.Fatal(err)
		}
	}
	b.out()
}

// However many messages are under way at a time, there are never more channels than
// there may be, and those that exist go on.
func TestThereAreNeverMoreChannelsThanThereMayBe(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10, MaxChannels: 100})
	var under []*message.Batch
	admitted := 0
	for i := range 1000 {
		for range 3 { // several messages to one are one channel
			if batch, ok := b.claim(say("a", fmt.Sprintf("a@u%d", i), ""), false); ok {
				under = append(under, batch)
				admitted++
			}
		}
	}
	if admitted != 3*75 {
		t.Errorf("%d messages are admitted, want 3 for each of 75 channels", admitted)
	}
	b.applyAll(under...)
	if n := len(b.channels); n != 75 {
		t.Errorf("%d channels, want 75", n)
	}
	if _, ok := b.claim(say("a", "a@u1", ""), false); !ok {
		t.Error("a message to a channel that exists is refused")
	}
	for i := range 25 {
		batch, ok := b.claim(group(message.OpCreate, fmt.Sprint("g", i), "a"), true)
		if !ok {
			t.Fatalf("group %d is refused: devices have used up its room", i)
		}
		b.applyAll(batch)
	}
	if _, ok := b.claim(group(message.OpCreate, "one more", "a"), true); ok {
		t.Error("a group above the limit")
	}
	ban := message.Record{Kind: message.KindChannel, ChannelType: message.ChannelPerson, ChannelID: []byte("a"),
		Payload: message.AppendChange(nil, message.OpInfo, []string{string([]byte{byte(message.InfoBan)})})}
	batch, ok := b.claim(ban, true)
	if !ok {
		t.Fatal("nobody can be banned on a full box")
	}
	b.applyAll(batch)
	if !b.Access().Banned([]byte("a")) {
		t.Error("the ban has no effect")
	}
	b.applyAll(func() *message.Batch { x, _ := b.claim(group(message.OpDelete, "g1"), true); return x }())
	if batch, ok = b.claim(group(message.OpCreate, "one more", "a"), true); !ok {
		t.Error("a group that was deleted makes no room")
	} else {
		b.applyAll(batch)
	}
	if n := len(b.access.room.claims); n != 0 {
		t.Errorf("%d claims are left", n)
	}
}

// A claim comes back when the log does not take the record, when it was not durable
// and when apply refuses it.
func TestAClaimComesBack(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10, MaxChannels: 2})
	try := func(what string, end func(*message.Batch)) {
		t.Helper()
		batch, ok := b.claim(say("a", "a@b", ""), false)
		if !ok {
			t.Fatalf("%s: refused", what)
		}
		if _, ok := b.claim(say("a", "a@c", ""), false); ok {
			t.Errorf("%s: two claims where devices have room for one", what)
		}
		end(batch)
		b.out()
	}
	try("the log is full", func(batch *message.Batch) { b.Access().ReleaseAll(batch) })
	try("not durable", func(batch *message.Batch) {
		if err := b.handle(&event{committed: message.Committed{Batch: batch, Err: fmt.Errorf("bad disk")}}); err != nil {
			t.Fatal(err)
		}
	})
	try("applied", func(batch *message.Batch) { b.applyAll(batch) })
}

// One user makes so many channels in an hour, over however many connections. Others,
// the application and messages to channels that exist are not concerned.
func TestAUserMakesSoManyChannelsInAnHour(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10, MaxChannels: 1000, UserChannels: 10})
	now := time.Now()
	try := func(from, to string, server bool, want bool) {
		t.Helper()
		r := say(from, from+"@"+to, "")
		if claimed, ok := b.Access().Claim(&r, server, now); ok != want {
			t.Errorf("%s to %s: %t, want %t", from, to, ok, want)
		} else if claimed {
			batch := message.NewBatch(false)
			batch.Add(&r, message.Origin{Claimed: true})
			b.applyAll(batch)
		}
	}
	for i := range 10 {
		try("eve", fmt.Sprint("u", i), false, true)
	}
	try("eve", "u10", false, false)
	try("eve", "u1", false, true)
	try("bob", "u10", false, true)
	try("eve", "u11", true, true)
	now = now.Add(6 * time.Minute)
	try("eve", "u10", false, true)
	try("eve", "u12", false, false)
	system := message.UserChange{Op: message.OpSystem}
	b.commit(message.Record{Kind: message.KindUser, FromUID: []byte("eve"), Payload: message.AppendUserChange(nil, &system)}, false, nil)
	try("eve", "u12", false, true)
	for i := range 2 * maxSpenders {
		b.access.room.spend(uint64(i+2), now)
	}
	if n := len(b.access.room.spent); n > maxSpenders {
		t.Errorf("the spending of %d users is remembered, want %d at most", n, maxSpenders)
	}
}

// A message that apply refuses makes no channel.
func TestARefusedMessageMakesNoChannel(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	b.expect("nobody of the pair", b.commit(say("mallory", "alice@bob", "1"), false, nil), "ack 3 seq 0 id 1")
	if n := len(b.channels); n != 0 {
		t.Errorf("%d channels", n)
	}
}

// The set of known channels is that of a map, while others read it.
func TestTableIsASet(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	var shared atomic.Pointer[table]
	shared.Store(newTable(0).with(99))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	readers.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				runtime.Gosched()
			}
			if !shared.Load().has(99) {
				t.Error("a reader misses what was there all the time")
				return
			}
		}
	})
	want := map[uint64]bool{99: true}
	for range 3_000 {
		h := 100 + rnd.Uint64N(2000)
		if rnd.IntN(3) == 0 {
			shared.Load().drop(h)
			delete(want, h)
		} else {
			shared.Store(shared.Load().with(h))
			want[h] = true
		}
	}
	close(stop)
	readers.Wait()
	for h := uint64(99); h < 2100; h++ {
		if shared.Load().has(h) != want[h] {
			t.Fatalf("%d: %t, want %t", h, shared.Load().has(h), want[h])
		}
	}
	if n := len(shared.Load().places); n > 1<<14 {
		t.Errorf("%d places for %d hashes", n, len(want))
	}
}

// Names take memory too: a channel with a long id counts as several.
func TestLongNamesTakeMoreRoom(t *testing.T) {
	for _, c := range []struct{ bytes, channels int }{{95, 75}, {96, 37}, {257, 25}, {1000, 6}} {
		b := newBox(t, Options{DedupWindow: 10, MaxChannels: 100})
		made := 0
		for i := range 100 {
			id := fmt.Sprintf("a@%0*d", c.bytes-2, i)
			if batch, ok := b.claim(say("a", id, ""), false); ok {
				b.applyAll(batch)
				made++
			}
		}
		if made != c.channels {
			t.Errorf("%d channels with ids of %d bytes, want %d", made, c.bytes, c.channels)
		}
		for _, ch := range b.channels {
			b.remove(ch)
		}
		if n := b.access.room.counts; n != [3]int{} {
			t.Errorf("ids of %d bytes: %v is left of deleted channels", c.bytes, n)
		}
	}
}
