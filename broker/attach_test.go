package broker

import (
	"testing"

	"gatepost/message"
)

// personInfo makes a record that says what a user may do.
func personInfo(uid string, info message.Info) message.Record {
	return message.Record{Kind: message.KindChannel, ChannelType: message.ChannelPerson, ChannelID: []byte(uid),
		Payload: message.AppendChange(nil, message.OpInfo, []string{string([]byte{byte(info)})})}
}

func setToken(uid string, t message.Token) message.Record {
	return message.Record{Kind: message.KindUser, FromUID: []byte(uid), Payload: message.AppendUserChange(nil, &message.UserChange{Op: message.OpToken, Token: t})}
}

// A login was checked before the ban, or before its token was taken away, and comes
// to apply afterwards: it is ended as one that was there before, and is not online.
func TestALoginIsLookedAtAgain(t *testing.T) {
	old, next := message.NewToken(1, message.LevelSlave, []byte("old")), message.NewToken(1, message.LevelSlave, []byte("next"))
	for _, c := range []struct {
		name   string
		change message.Record
		token  *message.Token
		ends   bool
	}{
		{"banned", personInfo("bob", message.InfoBan), nil, true},
		{"may send nothing, but read", personInfo("bob", message.InfoSendBan), nil, false},
		{"somebody else is banned", personInfo("carol", message.InfoBan), nil, false},
		{"the token is taken away", message.Record{Kind: message.KindUser, FromUID: []byte("bob"),
			Payload: message.AppendUserChange(nil, &message.UserChange{Op: message.OpQuit, Token: message.Token{Device: message.AllDevices}})}, &old, true},
		{"there is another token", setToken("bob", next), &old, true},
		{"the token of another device is new", setToken("bob", message.NewToken(2, message.LevelSlave, []byte("x"))), &old, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBox(t, Options{DedupWindow: 10})
			b.commit(setToken("bob", old), false, nil)
			b.commit(c.change, false, nil)
			b.attach(&Attach{UID: "bob", Conn: 7, Loop: 1, Device: 1, Token: c.token})
			got, want := b.out(), []string{}
			if c.ends {
				want = append(want, "kick 7 reason 12")
			}
			b.expect("login", got, want...)
			if online := b.users["bob"] != nil && len(b.users["bob"].online) == 1; online == c.ends {
				t.Errorf("bob is online: %v", online)
			}
			b.detach(&Attach{UID: "bob", Conn: 7, Loop: 1, Device: 1}, nil)
			if u := b.users["bob"]; u != nil {
				t.Errorf("bob is remembered: %+v", u)
			}
		})
	}
}

// Who is banned sends nothing from that moment on, however long the connection lasts.
func TestWhoIsBannedSendsNothing(t *testing.T) {
	b := newBox(t, Options{DedupWindow: 10})
	b.commit(group(message.OpCreate, "g", "bob", "carol"), false, nil)
	b.commit(personInfo("bob", message.InfoBan), false, nil)
	for _, to := range []struct {
		typ uint8
		id  string
	}{{message.ChannelGroup, "g"}, {message.ChannelPerson, "alice@bob"}, {message.ChannelService, "shop"}} {
		if got := b.access.MayPublish(to.typ, []byte(to.id), []byte("bob")); got != message.ReasonBan {
			t.Errorf("to %s (type %d): %d, want %d", to.id, to.typ, got, message.ReasonBan)
		}
	}
	if got := b.access.MayPublish(message.ChannelGroup, []byte("g"), []byte("carol")); got != message.ReasonSuccess {
		t.Errorf("somebody else: %d", got)
	}
	if got := b.access.MayPublishAny(message.ChannelGroup, []byte("g"), []byte("bob")); got != message.ReasonSuccess {
		t.Errorf("the application, in their name: %d", got)
	}
}
