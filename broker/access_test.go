package broker

import (
	"testing"

	"gatepost/message"
)

// Lists say who may send to groups, and nothing to channels to which anybody sends,
// nor to a visitor in their own channel, as docs/compatibility.md says. What keeps
// somebody out everywhere are bans.
func TestListsHaveNoEffectWhereAnybodySends(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	change := func(typ uint8, id string, op message.ChangeOp, names ...string) {
		r := group(op, id, names...)
		r.ChannelType = typ
		b.commit(r, false, nil)
	}
	may := func(what string, typ uint8, id, uid string, want uint8) {
		t.Helper()
		if got := b.Access().MayPublish(typ, []byte(id), []byte(uid)); got != want {
			t.Errorf("%s: reason %d, want %d", what, got, want)
		}
	}
	for _, c := range []struct {
		typ     uint8
		id, uid string
		want    uint8
	}{
		{message.ChannelGroup, "g", "eve", message.ReasonInBlacklist},
		{message.ChannelService, "s", "eve", message.ReasonSuccess},
		{message.ChannelInfo, "i", "eve", message.ReasonSuccess},
		{message.ChannelVisitors, "eve", "eve", message.ReasonSuccess},
		{message.ChannelVisitors, "v", "eve", message.ReasonInBlacklist}, // of those who serve another visitor
		{message.ChannelAgent, "eve@bot", "eve", message.ReasonSuccess},
	} {
		if !message.Pair(c.typ) {
			change(c.typ, c.id, message.OpAdd, "eve")
		}
		change(c.typ, c.id, message.OpDeny, "eve")
		may("on the list of "+c.id, c.typ, c.id, c.uid, c.want)
		change(c.typ, c.id, message.OpDenyNot, "eve")
		change(c.typ, c.id, message.OpAllow, "alice")
		if c.want != message.ReasonSuccess {
			c.want = message.ReasonNotInWhitelist
		}
		may("not on the other list of "+c.id, c.typ, c.id, c.uid, c.want)
		change(c.typ, c.id, message.OpInfo, string([]byte{byte(message.InfoBan)}))
		may("in a banned channel, "+c.id, c.typ, c.id, c.uid, message.ReasonBan)
		change(c.typ, c.id, message.OpInfo, string([]byte{0}))
		change(message.ChannelPerson, "eve", message.OpInfo, string([]byte{byte(message.InfoSendBan)}))
		may("who may send nothing, "+c.id, c.typ, c.id, c.uid, message.ReasonSendBan)
		change(message.ChannelPerson, "eve", message.OpInfo, string([]byte{0}))
	}
}
