package message

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"slices"
)

// AllDevices stands for the devices of a user whatever their flag.
const AllDevices uint8 = 255

// Levels of a device.
const (
	LevelSlave  uint8 = 0 // its login ends only that of the same device id
	LevelMaster uint8 = 1 // its login ends those of the same device flag
)

// Token is what is kept of the token with which devices of one flag log in. The
// token itself is random and long, so that a fast hash is enough; the salt is
// its key.
type Token struct {
	Device uint8 // flag
	Level  uint8
	Salt   [16]byte
	Hash   [16]byte // HMAC-SHA-256 of the token under the salt, the first half
}

// NewToken makes what is kept of a token.
func NewToken(device, level uint8, token []byte) Token {
	t := Token{Device: device, Level: level}
	rand.Read(t.Salt[:])
	t.Hash = t.hash(token)
	return t
}

func (t *Token) hash(token []byte) (h [16]byte) {
	m := hmac.New(sha256.New, t.Salt[:])
	m.Write(token)
	copy(h[:], m.Sum(nil))
	return h
}

// Matches reports whether a token is the one, in a time that does not tell how
// much of it is right.
func (t *Token) Matches(token []byte) bool {
	h := t.hash(token)
	return subtle.ConstantTimeCompare(h[:], t.Hash[:]) == 1
}

// Account is what the box knows of a user besides their channels. It is never
// changed in place.
type Account struct {
	Tokens []Token // at most one for each device flag
	Silent []uint8 // device flags that are not pushed what they missed when they connect
	System bool    // may send wherever they want
	Told   []uint8 // device flags of which the application was told that they are online
}

// Token returns the token of a device flag, or nil.
func (a *Account) Token(device uint8) *Token {
	if a == nil {
		return nil
	}
	for i := range a.Tokens {
		if a.Tokens[i].Device == device {
			return &a.Tokens[i]
		}
	}
	return nil
}

// IsSilent reports whether devices of a flag are not pushed what they missed.
func (a *Account) IsSilent(device uint8) bool { return a != nil && slices.Contains(a.Silent, device) }

// IsSystem reports whether there is an account of one who may send wherever they
// want.
func (a *Account) IsSystem() bool { return a != nil && a.System }

// Empty reports whether there is nothing to be kept.
func (a *Account) Empty() bool {
	return a == nil || len(a.Tokens) == 0 && len(a.Silent) == 0 && !a.System && len(a.Told) == 0
}

// UserOp says what a KindUser record does.
type UserOp uint8

const (
	// OpToken sets the token of a device flag.
	OpToken UserOp = 1
	// OpQuit takes the token of a device flag away, or of AllDevices, and ends
	// their connections.
	OpQuit UserOp = 2
	// OpSystem makes a user one who may send wherever they want, OpOrdinary ends it.
	OpSystem   UserOp = 3
	OpOrdinary UserOp = 4
	// OpSilent lets devices of a flag read what they missed over HTTP instead of
	// being pushed it when they connect, OpPushed ends that.
	OpSilent UserOp = 5
	OpPushed UserOp = 6
	// OpCame says that the application was told that devices of a flag are online,
	// OpWent that they no longer are.
	OpCame UserOp = 7
	OpWent UserOp = 8
)

// UserChange is what a KindUser record does to the user FromUID.
type UserChange struct {
	Op    UserOp
	Token Token // all of it with OpToken; Device with OpQuit, OpSilent, OpPushed, OpCame, OpWent
}

const userChangeSize = 35

// AppendUserChange appends the payload of a KindUser record:
//
//	 0    1        2       3      19     35
//	+----+--------+-------+------+------+
//	| op | device | level | salt | hash |
//	+----+--------+-------+------+------+
func AppendUserChange(dst []byte, c *UserChange) []byte {
	dst = append(dst, byte(c.Op), c.Token.Device, c.Token.Level)
	dst = append(dst, c.Token.Salt[:]...)
	return append(dst, c.Token.Hash[:]...)
}

// DecodeUserChange reads what AppendUserChange wrote.
func DecodeUserChange(src []byte) (c UserChange, err error) {
	if len(src) != userChangeSize || src[0] < byte(OpToken) || src[0] > byte(OpWent) {
		return c, fmt.Errorf("%w: a change of a user has %d bytes, expected %d", ErrRecord, len(src), userChangeSize)
	}
	c = UserChange{Op: UserOp(src[0]), Token: Token{Device: src[1], Level: src[2]}}
	copy(c.Token.Salt[:], src[3:])
	copy(c.Token.Hash[:], src[19:])
	return c, nil
}
