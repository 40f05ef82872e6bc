package cli

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"gatepost/wukong"
)

// DefaultAddr is where a broker with built-in settings listens for the wire
// protocol.
const DefaultAddr = "127.0.0.1:5100"

// readBuffer is the first size of a client's read buffer in bytes: one read
// takes about 3,000 acks or 200 messages of 256 bytes.
const readBuffer = 64 << 10

// maxFrame is the largest frame in bytes: header, four length bytes, body.
const maxFrame = wukong.MaxRemaining + 5

// Login is what a client says about itself.
type Login struct {
	UID        string
	Token      string
	DeviceID   string // empty: a random one, so that nobody is kicked out
	DeviceFlag uint8  // 0 app, 1 web, 2 PC
}

// RefusedError is returned when the broker refuses a login. Trying again does
// not help.
type RefusedError struct {
	UID    string
	Reason wukong.Reason
}

func (e *RefusedError) Error() string {
	what := "check --uid, --token-file and --device; 'gatepost user token' sets a token"
	if e.Reason == wukong.ReasonBan {
		what = fmt.Sprintf("'gatepost channel info %s --type 1 --no-ban' lets the user in again", e.UID)
	}
	return fmt.Sprintf("cannot log in as %q: the broker refused it with reason %d (%s); %s", e.UID, e.Reason, e.Reason, what)
}

// Client is a blocking connection of one user. It belongs to one goroutine;
// only Close and SetReadDeadline may be called from others. In steady state it
// allocates nothing.
//
// Writes are collected by the Append methods and leave with Flush, so that a
// window is topped up with one system call.
type Client struct {
	conn    net.Conn
	version uint8          // that both sides speak
	cipher  *wukong.Cipher // nil: the broker does not encrypt

	in         []byte // in[r:w] is what was read and not yet taken
	r, w       int
	out        []byte // appended and not yet flushed
	enc, plain []byte // scratch: payloads in cipher text and in plain
	key        []byte // scratch: message key
}

// Dial connects to a broker and logs in; ctx bounds both. The error is a
// *RefusedError when the broker said no.
func Dial(ctx context.Context, addr string, login Login) (*Client, error) {
	host, inside := strings.CutPrefix(addr, "tls://")
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		return nil, fmt.Errorf("cannot use the address %q: HOST:PORT is needed, such as %s, or tls://HOST:PORT", addr, DefaultAddr)
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", host)
	if err == nil && inside {
		var o *tls.Config
		if o, err = trust(); err != nil {
			conn.Close()
			return nil, err
		}
		o.ServerName = name
		sealed := tls.Client(conn, o)
		if err = sealed.HandshakeContext(ctx); err != nil {
			conn.Close()
		}
		conn = sealed
	}
	if err != nil {
		return nil, fmt.Errorf("cannot reach a broker at %s: %w; is it running, and is --addr right?", addr, err)
	}
	c := &Client{conn: conn, in: make([]byte, readBuffer)}
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if err := c.connect(login); err != nil {
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
		return nil, err
	}
	return c, nil
}

// trustVariable names a file with the authorities, PEM, of which the broker's
// certificate is; without it they are those of the system.
const trustVariable = "GATEPOST_CA_FILE"

// trust returns how the broker's certificate is checked.
func trust() (*tls.Config, error) {
	o := &tls.Config{MinVersion: tls.VersionTLS12}
	file := os.Getenv(trustVariable)
	if file == "" {
		return o, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the authorities (%s): %w", trustVariable, err)
	}
	if o.RootCAs = x509.NewCertPool(); !o.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("cannot use %s (%s): there is no certificate in PEM", file, trustVariable)
	}
	return o, nil
}

// connect is the CONNECT, CONNACK exchange with the key agreement.
func (c *Client) connect(login Login) error {
	private, err := wukong.NewPrivateKey()
	if err != nil {
		return fmt.Errorf("cannot make a key pair: %w", err)
	}
	if login.DeviceID == "" {
		login.DeviceID = "gatepost-" + randomHex(8)
	}
	hello := wukong.Connect{
		Version: wukong.LatestVersion, DeviceFlag: login.DeviceFlag, DeviceID: []byte(login.DeviceID),
		UID: []byte(login.UID), Token: []byte(login.Token),
		ClientTimestamp: time.Now().UnixMilli(), ClientKey: []byte(wukong.PublicKey(private)),
	}
	c.out = hello.Append(c.out[:0])
	if err := c.Flush(); err != nil {
		return fmt.Errorf("cannot log in as %q: %w", login.UID, err)
	}
	f, err := c.Next()
	if err != nil {
		return fmt.Errorf("cannot log in as %q: no answer to CONNECT: %w; does the address speak the WuKong protocol?", login.UID, err)
	}
	if f.Type != wukong.TypeConnack {
		return fmt.Errorf("cannot log in as %q: the first frame is of type %d, not CONNACK (%d)", login.UID, f.Type, wukong.TypeConnack)
	}
	var ack wukong.Connack
	if err := ack.Decode(f, wukong.LatestVersion); err != nil {
		return fmt.Errorf("cannot log in as %q: %w", login.UID, err)
	}
	if ack.Reason != wukong.ReasonSuccess {
		return &RefusedError{login.UID, ack.Reason}
	}
	c.version = wukong.LatestVersion
	if f.Flags&wukong.FlagHasServerVersion != 0 {
		c.version = min(c.version, ack.ServerVersion)
	}
	if len(ack.ServerKey) > 0 {
		keys, err := wukong.DeriveKeys(private, ack.ServerKey, ack.Salt)
		if err != nil {
			return fmt.Errorf("cannot agree on a key with the broker: %w", err)
		}
		c.cipher = wukong.NewCipher(keys)
	}
	return nil
}

// Encrypted reports whether the broker asked for encryption.
func (c *Client) Encrypted() bool { return c.cipher != nil }

// AppendSend queues a SEND with s.Payload in plain; s.Payload and s.MsgKey are
// overwritten when the connection is encrypted. The caller keeps the bytes
// of s, they are copied.
func (c *Client) AppendSend(s *wukong.Send) {
	if c.cipher != nil {
		c.enc = c.cipher.AppendEncrypt(c.enc[:0], s.Payload)
		s.Payload = c.enc
		c.key = c.cipher.AppendSendKey(c.key[:0], s)
		s.MsgKey = c.key
	}
	c.out = s.Append(c.out, c.version)
}

// AppendRecvack queues the acknowledgement of a received message.
func (c *Client) AppendRecvack(r *wukong.Recv) {
	ack := wukong.Recvack{
		Flags:     r.Flags & (wukong.FlagNoPersist | wukong.FlagRedDot | wukong.FlagSyncOnce),
		MessageID: r.MessageID, MessageSeq: r.MessageSeq,
	}
	c.out = ack.Append(c.out)
}

// AppendPing queues a PING.
func (c *Client) AppendPing() { c.out = wukong.AppendPing(c.out) }

// Flush writes what was appended, with one write.
func (c *Client) Flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.conn.Write(c.out)
	c.out = c.out[:0]
	return err
}

// Take returns the next frame if it has been read already, without waiting.
// The frame's body is valid until the next call of Next or Read.
func (c *Client) Take() (wukong.Frame, bool, error) {
	f, n, err := wukong.Split(c.in[c.r:c.w])
	if err != nil {
		return f, false, fmt.Errorf("cannot read the broker's frame: %w", err)
	}
	c.r += n
	return f, n > 0, nil
}

// Read waits for bytes from the broker: one system call. It makes the frames
// of Take before it invalid. The error is io.EOF when the broker closed the
// connection, a timeout after SetReadDeadline.
func (c *Client) Read() error {
	if c.r > 0 {
		c.w = copy(c.in, c.in[c.r:c.w])
		c.r = 0
	}
	if c.w == len(c.in) { // a frame larger than the buffer
		size := min(max(wukong.Need(c.in[:c.w]), 2*len(c.in)), maxFrame)
		if size <= len(c.in) {
			return fmt.Errorf("cannot read the broker's frame: still incomplete after %d bytes", c.w)
		}
		c.in = append(make([]byte, 0, size), c.in...)[:size]
	}
	n, err := c.conn.Read(c.in[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	return err
}

// Next returns the next frame, waiting for it. Its body is valid until the
// next call of Next or Read.
func (c *Client) Next() (wukong.Frame, error) {
	for {
		if f, ok, err := c.Take(); ok || err != nil {
			return f, err
		}
		if err := c.Read(); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the broker closed the connection")
			}
			return wukong.Frame{}, err
		}
	}
}

// Open decodes a RECV, checks its message key and decrypts the payload. The
// fields of r are valid until the next call of Open, Next or Read.
func (c *Client) Open(f wukong.Frame, r *wukong.Recv) error {
	if err := r.Decode(f, c.version); err != nil {
		return fmt.Errorf("cannot read a RECV: %w", err)
	}
	if c.cipher == nil {
		return nil
	}
	if !c.cipher.CheckRecvKey(r) {
		return fmt.Errorf("cannot trust message %d (seq %d): its message key is wrong", r.MessageID, r.MessageSeq)
	}
	plain, err := c.cipher.AppendDecrypt(c.plain[:0], r.Payload)
	if err != nil {
		return fmt.Errorf("cannot decrypt message %d (seq %d): %w", r.MessageID, r.MessageSeq, err)
	}
	c.plain, r.Payload = plain, plain
	return nil
}

// SetReadDeadline makes Read and Next fail at t; from any goroutine.
func (c *Client) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// SetDeadline is SetReadDeadline for Flush too.
func (c *Client) SetDeadline(t time.Time) error { return c.conn.SetDeadline(t) }

// Close closes the connection; from any goroutine.
func (c *Client) Close() error { return c.conn.Close() }

// randomHex returns n random bytes in hex.
func randomHex(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails since Go 1.24
	return hex.EncodeToString(b)
}

// isTimeout reports whether err came from a deadline.
func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
