package config

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// A problem is why a value was refused: what was found and what was expected.
type problem struct{ found, expected string }

// set parses s, a value as it is written in the file without its quotes, and
// stores it at the place of the key. It changes nothing when it returns a
// problem.
func (k *key) set(c *Config, s string) *problem {
	bad := func() *problem { return &problem{found: strconv.Quote(s), expected: k.expected()} }
	switch k.kind {
	case text:
		if strings.TrimSpace(s) == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
			return bad()
		}
		*k.at(c).(*string) = s
	case address:
		if s == "off" {
			*k.at(c).(*string) = ""
			return nil
		}
		if !validAddress(s) {
			return bad()
		}
		*k.at(c).(*string) = s
	case choice:
		for _, word := range k.words {
			if s == word {
				*k.at(c).(*string) = s
				return nil
			}
		}
		return bad()
	case boolean:
		if s != "true" && s != "false" {
			return bad()
		}
		*k.at(c).(*bool) = s == "true"
	case integer:
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || !k.inRange(n) || n > math.MaxInt32 {
			return &problem{found: s, expected: k.expected()}
		}
		*k.at(c).(*int) = int(n)
	case size:
		n, err := ParseSize(s)
		if err != nil || !k.inRange(n) {
			p := bad()
			if err != nil {
				p.found += " (" + err.Error() + ")"
			}
			return p
		}
		*k.at(c).(*int64) = n
	case duration:
		d, err := time.ParseDuration(s)
		if err != nil || !k.inRange(int64(d)) {
			return bad()
		}
		*k.at(c).(*time.Duration) = d
	}
	return nil
}

func (k *key) inRange(n int64) bool {
	if n == 0 && k.zero != "" {
		return true
	}
	return n >= k.min && n <= k.max && (!k.power || n&(n-1) == 0)
}

// expected says in words what a value of this key looks like.
func (k *key) expected() string {
	var s string
	switch k.kind {
	case text:
		return "a text of printable characters that is not empty"
	case address:
		return `an address such as ":5100" or "127.0.0.1:5100" (port 0 takes a free one), or "off"`
	case choice:
		return `"` + strings.Join(k.words, `" or "`) + `"`
	case boolean:
		return "true or false"
	case integer:
		s = "a whole number " + k.limits()
	case size:
		s = `a size such as "64KiB" ` + k.limits()
	case duration:
		s = `a time such as "10s" ` + k.limits()
	}
	if k.zero != "" {
		s += ", or 0 for " + k.zero
	}
	return s
}

// limits is the range of a numeric key in words.
func (k *key) limits() string {
	s := "from " + k.format(k.min) + " to " + k.format(k.max)
	if k.power {
		s += ", a power of two"
	}
	return s
}

// format writes a number the way this key's values are written.
func (k *key) format(n int64) string {
	switch k.kind {
	case size:
		return formatSize(n)
	case duration:
		return formatDuration(time.Duration(n))
	default:
		return strconv.FormatInt(n, 10)
	}
}

// get returns the value of the key as it would be written, without quotes.
func (k *key) get(c *Config) string {
	if k.kind == address && *k.at(c).(*string) == "" {
		return "off"
	}
	return k.written(k.at(c))
}

// written is the text of a value behind one of the pointers that at returns.
func (k *key) written(at any) string {
	switch v := at.(type) {
	case *string:
		return *v
	case *bool:
		return strconv.FormatBool(*v)
	case *int:
		return strconv.Itoa(*v)
	case *int64:
		return formatSize(*v)
	case *time.Duration:
		return formatDuration(*v)
	default:
		panic(fmt.Sprintf("BUG: key %s has a value of type %T", k.name, at))
	}
}

// quoted reports whether TOML wants quotes around values of this key.
func (k *key) quoted() bool { return k.kind != boolean && k.kind != integer }

func validAddress(s string) bool {
	_, port, err := net.SplitHostPort(s)
	if err != nil {
		return false
	}
	_, err = strconv.ParseUint(port, 10, 16)
	return err == nil
}

// units of a size, the largest first.
func units() []struct {
	name  string
	bytes int64
} {
	return []struct {
		name  string
		bytes int64
	}{{"GiB", gib}, {"MiB", mib}, {"KiB", kib}, {"B", 1}}
}

// ParseSize reads a whole number with a required unit, like 10MiB.
func ParseSize(s string) (int64, error) {
	if s == "0" {
		return 0, nil
	}
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	number, unit := s[:digits], strings.TrimSpace(s[digits:])
	if number == "" {
		return 0, fmt.Errorf("no whole number in front")
	}
	if unit == "" {
		return 0, fmt.Errorf("no unit: one of B, KiB, MiB, GiB")
	}
	for _, u := range units() {
		if unit != u.name {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n > math.MaxInt64/u.bytes {
			return 0, fmt.Errorf("too large a number")
		}
		return n * u.bytes, nil
	}
	return 0, fmt.Errorf("unknown unit %q: one of B, KiB, MiB, GiB", unit)
}

// formatSize writes n with the largest unit that divides it.
func formatSize(n int64) string {
	for _, u := range units() {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// formatDuration writes d without the zero units that Duration.String appends:
// 3m, not 3m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
