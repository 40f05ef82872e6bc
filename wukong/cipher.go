package wukong

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/md5"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strconv"
)

// The protocol's encryption and its message keys:
//
//	E(x)     = base64(AES-128-CBC(PKCS#7(x)))          key and IV of the connection
//	payload  = E(plain)
//	key      = hex(MD5(E(sign)))                       32 characters
//	SEND:   sign = client seq, client msg no, channel id, channel type, payload
//	RECV:   sign = message id, message seq, client msg no, timestamp, from uid,
//	               channel id, channel type, payload
//
// A sign is the plain concatenation, numbers in decimal. Fixed IV, no server
// identity, MD5: this keeps bystanders from reading along, it does not replace
// TLS.

const (
	// block is the size of an AES block in bytes.
	block = aes.BlockSize
	// chunk is what is encrypted at a time, in bytes: whole AES blocks, whole
	// groups of base64 (3 bytes), and 64 characters of it: one block of MD5.
	chunk = 48
	// msgKeySize is the size of a message key in bytes.
	msgKeySize = 2 * md5.Size
)

// ErrCipher is returned when bytes are not what AppendEncrypt makes with the
// same keys.
var ErrCipher = errors.New("bad ciphertext")

// EncryptedSize returns the size in bytes of n plain bytes after encryption.
func EncryptedSize(n int) int {
	return base64.StdEncoding.EncodedLen(paddedSize(n))
}

// paddedSize is n and the 1 to 16 bytes of PKCS#7.
func paddedSize(n int) int { return n/block*block + block }

// Scratch is the working memory of ciphers, about 300 bytes. All ciphers of
// one goroutine may share one. The zero value is ready.
type Scratch struct {
	chain [block]byte // the last block of ciphertext
	buf   [chunk]byte // plain, then encrypted in place
	n     int         // bytes of a sign in buf
	text  [chunk / 3 * 4]byte
	sum   [md5.Size]byte
	key   [msgKeySize]byte
	md5   hash.Hash
}

// NewCipher returns a cipher that works in s. It costs about 550 bytes.
func (s *Scratch) NewCipher(k Keys) *Cipher {
	b, err := aes.NewCipher(k.Key[:])
	if err != nil {
		panic("BUG: AES refuses a key of 16 bytes: " + err.Error())
	}
	if s.md5 == nil {
		s.md5 = md5.New()
	}
	return &Cipher{aes: b, iv: k.IV, s: s}
}

// Cipher encrypts, decrypts and signs for one connection. It belongs to the
// goroutine of its Scratch. Its methods do not allocate, unless dst has to
// grow or they fail.
type Cipher struct {
	aes cipher.Block
	iv  [block]byte
	s   *Scratch
}

// NewCipher returns a cipher with working memory of its own.
func NewCipher(k Keys) *Cipher { return new(Scratch).NewCipher(k) }

// AppendEncrypt appends the encrypted plain to dst: EncryptedSize(len(plain))
// bytes, which are written in place if dst has the capacity. plain must not
// overlap them.
func (c *Cipher) AppendEncrypt(dst, plain []byte) []byte {
	n := len(dst)
	size := EncryptedSize(len(plain))
	dst = slices.Grow(dst, size)[:n+size]
	s := c.s
	s.chain = c.iv
	out := dst[n:]
	for len(plain) >= chunk {
		copy(s.buf[:], plain)
		plain = plain[chunk:]
		c.seal(s.buf[:])
		base64.StdEncoding.Encode(out, s.buf[:])
		out = out[len(s.text):]
	}
	base64.StdEncoding.Encode(out, c.sealLast(copy(s.buf[:], plain)))
	return dst
}

// seal encrypts whole blocks in place and moves the chain on.
func (c *Cipher) seal(p []byte) {
	prev := c.s.chain[:]
	for ; len(p) > 0; p = p[block:] {
		subtle.XORBytes(p[:block], p[:block], prev)
		c.aes.Encrypt(p[:block], p[:block])
		prev = p[:block]
	}
	copy(c.s.chain[:], prev)
}

// sealLast pads and encrypts the first n bytes of the buffer, less than a chunk.
func (c *Cipher) sealLast(n int) []byte {
	p := c.s.buf[:paddedSize(n)]
	pad := byte(len(p) - n)
	for i := n; i < len(p); i++ {
		p[i] = pad
	}
	c.seal(p)
	return p
}

// AppendDecrypt appends what AppendEncrypt made wire of. wire and dst must not
// overlap. On an error, which wraps ErrCipher, dst is returned as it was.
func (c *Cipher) AppendDecrypt(dst, wire []byte) ([]byte, error) {
	n := len(dst)
	out, err := base64.StdEncoding.AppendDecode(dst, wire)
	if err != nil {
		return dst, fmt.Errorf("cannot decrypt: %w: %d bytes are not base64: %w", ErrCipher, len(wire), err)
	}
	p := out[n:]
	if len(p) == 0 || len(p)%block != 0 {
		return dst, fmt.Errorf("cannot decrypt: %w: %d bytes, not a positive multiple of %d", ErrCipher, len(p), block)
	}
	// From the back, so that the block before is still ciphertext.
	for at := len(p) - block; at >= 0; at -= block {
		prev := c.iv[:]
		if at > 0 {
			prev = p[at-block : at]
		}
		b := p[at : at+block]
		c.aes.Decrypt(b, b)
		subtle.XORBytes(b, b, prev)
	}
	pad := p[len(p)-1]
	if pad == 0 || pad > block {
		return dst, fmt.Errorf("cannot decrypt: %w: padding of %d bytes, 1 to %d are possible; other keys?", ErrCipher, pad, block)
	}
	for _, b := range p[len(p)-int(pad):] {
		if b != pad {
			return dst, fmt.Errorf("cannot decrypt: %w: padding of %d bytes holds a %d; other keys?", ErrCipher, pad, b)
		}
	}
	return out[:len(out)-int(pad)], nil
}

// AppendSendKey appends the message key of v, 32 characters. v.Payload is the
// encrypted one; v.MsgKey is not looked at.
func (c *Cipher) AppendSendKey(dst []byte, v *Send) []byte {
	c.signBegin()
	c.signUint(uint64(v.ClientSeq))
	c.sign(v.ClientMsgNo)
	c.sign(v.ChannelID)
	c.signUint(uint64(v.ChannelType))
	c.sign(v.Payload)
	return c.signEnd(dst)
}

// CheckSendKey reports whether v.MsgKey is right.
func (c *Cipher) CheckSendKey(v *Send) bool {
	return subtle.ConstantTimeCompare(c.AppendSendKey(c.s.key[:0], v), v.MsgKey) == 1
}

// AppendRecvKey appends the message key of v, 32 characters. v.Payload is the
// encrypted one; v.MsgKey is not looked at.
func (c *Cipher) AppendRecvKey(dst []byte, v *Recv) []byte {
	c.signBegin()
	c.signInt(v.MessageID)
	c.signUint(uint64(v.MessageSeq))
	c.sign(v.ClientMsgNo)
	c.signInt(int64(v.Timestamp))
	c.sign(v.FromUID)
	c.sign(v.ChannelID)
	c.signUint(uint64(v.ChannelType))
	c.sign(v.Payload)
	return c.signEnd(dst)
}

// CheckRecvKey reports whether v.MsgKey is right.
func (c *Cipher) CheckRecvKey(v *Recv) bool {
	return subtle.ConstantTimeCompare(c.AppendRecvKey(c.s.key[:0], v), v.MsgKey) == 1
}

// AppendRecv appends v with its payload, which is plain, encrypted and signed:
// RecvSize bytes, written in place if dst has the capacity. It does not change
// v and does not look at v.MsgKey.
func (c *Cipher) AppendRecv(dst []byte, v *Recv, version uint8) []byte {
	w := *v
	w.MsgKey = c.s.key[:] // room for it
	w.Payload = nil
	dst = appendHeader(dst, TypeRecv, w.Flags, w.body(version)+EncryptedSize(len(v.Payload)))
	key := len(dst) + 1 + 2 // behind setting and the key's length
	dst = w.appendHead(dst, version)
	payload := len(dst)
	dst = c.AppendEncrypt(dst, v.Payload)
	w.Payload = dst[payload:]
	c.AppendRecvKey(dst[:key], &w)
	return dst
}

// RecvSize returns how many bytes AppendRecv adds.
func (c *Cipher) RecvSize(v *Recv, version uint8) int {
	w := *v
	w.MsgKey = c.s.key[:]
	return frameSize(w.body(version) - len(v.Payload) + EncryptedSize(len(v.Payload)))
}

// A sign is encrypted, encoded and hashed chunk by chunk as it is written.

func (c *Cipher) signBegin() {
	c.s.chain = c.iv
	c.s.n = 0
	c.s.md5.Reset()
}

func (c *Cipher) sign(p []byte) {
	s := c.s
	for {
		n := copy(s.buf[s.n:], p)
		s.n += n
		p = p[n:]
		if s.n < chunk {
			return
		}
		c.seal(s.buf[:])
		base64.StdEncoding.Encode(s.text[:], s.buf[:])
		s.md5.Write(s.text[:])
		s.n = 0
	}
}

func (c *Cipher) signUint(v uint64) {
	var digits [20]byte
	c.sign(strconv.AppendUint(digits[:0], v, 10))
}

func (c *Cipher) signInt(v int64) {
	var digits [20]byte
	c.sign(strconv.AppendInt(digits[:0], v, 10))
}

func (c *Cipher) signEnd(dst []byte) []byte {
	s := c.s
	p := c.sealLast(s.n)
	n := base64.StdEncoding.EncodedLen(len(p))
	base64.StdEncoding.Encode(s.text[:n], p)
	s.md5.Write(s.text[:n])
	return hex.AppendEncode(dst, s.md5.Sum(s.sum[:0]))
}
