package wukong

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
)

// cryptoVector is the part of the vector file on keys and encryption.
type cryptoVector struct {
	IV            string `json:"aes_iv_ascii"`
	Key           string `json:"aes_key_ascii"`
	ClientPrivate string `json:"client_private_hex"`
	ClientPublic  string `json:"client_public_base64"`
	SharedMD5     string `json:"md5_hex_of_shared_base64"`
	Plain         string `json:"payload_plain"`
	Wire          string `json:"payload_wire_ascii"`
	RecvKey       string `json:"recv_msg_key"`
	RecvSign      string `json:"recv_sign_input"`
	SendKey       string `json:"send_msg_key"`
	SendSignWire  string `json:"send_sign_cipher_base64"`
	SendSign      string `json:"send_sign_input"`
	ServerPrivate string `json:"server_private_hex"`
	ServerPublic  string `json:"server_public_base64"`
	Shared64      string `json:"shared_secret_base64"`
	SharedHex     string `json:"shared_secret_hex"`
}

func privateKey(t testing.TB, hexKey string) *ecdh.PrivateKey {
	t.Helper()
	k, err := ecdh.X25519().NewPrivateKey(unhex(t, hexKey))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func vectorKeys(t testing.TB) (Keys, cryptoVector) {
	t.Helper()
	v := readVectors(t).Crypto
	var k Keys
	copy(k.Key[:], v.Key)
	copy(k.IV[:], v.IV)
	return k, v
}

func TestBothSidesDeriveTheKeysOfTheVectors(t *testing.T) {
	want, v := vectorKeys(t)
	client, server := privateKey(t, v.ClientPrivate), privateKey(t, v.ServerPrivate)
	if got := PublicKey(client); got != v.ClientPublic {
		t.Errorf("client's public key %s, want %s", got, v.ClientPublic)
	}
	if got := PublicKey(server); got != v.ServerPublic {
		t.Errorf("server's public key %s, want %s", got, v.ServerPublic)
	}
	for _, side := range []struct {
		private *ecdh.PrivateKey
		peer    string
	}{{client, v.ServerPublic}, {server, v.ClientPublic}} {
		got, err := DeriveKeys(side.private, []byte(side.peer), []byte(v.IV))
		if err != nil || got != want {
			t.Errorf("keys %q, %v, want %q", got, err, want)
		}
	}
	// A longer salt counts with its first 16 bytes.
	if got, err := DeriveKeys(client, []byte(v.ServerPublic), []byte(v.IV+"more")); err != nil || got != want {
		t.Errorf("keys %q, %v, want %q", got, err, want)
	}
}

func TestPayloadsAndMessageKeysAreThoseOfTheVectors(t *testing.T) {
	k, v := vectorKeys(t)
	c := NewCipher(k)
	if got := c.AppendEncrypt(nil, []byte(v.Plain)); string(got) != v.Wire {
		t.Errorf("payload %s, want %s", got, v.Wire)
	}
	if got, err := c.AppendDecrypt(nil, []byte(v.Wire)); err != nil || string(got) != v.Plain {
		t.Errorf("plain %s, %v, want %s", got, err, v.Plain)
	}
	if got := c.AppendEncrypt(nil, []byte(v.SendSign)); string(got) != v.SendSignWire {
		t.Errorf("sign %s, want %s", got, v.SendSignWire)
	}
	for _, vec := range readVectors(t).Vectors {
		f, _, err := Split(vec.wire(t))
		if err != nil {
			t.Fatal(err)
		}
		switch vec.Name {
		case "send_person_encrypted_v5":
			var s Send
			if err := s.Decode(f, vec.Version); err != nil {
				t.Fatal(err)
			}
			if got := c.AppendSendKey(nil, &s); string(got) != v.SendKey || !c.CheckSendKey(&s) {
				t.Errorf("SEND's key %s, want %s", got, v.SendKey)
			}
		case "recv_person_encrypted_v5":
			var r Recv
			if err := r.Decode(f, vec.Version); err != nil {
				t.Fatal(err)
			}
			if got := c.AppendRecvKey(nil, &r); string(got) != v.RecvKey || !c.CheckRecvKey(&r) {
				t.Errorf("RECV's key %s, want %s", got, v.RecvKey)
			}
			r.Payload = []byte(v.Plain)
			wantBytes(t, c.AppendRecv(nil, &r, vec.Version), vec.wire(t))
		}
	}
}

// model is the protocol's E(x) said with the standard library only.
func model(k Keys, x []byte) string {
	b, err := aes.NewCipher(k.Key[:])
	if err != nil {
		panic(err)
	}
	pad := 16 - len(x)%16
	p := append(bytes.Clone(x), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(b, k.IV[:]).CryptBlocks(p, p)
	return base64.StdEncoding.EncodeToString(p)
}

func modelKey(k Keys, sign string) string {
	sum := md5.Sum([]byte(model(k, []byte(sign))))
	return hex.EncodeToString(sum[:])
}

func TestEncryptionMatchesANaiveModelAtEveryLength(t *testing.T) {
	r := newRand(t)
	var scratch Scratch
	k := Keys{Key: [16]byte(randomBytes(r, 16)), IV: [16]byte(randomBytes(r, 16))}
	c, other := scratch.NewCipher(k), scratch.NewCipher(Keys{})
	sizes := []int{1023, 4096, 24559, MaxPayload}
	for n := range 300 {
		sizes = append(sizes, n)
	}
	for _, n := range sizes {
		plain := randomBytes(r, n)
		want := model(k, plain)
		got := c.AppendEncrypt([]byte("before"), plain)
		if string(got) != "before"+want {
			t.Fatalf("%d bytes: got %s, want before%s", n, got, want)
		}
		if EncryptedSize(n) != len(want) {
			t.Fatalf("%d bytes: EncryptedSize %d, want %d", n, EncryptedSize(n), len(want))
		}
		other.AppendEncrypt(nil, plain) // a neighbour on the same scratch
		back, err := c.AppendDecrypt([]byte("before"), got[len("before"):])
		if err != nil || string(back) != "before"+string(plain) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// 24,559 bytes are what a SEND can carry: see MaxPayload.
func TestTheLargestPlainPayloadFitsASend(t *testing.T) {
	if n := EncryptedSize(24559); n != 32748 || n > MaxPayload {
		t.Errorf("24559 bytes give %d", n)
	}
	if n := EncryptedSize(24560); n <= MaxPayload {
		t.Errorf("24560 bytes give %d, which still fits", n)
	}
}

func TestMessageKeysMatchANaiveModel(t *testing.T) {
	r := newRand(t)
	k := Keys{Key: [16]byte(randomBytes(r, 16)), IV: [16]byte(randomBytes(r, 16))}
	c := NewCipher(k)
	for i := range 1000 {
		s := randomPacket(r, TypeSend, 5).(*Send)
		v := randomPacket(r, TypeRecv, 5).(*Recv)
		if i == 0 {
			s.ClientSeq, v.MessageSeq = math.MaxUint32, math.MaxUint32
			v.MessageID, v.Timestamp = math.MinInt64, math.MinInt32
		}
		want := modelKey(k, fmt.Sprintf("%d%s%s%d%s", s.ClientSeq, s.ClientMsgNo, s.ChannelID, s.ChannelType, s.Payload))
		if got := string(c.AppendSendKey([]byte("x"), s)); got != "x"+want {
			t.Fatalf("SEND: %s, want x%s", got, want)
		}
		want = modelKey(k, fmt.Sprintf("%d%d%s%d%s%s%d%s",
			v.MessageID, v.MessageSeq, v.ClientMsgNo, v.Timestamp, v.FromUID, v.ChannelID, v.ChannelType, v.Payload))
		if got := string(c.AppendRecvKey([]byte("x"), v)); got != "x"+want {
			t.Fatalf("RECV: %s, want x%s", got, want)
		}
	}
}

func TestAWrongMessageKeyIsSeen(t *testing.T) {
	k, v := vectorKeys(t)
	c := NewCipher(k)
	s := Send{ClientSeq: 1, ClientMsgNo: []byte("no-0001"), ChannelID: []byte("bob"), ChannelType: 1, Payload: []byte(v.Wire)}
	for _, key := range []string{"", "x", v.RecvKey, v.SendKey[1:], v.SendKey + "0", strings.ToUpper(v.SendKey)} {
		s.MsgKey = []byte(key)
		if c.CheckSendKey(&s) {
			t.Errorf("key %q is accepted", key)
		}
	}
	s.MsgKey = []byte(v.SendKey)
	if !c.CheckSendKey(&s) {
		t.Error("the right key is refused")
	}
	s.ClientSeq++
	if c.CheckSendKey(&s) {
		t.Error("the key of another sequence is accepted")
	}
}

func TestDecryptRefusesWhatNoCipherMade(t *testing.T) {
	k, v := vectorKeys(t)
	c := NewCipher(k)
	other := k
	other.Key[0]++
	// 16 bytes that decrypt to anything but padding, and to padding of 0 and 17.
	raw := func(plain string) string {
		b, err := aes.NewCipher(k.Key[:])
		if err != nil {
			t.Fatal(err)
		}
		p := []byte(plain)
		cipher.NewCBCEncrypter(b, k.IV[:]).CryptBlocks(p, p)
		return base64.StdEncoding.EncodeToString(p)
	}
	for name, wire := range map[string]string{
		"nothing":            "",
		"not base64":         "????",
		"base64 cut":         v.Wire[:len(v.Wire)-1],
		"half a block":       base64.StdEncoding.EncodeToString(make([]byte, 8)),
		"one block and one":  base64.StdEncoding.EncodeToString(make([]byte, 17)),
		"padding of 0":       raw("fifteen bytes..\x00"),
		"padding of 17":      raw("fifteen bytes..\x11"),
		"padding not all 3":  raw("thirteen byte\x03\x02\x03"),
		"plain JSON":         v.Plain,
		"last block missing": v.Wire[:24],
	} {
		out, err := c.AppendDecrypt([]byte("before"), []byte(wire))
		if !errors.Is(err, ErrCipher) || string(out) != "before" {
			t.Errorf("%s: %q, %v", name, out, err)
		} else {
			t.Log(err)
		}
	}
	if out, err := NewCipher(other).AppendDecrypt(nil, []byte(v.Wire)); err == nil && string(out) == v.Plain {
		t.Error("another key decrypts it")
	}
}

func TestAnEncryptedRecvIsWrittenInPlaceAndOpensAgain(t *testing.T) {
	r := newRand(t)
	k := Keys{Key: [16]byte(randomBytes(r, 16)), IV: [16]byte(randomBytes(r, 16))}
	c := NewCipher(k)
	for range 300 {
		for version := uint8(1); version <= LatestVersion; version++ {
			sent := randomPacket(r, TypeRecv, version).(*Recv)
			before := *sent
			size := c.RecvSize(sent, version)
			room := make([]byte, 5, 5+size)
			out := c.AppendRecv(room, sent, version)
			if &out[0] != &room[0] || len(out) != cap(room) {
				t.Fatalf("v%d: %d bytes, RecvSize says %d", version, len(out)-5, size)
			}
			if d := different(sent, &before); d != "" {
				t.Fatalf("v%d: the packet was changed: %s", version, d)
			}
			var got Recv
			f, n, err := Split(out[5:])
			if err != nil || n != size {
				t.Fatalf("v%d: Split took %d of %d: %v", version, n, size, err)
			}
			if err := got.Decode(f, version); err != nil {
				t.Fatal(err)
			}
			if !c.CheckRecvKey(&got) {
				t.Fatalf("v%d: wrong key %q", version, got.MsgKey)
			}
			plain, err := c.AppendDecrypt(nil, got.Payload)
			if err != nil {
				t.Fatal(err)
			}
			got.Payload, got.MsgKey = plain, sent.MsgKey
			if d := different(sent, &got); d != "" {
				t.Fatalf("v%d differs in %s", version, d)
			}
		}
	}
}

func TestDeriveKeysRefusesBadKeysAndSalts(t *testing.T) {
	_, v := vectorKeys(t)
	private := privateKey(t, v.ServerPrivate)
	enc := func(n int) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{9}, n)) }
	low := unhex(t, "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
	for _, c := range []struct{ name, public, salt string }{
		{"empty key", "", v.IV},
		{"3 bytes", enc(3), v.IV},
		{"31 bytes", enc(31), v.IV},
		{"33 bytes", enc(33), v.IV},
		{"64 bytes", enc(64), v.IV},
		{"no padding", enc(32)[:43], v.IV},
		{"44 characters that are 33 bytes", strings.Repeat("A", 44), v.IV},
		{"not base64", strings.Repeat("?", 44), v.IV},
		{"line ends", enc(32)[:40] + "\r\n\r\n", v.IV},
		{"URL alphabet", strings.Replace(v.ClientPublic, "/", "_", 1), v.IV},
		{"all zero", enc(0) + base64.StdEncoding.EncodeToString(make([]byte, 32)), v.IV},
		{"point of order 1", base64.StdEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...)), v.IV},
		{"point of order 8", base64.StdEncoding.EncodeToString(low), v.IV},
		{"no salt", v.ClientPublic, ""},
		{"short salt", v.ClientPublic, v.IV[:15]},
	} {
		k, err := DeriveKeys(private, []byte(c.public), []byte(c.salt))
		if !errors.Is(err, ErrKey) || k != (Keys{}) {
			t.Errorf("%s: %q, %v", c.name, k, err)
		} else {
			t.Log(err)
		}
	}
}

func TestKeysAndSaltsMadeHereWorkBetweenTwoParties(t *testing.T) {
	alice, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	bob, err := NewPrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	salt, err := NewSalt()
	if err != nil {
		t.Fatal(err)
	}
	a, errA := DeriveKeys(alice, []byte(PublicKey(bob)), []byte(salt))
	b, errB := DeriveKeys(bob, []byte(PublicKey(alice)), []byte(salt))
	if errA != nil || errB != nil || a != b {
		t.Errorf("%q, %v\n%q, %v", a, errA, b, errB)
	}
}

func TestSaltsAreSixteenLettersAndDigitsAndDiffer(t *testing.T) {
	seen, used := map[string]bool{}, map[rune]bool{}
	for range 1000 {
		salt, err := NewSalt()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range salt {
			if used[c] = true; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
				t.Fatalf("salt %q", salt)
			}
		}
		if len(salt) != SaltSize || seen[salt] {
			t.Fatalf("salt %q: %d bytes, seen before: %v", salt, len(salt), seen[salt])
		}
		seen[salt] = true
	}
	if len(used) != 62 {
		t.Errorf("%d characters in use, want 62", len(used))
	}
}
