package e2e

import (
	"fmt"
	"testing"
)

// pairs lets a user write to so many others, all at once, and returns how many of
// the messages were stored.
func (b *broker) pairs(t testing.TB, from string, first, n int) (stored int) {
	t.Helper()
	c := b.must(t, dialer{uid: from})
	defer c.close()
	for i := range n {
		c.post(t, send{channel: fmt.Sprint("peer", first+i), kind: person, no: fmt.Sprint(i)}, "text")
	}
	for range n {
		switch a := c.nextAck(t); a.reason {
		case reasonSuccess:
			stored++
		case 11:
		default:
			t.Fatalf("SENDACK %+v", a)
		}
	}
	return stored
}

// Devices write to as many others as they like, through many connections. They get
// their part of the channels and no more; somebody can still be banned, put on a
// list, and made a member of a group. A user's part lasts beyond a connection.
func TestADeviceCannotUseUpTheChannels(t *testing.T) {
	b := start(t, plain, set("broker.max_channels", "100"), set("broker.user_channels", "30"))
	for i := range 3 {
		if got, want := b.pairs(t, "eve", 50*i, 50), []int{30, 0, 0}[i]; got != want {
			t.Errorf("connection %d of one user made %d channels, want %d", i, got, want)
		}
	}
	total := 30
	for i := range 20 {
		total += b.pairs(t, fmt.Sprint("eve", i), 0, 20)
	}
	if total != 75 {
		t.Errorf("devices made %d channels, want three quarters of 100", total)
	}
	// What is not stored makes no channel, and passes.
	c := b.must(t, dialer{uid: "carol"})
	if a := c.send(t, send{channel: "somebody", kind: person, no: "1", flags: flagNoPersist}, "typing"); a.reason != reasonSuccess {
		t.Errorf("SENDACK of a message that is not stored: %+v", a)
	}
	b.channel("g", "alice", "bob")
	b.post("/channel/info", map[string]any{"channel_id": "eve", "channel_type": 1, "ban": 1})
	b.post("/channel/blacklist_add", map[string]any{"channel_id": "alice", "channel_type": 1, "uids": []string{"eve1"}})
	if _, ack, err := b.login(dialer{uid: "eve"}); ack.reason != 19 {
		t.Errorf("who was banned on a full box gets %+v, %v", ack, err)
	}
	if n := b.metric("gatepost_channels"); n != 75+1+2 {
		t.Errorf("%v channels, want 75 pairs, a group and two persons", n)
	}
	b.again()
	if got := b.pairs(t, "frank", 0, 20); got != 0 {
		t.Errorf("%d channels more after a restart", got)
	}
}

// A pair of users is deleted over HTTP: its messages and positions are gone, its
// room is free, and it begins anew.
func TestAPairIsDeleted(t *testing.T) {
	b := start(t, plain, set("broker.max_channels", "4"))
	if n := b.pairs(t, "alice", 0, 4); n != 3 {
		t.Fatalf("%d pairs, want 3", n)
	}
	pair := func(other string) object { return object{"channel_id": "alice", "channel_type": 1, "uid": other} }
	b.post("/channel/delete", pair("peer1"))
	b.post("/channel/delete", pair("peer1")) // it is as it should be
	for _, wrong := range []object{pair("a@b"), {"channel_id": "g", "channel_type": 2, "uid": "bob"}} {
		if code, text, err := b.call("POST", "/channel/delete", wrong); err != nil || code != 400 {
			t.Errorf("%v: %d %s %v", wrong, code, text, err)
		}
	}
	for range 2 {
		if p := b.past(t, "uid=alice&to=peer1"); p.Last != 0 || len(p.Messages) != 0 {
			t.Errorf("history of a deleted pair: %+v", p)
		}
		b.again()
	}
	peer := b.must(t, dialer{uid: "peer1"})
	peer.silent(t)
	if n := b.pairs(t, "alice", 1, 1); n != 1 {
		t.Error("the room of a deleted pair is not free")
	}
	if m := peer.nextRecv(t); m.seq != 1 || m.from != "alice" {
		t.Errorf("the first message of a pair that begins anew: %v", m)
	}
}
