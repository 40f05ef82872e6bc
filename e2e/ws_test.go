package e2e

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	opContinue = 0
	opText     = 1
	opBinary   = 2
	opClose    = 8
	opPing     = 9
	opPong     = 10
)

// wsConn is the smallest WebSocket client that will do: a net.Conn whose Write
// is one message and whose Read is the byte stream of the server's messages,
// binary both ways or text both ways. Pings are answered.
type wsConn struct {
	net.Conn
	r       *bufio.Reader
	rest    int // bytes left of the current data frame
	mu      sync.Mutex
	pongs   chan []byte
	closed  chan uint16 // close code of the server
	onStart func(size int)
	data    byte // opText or opBinary
}

// dialWS opens addr and does the RFC 6455 handshake.
func dialWS(addr string) (*wsConn, error) {
	c, err := dialTCP(addr)
	if err != nil {
		return nil, err
	}
	w, err := upgradeWS(c, addr)
	if err != nil {
		c.Close()
		return nil, err
	}
	return w, nil
}

func upgradeWS(c net.Conn, host string) (*wsConn, error) {
	var nonce [16]byte
	rand.Read(nonce[:])
	key := base64.StdEncoding.EncodeToString(nonce[:])
	c.SetDeadline(time.Now().Add(never))
	fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", host, key)
	r := bufio.NewReaderSize(c, 4096)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, fmt.Errorf("websocket handshake: %w", err)
	}
	if resp.StatusCode != 101 {
		return nil, fmt.Errorf("websocket handshake: status %s", resp.Status)
	}
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	if got, want := resp.Header.Get("Sec-Websocket-Accept"), base64.StdEncoding.EncodeToString(sum[:]); got != want {
		return nil, fmt.Errorf("websocket handshake: accept %q, want %q", got, want)
	}
	c.SetDeadline(time.Time{})
	return &wsConn{Conn: c, r: r, pongs: make(chan []byte, 16), closed: make(chan uint16, 1), data: opBinary}, nil
}

// writeFrame sends one frame, masked unless naked.
func (w *wsConn) writeFrame(op byte, fin, naked bool, p []byte) error {
	b := make([]byte, 0, len(p)+14)
	if fin {
		op |= 0x80
	}
	b = append(b, op)
	mask := byte(0x80)
	if naked {
		mask = 0
	}
	switch {
	case len(p) < 126:
		b = append(b, mask|byte(len(p)))
	case len(p) < 1<<16:
		b = append(b, mask|126)
		b = binary.BigEndian.AppendUint16(b, uint16(len(p)))
	default:
		b = append(b, mask|127)
		b = binary.BigEndian.AppendUint64(b, uint64(len(p)))
	}
	if naked {
		b = append(b, p...)
	} else {
		key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
		b = append(b, key[:]...)
		for i, c := range p {
			b = append(b, c^key[i&3])
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.Conn.Write(b)
	return err
}

func (w *wsConn) Write(p []byte) (int, error) {
	if err := w.writeFrame(w.data, true, false, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *wsConn) Read(p []byte) (int, error) {
	for w.rest == 0 {
		if err := w.next(); err != nil {
			return 0, err
		}
	}
	n, err := w.r.Read(p[:min(len(p), w.rest)])
	w.rest -= n
	return n, err
}

// next reads a frame header; control frames are dealt with here.
func (w *wsConn) next() error {
	var h [10]byte
	if _, err := io.ReadFull(w.r, h[:2]); err != nil {
		return err
	}
	op, size := h[0]&15, int(h[1]&0x7f)
	if h[0]&0x70 != 0 {
		return fmt.Errorf("server set reserved bits in %#x", h[0])
	}
	if h[1]&0x80 != 0 {
		return errors.New("server masked a frame")
	}
	switch size {
	case 126:
		if _, err := io.ReadFull(w.r, h[:2]); err != nil {
			return err
		}
		size = int(binary.BigEndian.Uint16(h[:]))
	case 127:
		if _, err := io.ReadFull(w.r, h[:8]); err != nil {
			return err
		}
		size = int(binary.BigEndian.Uint64(h[:]))
	}
	if op == w.data || op == opContinue {
		w.rest = size
		if w.onStart != nil {
			w.onStart(size)
		}
		return nil
	}
	if size > 125 {
		return fmt.Errorf("server's control frame %d has %d bytes", op, size)
	}
	p := make([]byte, size)
	if _, err := io.ReadFull(w.r, p); err != nil {
		return err
	}
	switch op {
	case opPing:
		return w.writeFrame(opPong, true, false, p)
	case opPong:
		select {
		case w.pongs <- p:
		default:
		}
	case opClose:
		code := uint16(1005)
		if size >= 2 {
			code = binary.BigEndian.Uint16(p)
		}
		select {
		case w.closed <- code:
		default:
		}
		w.writeFrame(opClose, true, false, p)
		return io.EOF
	default:
		return fmt.Errorf("server sent a frame with opcode %d", op)
	}
	return nil
}
