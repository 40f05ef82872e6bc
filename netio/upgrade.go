package netio

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
)

// upgradeMax is the largest handshake request in bytes.
const upgradeMax = 8 << 10

const (
	upgradeAccept  = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
	upgradeRefuse  = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	upgradeOrigin  = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 66\r\n\r\npages of this site may not connect; see net.ws_origins of the box\n"
	upgradeVersion = "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\nContent-Length: 0\r\n\r\n"
	upgradeLarge   = "HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
	upgradeGUID    = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
)

// upgradeError is a refused handshake with what is answered.
type upgradeError struct{ answer, why string }

func (e *upgradeError) Error() string { return fmt.Sprintf("%v: %s", ErrWebSocket, e.why) }
func (e *upgradeError) Unwrap() error { return ErrWebSocket }

// readUpgrade answers the handshake; it returns false when more bytes are
// needed.
func (c *Conn) readUpgrade() (bool, error) {
	r, n, err := parseUpgrade(c.in.Peek())
	if origins := c.loop.server.opt.Origins; err == nil && n > 0 && origins != nil && !origins.allow(string(r.origin), string(r.host)) {
		err = &upgradeError{upgradeOrigin, fmt.Sprintf("pages of %.100q may not connect to %.100q (net.ws_origins)", r.origin, r.host)}
	}
	if err != nil {
		c.answer([]byte(err.(*upgradeError).answer))
		return false, err
	}
	if n == 0 {
		return false, nil
	}
	answer := append([]byte(upgradeAccept), acceptKey(r.key)...)
	if !c.answer(append(answer, "\r\n\r\n"...)) {
		return false, ErrNoBuffer
	}
	c.in.Discard(n)
	c.progress = true
	c.ws = new(webSocket)
	c.enter(stageFrames)
	return true, nil
}

// answer writes HTTP bytes.
func (c *Conn) answer(p []byte) bool {
	dst := c.room(len(p), 0)
	if dst == nil {
		return false
	}
	c.push(copy(dst, p))
	return true
}

// acceptKey returns the answer to a Sec-WebSocket-Key.
func acceptKey(key []byte) []byte {
	sum := sha1.Sum(append(append(make([]byte, 0, 64), key...), upgradeGUID...))
	return base64.StdEncoding.AppendEncode(nil, sum[:])
}

// wish is what a handshake request says. The bytes are those of the input.
type wish struct{ key, host, origin []byte }

// parseUpgrade reads a handshake request off the front of src. It returns the
// request and its length, 0 when bytes are missing. Path and offered subprotocols
// and extensions are ignored. Errors are *upgradeError.
func parseUpgrade(src []byte) (r wish, n int, err error) {
	refuse := func(why string) (wish, int, error) { return wish{}, 0, &upgradeError{upgradeRefuse, why} }
	if k := min(len(src), 4); string(src[:k]) != "GET "[:k] {
		return refuse("the handshake is not a GET request")
	}
	end := bytes.Index(src[:min(len(src), upgradeMax)], []byte("\r\n\r\n"))
	if end < 0 {
		if len(src) >= upgradeMax {
			return r, 0, &upgradeError{upgradeLarge, fmt.Sprintf("the handshake is longer than %d bytes", upgradeMax)}
		}
		return r, 0, nil
	}
	line, rest, _ := bytes.Cut(src[:end], []byte("\r\n"))
	if f := bytes.Split(line, []byte(" ")); len(f) != 3 || string(f[2]) != "HTTP/1.1" || len(f[1]) == 0 {
		return refuse("the handshake does not begin with GET path HTTP/1.1")
	}
	var websocket, connection, version bool
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || len(name) == 0 || bytes.ContainsAny(name, " \t") {
			return refuse("the handshake has a bad header line")
		}
		value = bytes.Trim(value, " \t")
		switch {
		case bytes.EqualFold(name, []byte("Upgrade")):
			websocket = websocket || hasToken(value, "websocket")
		case bytes.EqualFold(name, []byte("Connection")):
			connection = connection || hasToken(value, "upgrade")
		case bytes.EqualFold(name, []byte("Sec-WebSocket-Version")):
			version = string(value) == "13"
		case bytes.EqualFold(name, []byte("Sec-WebSocket-Key")):
			if r.key != nil {
				return refuse("the handshake has two keys")
			}
			r.key = value
		case bytes.EqualFold(name, []byte("Origin")):
			if r.origin != nil {
				return refuse("the handshake has two origins")
			}
			r.origin = value
		case bytes.EqualFold(name, []byte("Host")):
			if r.host != nil {
				return refuse("the handshake has two hosts")
			}
			r.host = value
		}
	}
	if !websocket || !connection {
		return refuse("the request does not ask for an upgrade to websocket")
	}
	if !version {
		return wish{}, 0, &upgradeError{upgradeVersion, "the WebSocket version is not 13"}
	}
	var nonce [18]byte
	if len(r.key) != 24 {
		return refuse("the handshake key is not 16 bytes in base64")
	}
	if k, err := base64.StdEncoding.Decode(nonce[:], r.key); err != nil || k != 16 {
		return refuse("the handshake key is not 16 bytes in base64")
	}
	return r, end + 4, nil
}

// hasToken says whether a comma-separated header value holds a token.
func hasToken(value []byte, token string) bool {
	for v := range bytes.SplitSeq(value, []byte(",")) {
		if bytes.EqualFold(bytes.Trim(v, " \t"), []byte(token)) {
			return true
		}
	}
	return false
}
