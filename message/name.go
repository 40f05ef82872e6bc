package message

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxName is how many bytes the id of a user, a channel or a device may have: it
// is kept in memory for each. Ids of applications are uuids or shorter.
const MaxName = 128

// CheckName says what is wrong with what clients and applications call something,
// or a user or a channel by: it must be UTF-8 without control characters, and have
// at most `most` bytes. U+FFFD is refused too: JSON decoders put it where text was
// damaged, so that different names would become one. Every door asks here, a
// replay does not: what was stored once stays.
func CheckName[T string | []byte](name T, most int) error {
	switch p := []byte(name); {
	case len(p) > most:
		return fmt.Errorf("it has %d bytes, the limit is %d", len(p), most)
	case !plain(p):
		return checkText(p)
	}
	return nil
}

// plain reports whether all bytes are ASCII that is no control character, eight at
// a time: every SEND has names.
func plain(p []byte) bool {
	const each = 0x0101010101010101
	odd := uint64(0)
	for ; len(p) >= 8; p = p[8:] {
		x := binary.LittleEndian.Uint64(p)
		del := x ^ 0x7f*each
		odd |= x | (x - 0x20*each) | (del - each)
	}
	for _, c := range p {
		if c < ' ' || c >= 0x7f {
			return false
		}
	}
	return odd&(0x80*each) == 0
}

// checkText is CheckName for what is not plain.
func checkText(name []byte) error {
	for i := 0; i < len(name); {
		if c := name[i]; c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				return fmt.Errorf("it has the control character %#02x at byte %d", c, i)
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(string(name[i:min(len(name), i+utf8.UTFMax)]))
		switch {
		case r == utf8.RuneError && size == 1:
			return fmt.Errorf("it is not UTF-8 at byte %d", i)
		case r == utf8.RuneError:
			return fmt.Errorf("it has U+FFFD at byte %d, which stands for a character that was lost", i)
		case r < 0xa0:
			return fmt.Errorf("it has the control character %#02x at byte %d", r, i)
		}
		i += size
	}
	return nil
}

// CheckUID says what is wrong with the id of a user.
func CheckUID[T string | []byte](uid T) error {
	const odd = "@#&" // "@" joins two in the id of their channel
	switch s := string(uid); {
	case strings.TrimSpace(s) == "":
		return errors.New("it is empty")
	case strings.ContainsAny(s, odd):
		return fmt.Errorf("it has one of %q", odd)
	case Reserved([]byte(s)):
		return fmt.Errorf("it ends in %s or %s, which are for events and commands", eventsSuffix, commandsSuffix)
	}
	return CheckName(uid, MaxName)
}
