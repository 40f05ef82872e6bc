package session

import (
	"errors"
	"slices"

	"gatepost/jsonrpc"
	"gatepost/wukong"
)

// versionJSON is the version of a connection that speaks JSON-RPC, plus its
// jsonrpc.Style. It is said by the first byte that is no white space or, on a
// WebSocket, by a text message.
const versionJSON = 256 - jsonrpc.Styles

func (p *peer) json() bool { return p.version >= versionJSON }

// style is how a connection that speaks JSON-RPC writes.
func (p *peer) style() jsonrpc.Style { return jsonrpc.Style(p.version - versionJSON) }

func (p *peer) setStyle(s jsonrpc.Style) { p.version = versionJSON + uint8(s) }

// maxUnanswered is how many SENDs of a connection may wait for the log. An answer
// in JSON has about 150 bytes, 310 at most, instead of 21.
func (p *peer) maxUnanswered() int16 {
	if p.json() {
		return maxUnanswered / 16
	}
	return maxUnanswered
}

// maxSpace is how many bytes of white space may come before the first request.
const maxSpace = 64

// blank returns how many bytes of white space src begins with. No CONNECT in binary
// begins with one.
func blank(src []byte) (n int) {
	for n < len(src) && (src[n] == ' ' || src[n] == '\t' || src[n] == '\r' || src[n] == '\n') {
		n++
	}
	return n
}

// asked is a SEND in JSON that waits for its answer. The answer comes with a
// ClientSeq, which such a SEND does not have: it gets one.
type asked struct {
	seq uint32
	id  []byte
}

var (
	errFirst  = &jsonrpc.Error{Code: jsonrpc.CodeInvalidRequest, Message: "the first request must be connect"}
	errSecond = &jsonrpc.Error{Code: jsonrpc.CodeInvalidRequest, Message: "this connection is logged in"}
)

// object is next for a connection that speaks JSON-RPC.
func (g *Gate) object(p *peer, src []byte) (n int, wait pause, err error) {
	id := p.conn.ID()
	s := g.parts[id]
	object, n, err := s.Split(src)
	if err != nil || n == 0 {
		g.parts[id] = s
		return 0, 0, err
	}
	delete(g.parts, id)
	if object == nil { // space
		return n, 0, nil
	}
	wait, err = g.request(p, object)
	return n, wait, err
}

// request handles one object. What is wrong with it is said to the client, and
// ends the connection only before the login.
func (g *Gate) request(p *peer, object []byte) (wait pause, err error) {
	r := &g.call
	if err = r.Parse(object); err == nil {
		wait, err = g.serve(p, r)
	}
	var wrong *jsonrpc.Error
	if errors.As(err, &wrong) {
		g.reply(p, jsonrpc.AppendError(g.out[:0], r.ID, wrong))
		if p.state == stateLive {
			err = nil
		}
	}
	return wait, err
}

// serve is frame for requests.
func (g *Gate) serve(p *peer, r *jsonrpc.Request) (wait pause, err error) {
	if p.state == stateNew {
		if r.Method != jsonrpc.MethodConnect {
			return 0, errFirst
		}
		var c wukong.Connect
		if err := r.Connect(&c); err != nil {
			return 0, err
		}
		p.setStyle(r.Style(p.style()))
		g.enter(p, &c)
		return 0, nil
	}
	switch r.Method {
	case jsonrpc.MethodSend:
		if g.stalled {
			return pauseLog, nil
		}
		if err := r.Send(&g.send); err != nil {
			return 0, err
		}
		p.setStyle(r.Style(p.style()))
		if g.inquire(p, &g.send) {
			return pauseAsk, nil
		}
		g.send.ClientSeq = g.ask(p, r.ID)
		g.submit(p, &g.send)
		return 0, nil // it is answered when it is stored
	case jsonrpc.MethodRecvack:
		var a wukong.Recvack
		if err := r.Recvack(&a); err != nil {
			return 0, err
		}
		g.acked(p, a.MessageID)
	case jsonrpc.MethodPing:
	case jsonrpc.MethodSubscribe, jsonrpc.MethodUnsubscribe: // no channel can be subscribed to
		var s wukong.Sub
		if err := r.Sub(&s); err != nil {
			return 0, err
		}
		g.reply(p, jsonrpc.AppendSuback(g.out[:0], r.ID, &wukong.Suback{
			Flags: s.Flags, SubNo: s.SubNo, ChannelID: s.ChannelID, ChannelType: s.ChannelType, Action: s.Action,
			Reason: wukong.ReasonNotSupportChannelType,
		}))
		return 0, nil
	case jsonrpc.MethodDisconnect:
		p.conn.Finish() // behind the answers to what came before
	case jsonrpc.MethodConnect:
		return 0, errSecond
	default:
		return 0, r.Unknown()
	}
	g.reply(p, jsonrpc.AppendResult(g.out[:0], r.ID))
	return 0, nil
}

// ask notes that a SEND wants an answer and returns its ClientSeq.
func (g *Gate) ask(p *peer, id []byte) uint32 {
	g.asks++
	if len(id) > 0 {
		g.asked[p.conn.ID()] = append(g.asked[p.conn.ID()], asked{g.asks, id})
	}
	return g.asks
}

// writeResult is writeAck for JSON.
func (g *Gate) writeResult(p *peer, a *wukong.Sendack) bool {
	id := p.conn.ID()
	all := g.asked[id]
	i := slices.IndexFunc(all, func(q asked) bool { return q.seq == a.ClientSeq }) // nearly always the first
	if i < 0 {
		return true // no answer is wanted
	}
	if !g.reply(p, jsonrpc.AppendSendack(g.out[:0], all[i].id, a, p.style())) {
		return false
	}
	if len(all) == 1 {
		delete(g.asked, id)
	} else {
		g.asked[id] = slices.Delete(all, i, i+1)
	}
	return true
}
