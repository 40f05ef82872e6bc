package jsonrpc

import (
	"errors"
	"fmt"
)

const (
	// MaxObject is the largest object in bytes.
	MaxObject = 1 << 20
	// MaxDepth is how deep objects and arrays may lie in each other.
	MaxDepth = 32
)

var (
	// ErrSyntax is returned, wrapped, when what was received is not JSON, or not
	// an object.
	ErrSyntax = errors.New("not a JSON object")
	// ErrTooLarge is returned, wrapped, when an object is above MaxObject or
	// MaxDepth.
	ErrTooLarge = errors.New("JSON object too large")
)

// Splitter finds where an object ends. It remembers how far it looked, so that
// an object that comes in many pieces is not read again with each. The zero
// value stands before an object.
type Splitter struct {
	at      int // bytes of the object that were looked at
	depth   int // open braces and brackets
	quoted  bool
	escaped bool // quoted, and the last byte was a backslash
}

// Split cuts one object off the front of src. n is how many bytes to discard;
// 0 means that src does not hold all of the object yet, and then the next call
// gets the same bytes and more. The object is a view on src, or nil for space
// between objects. It is only known to end where it does: Parse tells whether it
// is JSON. The error wraps ErrSyntax or ErrTooLarge.
func (s *Splitter) Split(src []byte) (object []byte, n int, err error) {
	if s.at == 0 {
		for n < len(src) && space(src[n]) {
			n++
		}
		if n > 0 || len(src) == 0 {
			return nil, n, nil
		}
		if src[0] != '{' {
			return nil, 0, fmt.Errorf("cannot read a request: %w: it begins with %q instead of %q", ErrSyntax, src[0], '{')
		}
	}
	for i := s.at; i < min(len(src), MaxObject); i++ {
		c := src[i]
		switch {
		case s.escaped:
			s.escaped = false
		case s.quoted:
			s.escaped = c == '\\'
			s.quoted = c != '"'
		case c == '"':
			s.quoted = true
		case c == '{' || c == '[':
			if s.depth++; s.depth > MaxDepth {
				return nil, 0, fmt.Errorf("cannot read a request: %w: more than %d levels", ErrTooLarge, MaxDepth)
			}
		case c == '}' || c == ']':
			if s.depth--; s.depth == 0 {
				*s = Splitter{}
				return src[: i+1 : i+1], i + 1, nil
			}
		}
	}
	if s.at = len(src); s.at >= MaxObject {
		return nil, 0, fmt.Errorf("cannot read a request: %w: no end after %d bytes, the limit is %d", ErrTooLarge, len(src), MaxObject)
	}
	return nil, 0, nil
}

func space(c byte) bool { return c == ' ' || c == '\n' || c == '\r' || c == '\t' }
