package session

import (
	"encoding/json"
	"net"
	"testing"
	"time"

	"gatepost/guesses"
	"gatepost/message"
	"gatepost/wukong"
)

// guess tries to log in as alice with a token, from an address.
func (r *rig) guess(from, token string) *client {
	r.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	c := &client{Conn: conn, t: r.t, uid: "alice"}
	c.write((&wukong.Connect{Version: 5, DeviceID: []byte("d"), UID: []byte("alice"), Token: []byte(token)}).Append(nil))
	return c
}

// connack returns the reason of the next frame, a CONNACK.
func (c *client) connack() wukong.Reason {
	c.t.Helper()
	var a wukong.Connack
	f, ok := c.frame(20 * time.Second)
	if !ok || f.Type != wukong.TypeConnack {
		c.t.Fatalf("%v, %v instead of a CONNACK", f.Type, ok)
	}
	if err := a.Decode(f, 5); err != nil {
		c.t.Fatal(err)
	}
	return a.Reason
}

func guessRig(t *testing.T, wait time.Duration) *rig {
	r := prepareRig(t, func(o *Options) { o.Tokens = true })
	r.gate.guessPause = wait
	r.begin()
	r.change(message.Record{Kind: message.KindUser, FromUID: []byte("alice"),
		Payload: message.AppendUserChange(nil, &message.UserChange{Op: message.OpToken, Token: message.NewToken(0, message.LevelMaster, []byte("right"))})})
	for k := range guesses.Free {
		if reason := r.guess("127.0.0.1", "wrong").connack(); reason != wukong.ReasonAuthFail {
			t.Fatalf("wrong token %d: %v", k+1, reason)
		}
	}
	return r
}

// Who guesses tokens waits for the answers, and nobody else does: not who has the
// right one at the same address, and not who has a wrong one at another.
func TestWhoGuessesTokensWaits(t *testing.T) {
	r := guessRig(t, time.Hour)
	if n := r.gate.Stats().LoginsLate.Load(); n != 0 {
		t.Errorf("%d of the first wrong tokens wait", n)
	}
	r.guess("127.0.0.1", "wrong")
	until(t, "a guess waits", func() bool { return r.gate.Stats().LoginsLate.Load() == 1 })
	if reason := r.guess("127.0.0.1", "right").connack(); reason != wukong.ReasonSuccess {
		t.Errorf("the right token of the same address: %v", reason)
	}
	if reason := r.guess("127.0.0.2", "wrong").connack(); reason != wukong.ReasonAuthFail {
		t.Errorf("a wrong token of another address: %v", reason)
	}
	if n := r.gate.Stats().LoginsLate.Load(); n != 1 {
		t.Errorf("%d logins wait, want 1", n)
	}
}

// The answers come, each in the language of its question; and to nobody who is gone.
func TestGuessesAreAnsweredLate(t *testing.T) {
	r := guessRig(t, 50*time.Millisecond)
	r.guess("127.0.0.1", "wrong").Close()
	binary := r.guess("127.0.0.1", "wrong")
	text, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer text.Close()
	if _, err := text.Write([]byte(`{"method":"connect","id":"7","params":{"uid":"alice","token":"wrong","deviceId":"d"}}`)); err != nil {
		t.Fatal(err)
	}
	if reason := binary.connack(); reason != wukong.ReasonAuthFail {
		t.Errorf("in binary: %v", reason)
	}
	if f, ok := binary.frame(20 * time.Second); ok {
		t.Errorf("then %v instead of the end", f.Type)
	}
	var answer struct {
		ID    string
		Error *struct{ Code int }
	}
	_ = text.SetReadDeadline(time.Now().Add(20 * time.Second))
	if err := json.NewDecoder(text).Decode(&answer); err != nil || answer.ID != "7" || answer.Error == nil || answer.Error.Code != int(wukong.ReasonAuthFail) {
		t.Errorf("in JSON: %+v, %v", answer, err)
	}
	if n := r.gate.Stats().LoginsLate.Load(); n != 3 {
		t.Errorf("%d answers were late, want 3", n)
	}
}

// More guesses than there is room for get no answer at all.
func TestWaitingGuessesTakeLittle(t *testing.T) {
	r := guessRig(t, time.Hour)
	for range maxLate + 10 {
		r.guess("127.0.0.1", "wrong")
	}
	until(t, "all guesses have come", func() bool { return r.gate.Stats().LoginsLate.Load() == maxLate+10 })
	if reason := r.guess("127.0.0.1", "right").connack(); reason != wukong.ReasonSuccess {
		t.Errorf("the right token among them: %v", reason)
	}
}
