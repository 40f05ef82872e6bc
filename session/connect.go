package session

import (
	"errors"
	"fmt"
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
	answer := wukong.Connack{TimeDiff: time.Now().UnixMilli() - c.ClientTimestamp, NodeID: g.o.NodeID}
	if c.Version > 3 || p.json() {
		answer.ServerVersion = min(c.Version, wukong.LatestVersion)
	}
	var token *message.Token
	why := checkConnect(c)
	if answer.Reason = wukong.ReasonAuthFail; why == nil {
		answer.Reason, token = g.login(p, c, &answer)
	}
	if answer.Reason != wukong.ReasonSuccess {
		answer.ServerKey, answer.Salt, answer.NodeID = nil, nil, 0
		g.stats.LoginsFail.Add(1)
		fields := []any{"remote", p.conn.RemoteAddr(), "reason", answer.Reason.String()}
		if why != nil {
			fields = append(fields, "err", why)
		}
		g.complaints.add(g.now, "login refused", fields...)
		if p.json() && why != nil {
			g.reply(p, jsonrpc.AppendError(g.out[:0], g.call.ID, &jsonrpc.Error{
				Code: int(answer.Reason), Message: fmt.Sprintf("%s: %v", answer.Reason, why)}))
		} else {
			g.connack(p, &answer)
		}
		p.state = stateClosing
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
	if p.json() {
		return g.reply(p, jsonrpc.AppendConnack(g.out[:0], g.call.ID, a, p.style()))
	}
	return g.reply(p, a.Append(g.out[:0], p.version))
}

// reply writes what was appended to g.out. It reports false if there is no room.
func (g *Gate) reply(p *peer, out []byte) bool {
	g.out = out
	return p.conn.Write(out)
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

// login checks who a client is and exchanges keys. It returns the token that it checked,
// nil if none is needed.
func (g *Gate) login(p *peer, c *wukong.Connect, answer *wukong.Connack) (wukong.Reason, *message.Token) {
	var token *message.Token
	if g.o.Tokens {
		token = g.access.Account(c.UID).Token(c.DeviceFlag)
		known := token != nil
		if !known { // as much work, so that the time does not tell who has a token
			token = new(message.Token)
		}
		if !token.Matches(c.Token) || !known {
			return wukong.ReasonAuthFail, nil
		}
	}
	if g.access.Banned(c.UID) {
		return wukong.ReasonBan, nil
	}
	if !g.o.Encryption || p.json() {
		return wukong.ReasonSuccess, token
	}
	return g.exchangeKeys(p, c, answer), token
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
