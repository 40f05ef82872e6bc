package jsonrpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"gatepost/wukong"
)

func parse(t testing.TB, object string) *Request {
	t.Helper()
	r := new(Request)
	if err := r.Parse([]byte(object)); err != nil {
		t.Fatalf("%s: %v", object, err)
	}
	return r
}

func refused(t testing.TB, name string, err error, code int) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code || e.Message == "" {
		t.Errorf("%s: %v, want code %d", name, err, code)
	}
}

// The dialogue as it was seen on the wire of the public server.
func TestTheDialogueThatWasSeen(t *testing.T) {
	r := parse(t, `{"method":"connect","id":"1","params":{"uid":"rpc1","token":"","deviceId":"d","deviceFlag":1,"clientTimestamp":1795414470000}}`)
	var c wukong.Connect
	if err := r.Connect(&c); err != nil || r.Method != MethodConnect || string(c.UID) != "rpc1" || string(c.DeviceID) != "d" ||
		c.DeviceFlag != wukong.DeviceWeb || c.Version != wukong.LatestVersion || c.ClientTimestamp != 1795414470000 {
		t.Errorf("connect %+v, %v", c, err)
	}
	got := AppendConnack(nil, r.ID, &wukong.Connack{ServerVersion: 5, TimeDiff: 3, Reason: wukong.ReasonSuccess, NodeID: 1001}, 0)
	equal(t, got, `{"jsonrpc":"2.0","id":"1","result":{"serverVersion":5,"timeDiff":3,"reasonCode":1,"nodeId":1001}}`)

	r = parse(t, `{"method":"send","id":"2","params":{"clientMsgNo":"r1","channelId":"rpc1b","channelType":1,"payload":"eyJ0IjoxfQ=="}}`)
	var s wukong.Send
	if err := r.Send(&s); err != nil || string(s.ClientMsgNo) != "r1" || string(s.ChannelID) != "rpc1b" || s.ChannelType != wukong.ChannelPerson ||
		string(s.Payload) != `{"t":1}` || s.Flags != 0 || s.Setting != 0 {
		t.Errorf("send %+v, %v", s, err)
	}
	got = AppendSendack(nil, r.ID, &wukong.Sendack{MessageID: 2124748411230916608, MessageSeq: 1, Reason: wukong.ReasonSuccess}, 0)
	equal(t, got, `{"jsonrpc":"2.0","id":"2","result":{"messageId":"2124748411230916608","messageSeq":1,"reasonCode":1}}`)

	r = parse(t, `{"method":"ping","id":"3"}`)
	equal(t, AppendResult(nil, r.ID), `{"jsonrpc":"2.0","id":"3","result":null}`)

	got = AppendRecv(nil, &wukong.Recv{MessageID: 7, MessageSeq: 1, ClientMsgNo: []byte("r1"), Timestamp: 1795414471,
		ChannelID: []byte("rpc1"), ChannelType: 1, FromUID: []byte("rpc1"), Payload: []byte(`{"t":1}`)}, 0)
	equal(t, got, `{"jsonrpc":"2.0","method":"recv","params":{"header":{},"messageId":"7","messageSeq":1,"clientMsgNo":"r1","timestamp":1795414471,"channelId":"rpc1","channelType":1,"fromUid":"rpc1","payload":"eyJ0IjoxfQ=="}}`)

	r = parse(t, `{"method":"recvack","params":{"messageId":"2124748411230916608","messageSeq":1}}`)
	var a wukong.Recvack
	if err := r.Recvack(&a); err != nil || a.MessageID != 2124748411230916608 || a.MessageSeq != 1 || len(r.ID) > 0 {
		t.Errorf("recvack %+v, %v, id %q", a, err, r.ID)
	}
}

func equal(t testing.TB, got []byte, want string) {
	t.Helper()
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !json.Valid(got) || !utf8.Valid(got) {
		t.Errorf("not JSON in UTF-8: %s", got)
	}
}

func TestOptionalParams(t *testing.T) {
	var s wukong.Send
	const all = `"header":{"noPersist":true,"redDot":true,"syncOnce":true,"dup":true},"msgKey":"k","expire":60,"topic":"t1","streamNo":"s1"`
	r := parse(t, `{"jsonrpc":"2.0","method":"send","id":"x","params":{`+all+`,"setting":{"receipt":true,"signal":true,"stream":true,"topic":true},"channelId":"g","channelType":2}}`)
	if err := r.Send(&s); err != nil || s.Flags != 15 || s.Setting != 0x80|0x20|0x08|0x02 || s.Expire != 60 || string(s.Topic) != "t1" || string(s.StreamNo) != "s1" || string(s.MsgKey) != "k" {
		t.Errorf("send %+v, %v", s, err)
	}
	// A frame has no topic without the bit.
	r = parse(t, `{"method":"send","id":"x","params":{`+all+`,"channelId":"g","channelType":2}}`)
	if err := r.Send(&s); err != nil || s.Topic != nil || s.StreamNo != nil {
		t.Errorf("send %+v, %v", s, err)
	}
	v := wukong.Recv{Flags: 15, Setting: 0x80 | 0x20 | 0x08 | 0x02, Expire: 60, MessageID: 1, Topic: []byte("t1"),
		StreamNo: []byte("s1"), StreamID: 9, StreamFlag: 2, ChannelID: []byte("g"), ChannelType: 2}
	equal(t, AppendRecv(nil, &v, 0), `{"jsonrpc":"2.0","method":"recv","params":{"header":{"noPersist":true,"redDot":true,"syncOnce":true,"dup":true},`+
		`"setting":{"receipt":true,"signal":true,"stream":true,"topic":true},"expire":60,"messageId":"1","messageSeq":0,`+
		`"streamNo":"s1","streamId":"9","streamFlag":2,"timestamp":0,"channelId":"g","channelType":2,"topic":"t1","fromUid":"","payload":""}}`)
	equal(t, AppendSendack(nil, []byte(`"1"`), &wukong.Sendack{Flags: wukong.FlagDUP, Reason: wukong.ReasonBan}, 0),
		`{"jsonrpc":"2.0","id":"1","result":{"header":{"dup":true},"messageId":"0","messageSeq":0,"reasonCode":19}}`)

	var sub wukong.Sub
	for action, method := range []string{MethodSubscribe, MethodUnsubscribe} {
		r = parse(t, `{"method":"`+method+`","id":"x","params":{"subNo":"n","channelId":"d1","channelType":7,"param":"a=1"}}`)
		if err := r.Sub(&sub); err != nil || sub.Action != uint8(action) || string(sub.SubNo) != "n" || string(sub.ChannelID) != "d1" || sub.ChannelType != 7 || string(sub.Param) != "a=1" {
			t.Errorf("%s %+v, %v", method, sub, err)
		}
	}
	equal(t, AppendSuback(nil, r.ID, &wukong.Suback{SubNo: sub.SubNo, ChannelID: sub.ChannelID, ChannelType: 7, Action: 1, Reason: 23}),
		`{"jsonrpc":"2.0","id":"x","result":{"subNo":"n","channelId":"d1","channelType":7,"action":1,"reasonCode":23}}`)

	var d wukong.Disconnect
	if err := parse(t, `{"method":"disconnect"}`).Disconnect(&d); err != nil {
		t.Error(err)
	}
	if err := parse(t, `{"method":"disconnect","params":{"reasonCode":1,"reason":"bye"}}`).Disconnect(&d); err != nil || d.Reason != 1 || string(d.Text) != "bye" {
		t.Errorf("disconnect %+v, %v", d, err)
	}
	equal(t, AppendDisconnect(nil, &wukong.Disconnect{Reason: wukong.ReasonConnectKick, Text: []byte("login in other device")}),
		`{"jsonrpc":"2.0","method":"disconnect","params":{"header":{},"reasonCode":12,"reason":"login in other device"}}`)
	equal(t, AppendEvent(nil, &wukong.Event{ID: []byte("e1"), Type: []byte("stream.delta"), Timestamp: 5, Data: []byte(`{"k":1}`)}),
		`{"jsonrpc":"2.0","method":"event","params":{"header":{},"id":"e1","type":"stream.delta","timestamp":5,"data":"{\"k\":1}"}}`)
	equal(t, AppendConnack(nil, []byte(`"1"`), &wukong.Connack{Reason: wukong.ReasonAuthFail}, 0), `{"jsonrpc":"2.0","id":"1","error":{"code":2,"message":"auth fail"}}`)

	var a wukong.Recvack // a client in a language with whole numbers
	if err := parse(t, `{"method":"recvack","params":{"messageId":2124748411230916608}}`).Recvack(&a); err != nil || a.MessageID != 2124748411230916608 {
		t.Errorf("recvack %+v, %v", a, err)
	}
}

// Nobody gets an answer that did not ask for one.
func TestNoIDNoAnswer(t *testing.T) {
	for _, object := range []string{`{"method":"ping"}`, `{"method":"ping","id":null}`} {
		id := parse(t, object).ID
		for _, got := range [][]byte{AppendResult(nil, id), AppendError(nil, id, &Error{1, "x"}), AppendConnack(nil, id, &wukong.Connack{}, 0),
			AppendSendack(nil, id, &wukong.Sendack{}, 0), AppendSuback(nil, id, &wukong.Suback{})} {
			if len(got) > 0 {
				t.Errorf("%s is answered with %s", object, got)
			}
		}
	}
}

func TestWhatIsWrongWithARequest(t *testing.T) {
	long := strings.Repeat("i", MaxID-2)
	for _, c := range []struct {
		object, id string
		code       int
	}{
		{`{"method":"ping","id":"` + long + `"}`, `"` + long + `"`, 0},
		{`{"method":"ping","id":"` + long + `i"}`, "null", CodeInvalidRequest},
		{`{"method":"ping","id":7}`, "7", 0},
		{`{"method":"ping","id":-1.5e3}`, "-1.5e3", 0},
		{`{"method":"ping","id":` + strings.Repeat("7", MaxID+1) + `}`, "null", CodeInvalidRequest},
		{`{"method":"ping","id":true}`, "null", CodeInvalidRequest},
		{`{"method":"ping","id":{}}`, "null", CodeInvalidRequest},
		{"{\"method\":\"ping\",\"id\":\"\xff\"}", "null", CodeInvalidRequest},
		{`{"method":7,"id":"1"}`, `"1"`, CodeInvalidRequest},
		{`{"id":"1","method":7}`, `"1"`, CodeInvalidRequest},
		{`{"id":"1"}`, `"1"`, CodeInvalidRequest},
		{`{}`, "", CodeInvalidRequest},
		{`{"jsonrpc":"1.0","method":"ping","id":"1"}`, `"1"`, CodeInvalidRequest},
		{`{"jsonrpc":2.0,"method":"ping","id":"1"}`, `"1"`, CodeInvalidRequest},
		{`{"id":"\u00e4\"","method":"ping"}`, `"\u00e4\""`, 0},
	} {
		var r Request
		err := r.Parse([]byte(c.object))
		if c.code == 0 && err != nil {
			t.Errorf("%s: %v", c.object, err)
		} else if c.code != 0 {
			refused(t, c.object, err, c.code)
		}
		if string(r.ID) != c.id {
			t.Errorf("%s: id %s, want %s", c.object, r.ID, c.id)
		}
	}
	for _, object := range []string{`{]`, `{"a"}`, `{"a":1,}`, "{\"a\":\"\x01\"}", `{'a':1}`, `{"a":01}`, `{"a":[}]}`} {
		var r Request
		if err := r.Parse([]byte(object)); !errors.Is(err, ErrSyntax) {
			t.Errorf("%s: %v", object, err)
		}
	}
	var c wukong.Connect
	var s wukong.Send
	var a wukong.Recvack
	var sub wukong.Sub
	huge := strings.Repeat("u", wukong.MaxString+1)
	for params, read := range map[string]func(r *Request) error{
		`null`:                                 func(r *Request) error { return r.Connect(&c) },
		`[]`:                                   func(r *Request) error { return r.Connect(&c) },
		`"x"`:                                  func(r *Request) error { return r.Send(&s) },
		`{"uid":5}`:                            func(r *Request) error { return r.Connect(&c) },
		`{"uid":"` + huge + `"}`:               func(r *Request) error { return r.Connect(&c) },
		`{"version":300}`:                      func(r *Request) error { return r.Connect(&c) },
		`{"deviceFlag":-1}`:                    func(r *Request) error { return r.Connect(&c) },
		`{"payload":7}`:                        func(r *Request) error { return r.Send(&s) },
		`{"payload":true}`:                     func(r *Request) error { return r.Send(&s) },
		`{"payload":"eyJ0IjoxfQ"}`:             func(r *Request) error { return r.Send(&s) },
		`{"payload":"###"}`:                    func(r *Request) error { return r.Send(&s) },
		`{"channelType":256}`:                  func(r *Request) error { return r.Send(&s) },
		`{"channelType":1.5}`:                  func(r *Request) error { return r.Send(&s) },
		`{"expire":-1}`:                        func(r *Request) error { return r.Send(&s) },
		`{"header":{"dup":1}}`:                 func(r *Request) error { return r.Send(&s) },
		`{"header":true}`:                      func(r *Request) error { return r.Send(&s) },
		`{"messageId":"x"}`:                    func(r *Request) error { return r.Recvack(&a) },
		`{"messageId":"` + huge + `"}`:         func(r *Request) error { return r.Recvack(&a) },
		`{"subNo":"` + huge[:maxEcho+1] + `"}`: func(r *Request) error { return r.Sub(&sub) },
		`{"messageId":{}}`:                     func(r *Request) error { return r.Recvack(&a) },
		`{"messageId":"1","messageSeq":-1}`:    func(r *Request) error { return r.Recvack(&a) },
	} {
		r := parse(t, `{"method":"x","id":"1","params":`+params+`}`)
		err := read(r)
		refused(t, params[:min(len(params), 60)], err, CodeInvalidParams)
		if len(err.Error()) > 200 {
			t.Errorf("%.60s: an error of %d bytes", params, len(err.Error()))
		}
		if p := AppendError(nil, r.ID, err.(*Error)); !json.Valid(p) {
			t.Errorf("%.60s: answered with %s", params, p)
		}
	}
	refused(t, "unknown", parse(t, `{"method":"`+huge+`"}`).Unknown(), CodeUnknownMethod)
}

// pieces gives the stream to one Splitter as a socket would.
func pieces(r *rand.Rand, stream []byte) (objects []string, err error) {
	var s Splitter
	from, have := 0, 0
	for {
		object, n, err := s.Split(stream[from:have])
		if err != nil {
			return objects, err
		}
		if object != nil {
			objects = append(objects, string(object))
		}
		if from += n; n > 0 {
			continue
		}
		if have == len(stream) {
			return objects, nil
		}
		have = min(len(stream), have+1+r.IntN(9))
	}
}

func TestObjectsNeedNoDelimiter(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	want := []string{`{}`, `{"a":"}"}`, `{"a":"\"}{"}`, `{"a":"\\"}`, `{"a":[{},{"b":[]}]}`, `{"ä":"\u007d"}`, `{"a":"\\\"}"}`}
	for range 200 {
		var stream []byte
		var sent []string
		for range r.IntN(10) {
			sent = append(sent, want[r.IntN(len(want))])
			stream = append(append(stream, sent[len(sent)-1]...), []string{"", "\n", " \t\r\n"}[r.IntN(3)]...)
		}
		got, err := pieces(r, stream)
		if err != nil || strings.Join(got, "|") != strings.Join(sent, "|") {
			t.Fatalf("%s\ngot  %q, %v\nwant %q", stream, got, err, sent)
		}
	}
}

func TestSplitHasBounds(t *testing.T) {
	deep := strings.Repeat(`{"a":`, MaxDepth-1)
	fits := []byte(`{"a":"` + strings.Repeat("x", MaxObject-8) + `"}`)
	for _, c := range []struct {
		name string
		src  []byte
		err  error
	}{
		{"deepest", []byte(deep + "{}" + strings.Repeat("}", MaxDepth-1)), nil},
		{"too deep", []byte(deep + "{["), ErrTooLarge},
		{"largest", fits, nil},
		{"too large", append([]byte(" "), bytes.Repeat([]byte(`{"`), MaxObject/2)...), ErrTooLarge},
		{"too large with an end", []byte(`{"a":"` + strings.Repeat("x", MaxObject-7) + `"}`), ErrTooLarge},
		{"array", []byte(`[{}]`), ErrSyntax},
		{"text", []byte(`hello`), ErrSyntax},
		{"end", []byte(`{}}`), ErrSyntax},
	} {
		var s Splitter
		src := c.src
		n, err := 1, error(nil)
		for n > 0 && len(src) > 0 && err == nil {
			_, n, err = s.Split(src)
			src = src[n:]
		}
		if !errors.Is(err, c.err) || c.err == nil && len(src) > 0 {
			t.Errorf("%s: %d bytes left, %v, want %v", c.name, len(src), err, c.err)
		}
	}
}

// An object of the largest size that comes byte by byte is looked at once: this
// would take an hour otherwise.
func TestSplitIsLinear(t *testing.T) {
	src := []byte(`{"a":"` + strings.Repeat("x", MaxObject-8) + `"}`)
	var s Splitter
	for i := range src {
		if _, n, err := s.Split(src[:i]); n != 0 || err != nil {
			t.Fatalf("%d of %d bytes: %d, %v", i, len(src), n, err)
		}
		if s.at != i {
			t.Fatalf("looked at %d of %d bytes", s.at, i)
		}
	}
	if _, n, err := s.Split(src); n != len(src) || err != nil {
		t.Errorf("%d of %d bytes, %v", n, len(src), err)
	}
}

// What is appended is what encoding/json reads as the same string.
func TestStringsAreWhatOthersRead(t *testing.T) {
	for _, s := range []string{"", "a", "\x00\x1f \x7f", `"\/`, "\n\r\t\b\f", "äöü€😀", "\u2028", "\xff", "a\xe2\x82", "\xe2\x82\xac\xe2", "\xed\xa0\x80"} {
		var got string
		p := AppendString(nil, s)
		if err := json.Unmarshal(p, &got); err != nil || !utf8.Valid(p) || got != string([]rune(s)) {
			t.Errorf("%q became %s, which is %q, %v", s, p, got, err)
		}
	}
}

func TestAllocsOfAppend(t *testing.T) {
	id := []byte(`"3f0e7a52-8f6e-4f4e-9a57-0d1f7c1f6a11"`)
	dst := make([]byte, 0, 4096)
	v := wukong.Recv{Flags: 15, Setting: wukong.SettingTopic, MessageID: 1 << 60, ClientMsgNo: []byte("nö"), ChannelID: []byte("bob"),
		FromUID: []byte("a\xff\n"), Topic: []byte("t"), Payload: make([]byte, 1000)}
	e := wukong.Event{ID: []byte("1"), Type: []byte("x"), Data: []byte(`{"k":1}`)}
	for name, f := range map[string]func(){
		"result":     func() { AppendResult(dst, id) },
		"connack":    func() { AppendConnack(dst, id, &wukong.Connack{Reason: 1}, 0) },
		"sendack":    func() { AppendSendack(dst, id, &wukong.Sendack{MessageID: 1 << 60, Reason: 1}, StyleSnake) },
		"recv":       func() { AppendRecv(dst, &v, 0) },
		"event":      func() { AppendEvent(dst, &e) },
		"disconnect": func() { AppendDisconnect(dst, &wukong.Disconnect{Text: e.ID}) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// A payload is what the client means, and it is written to as it writes.
func TestPayloadsAndStyles(t *testing.T) {
	const camel, under = `"channelId":"b"`, `"channel_id":"b"`
	for _, c := range []struct {
		params, payload string
		before, after   Style
	}{
		{camel + `,"payload":"eyJ0IjoxfQ=="`, `{"t":1}`, 0, 0},
		{camel + `,"payload":"eyJ0IjoxfQ=="`, `{"t":1}`, StyleObject, 0},
		{camel + `,"payload":"test"`, "\xb5\xeb-", 0, 0},
		{camel + `,"payload":""`, "", 0, 0},
		{camel, "", StyleObject, StyleObject},
		{camel + `,"payload":null`, "", 0, 0},
		{camel + `,"payload":{"t": [1,"}"]}`, `{"t": [1,"}"]}`, 0, StyleObject},
		{camel + `,"payload":[1]`, `[1]`, 0, StyleObject},
		{camel + `,"payload":"{\"t\":1}"`, `{"t":1}`, 0, 0},
		{under + `,"payload":{"t":1}`, `{"t":1}`, 0, StyleSnake | StyleObject},
		{under + `,"payload":"test"`, "test", 0, StyleSnake | StyleObject},
		{under + `,"payload":"eyJ0IjoxfQ=="`, `{"t":1}`, StyleSnake | StyleObject, StyleSnake | StyleObject},
		{under + `,"payload":""`, "", 0, StyleSnake | StyleObject},
	} {
		r := parse(t, `{"method":"send","id":"1","params":{`+c.params+`}}`)
		var s wukong.Send
		if err := r.Send(&s); err != nil || string(s.Payload) != c.payload || string(s.ChannelID) != "b" || r.Style(c.before) != c.after {
			t.Errorf("%s: payload %q, style %d, %v", c.params, s.Payload, r.Style(c.before), err)
		}
	}
	for payload, want := range map[string]string{
		`{"t":1}`: `{"t":1}`, `[{"t":1}]`: `[{"t":1}]`, `"text"`: `"InRleHQi"`, `{"t":1`: `"eyJ0Ijox"`, "{\"t\":\"\xff\"}": `"eyJ0Ijoi/yJ9"`, "": `""`, "{": `"ew=="`,
	} {
		if got := string(AppendRecv(nil, &wukong.Recv{Payload: []byte(payload)}, StyleObject)); !strings.HasSuffix(got, `"payload":`+want+`}}`) {
			t.Errorf("%q is pushed as %s", payload, got)
		}
	}
	equal(t, AppendSendack(nil, []byte(`1`), &wukong.Sendack{MessageID: 5, MessageSeq: 6, Reason: 1}, StyleSnake),
		`{"jsonrpc":"2.0","id":1,"result":{"message_id":"5","message_seq":6,"reason_code":1}}`)
	equal(t, AppendConnack(nil, []byte(`1`), &wukong.Connack{ServerVersion: 5, TimeDiff: -7, Reason: 1, NodeID: 3}, StyleSnake),
		`{"jsonrpc":"2.0","id":1,"result":{"server_version":5,"time_diff":-7,"reason_code":1,"node_id":3}}`)
	var c wukong.Connect
	if err := parse(t, `{"method":"connect","params":{"uid":"u","device_id":"d","device_flag":1,"client_timestamp":9}}`).Connect(&c); err != nil ||
		string(c.DeviceID) != "d" || c.DeviceFlag != 1 || c.ClientTimestamp != 9 {
		t.Errorf("connect %+v, %v", c, err)
	}
	var a wukong.Recvack
	if err := parse(t, `{"method":"recvack","params":{"header":{"red_dot":true},"message_id":"9","message_seq":3}}`).Recvack(&a); err != nil ||
		a.MessageID != 9 || a.MessageSeq != 3 || a.Flags != wukong.FlagRedDot {
		t.Errorf("recvack %+v, %v", a, err)
	}
}
