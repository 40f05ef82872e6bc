package e2e

import (
	"crypto/ecdh"
	"encoding/hex"
	"reflect"
	"testing"
)

// The client of these tests against the vectors of the protocol description:
// if it were wrong, a broker wrong in the same way would pass.

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	p, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func rigFrame(t *testing.T, s string) frame {
	t.Helper()
	p := unhex(t, s)
	for i := range p { // nothing but the whole is a frame
		if _, n, err := splitFrame(p[:i]); n != 0 || err != nil {
			t.Fatalf("%d of %d bytes: a frame of %d bytes, %v", i, len(p), n, err)
		}
	}
	f, n, err := splitFrame(p)
	if err != nil || n != len(p) {
		t.Fatalf("%s: %d of %d bytes, %v", s, n, len(p), err)
	}
	return f
}

func rigBox(t *testing.T) *box {
	t.Helper()
	private := make([]byte, 32)
	for i := range private {
		private[i] = byte(i + 1)
	}
	key, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	if got := publicKey(key); got != "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw=" {
		t.Fatalf("public key %s", got)
	}
	b, err := newBox(key, "ST6C/HRGSlkmiBdiPSBTxeuOLMSpiLT+4XnsawENUx0=", "a1B2c3D4e5F6g7H8")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRigEncodes(t *testing.T) {
	sealed := send{flags: flagRedDot, seq: 1, no: "no-0001", channel: "bob", kind: person}
	rigBox(t).lock(&sealed, []byte(`{"type":1,"content":"hello"}`))
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"connect v5": {connect{version: 5, deviceID: "dev-1", uid: "alice", token: "tok-1", timestamp: 1700000000123, key: "B6N8vBQgk8i3VdwbEOhstCY3StFqqFPtC9/AsrhtHHw="}.append(nil),
			"104d050000056465762d310005616c6963650005746f6b2d310000018bcfe5687b002c42364e38764251676b38693356647762454f687374435933537446717146507443392f41737268744848773d"},
		"send v1": {send{seq: 1, no: "n1", channel: "bob", kind: person, payload: []byte("hi")}.append(nil, 1),
			"3013000000000100026e310003626f620100006869"},
		"send v3 with expire": {send{seq: 2, no: "n2", channel: "bob", kind: person, expire: 3600, payload: []byte("hi")}.append(nil, 3),
			"3017000000000200026e320003626f620100000e1000006869"},
		"send v5 to a group with topic": {send{flags: flagRedDot | flagSyncOnce, setting: settingTopic | settingReceipt, seq: 4294967295, no: "n3", channel: "g1", kind: group, expire: 60, msgKey: "k", topic: "t1", payload: []byte{0, 1, 2, 255}}.append(nil, 5),
			"361d88ffffffff00026e3300026731020000003c00016b00027431000102ff"},
		"send v5 encrypted": {sealed.append(nil, 5),
			"3266000000000100076e6f2d303030310003626f62010000000000203935373531383462316535336536323238653332393661653935643561336630326b42446d4a3641505a7333663361566f31382b637a4a7536686f734c353035476f48776774316d7051733d"},
		"send v4 of a stream": {send{setting: settingStream, seq: 9, no: "n9", stream: "s-1", channel: "bob", kind: person, payload: []byte("x")}.append(nil, 4),
			"301b020000000900026e390003732d310003626f620100000000000078"},
		"recvack": {appendRecvack(nil, &recv{flags: flagRedDot | flagSyncOnce | flagDUP, id: 99, seq: 1}),
			"660c000000000000006300000001"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s:\n%s, want\n%s", name, got, c.want)
		}
	}
}

func TestRigDecodes(t *testing.T) {
	const key, salt = "ST6C/HRGSlkmiBdiPSBTxeuOLMSpiLT+4XnsawENUx0=", "a1B2c3D4e5F6g7H8"
	check := func(name string, v any, err error, want any) {
		t.Helper()
		if err != nil || !reflect.DeepEqual(v, want) {
			t.Errorf("%s: %+v, %v, want %+v", name, v, err, want)
		}
	}
	a, err := parseConnack(rigFrame(t, "215205000000000000002a01002c535436432f485247536c6b6d69426469505342547865754f4c4d5370694c542b34586e736177454e5578303d00106131423263334434653546366737483800000000000003e9"), 5)
	check("connack v5", a, err, connack{hasVersion: true, serverVersion: 5, timeDiff: 42, reason: 1, key: key, salt: salt, node: 1001})
	a, err = parseConnack(rigFrame(t, "2049000000000000000001002c535436432f485247536c6b6d69426469505342547865754f4c4d5370694c542b34586e736177454e5578303d001061314232633344346535463667374838"), 3)
	check("connack v3", a, err, connack{reason: 1, key: key, salt: salt})
	s, err := parseSendack(rigFrame(t, "4011112210f47de98115000000010000000701"))
	check("sendack", s, err, sendack{id: 1234567890123456789, client: 1, seq: 7, reason: 1})

	m, err := parseRecv(rigFrame(t, "527b00002062616261323764613835383134643832653636633435666537363965616264660005616c6963650005616c696365010000000000076e6f2d30303031112210f47de98115000000076553f100326b42446d4a3641505a7333663361566f31382b637a4a7536686f734c353035476f48776774316d7051733d"), 5, rigBox(t))
	check("recv v5 encrypted", m, err, recv{flags: flagRedDot, msgKey: "baba27da85814d82e66c45fe769eabdf", from: "alice", channel: "alice", kind: person,
		no: "no-0001", id: 1234567890123456789, seq: 7, timestamp: 1700000000, payload: []byte(`{"type":1,"content":"hello"}`)})
	m, err = parseRecv(rigFrame(t, "502d0800000005616c69636500026731020000000000016e0000000000000063000000016553f10100027431686579"), 3, nil)
	check("recv v3 with topic", m, err, recv{setting: settingTopic, from: "alice", channel: "g1", kind: group, no: "n", id: 99, seq: 1, timestamp: 1700000001, topic: "t1", payload: []byte("hey")})
	m, err = parseRecv(rigFrame(t, "50340200000002616900026731020000000000016e020003732d3100000000000000050000000000000064000000026553f102746f6b"), 4, nil)
	check("recv v4 of a stream", m, err, recv{setting: settingStream, from: "ai", channel: "g1", kind: group, no: "n", streamFlag: 2, stream: "s-1", streamID: 5, id: 100, seq: 2, timestamp: 1700000002, payload: []byte("tok")})
	m, err = parseRecv(rigFrame(t, "501e0000000001610001670200016e0000000000000001000000010000000170"), 2, nil)
	check("recv v2", m, err, recv{from: "a", channel: "g", kind: group, no: "n", id: 1, seq: 1, timestamp: 1, payload: []byte("p")})

	// A message key that does not fit is an error, not a message.
	p := rigFrame(t, "527b00002062616261323764613835383134643832653636633435666537363965616264660005616c6963650005616c696365010000000000076e6f2d30303031112210f47de98115000000076553f100326b42446d4a3641505a7333663361566f31382b637a4a7536686f734c353035476f48776774316d7051733d")
	p.body[60] ^= 1 // in client_msg_no
	if m, err := parseRecv(p, 5, rigBox(t)); err == nil {
		t.Errorf("a changed RECV was accepted: %v", &m)
	}
}

// distinct takes a message once, however often it was pushed.
func TestRigLedger(t *testing.T) {
	l := newLedger()
	for _, m := range []recv{{channel: "a", seq: 1}, {channel: "b", seq: 1}, {channel: "a", seq: 2}, {channel: "a", seq: 1, flags: flagDUP}, {channel: "a", seq: 3}} {
		l.onRecv(&m)
	}
	if got := l.distinct(t, 4); len(got) != 4 || got[3].seq != 3 {
		t.Errorf("4 messages, one of them twice, are %v", got)
	}
}

// compare finds what is lost, there twice, out of order, or not what it was.
func TestRigCompare(t *testing.T) {
	const n = 10
	l := &load{name: "rig", heard: newLedger()}
	for range loadSenders {
		l.outs = append(l.outs, newLedger())
	}
	store := func() (all []*recv) {
		for k := range n {
			payload := make([]byte, 8)
			payload[7] = byte(k)
			all = append(all, &recv{from: l.sender(0), channel: l.sender(0), no: l.number(0, k), id: int64(100 + k), seq: uint32(k + 1), payload: payload})
		}
		return all
	}
	for k := range n - 1 { // the last one was never acknowledged
		l.outs[0].acks = append(l.outs[0].acks, sendack{id: int64(100 + k), client: uint32(k + 1), seq: uint32(k + 1), reason: reasonSuccess})
	}
	l.heard.got = store()[:3]
	for name, c := range map[string]struct {
		change      func(all []*recv) []*recv
		lost, wrong int
	}{
		"all there":              {func(all []*recv) []*recv { return all }, 0, 0},
		"the unacknowledged one": {func(all []*recv) []*recv { return all[:n-1] }, 0, 0},
		"the last acknowledged":  {func(all []*recv) []*recv { return all[:n-2] }, 1, 0},
		"one in the middle":      {func(all []*recv) []*recv { return append(all[:4:4], all[5:]...) }, 1, 1},
		"all gone, RECVs too":    {func(all []*recv) []*recv { return nil }, n - 1 + 3, 0},
		"another id":             {func(all []*recv) []*recv { all[6].id = 7; return all }, 1, 0},
		"stored twice": {func(all []*recv) []*recv {
			twice := *all[9]
			twice.seq++
			return append(all, &twice)
		}, 0, 2},
		"two change places": {func(all []*recv) []*recv {
			all[7], all[8] = all[8], all[7]
			all[7].seq, all[8].seq = all[8].seq, all[7].seq
			return all
		}, 2, 3},
	} {
		if h := l.compare(c.change(store())); len(h.lost) != c.lost || len(h.wrong) != c.wrong {
			t.Errorf("%s: %v\nlost %v\nwrong %v, want %d and %d", name, h, h.lost, h.wrong, c.lost, c.wrong)
		}
	}
}
