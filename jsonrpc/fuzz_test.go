package jsonrpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"unicode/utf8"

	"gatepost/wukong"
)

// The seeds of these targets are the dialogue, and what lies in testdata/fuzz.
var dialogue = []string{
	`{"method":"connect","id":"1","params":{"uid":"rpc1","token":"","deviceId":"d","deviceFlag":1,"clientTimestamp":1795414470000}}`,
	`{"method":"send","id":"2","params":{"clientMsgNo":"r1","channelId":"rpc1b","channelType":1,"payload":"eyJ0IjoxfQ=="}}`,
	`{"method":"ping","id":"3"}{"method":"ping","id":"4"}`,
	`{"jsonrpc":"2.0","method":"recvack","params":{"header":{"redDot":true},"messageId":"2124748411230916608","messageSeq":1}}`,
	`{"method":"subscribe","id":"5","params":{"subNo":"n","channelId":"d1","channelType":7,"param":"a=1"}}`,
	`{"method":"unsubscribe","id":"6","params":{"subNo":"n","channelId":"d1","channelType":7}}`,
	` {"method":"disconnect","id":"7","params":{"reasonCode":1,"reason":"bye"}}` + "\n",
	`{"method":"send","id":"8","params":{"setting":{"topic":true,"stream":true},"topic":"\"\\\u00e4","streamNo":"s","expire":1,"payload":""}}`,
}

// However a stream is cut, the same objects come out of it; what encoding/json
// takes as an object is one for Split, and no other bytes are behind it.
func FuzzSplit(f *testing.F) {
	for _, s := range dialogue {
		f.Add([]byte(s), uint16(7))
	}
	f.Fuzz(func(t *testing.T, src []byte, cut uint16) {
		split := func(step int) (objects [][]byte, rest int, err error) {
			var s Splitter
			from, have := 0, 0
			for {
				object, n, err := s.Split(src[from:have])
				if err != nil {
					if !errors.Is(err, ErrSyntax) && !errors.Is(err, ErrTooLarge) {
						t.Fatalf("unknown error %v", err)
					}
					return objects, have - from, err
				}
				if n < len(object) || n > have-from || object == nil && len(bytes.Trim(src[from:from+n], " \t\r\n")) > 0 {
					t.Fatalf("discards %d of %d bytes for an object of %d", n, have-from, len(object))
				}
				if object != nil {
					objects = append(objects, object)
				}
				if from += n; n > 0 {
					continue
				}
				if have == len(src) {
					return objects, have - from, nil
				}
				have = min(len(src), have+step)
			}
		}
		whole, rest, err := split(len(src) + 1)
		parts, left, perr := split(int(cut)%64 + 1)
		if !reflect.DeepEqual(whole, parts) || (err == nil) != (perr == nil) || err == nil && rest != left {
			t.Errorf("whole %q, %d, %v\nparts %q, %d, %v", whole, rest, err, parts, left, perr)
		}
		if trimmed := bytes.Trim(src, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed) && !errors.Is(err, ErrTooLarge) {
			if len(whole) != 1 || !bytes.Equal(whole[0], trimmed) {
				t.Errorf("%s is JSON and was cut into %q, %v", trimmed, whole, err)
			}
		}
	})
}

// No object makes the decoders fail in a way that they do not say, and every
// answer is one object in UTF-8 with the request's id.
func FuzzRequest(f *testing.F) {
	for _, s := range dialogue {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		var s Splitter
		object, n, err := s.Split(src)
		for err == nil && object == nil && n > 0 {
			src = src[n:]
			object, n, err = s.Split(src)
		}
		if err != nil || object == nil {
			return
		}
		var r Request
		err = r.Parse(object)
		var wrong *Error
		if err != nil && !errors.As(err, &wrong) {
			if !errors.Is(err, ErrSyntax) || json.Valid(object) {
				t.Fatalf("%q: %v", object, err)
			}
			return
		}
		if len(r.ID) > MaxID || len(r.ID) > 0 && (!json.Valid(r.ID) || !isID(r.ID[0]) && string(r.ID) != "null") {
			t.Errorf("id %q", r.ID)
		}
		wellFormed := func(p []byte) {
			var s Splitter
			if object, _, err := s.Split(p); err != nil || len(object) != len(p) || !json.Valid(p) || !utf8.Valid(p) {
				t.Errorf("not one object: %q, %v", p, err)
			}
		}
		answer := func(p []byte) {
			if len(r.ID) == 0 {
				if len(p) > 0 {
					t.Errorf("answered with %s", p)
				}
				return
			}
			wellFormed(p)
		}
		if wrong != nil {
			answer(AppendError(nil, r.ID, wrong))
			return
		}
		answer(AppendResult(nil, r.ID))
		answer(AppendError(nil, r.ID, r.Unknown()))
		var c wukong.Connect
		var m wukong.Send
		var a wukong.Recvack
		var sub wukong.Sub
		var d wukong.Disconnect
		for _, err := range []error{r.Connect(&c), r.Send(&m), r.Recvack(&a), r.Sub(&sub), r.Disconnect(&d)} {
			if err != nil && !errors.As(err, &wrong) {
				t.Errorf("unknown error %v", err)
			} else if err != nil {
				answer(AppendError(nil, r.ID, wrong))
			}
		}
		// A message that came as JSON goes out as a frame and as JSON.
		frame, _, err := wukong.Split(m.Append(nil, wukong.LatestVersion))
		var again wukong.Send
		if err == nil {
			err = again.Decode(frame, wukong.LatestVersion)
		}
		if err != nil || !bytes.Equal(again.ClientMsgNo, m.ClientMsgNo) || !bytes.Equal(again.ChannelID, m.ChannelID) || !bytes.Equal(again.Payload, m.Payload) {
			t.Errorf("the frame of %+v is %+v, %v", m, again, err)
		}
		wellFormed(AppendRecv(nil, &wukong.Recv{Flags: m.Flags, Setting: m.Setting, ClientMsgNo: m.ClientMsgNo, ChannelID: m.ChannelID,
			StreamNo: m.StreamNo, Topic: m.Topic, FromUID: c.UID, Payload: m.Payload}, 0))
		wellFormed(AppendDisconnect(nil, &d))
		answer(AppendSuback(nil, r.ID, &wukong.Suback{SubNo: sub.SubNo, ChannelID: sub.ChannelID, Action: sub.Action}))
	})
}

// What a RECV says in JSON is what it says, whatever bytes are in it.
func FuzzAppendRecv(f *testing.F) {
	f.Add([]byte("n"), []byte("bob"), []byte("t\xff\"\\\n"), []byte("hello"), uint8(2), uint8(8))
	f.Fuzz(func(t *testing.T, no, channel, topic, payload []byte, flags, bits uint8) {
		v := wukong.Recv{Flags: flags & 15, Setting: bits, ClientMsgNo: no, ChannelID: channel, Topic: topic, FromUID: channel, Payload: payload}
		p := AppendRecv(nil, &v, 0)
		var got struct {
			Params struct {
				ClientMsgNo, ChannelID, Topic, FromUID string
				Payload                                []byte
				Header                                 header
				Setting                                setting
			}
		}
		if err := json.Unmarshal(p, &got); err != nil || !utf8.Valid(p) {
			t.Fatalf("%s: %v", p, err)
		}
		g := &got.Params
		text := func(b []byte) string { return string([]rune(string(b))) }
		if v.Setting&wukong.SettingTopic == 0 {
			topic = nil
		}
		if g.ClientMsgNo != text(no) || g.ChannelID != text(channel) || g.Topic != text(topic) || g.FromUID != text(channel) ||
			!bytes.Equal(g.Payload, payload) || g.Header.flags() != v.Flags || g.Setting.bits() != bits&0xaa {
			t.Errorf("%+v became %s", v, p)
		}
	})
}
