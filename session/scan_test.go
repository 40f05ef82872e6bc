package session

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"gatepost/ack"
	"gatepost/message"
	"gatepost/wukong"
)

// streams returns how many streams the gate has, and how many of them are behind.
func (r *rig) streams() (all, behind int) {
	r.gate.loop.Call(func() { all, behind = len(r.gate.find), r.gate.behind })
	return all, behind
}

// watchStreams looks at the gate until done is called, which returns the most that
// was seen.
func (r *rig) watchStreams() (done func() (all, behind int)) {
	stop, most := make(chan struct{}), make(chan [2]int)
	go func() {
		var m [2]int
		for {
			all, behind := r.streams()
			m[0], m[1] = max(m[0], all), max(m[1], behind)
			select {
			case <-stop:
				most <- m
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return func() (int, int) {
		close(stop)
		m := <-most
		return m[0], m[1]
	}
}

// got is what one device got, by channel.
type got struct {
	seqs map[string][]uint32
	all  int
}

// collect acknowledges what comes until n messages are there.
func (c *client) collect(n int) (*got, error) {
	g := &got{seqs: make(map[string][]uint32)}
	for g.all < n {
		f, ok := c.frame(20 * time.Second)
		if !ok {
			return g, fmt.Errorf("%s got %d of %d messages", c.uid, g.all, n)
		}
		if f.Type != wukong.TypeRecv {
			continue
		}
		var r wukong.Recv
		if err := r.Decode(f, 5); err != nil {
			return g, err
		}
		id := string(r.ChannelID)
		if seqs := g.seqs[id]; len(seqs) > 0 && seqs[len(seqs)-1] >= r.MessageSeq {
			return g, fmt.Errorf("%s: message %d of %s comes behind %d", c.uid, r.MessageSeq, id, seqs[len(seqs)-1])
		}
		g.seqs[id] = append(g.seqs[id], r.MessageSeq)
		g.all++
		if _, err := c.Write((&wukong.Recvack{MessageID: r.MessageID, MessageSeq: r.MessageSeq}).Append(nil)); err != nil {
			return g, err
		}
	}
	return g, nil
}

// A user of many conversations logs in with many devices. However many they are,
// the gate knows of few channels at a time, and each device gets everything: what it
// missed, and what is sent while it catches up.
func TestLoginsOfAUserOfManyConversations(t *testing.T) {
	const channels, devices, inflight = 400, 12, 256
	r := newRig(t, func(o *Options) { o.InflightMax, o.InflightTotal = 32, inflight })
	for i := range channels {
		r.change(group(message.OpCreate, fmt.Sprint("team", i), "alice", "bob"))
	}
	alice := r.login("alice", "a")
	send := func() {
		for i := range channels {
			alice.send(fmt.Sprint("team", i), message.ChannelGroup, "hello")
		}
	}
	send()
	done := r.watchStreams()
	var bobs []*client // all are there before one acknowledges: a device that comes later begins where others of its flag are
	for i := range devices {
		bobs = append(bobs, r.loginOf("bob", fmt.Sprint("device", i), uint8(i%3))) // four of a flag have read positions of their own
	}
	var all sync.WaitGroup
	for _, bob := range bobs {
		all.Go(func() {
			if _, err := bob.collect(2 * channels); err != nil {
				t.Error(err)
			}
			if more := bob.recv(100 * time.Millisecond); more != nil {
				t.Errorf("message %d of %s is one too many", more.MessageSeq, more.ChannelID)
			}
		})
	}
	send()
	all.Wait()
	streams, behind := done()
	t.Logf("%d streams, %d behind", streams, behind)
	if most := inflight/behindPart + devices; behind > most {
		t.Errorf("%d streams were behind at a time, want at most %d", behind, most)
	}
	// In flight, behind, and acknowledged within the interval of the read positions.
	if most := inflight + 8*devices + inflight/behindPart + devices + channels; streams > most {
		t.Errorf("%d streams at a time, want at most %d", streams, most)
	}
	until(t, "nothing is left", func() bool { all, behind := r.streams(); return all+behind == 0 })
	r.gate.loop.Call(func() {
		if r.gate.reserved != 0 || r.gate.frozen != 0 {
			t.Errorf("%d streams are reserved, %d frozen; want none", r.gate.reserved, r.gate.frozen)
		}
	})
}

// A device that acknowledges nothing for a while is behind in more channels than
// the gate remembers. When it goes on it gets everything, once and in order.
func TestADeviceThatIsBehindInMoreChannelsThanAreRemembered(t *testing.T) {
	const channels, each = 200, 3
	r := newRig(t, func(o *Options) { o.InflightMax = 8 })
	for i := range channels {
		r.change(group(message.OpCreate, fmt.Sprint("team", i), "alice", "bob"))
	}
	alice, bob := r.login("alice", "a"), r.login("bob", "b")
	for range each {
		for i := range channels {
			alice.send(fmt.Sprint("team", i), message.ChannelGroup, "hello")
		}
	}
	until(t, "all are pushed or dropped", func() bool { return r.gate.box.queue.Len() == 0 })
	if all, behind := r.streams(); all > 8+maxBehind {
		t.Errorf("%d streams, %d of them behind; want at most %d", all, behind, 8+maxBehind)
	}
	if _, err := bob.collect(each * channels); err != nil {
		t.Fatal(err)
	}
	if more := bob.recv(100 * time.Millisecond); more != nil {
		t.Errorf("message %d of %s is one too many", more.MessageSeq, more.ChannelID)
	}
}

// A full mailbox forgets which channels of a connection had pushes dropped. A channel
// that the loop knows must not go on behind such a push as if it had never been.
func TestAPushThatTheMailboxForgotIsNotPassedOver(t *testing.T) {
	const channels = 20
	r := prepareRig(t, func(o *Options) { o.MailboxItems = 4 })
	r.gate.box.spans = 4
	last := channels - 1
	held, free := make(chan struct{}), make(chan struct{})
	r.putting = func(id string, seq uint64) {
		if id == fmt.Sprint("team", last) && seq == 3 {
			close(held)
			<-free
		}
	}
	r.begin()
	for i := range channels {
		r.change(group(message.OpCreate, fmt.Sprint("team", i), "bob"))
	}
	bob := r.login("bob", "b")
	say := func(i int) message.Record {
		return message.Record{Kind: message.KindMessage, Flags: message.FlagServer, MessageID: r.gate.ids.Next(time.Now()), ChannelType: message.ChannelGroup,
			ChannelID: []byte(fmt.Sprint("team", i)), FromUID: []byte("alice"), Payload: []byte("hello")}
	}
	r.change(say(last))
	first := bob.recvs(1) // it is not acknowledged: the loop knows the channel
	r.gate.loop.Call(func() {
		for i := range channels {
			r.change(say(i))
		}
		b := message.NewBatch(false)
		next := say(last)
		b.Add(&next, message.Origin{})
		if err := r.Propose(b); err != nil {
			t.Error(err)
		}
		<-held // apply is about to push one more
	})
	until(t, "the loop asks apply to begin again", func() (asked bool) {
		r.gate.loop.Call(func() { asked = r.gate.reserved > 0 })
		return asked
	})
	close(free)
	bob.ack(first...)
	all, err := bob.collect(channels + 1)
	if err != nil {
		t.Fatal(err)
	}
	if seqs := all.seqs[fmt.Sprint("team", last)]; !slices.Equal(seqs, []uint32{2, 3}) {
		t.Errorf("of the channel that the loop knew bob got %d, want 2 and 3", seqs)
	}
}

// A push is dropped while apply's word that older messages of its channel wait is still
// in the mailbox, and there is no room for a stream. The channel gets one right after
// that, and must not go on behind the push as if it had never been.
func TestAPushThatIsDroppedBeforeItsChannelIsKnownIsNotPassedOver(t *testing.T) {
	const channels, late, lost = 3 * portion, 2*portion + 5, 3 // of some lost channels there is room for one
	r := prepareRig(t, func(o *Options) { o.InflightMax, o.MailboxItems, o.CursorInterval = 1, 1, time.Hour })
	name := func(i int) string { return fmt.Sprint("team", i) }
	type stop struct{ held, free chan struct{} }
	first, second := stop{make(chan struct{}), make(chan struct{})}, stop{make(chan struct{}), make(chan struct{})}
	r.putting = func(id string, seq uint64) {
		for _, at := range []struct {
			stop
			id  string
			seq uint64
		}{{first, "others", 1}, {second, "others", 2}} {
			if id == at.id && seq == at.seq {
				close(at.held)
				<-at.free
			}
		}
	}
	r.begin()
	say := func(id string, flags uint8) message.Record {
		return message.Record{Kind: message.KindMessage, Flags: message.FlagServer | flags, MessageID: r.gate.ids.Next(time.Now()), ChannelType: message.ChannelGroup,
			ChannelID: []byte(id), FromUID: []byte("alice"), Payload: []byte("hello")}
	}
	propose := func(all ...message.Record) {
		b := message.NewBatch(all[0].Flags&wukong.FlagNoPersist != 0)
		for i := range all {
			b.Add(&all[i], message.Origin{})
		}
		if err := r.Propose(b); err != nil {
			t.Error(err)
		}
	}
	r.change(group(message.OpCreate, "others", "carol"))
	for i := range channels {
		r.change(group(message.OpCreate, name(i), "bob"), say(name(i), 0))
	}
	bob := r.login("bob", "b")
	until(t, "the loop knows as many channels as it may", func() bool { _, behind := r.streams(); return behind == maxBehind-1 })
	propose(say("others", 0))
	<-first.held // apply answers nothing now
	got := make(map[string][]uint32)
	read := func() {
		if m := bob.recvs(1)[0]; m.MessageSeq > 0 {
			got[string(m.ChannelID)] = append(got[string(m.ChannelID)], m.MessageSeq)
			bob.ack(m)
		}
	}
	scan := func() (s scanState) {
		r.gate.loop.Call(func() {
			for i := range r.gate.streams {
				if p := r.gate.streams[i].peer; p != nil {
					s = p.scan
				}
			}
		})
		return s
	}
	for range maxBehind {
		if scan()&scanAsked != 0 {
			break
		}
		read()
		until(t, "the next message comes", func() bool { return r.gate.Stats().Recvs.Load() == int64(len(got)+1) })
	}
	if scan()&scanAsked == 0 {
		t.Fatal("the loop does not ask for other channels")
	}
	r.gate.loop.Call(func() {
		close(first.free)
		r.change()
		r.change()                                  // what the loop asked for is in the mailbox
		propose(say(name(0), wukong.FlagNoPersist)) // the mailbox is full
		next := []message.Record{say("others", 0)}
		for i := range lost {
			r.change(say(name(late+i), 0))
			next = append(next, say(name(late+i), 0))
		}
		r.change()
		propose(next...)
		<-second.held // apply is about to push more
	})
	for len(got) < channels { // the first message of each
		read()
	}
	until(t, "the loop asks apply to begin again", func() bool { return scan()&(scanAgain|scanAsked) == scanAgain|scanAsked })
	close(second.free)
	for i := range lost {
		for seqs := got[name(late+i)]; len(seqs) == 0 || seqs[len(seqs)-1] < 3; seqs = got[name(late+i)] {
			read()
		}
		if seqs := got[name(late+i)]; !slices.Equal(seqs, []uint32{1, 2, 3}) {
			t.Errorf("bob got %d of a channel, want 1, 2 and 3", seqs)
		}
	}
}

// A guest of a channel gets what is sent while they are here, however far behind they
// are in others: apply would not say later that it waits.
func TestAGuestWhoIsBehindInManyChannels(t *testing.T) {
	const channels, lives = 3 * portion, 4
	r := newRig(t, func(o *Options) { o.InflightMax = 1 })
	live := func(i int) string { return fmt.Sprint("live", i) }
	for i := range channels {
		r.change(group(message.OpCreate, fmt.Sprint("team", i), "alice", "bob"))
	}
	for i := range lives {
		r.change(group(message.OpCreate, live(i), "alice"), group(message.OpAddGuests, live(i), "bob"))
	}
	alice := r.login("alice", "a")
	for i := range channels {
		alice.send(fmt.Sprint("team", i), message.ChannelGroup, "hello")
	}
	bob := r.login("bob", "b")
	until(t, "the loop knows as many channels as it may", func() bool { _, behind := r.streams(); return behind == maxBehind-1 })
	for range 2 {
		for i := range lives {
			alice.send(live(i), message.ChannelGroup, "look")
		}
	}
	got, err := bob.collect(channels + 2*lives)
	if err != nil {
		t.Fatal(err)
	}
	for i := range lives {
		if seqs := got.seqs[live(i)]; !slices.Equal(seqs, []uint32{1, 2}) {
			t.Errorf("bob got %d of %s, want 1 and 2", seqs, live(i))
		}
	}
}

// Whatever order pushes, drops, pages, acknowledgements and logins come in, each
// device gets every message once and in order.
func TestEveryDeviceGetsEverythingOnce(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 18))
	for range 6 {
		everything(t, rnd)
	}
}

func everything(t *testing.T, rnd *rand.Rand) {
	channels, messages := 10+rnd.IntN(150), 200+rnd.IntN(1500)
	r := prepareRig(t, func(o *Options) {
		o.InflightMax, o.InflightTotal = 1+rnd.IntN(40), 16+rnd.IntN(200)
		o.MailboxItems = 4 + rnd.IntN(60)
		o.CursorInterval = time.Duration(rnd.IntN(20)) * time.Millisecond
		o.Retry = ack.Options{First: time.Hour, Max: time.Hour}
	})
	r.gate.box.spans = 1 + rnd.IntN(40)
	r.begin()
	for i := range channels {
		r.change(group(message.OpCreate, fmt.Sprint("team", i), "alice", "bob"))
	}
	alice := r.login("alice", "a")
	var all sync.WaitGroup
	for i := range 4 {
		pauses, ahead := rand.New(rand.NewPCG(rnd.Uint64(), 1)), rnd.IntN(messages)
		bob := r.login("bob", fmt.Sprint("device", i))
		all.Go(func() {
			first, err := bob.collect(ahead)
			time.Sleep(time.Duration(pauses.IntN(20)) * time.Millisecond) // everything is full meanwhile
			if err == nil {
				var rest *got
				if rest, err = bob.collect(messages - ahead); err == nil {
					for id, seqs := range rest.seqs {
						if before := first.seqs[id]; len(before) > 0 && before[len(before)-1] >= seqs[0] {
							err = fmt.Errorf("message %d of %s comes behind %d", seqs[0], id, before[len(before)-1])
						}
					}
				}
			}
			if err != nil {
				t.Error(err)
			}
			if more := bob.recv(50 * time.Millisecond); more != nil {
				t.Errorf("message %d of %s is one too many", more.MessageSeq, more.ChannelID)
			}
		})
	}
	var p []byte
	for i := range messages {
		m := wukong.Send{ClientSeq: uint32(i), ChannelID: []byte(fmt.Sprint("team", rnd.IntN(channels))), ChannelType: message.ChannelGroup, Payload: []byte("x")}
		if p = m.Append(p, 5); len(p) > rnd.IntN(4000) {
			alice.write(p)
			p = p[:0]
		}
	}
	alice.write(p)
	for range messages {
		if a := alice.sendack(); a.Reason != wukong.ReasonSuccess {
			t.Fatalf("a message is refused: %v", a.Reason)
		}
	}
	all.Wait()
}

// A device that acknowledges nothing is closed when pushes were given up in too many
// channels: each of them is remembered as long as the connection lives. What it did
// not acknowledge is there at its next login.
func TestADeviceThatNeverAcknowledges(t *testing.T) {
	for _, c := range []struct {
		channels int
		stays    bool
	}{{maxFrozen / 2, true}, {maxFrozen + 20, false}} {
		r := newRig(t, func(o *Options) {
			o.Retry = ack.Options{Tick: time.Millisecond, First: 5 * time.Millisecond, Max: 5 * time.Millisecond, Tries: 1}
		})
		for i := range c.channels {
			r.change(group(message.OpCreate, fmt.Sprint("team", i), "alice", "bob"))
		}
		alice, bob := r.login("alice", "a"), r.login("bob", "b")
		for i := range c.channels {
			alice.send(fmt.Sprint("team", i), message.ChannelGroup, "hello")
		}
		if c.stays {
			until(t, "all are given up", func() bool { return r.gate.Stats().GivenUp.Load() == int64(c.channels) })
			if n := r.gate.Stats().Live.Load(); n != 2 {
				t.Errorf("%d connections are there, want 2", n)
			}
		} else {
			until(t, "the connection is closed", func() bool { return r.gate.Stats().Live.Load() == 1 })
		}
		bob.Close()
		until(t, "bob is gone", func() bool { return r.gate.Stats().Live.Load() == 1 })
		again := r.login("bob", "b")
		seen := make(map[string]bool)
		for len(seen) < c.channels {
			m := again.recvs(1)[0]
			again.ack(m)
			seen[string(m.ChannelID)] = true
		}
		r.gate.loop.Call(func() {
			if r.gate.frozen != 0 {
				t.Errorf("%d streams count as given up by connections that are gone", r.gate.frozen)
			}
		})
	}
}
