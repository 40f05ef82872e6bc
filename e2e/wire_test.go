package e2e

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
)

// The WuKong frames as a client needs them, written from the protocol
// description and not from package wukong: two readings of one text.
//
//	+--------+---------------------+------------------+
//	| type<4 | remaining length    | body             |
//	| |flags | 1..4 bytes, 7 bits  |                  |
//	+--------+---------------------+------------------+
//
// PING and PONG are the first byte alone.

const (
	typeConnect    = 1
	typeConnack    = 2
	typeSend       = 3
	typeSendack    = 4
	typeRecv       = 5
	typeRecvack    = 6
	typePing       = 7
	typePong       = 8
	typeDisconnect = 9
	typeEvent      = 12

	flagNoPersist = 1
	flagRedDot    = 2
	flagSyncOnce  = 4
	flagDUP       = 8

	settingReceipt   = 0x80
	settingNoEncrypt = 0x10
	settingTopic     = 0x08
	settingStream    = 0x02

	reasonSuccess       = 1
	reasonAuthFail      = 2
	reasonNotSubscriber = 3
	reasonBlacklist     = 4
	reasonDecode        = 9
	reasonNotAllowed    = 11
	reasonKick          = 12
	reasonSystem        = 15
	reasonChannelID     = 16
	reasonKeyEmpty      = 21

	person = 1
	group  = 2
)

type frame struct {
	kind, flags byte
	body        []byte
}

func appendStr(dst []byte, s string) []byte {
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(s)))
	return append(dst, s...)
}

func appendFrame(dst []byte, kind, flags byte, body []byte) []byte {
	dst = append(dst, kind<<4|flags)
	n := len(body)
	for {
		b := byte(n & 0x7f)
		if n >>= 7; n > 0 {
			b |= 0x80
		}
		dst = append(dst, b)
		if n == 0 {
			break
		}
	}
	return append(dst, body...)
}

// splitFrame takes one frame off the front of src. n is 0 while src holds less
// than a whole frame. The body is a view on src.
func splitFrame(src []byte) (f frame, n int, err error) {
	if len(src) == 0 {
		return f, 0, nil
	}
	f.kind, f.flags = src[0]>>4, src[0]&15
	switch {
	case f.kind == typePing || f.kind == typePong:
		return f, 1, nil
	case f.kind == 0 || f.kind > 12:
		return f, 0, fmt.Errorf("frame type %d does not exist", f.kind)
	}
	length, at := 0, 1
	for shift := 0; ; shift += 7 {
		if at == len(src) {
			return f, 0, nil
		}
		if shift == 28 {
			return f, 0, errors.New("remaining length has more than 4 bytes")
		}
		b := src[at]
		at++
		length |= int(b&0x7f) << shift
		if b&0x80 == 0 {
			break
		}
	}
	if length > 1<<20 {
		return f, 0, fmt.Errorf("remaining length %d is above 1 MiB", length)
	}
	if len(src) < at+length {
		return f, 0, nil
	}
	f.body = src[at : at+length]
	return f, at + length, nil
}

// fields reads a frame's body front to back. The first short read sticks.
type fields struct {
	b   []byte
	bad bool
}

func (r *fields) take(n int) []byte {
	if r.bad || len(r.b) < n {
		r.bad = true
		return make([]byte, n)
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}
func (r *fields) u8() byte    { return r.take(1)[0] }
func (r *fields) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *fields) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }
func (r *fields) str() string {
	n := int(int16(binary.BigEndian.Uint16(r.take(2))))
	if n < 0 {
		r.bad = true
		return ""
	}
	if r.bad || len(r.b) < n {
		r.bad = true
		return ""
	}
	return string(r.take(n))
}

// end refuses bytes that were missing and bytes that nobody described.
func (r *fields) end(what string) error {
	if r.bad {
		return fmt.Errorf("%s is too short", what)
	}
	if len(r.b) > 0 {
		return fmt.Errorf("%s has %d bytes too many", what, len(r.b))
	}
	return nil
}

type connect struct {
	version, deviceFlag  byte
	deviceID, uid, token string
	timestamp            int64
	key                  string
}

func (c connect) append(dst []byte) []byte {
	b := []byte{c.version, c.deviceFlag}
	b = appendStr(b, c.deviceID)
	b = appendStr(b, c.uid)
	b = appendStr(b, c.token)
	b = binary.BigEndian.AppendUint64(b, uint64(c.timestamp))
	b = appendStr(b, c.key)
	return appendFrame(dst, typeConnect, 0, b)
}

type connack struct {
	hasVersion    bool
	serverVersion byte
	timeDiff      int64
	reason        byte
	key, salt     string
	node          uint64
}

// parseConnack reads a CONNACK the way a client that announced version does.
func parseConnack(f frame, version byte) (a connack, err error) {
	r := fields{b: f.body}
	if f.flags&^1 != 0 {
		return a, fmt.Errorf("CONNACK flags %#x, only bit 0 is defined", f.flags)
	}
	if a.hasVersion = f.flags&1 != 0; a.hasVersion {
		a.serverVersion = r.u8()
	}
	a.timeDiff = int64(r.u64())
	a.reason = r.u8()
	a.key, a.salt = r.str(), r.str()
	if version >= 4 {
		a.node = r.u64()
	}
	return a, r.end("CONNACK")
}

type send struct {
	flags, setting byte
	seq            uint32
	no, stream     string
	channel        string
	kind           byte
	expire         uint32
	topic          string
	msgKey         string
	payload        []byte // as on the wire
}

func (s send) append(dst []byte, version byte) []byte {
	b := make([]byte, 0, 64+len(s.payload))
	b = append(b, s.setting)
	b = binary.BigEndian.AppendUint32(b, s.seq)
	b = appendStr(b, s.no)
	if hasStream(version, s.setting) {
		b = appendStr(b, s.stream)
	}
	b = appendStr(b, s.channel)
	b = append(b, s.kind)
	if version >= 3 {
		b = binary.BigEndian.AppendUint32(b, s.expire)
	}
	b = appendStr(b, s.msgKey)
	if s.setting&settingTopic != 0 {
		b = appendStr(b, s.topic)
	}
	b = append(b, s.payload...)
	return appendFrame(dst, typeSend, s.flags, b)
}

// hasStream reports whether SEND and RECV have stream fields.
func hasStream(version, setting byte) bool {
	return version >= 2 && version < 5 && setting&settingStream != 0
}

type sendack struct {
	flags  byte
	id     int64
	client uint32
	seq    uint32
	reason byte
}

func parseSendack(f frame) (a sendack, err error) {
	r := fields{b: f.body}
	a.flags = f.flags
	a.id = int64(r.u64())
	a.client, a.seq, a.reason = r.u32(), r.u32(), r.u8()
	return a, r.end("SENDACK")
}

// recv is one RECV, its payload already in the clear.
type recv struct {
	flags, setting byte
	msgKey, from   string
	channel        string
	kind           byte
	expire         uint32
	no             string
	streamFlag     byte
	stream         string
	streamID       uint64
	id             int64
	seq            uint32
	timestamp      int32
	topic          string
	payload        []byte
}

func (m *recv) dup() bool { return m.flags&flagDUP != 0 }

func (m *recv) String() string {
	if m == nil {
		return "nothing"
	}
	return fmt.Sprintf("RECV{from %q channel %q/%d no %q seq %d id %d flags %#x %d bytes}", m.from, m.channel, m.kind, m.no, m.seq, m.id, m.flags, len(m.payload))
}

// parseRecv copies what it keeps, so m outlives the read buffer.
func parseRecv(f frame, version byte, c *box) (m recv, err error) {
	r := fields{b: f.body}
	m.flags, m.setting = f.flags, r.u8()
	m.msgKey, m.from, m.channel = r.str(), r.str(), r.str()
	m.kind = r.u8()
	if version >= 3 {
		m.expire = r.u32()
	}
	m.no = r.str()
	if hasStream(version, m.setting) {
		m.streamFlag, m.stream, m.streamID = r.u8(), r.str(), r.u64()
	}
	m.id = int64(r.u64())
	m.seq, m.timestamp = r.u32(), int32(r.u32())
	if m.setting&settingTopic != 0 {
		m.topic = r.str()
	}
	if r.bad {
		return m, errors.New("RECV is too short")
	}
	wire := r.b
	if c == nil {
		if m.msgKey != "" {
			return m, fmt.Errorf("RECV has msg_key %q although encryption is off", m.msgKey)
		}
		m.payload = append([]byte(nil), wire...)
		return m, nil
	}
	sign := strconv.FormatInt(m.id, 10) + strconv.FormatUint(uint64(m.seq), 10) + m.no +
		strconv.FormatInt(int64(m.timestamp), 10) + m.from + m.channel + strconv.Itoa(int(m.kind)) + string(wire)
	if want := c.sign(sign); want != m.msgKey {
		return m, fmt.Errorf("RECV msg_key is %q, its fields give %q: %v", m.msgKey, want, &m)
	}
	m.payload, err = c.open(wire)
	return m, err
}

func appendRecvack(dst []byte, m *recv) []byte {
	var b [12]byte
	binary.BigEndian.PutUint64(b[:], uint64(m.id))
	binary.BigEndian.PutUint32(b[8:], m.seq)
	return appendFrame(dst, typeRecvack, m.flags&(flagNoPersist|flagRedDot|flagSyncOnce), b[:])
}

// box encrypts for one connection: AES-128-CBC with a fixed IV, base64 around
// it. Used by one goroutine at a time.
type box struct {
	block cipher.Block
	iv    [16]byte
}

func newBox(own *ecdh.PrivateKey, peer, salt string) (*box, error) {
	raw, err := base64.StdEncoding.DecodeString(peer)
	if err != nil {
		return nil, fmt.Errorf("server key %q: %w", peer, err)
	}
	pub, err := ecdh.X25519().NewPublicKey(raw)
	if err != nil {
		return nil, fmt.Errorf("server key %q: %w", peer, err)
	}
	if len(salt) != 16 {
		return nil, fmt.Errorf("salt %q has %d characters, want 16", salt, len(salt))
	}
	shared, err := own.ECDH(pub)
	if err != nil {
		return nil, err
	}
	sum := md5.Sum([]byte(base64.StdEncoding.EncodeToString(shared)))
	block, err := aes.NewCipher([]byte(hex.EncodeToString(sum[:]))[:16])
	if err != nil {
		return nil, err
	}
	b := &box{block: block}
	copy(b.iv[:], salt)
	return b, nil
}

func (b *box) seal(plain []byte) []byte {
	pad := 16 - len(plain)%16
	buf := make([]byte, len(plain)+pad)
	copy(buf, plain)
	for i := len(plain); i < len(buf); i++ {
		buf[i] = byte(pad)
	}
	return b.blocks(buf)
}

// blocks encrypts whole blocks as they are, in place.
func (b *box) blocks(buf []byte) []byte {
	cipher.NewCBCEncrypter(b.block, b.iv[:]).CryptBlocks(buf, buf)
	return base64.StdEncoding.AppendEncode(nil, buf)
}

func (b *box) open(wire []byte) ([]byte, error) {
	buf, err := base64.StdEncoding.AppendDecode(nil, wire)
	if err != nil {
		return nil, fmt.Errorf("payload is not base64: %w", err)
	}
	if len(buf) == 0 || len(buf)%16 != 0 {
		return nil, fmt.Errorf("payload of %d bytes is no whole number of blocks", len(buf))
	}
	cipher.NewCBCDecrypter(b.block, b.iv[:]).CryptBlocks(buf, buf)
	pad := int(buf[len(buf)-1])
	if pad < 1 || pad > 16 {
		return nil, fmt.Errorf("padding byte %d is not 1..16", pad)
	}
	for _, p := range buf[len(buf)-pad:] {
		if int(p) != pad {
			return nil, errors.New("padding bytes differ")
		}
	}
	return buf[:len(buf)-pad], nil
}

func (b *box) sign(s string) string {
	sum := md5.Sum(b.seal([]byte(s)))
	return hex.EncodeToString(sum[:])
}

// lock fills in payload and msg_key of a SEND.
func (b *box) lock(s *send, plain []byte) {
	s.payload = b.seal(plain)
	s.msgKey = b.sign(strconv.FormatUint(uint64(s.seq), 10) + s.no + s.channel + strconv.Itoa(int(s.kind)) + string(s.payload))
}

func newKey() *ecdh.PrivateKey {
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func publicKey(k *ecdh.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(k.PublicKey().Bytes())
}
