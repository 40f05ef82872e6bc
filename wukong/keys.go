package wukong

import (
	"crypto/ecdh"
	"crypto/md5"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
)

// SaltSize is the size of a salt in bytes.
const SaltSize = 16

// keySize is the size of an X25519 key in bytes.
const keySize = 32

// ErrKey is returned when the other side's public key or salt cannot be used.
var ErrKey = errors.New("bad key")

// Keys are the secrets of one connection. They are 32 bytes, so that an idle
// connection may keep them in place of a Cipher.
type Keys struct {
	Key [16]byte // AES-128
	IV  [16]byte // the same for every message
}

// NewPrivateKey returns a random X25519 key.
func NewPrivateKey() (*ecdh.PrivateKey, error) {
	return ecdh.X25519().GenerateKey(rand.Reader)
}

// PublicKey returns the public half of a key as CONNECT and CONNACK carry it:
// standard base64 of 32 bytes.
func PublicKey(private *ecdh.PrivateKey) string {
	return base64.StdEncoding.EncodeToString(private.PublicKey().Bytes())
}

// NewSalt returns SaltSize random characters of 0-9, a-z, A-Z.
func NewSalt() (string, error) {
	const alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	const fair = 256 - 256%len(alphabet) // bytes from here on would favour the first characters
	var random [2 * SaltSize]byte
	salt := make([]byte, 0, SaltSize)
	for {
		if _, err := rand.Read(random[:]); err != nil {
			return "", fmt.Errorf("cannot make a salt: %w", err)
		}
		for _, b := range random {
			if int(b) >= fair {
				continue
			}
			if salt = append(salt, alphabet[int(b)%len(alphabet)]); len(salt) == SaltSize {
				return string(salt), nil
			}
		}
	}
}

// DeriveKeys returns what both sides of a connection agree on:
//
//	shared = X25519(private, peer's public key)             32 bytes
//	Key    = the first 16 characters of hex(MD5(base64(shared)))
//	IV     = the first 16 characters of the salt
//
// The error wraps ErrKey: the public key must be base64 of exactly 32 bytes
// and not of low order, the salt must have at least 16 bytes.
func DeriveKeys(private *ecdh.PrivateKey, peerPublicBase64, salt []byte) (Keys, error) {
	if len(salt) < SaltSize {
		return Keys{}, fmt.Errorf("cannot derive keys: %w: the salt has %d bytes, %d are needed", ErrKey, len(salt), SaltSize)
	}
	if n := base64.StdEncoding.EncodedLen(keySize); len(peerPublicBase64) != n {
		return Keys{}, fmt.Errorf("cannot derive keys: %w: the public key has %d characters, %d are needed", ErrKey, len(peerPublicBase64), n)
	}
	raw, err := base64.StdEncoding.AppendDecode(nil, peerPublicBase64)
	if err != nil {
		return Keys{}, fmt.Errorf("cannot derive keys: %w: the public key is not base64: %w", ErrKey, err)
	}
	if len(raw) != keySize {
		return Keys{}, fmt.Errorf("cannot derive keys: %w: the public key has %d bytes, %d are needed", ErrKey, len(raw), keySize)
	}
	public, err := ecdh.X25519().NewPublicKey(raw)
	if err != nil {
		return Keys{}, fmt.Errorf("cannot derive keys: %w: %w", ErrKey, err)
	}
	shared, err := private.ECDH(public)
	if err != nil { // all zero: the public key is a point of low order
		return Keys{}, fmt.Errorf("cannot derive keys: %w: %w", ErrKey, err)
	}
	sum := md5.Sum(base64.StdEncoding.AppendEncode(nil, shared))
	var k Keys
	hex.Encode(k.Key[:], sum[:len(k.Key)/2])
	copy(k.IV[:], salt)
	return k, nil
}
