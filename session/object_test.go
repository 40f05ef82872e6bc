package session

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"gatepost/broker"
	"gatepost/jsonrpc"
	"gatepost/message"
	"gatepost/netio"
	"gatepost/queue"
	"gatepost/wukong"
)

// An idle connection is a peer and no more, whatever it speaks.
func TestAnIdlePeerIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(peer{}); size > 64 {
		t.Errorf("a connection takes %d bytes, at most 64", size)
	}
}

// The answers that a client does not read fit into one ring with what may be in
// front of them.
func TestUnreadAnswersFitIntoOneRing(t *testing.T) {
	a := wukong.Sendack{Flags: 15, MessageID: 1<<63 - 1, ClientSeq: 1<<32 - 1, MessageSeq: 1<<32 - 1, Reason: 255}
	id := bytes.Repeat([]byte{'9'}, jsonrpc.MaxID)
	for version, size := range map[uint8]int{
		wukong.LatestVersion:                    len(a.Append(nil)),
		versionJSON:                             len(jsonrpc.AppendSendack(nil, id, &a, 0)),
		versionJSON + uint8(jsonrpc.StyleSnake): len(jsonrpc.AppendSendack(nil, id, &a, jsonrpc.StyleSnake)),
	} {
		const wsHeader = 4
		if all := maxUnread + int((&peer{version: version}).maxUnanswered())*(wsHeader+size); all > 64<<10 {
			t.Errorf("version %d: %d bytes of answers that nobody reads, at most %d", version, all, 64<<10)
		}
	}
}

// An object in many pieces is not read again with each of them, and what is
// known of it goes with its connection.
func TestPiecesOfAnObjectAreReadOnce(t *testing.T) {
	g := &Gate{parts: make(map[uint64]jsonrpc.Splitter)}
	p := &peer{conn: new(netio.Conn), version: versionJSON}
	p.conn.Data = p
	src := []byte(`{"method":"ping","params":{"a":"b"`)
	if n, wait, err := g.object(p, src); n != 0 || wait != 0 || err != nil {
		t.Fatal(n, wait, err)
	}
	clear(src) // who looks again finds no object
	if n, wait, err := g.object(p, append(src, `,"c":[1,2`...)); n != 0 || wait != 0 || err != nil {
		t.Fatalf("read again: %d, %v, %v", n, wait, err)
	}
	if g.OnClose(p.conn, io.EOF); len(g.parts) > 0 {
		t.Error("the pieces of a closed connection are still known")
	}
}

// full is a log whose queue takes nothing until it is told to.
type full struct {
	straight
	open *atomic.Bool
}

func (f full) Propose(b *message.Batch) error {
	if !f.open.Load() {
		return queue.ErrFull
	}
	return f.straight.Propose(b)
}

// While the log takes nothing a SEND is left where it is, and answered when its
// turn comes.
func TestAFullLogStopsJSONToo(t *testing.T) {
	var open atomic.Bool
	addr, g := stackOn(t, func(core *broker.Broker) Proposer { return full{straight{core}, &open} })
	alice, answers := loginJSON(t, addr, "alice")
	rounds := func(n int64) {
		for until := g.Stats().LogFull.Load() + n; g.Stats().LogFull.Load() < until; {
			time.Sleep(time.Millisecond)
		}
	}
	const n = 5
	for k := 1; k <= n; k++ {
		fmt.Fprintf(alice, `{"method":"send","id":"%d","params":{"channelId":"bob","channelType":1,"payload":"eHg="}}`, k)
		rounds(20)
		if got := g.Stats().Sends.Load(); got != 1 {
			t.Fatalf("%d SENDs were taken, the log takes none", got)
		}
	}
	open.Store(true)
	for k := 1; k <= n; k++ {
		var a struct {
			ID     string
			Result struct{ MessageSeq int }
		}
		if err := answers.Decode(&a); err != nil || a.ID != fmt.Sprint(k) || a.Result.MessageSeq != k {
			t.Fatal(a, err)
		}
	}
}

func loginJSON(t testing.TB, addr, uid string) (net.Conn, *json.Decoder) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, `{"method":"connect","id":"1","params":{"uid":"%s","deviceId":"d"}}`, uid)
	d := json.NewDecoder(c)
	var answer struct{ Result struct{ ReasonCode int } }
	if err := d.Decode(&answer); err != nil || answer.Result.ReasonCode != 1 {
		t.Fatal(answer, err)
	}
	return c, d
}

// What one sends in JSON another gets in binary, and the other way round; a push
// in JSON makes no allocation.
func TestAllocsOfAPushInJSON(t *testing.T) {
	addr, _ := stack(t)
	bob := login(t, addr, "bob")
	alice, answers := loginJSON(t, addr, "alice")
	const n = 100
	for k := range n {
		fmt.Fprintf(alice, `{"method":"send","id":"%d","params":{"channelId":"bob","channelType":1,"payload":"eHg="}}`, k)
	}
	for k := range n {
		var a struct {
			ID     string
			Result struct{ MessageSeq int }
		}
		if err := answers.Decode(&a); err != nil || a.ID != fmt.Sprint(k) || a.Result.MessageSeq != k+1 {
			t.Fatal(a, err)
		}
	}
	r := wukong.Recv{FromUID: []byte("alice"), ChannelID: []byte("alice"), Payload: []byte("xx")}
	if _, err := io.ReadFull(bob, make([]byte, n*r.Size(5))); err != nil {
		t.Fatal(err)
	}
	// Not stored: all have the same size, and none waits to be acknowledged.
	m := wukong.Send{Flags: wukong.FlagNoPersist, ChannelID: []byte("alice"), ChannelType: wukong.ChannelPerson, Payload: make([]byte, 100)}
	one := m.Append(nil, 5)
	if _, err := bob.Write(one); err != nil {
		t.Fatal(err)
	}
	push := make([]byte, 4096)
	size := 0
	for !bytes.HasSuffix(push[:size], []byte("}}")) {
		k, err := alice.Read(push[size:])
		if err != nil {
			t.Fatal(err)
		}
		size += k
	}
	sends, acks, pushes := bytes.Repeat(one, n), make([]byte, n*wukong.SendackSize), make([]byte, n*size)
	if _, err := io.ReadFull(bob, acks[:wukong.SendackSize]); err != nil {
		t.Fatal(err)
	}
	per := testing.AllocsPerRun(100, func() {
		if _, err := bob.Write(sends); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(bob, acks); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(alice, pushes); err != nil || !bytes.HasSuffix(pushes, []byte("}}")) {
			t.Fatal(string(pushes[n*size-size:]), err)
		}
	}) / n
	t.Logf("%.3f allocations a message", per)
	if per >= 0.1 && !raceDetector { // it throws a part of what is put into pools away
		t.Errorf("%.3f allocations a message, want less than 0.1", per)
	}
}
