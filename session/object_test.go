package session

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"testing"
	"unsafe"

	"gatepost/jsonrpc"
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
		wukong.LatestVersion: len(a.Append(nil)),
		versionJSON:          len(jsonrpc.AppendSendack(nil, id, &a)),
	} {
		const wsHeader = 4
		if all := maxUnread + int((&peer{version: version}).maxUnanswered())*(wsHeader+size); all > 64<<10 {
			t.Errorf("version %d: %d bytes of answers that nobody reads, at most %d", version, all, 64<<10)
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
	if per >= 0.1 {
		t.Errorf("%.3f allocations a message, want less than 0.1", per)
	}
}
