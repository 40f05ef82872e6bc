package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// WebSocket frame, RFC 6455 section 5.2:
//
//	+---+---+--------+----+-------+----------------------+---------+---------+
//	|FIN|RSV| opcode |MASK| len 7 | len 16 if 126,       | mask    | payload |
//	| 1 | 3 |   4    | 1  |       | 64 if 127            | 32      |         |
//	+---+---+--------+----+-------+----------------------+---------+---------+
//
// Clients must mask; our frames are final and not masked.
const (
	opContinue = 0
	opText     = 1
	opBinary   = 2
	opClose    = 8
	opPing     = 9
	opPong     = 10

	wsControl   = 125     // payload of a control frame at most
	strangerOut = 4 << 10 // unsent output at which who is not logged in gets no more pongs

	wsMessage = 16 << 20 // payload of a message at most; it is a stream, nothing keeps it whole

	closeNormal   = 1000
	closeAway     = 1001
	closeProtocol = 1002
	closeUTF8     = 1007
	closePolicy   = 1008 // what the handler did not like
	closeLarge    = 1009
)

// wsError is a broken rule with its close code.
type wsError struct {
	code uint16
	why  string
}

func (e *wsError) Error() string { return fmt.Sprintf("%v: %s (%d)", ErrWebSocket, e.why, e.code) }
func (e *wsError) Unwrap() error { return ErrWebSocket }

// webSocket is what a WebSocket connection needs besides its Conn. The input
// ring holds first ready bytes of payload, then bytes not looked at yet.
type webSocket struct {
	parser    wsParser
	ready     int
	head      uint8  // bytes kept for a header before what Out returned last
	code      uint16 // of the peer's close frame, or 0
	text      bool   // what Text returns
	sendText  bool   // see SendText
	closeSent bool
}

// wsParser cuts a stream of frames into pieces of payload. It keeps no bytes.
type wsParser struct {
	left      int64 // payload of the current data frame still to come
	message   int64 // payload of the current message so far announced
	mask      uint32
	text      bool // the current message is text
	inMessage bool // a message began and its final frame did not end yet
	final     bool // the current data frame is the message's last
	runes     utf8Checker
}

// next finds the first piece in raw: raw[skip:skip+size], unmasked in place.
// op is opText or opBinary for payload of a message of that type, or a control
// frame's. skip+size bytes are to be consumed; none when bytes are missing.
func (w *wsParser) next(raw []byte) (op, skip, size int, err error) {
	if w.left == 0 {
		if op, skip, size, err = w.header(raw); err != nil || skip == 0 || op >= opClose {
			return op, skip, size, err
		}
		raw = raw[skip:]
	}
	size = int(min(w.left, int64(len(raw))))
	w.mask = unmask(raw[:size], w.mask)
	w.left -= int64(size)
	op = opBinary
	if w.text {
		op = opText
		if !w.runes.add(raw[:size]) {
			return 0, 0, 0, &wsError{closeUTF8, "text is not UTF-8"}
		}
	}
	if w.left == 0 && w.final {
		w.inMessage = false
		if w.text && !w.runes.whole() {
			return 0, 0, 0, &wsError{closeUTF8, "text ends inside a character"}
		}
	}
	return op, skip, size, nil
}

// header reads a frame header; skip is 0 when bytes are missing. A control
// frame is read whole.
func (w *wsParser) header(raw []byte) (op, skip, size int, err error) {
	protocol := func(why string) (int, int, int, error) { return 0, 0, 0, &wsError{closeProtocol, why} }
	if len(raw) < 2 {
		return 0, 0, 0, nil
	}
	op = int(raw[0] & 15)
	final, control := raw[0]&0x80 != 0, op >= opClose
	length, skip := int64(raw[1]&0x7f), 2
	switch {
	case raw[0]&0x70 != 0:
		return protocol("reserved bits are set")
	case raw[1]&0x80 == 0:
		return protocol("the client does not mask")
	case op > opPong || op > opBinary && !control:
		return protocol("unknown opcode")
	case control && (!final || length > wsControl):
		return protocol("a control frame is in fragments or too long")
	case !control && op != opContinue && w.inMessage:
		return protocol("a message begins inside another")
	case op == opContinue && !w.inMessage:
		return protocol("a continuation without a beginning")
	}
	switch length {
	case 126:
		if len(raw) < 4 {
			return 0, 0, 0, nil
		}
		length, skip = int64(binary.BigEndian.Uint16(raw[2:])), 4
		if length < 126 {
			return protocol("the length is not in its shortest form")
		}
	case 127:
		if len(raw) < 10 {
			return 0, 0, 0, nil
		}
		l := binary.BigEndian.Uint64(raw[2:])
		if l>>63 != 0 || l < 1<<16 {
			return protocol("the length is not in its shortest form")
		}
		length, skip = int64(l), 10
	}
	if len(raw) < skip+4 {
		return 0, 0, 0, nil
	}
	mask := binary.LittleEndian.Uint32(raw[skip:])
	skip += 4
	if control {
		if len(raw) < skip+int(length) {
			return 0, 0, 0, nil
		}
		unmask(raw[skip:skip+int(length)], mask)
		return op, skip, int(length), nil
	}
	if op != opContinue {
		w.text, w.message, w.runes = op == opText, 0, utf8Checker{}
	}
	if length > wsMessage-w.message {
		return 0, 0, 0, &wsError{closeLarge, fmt.Sprintf("a message is longer than %d bytes", wsMessage)}
	}
	w.inMessage, w.final, w.mask = true, final, mask
	w.left, w.message = length, w.message+length
	return op, skip, 0, nil
}

// unmask applies the mask, first byte lowest, and returns it turned to where
// the next bytes go on.
func unmask(p []byte, mask uint32) uint32 {
	wide := uint64(mask)<<32 | uint64(mask)
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= byte(mask)
		mask = mask>>8 | mask<<24
	}
	return mask
}

// utf8Checker checks text that comes in pieces.
type utf8Checker struct {
	part [utf8.UTFMax]byte // the beginning of a character
	n    int8
}

func (u *utf8Checker) whole() bool { return u.n == 0 }

func (u *utf8Checker) add(p []byte) bool {
	for u.n > 0 && len(p) > 0 {
		u.part[u.n] = p[0]
		u.n++
		p = p[1:]
		if utf8.FullRune(u.part[:u.n]) {
			if r, size := utf8.DecodeRune(u.part[:u.n]); r == utf8.RuneError && size <= 1 {
				return false
			}
			u.n = 0
		}
	}
	for i := max(0, len(p)-utf8.UTFMax+1); i < len(p); i++ {
		if utf8.RuneStart(p[i]) && !utf8.FullRune(p[i:]) {
			u.n = int8(copy(u.part[:], p[i:]))
			p = p[:i]
			break
		}
	}
	return utf8.Valid(p)
}

// readFrames turns raw bytes into payload and calls OnRead. It returns true
// when it stopped at a change between text and binary.
//
// Payload without anything unconsumed before it stays where it is; otherwise
// it moves down over the header, so that Peek is one slice. Every byte moves
// at most once per read that brought it.
func (c *Conn) readFrames() (more bool, err error) {
	w := c.ws
	buf := c.in.Peek()
	base, end, at := 0, w.ready, w.ready // payload is buf[base:end], raw is buf[at:]
	fresh := false
	for at < len(buf) && w.code == 0 && err == nil {
		if fresh && w.parser.left == 0 && c.turnsType(buf[at:]) {
			more = true
			break
		}
		op, skip, size, e := w.parser.next(buf[at:])
		if e != nil {
			err = e
			break
		}
		if skip+size == 0 {
			break
		}
		at += skip
		switch {
		case op >= opClose:
			w.code, err = c.control(op, buf[at:at+size])
		case base == end:
			base, end = at, at+size
			w.text, fresh = op == opText, true
		default:
			copy(buf[end:], buf[at:at+size])
			end += size
			w.text, fresh = op == opText, true
		}
		at += size
	}
	rest := copy(buf[end:], buf[at:])
	c.in.Truncate(end + rest)
	if c.in.Len() > 0 {
		c.in.Discard(base)
	}
	w.ready = end - base
	if w.ready > 0 {
		if e := c.loop.handler.OnRead(c); e != nil {
			c.Close(e)
		}
	}
	if w.code != 0 && !c.closing && (!c.paused || w.ready == 0) {
		c.eof() // the answers first, then the goodbye
	}
	return more, err
}

// turnsType says whether raw begins with a message of the other type.
func (c *Conn) turnsType(raw []byte) bool {
	op := raw[0] & 15
	return op == opText && !c.ws.text || op == opBinary && c.ws.text
}

// control handles a control frame. It returns the code to close with when it
// is a close frame.
func (c *Conn) control(op int, payload []byte) (code uint16, err error) {
	switch op {
	case opPing:
		// A client that pings and does not read gets no more answers than the
		// limit; answering the latest is enough.
		if !c.High() && (c.established || c.Pending() < strangerOut) {
			c.sendControl(opPong, payload)
		}
	case opClose:
		if len(payload) == 0 {
			return closeNormal, nil
		}
		if len(payload) == 1 {
			return 0, &wsError{closeProtocol, "a close code of one byte"}
		}
		code = binary.BigEndian.Uint16(payload)
		if !validClose(code) {
			return 0, &wsError{closeProtocol, fmt.Sprintf("close code %d", code)}
		}
		if !utf8.Valid(payload[2:]) {
			return 0, &wsError{closeUTF8, "a close reason is not UTF-8"}
		}
	}
	return code, nil
}

func validClose(code uint16) bool {
	switch {
	case code >= 3000 && code <= 4999:
		return true
	case code < 1000 || code > 1014:
		return false
	}
	return code != 1004 && code != 1005 && code != 1006
}

// sendControl puts a control frame behind the output, or nothing if there is
// no room.
func (c *Conn) sendControl(op byte, payload []byte) {
	dst := c.room(2+len(payload), 0)
	if dst == nil {
		return
	}
	dst[0], dst[1] = 0x80|op, byte(len(payload))
	copy(dst[2:], payload)
	c.push(2 + len(payload))
}

// goodbye answers a close frame, once.
func (c *Conn) goodbye() {
	if w := c.ws; w != nil && w.code != 0 && !w.closeSent {
		c.sendControl(opClose, []byte{byte(w.code >> 8), byte(w.code)})
		w.closeSent = true
	}
}

// sendClose says why we close, once.
func (c *Conn) sendClose(reason error) {
	if c.ws.closeSent {
		return
	}
	c.ws.closeSent = true
	code := uint16(closeNormal)
	var broken *wsError
	switch {
	case errors.Is(reason, io.EOF):
		return
	case errors.As(reason, &broken):
		code = broken.code
	case errors.Is(reason, ErrStopped):
		code = closeAway
	case errors.Is(reason, ErrTooLarge):
		code = closeLarge
	case c.byHandler && reason != nil:
		code = closePolicy
	}
	c.sendControl(opClose, []byte{byte(code >> 8), byte(code)})
}

// seal makes a message of n bytes of payload that lie behind head bytes kept
// for its header, and returns the length of both. Where the header turned out
// shorter, the payload moves down.
func (w *webSocket) seal(p []byte, n int) int {
	head := headerSize(n)
	if head != int(w.head) {
		copy(p[head:], p[int(w.head):int(w.head)+n])
	}
	op := byte(opBinary)
	if w.sendText {
		op = opText
	}
	appendHeader(p[:0], op, n)
	return head + n
}

// headerSize returns the bytes of the header of a frame of ours.
func headerSize(n int) int {
	switch {
	case n < 126:
		return 2
	case n < 1<<16:
		return 4
	}
	return 10
}

// appendHeader appends the header of a final frame of n bytes.
func appendHeader(dst []byte, op byte, n int) []byte {
	dst = append(dst, 0x80|op)
	switch {
	case n < 126:
		return append(dst, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
}
