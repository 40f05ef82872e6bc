package session

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"gatepost/broker"
	"gatepost/jsonrpc"
	"gatepost/message"
	"gatepost/wukong"
)

// attach is what the core is told of a connection.
func (p *peer) attach(loop uint16, deviceID string) broker.Attach {
	return broker.Attach{UID: p.uid, DeviceID: deviceID, Conn: p.conn.ID(), Tag: p.positionTag(), Loop: loop, Device: p.device}
}

// LoginBytes is more than any CONNECT has: names and a token of a few KiB.
const LoginBytes = 16 << 10

// connect handles a CONNECT.
func (g *Gate) connect(p *peer, f wukong.Frame) error {
	var c wukong.Connect
	if err := c.Decode(f); err != nil {
		return err
	}
	p.version = min(c.Version, wukong.LatestVersion)
	g.enter(p, &c)
	return nil
}

// enter logs a connection in or refuses it with the reason.
func (g *Gate) enter(p *peer, c *wukong.Connect) {
	now := time.Now()
	answer := wukong.Connack{TimeDiff: now.UnixMilli() - c.ClientTimestamp, NodeID: g.o.NodeID}
	if c.Version > 3 || p.json() {
		answer.ServerVersion = min(c.Version, wukong.LatestVersion)
	}
	var token *message.Token
	guess := false
	why := checkConnect(c)
	if answer.Reason = wukong.ReasonAuthFail; why == nil {
		if token, guess = g.checkToken(c); !guess {
			answer.Reason = g.login(p, c, &answer)
		}
	}
	if answer.Reason != wukong.ReasonSuccess {
		answer.ServerKey, answer.Salt, answer.NodeID = nil, nil, 0
		g.stats.LoginsFail.Add(1)
		fields := []any{"remote", p.conn.RemoteAddr(), "reason", answer.Reason.String()}
		if why != nil {
			fields = append(fields, "err", why)
		}
		g.complaints.add(g.now, "login refused", fields...)
		p.state = stateClosing
		if guess && g.guesses.Wrong(p.conn.RemoteAddr().Addr(), now) {
			g.answerLater(p, &answer, now)
			return
		}
		if p.json() && why != nil {
			g.reply(p, jsonrpc.AppendError(g.out[:0], g.call.ID, &jsonrpc.Error{
				Code: int(answer.Reason), Message: fmt.Sprintf("%s: %v", answer.Reason, why)}))
		} else {
			g.connack(p, &answer)
		}
		p.conn.Close(errLogin)
		return
	}
	p.uid, p.device = string(c.UID), c.DeviceFlag
	if p.tag = message.DeviceTag(c.DeviceID); len(c.DeviceID) == 0 { // a device of its own
		p.tag = nameless | message.DeviceTag(fmt.Append(nil, p.conn.ID(), g.index, g.now.UnixNano()))
	}
	master := g.o.Master
	if token != nil {
		master = token.Level == message.LevelMaster
	}
	p.state = stateLive
	p.conn.SetEstablished()
	g.stats.Live.Add(1)
	g.stats.Logins.Add(1)
	// The CONNACK stands in the output before any push can.
	if !g.connack(p, &answer) {
		p.conn.Close(errOutput)
		return
	}
	a := p.attach(g.index, string(c.DeviceID))
	a.Master, a.Token = master, token
	if err := g.core.Attach(a); err != nil {
		p.conn.Close(errClosed)
	}
}

func (g *Gate) connack(p *peer, a *wukong.Connack) bool {
	return g.reply(p, g.appendConnack(g.out[:0], p, a))
}

// appendConnack appends the answer to the CONNECT at hand.
func (g *Gate) appendConnack(dst []byte, p *peer, a *wukong.Connack) []byte {
	if p.json() {
		return jsonrpc.AppendConnack(dst, g.call.ID, a, p.style())
	}
	return a.Append(dst, p.version)
}

// reply writes what was appended to g.out. It reports false if there is no room.
func (g *Gate) reply(p *peer, out []byte) bool {
	g.out = out
	return p.conn.Write(out)
}

const (
	// guessPause is how long who guesses tokens waits for each answer: inside any
	// reasonable net.login_timeout.
	guessPause = time.Second
	// maxLate bounds the answers that wait, 100 to 300 bytes each.
	maxLate = 1024
)

// late is an answer to a guess that waits.
type late struct {
	conn   uint64
	at     time.Time
	answer []byte
}

// answerLater has a guess wait for its answer, on a connection of which nothing is
// taken any more. Where too many wait there is none: netio ends the connection, as
// one that did not log in.
func (g *Gate) answerLater(p *peer, a *wukong.Connack, now time.Time) {
	g.stats.LoginsLate.Add(1)
	if len(g.late) < maxLate {
		g.late = append(g.late, late{p.conn.ID(), now.Add(g.guessPause), g.appendConnack(nil, p, a)})
	}
}

// answerLate answers the guesses that have waited, and returns when the next one
// has, below 0 if none waits.
func (g *Gate) answerLate(now time.Time) time.Duration {
	n := 0
	for ; n < len(g.late) && !now.Before(g.late[n].at); n++ {
		if c := g.loop.Lookup(g.late[n].conn); c != nil {
			c.Write(g.late[n].answer)
			c.Close(errLogin)
		}
	}
	if g.late = slices.Delete(g.late, 0, n); len(g.late) == 0 {
		g.late = nil // an attack is seldom
		return -1
	}
	return g.late[0].at.Sub(now)
}

// checkConnect says what is wrong with what a client calls itself.
func checkConnect(c *wukong.Connect) error {
	if c.Version == 0 {
		return errors.New("there is no version 0 of the protocol")
	}
	if err := message.CheckUID(c.UID); err != nil {
		return fmt.Errorf("the uid: %w", err)
	}
	if reserved(string(c.UID)) {
		return errors.New("the uid stands for the system itself")
	}
	if err := message.CheckName(c.DeviceID, message.MaxName); err != nil {
		return fmt.Errorf("the device id: %w", err)
	}
	return nil
}

// checkToken returns the token that a client has, nil if none is needed, and whether
// it has a wrong one.
func (g *Gate) checkToken(c *wukong.Connect) (token *message.Token, wrong bool) {
	if !g.o.Tokens {
		return nil, false
	}
	token = g.access.Account(c.UID).Token(c.DeviceFlag)
	known := token != nil
	if !known { // as much work, so that the time does not tell who has a token
		token = new(message.Token)
	}
	if !token.Matches(c.Token) || !known {
		return nil, true
	}
	return token, false
}

// login checks what a client whose token is right may do, and exchanges keys.
func (g *Gate) login(p *peer, c *wukong.Connect, answer *wukong.Connack) wukong.Reason {
	if g.access.Banned(c.UID) {
		return wukong.ReasonBan
	}
	if !g.o.Encryption || p.json() {
		return wukong.ReasonSuccess
	}
	return g.exchangeKeys(p, c, answer)
}

// exchangeKeys makes the keys of a connection.
func (g *Gate) exchangeKeys(p *peer, c *wukong.Connect, answer *wukong.Connack) wukong.Reason {
	if len(c.ClientKey) == 0 {
		return wukong.ReasonClientKeyIsEmpty
	}
	private, err := wukong.NewPrivateKey()
	if err != nil {
		return wukong.ReasonSystemError
	}
	salt, err := wukong.NewSalt()
	if err != nil {
		return wukong.ReasonSystemError
	}
	keys, err := wukong.DeriveKeys(private, c.ClientKey, []byte(salt))
	if err != nil {
		return wukong.ReasonAuthFail
	}
	p.keys = &keys
	answer.ServerKey, answer.Salt = []byte(wukong.PublicKey(private)), []byte(salt)
	return wukong.ReasonSuccess
}

// systemUID is the sender of what the application sends without saying for whom. A
// RECV has no name then.
const systemUID = "____system"

// reserved reports whether a uid stands for the system itself.
func reserved(uid string) bool {
	return uid == systemUID || uid == "____manager" || message.Reserved([]byte(uid))
}
