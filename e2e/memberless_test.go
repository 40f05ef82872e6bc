package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// All metadata are gone, and with them the members of groups. The messages of the
// groups were acknowledged: those in blocks and those that only the log has are
// there under their sequences, also after another crash before the next
// checkpoint, and members who are added again read them.
func TestGroupsThatLostTheirMembersKeepTheirMessages(t *testing.T) {
	b := start(t, plain, rolls)
	b.channel("old", "alice", "bob")   // has messages in blocks and in the log
	b.channel("young", "alice", "bob") // has messages in the log only
	sent := map[string][]sendack{}
	say := func(c *client, group string) {
		t.Helper()
		n := len(sent[group])
		a := c.send(t, send{channel: group, kind: 2, no: fmt.Sprint(group, n)}, fmt.Sprint("text ", n))
		if a.reason != reasonSuccess || a.seq != uint32(n+1) {
			t.Fatalf("SENDACK of message %d to %s: %+v", n, group, a)
		}
		sent[group] = append(sent[group], a)
	}
	alice := b.must(t, dialer{uid: "alice"})
	for range 10 {
		say(alice, "old")
	}
	b.fill(t, 3, dialer{uid: "filler"})
	for range 10 {
		say(alice, "old")
		say(alice, "young")
	}
	alice.close()
	b.kill()
	if err := os.RemoveAll(filepath.Join(b.dir, "meta")); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		for group, acks := range sent {
			p := b.past(t, "group="+group+"&limit=100")
			if len(p.Messages) != len(acks) || p.Lost != 0 {
				t.Errorf("%s: %d of %d messages of %s, %d lost", when, len(p.Messages), len(acks), group, p.Lost)
				continue
			}
			for i, m := range p.Messages {
				if m.ID != acks[i].id || m.Seq != uint64(acks[i].seq) {
					t.Errorf("%s: message %d of %s has id %d and sequence %d, its SENDACK said %+v", when, i, group, m.ID, m.Seq, acks[i])
				}
			}
		}
	}
	b.start()
	check("without metadata")
	if n := b.metric("gatepost_channels_members_lost"); n != 2 {
		t.Errorf("%v groups are reported to have lost their members, want 2", n)
	}
	if !strings.Contains(b.log.String(), "channel members lost") {
		t.Error("no line in the log says that members are lost")
	}
	b.again()
	check("after another crash")
	b.channel("old", "alice", "bob")
	b.channel("young", "alice", "bob")
	alice = b.must(t, dialer{uid: "alice"})
	say(alice, "old")
	say(alice, "young")
	check("with members again")
}
