package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"
)

// unmarshal is json.Unmarshal, and takes for a whole number what other languages
// write for one: 1.0, 1e2 and "12" (a JavaScript client cannot write a 64-bit id as
// a number). No digit is lost. What is not whole or out of range stays an error.
func unmarshal(text []byte, into any) error {
	err := json.Unmarshal(text, into)
	if odd := new(json.UnmarshalTypeError); !errors.As(err, &odd) {
		return err
	}
	n := numbers{text: text, dec: json.NewDecoder(bytes.NewReader(text))}
	n.dec.UseNumber()
	n.value(reflect.TypeOf(into))
	if n.done == 0 {
		return err
	}
	return json.Unmarshal(append(n.out, text[n.done:]...), into)
}

// numbers writes a JSON text anew: the numbers that Go is to read into integers in
// the one form that it takes, and all else as it was.
type numbers struct {
	text []byte // one valid JSON value
	dec  *json.Decoder
	out  []byte // text up to done, anew
	done int    // bytes of text
}

// value passes over the next value, which is to be read into a t; nil: into nothing.
func (n *numbers) value(t reflect.Type) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t != nil && reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		t = nil // it reads itself
	}
	from := int(n.dec.InputOffset())
	for bytes.IndexByte([]byte(" \t\r\n,:"), n.text[from]) >= 0 {
		from++
	}
	switch token := n.token().(type) {
	case json.Delim:
		for n.dec.More() {
			of := element(t)
			if token == '{' {
				of = field(t, n.token().(string))
			}
			n.value(of)
		}
		n.token()
	case json.Number:
		n.number(t, from, token.String())
	case string:
		n.number(t, from, token)
	}
}

// number puts the whole number s into the place of what begins at from.
func (n *numbers) number(t reflect.Type, from int, s string) {
	if t == nil || t.Kind() < reflect.Int || t.Kind() > reflect.Uint64 {
		return
	}
	if digits, ok := whole(s); ok {
		n.out = append(append(n.out, n.text[n.done:from]...), digits...)
		n.done = int(n.dec.InputOffset())
	}
}

func (n *numbers) token() json.Token {
	token, err := n.dec.Token()
	if err != nil {
		panic("BUG: JSON that was read once cannot be read again: " + err.Error())
	}
	return token
}

// element returns the type of the elements of a list, nil if t is none.
func element(t reflect.Type) reflect.Type {
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		return t.Elem()
	}
	return nil
}

// field returns the type of the field that a name stands for, nil if there is none.
func field(t reflect.Type, name string) (like reflect.Type) {
	if t != nil && t.Kind() == reflect.Map {
		return t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	for _, f := range reflect.VisibleFields(t) {
		switch tag, _, _ := strings.Cut(f.Tag.Get("json"), ","); {
		case tag == "": // all that are read have one
		case tag == name:
			return f.Type
		case like == nil && strings.EqualFold(tag, name):
			like = f.Type
		}
	}
	return like
}

// whole returns the digits of a whole number in the form of JSON that has 20 of
// them at most, as many as 64 bits need.
func whole(s string) (string, bool) {
	const most = 20
	if s == "" || s[len(s)-1] < '0' || s[len(s)-1] > '9' || s[0] != '-' && (s[0] < '0' || s[0] > '9') || !json.Valid([]byte(s)) {
		return "", false
	}
	digits, minus := strings.CutPrefix(s, "-")
	exponent := 0
	if at := strings.IndexAny(digits, "eE"); at >= 0 {
		var err error
		if exponent, err = strconv.Atoi(digits[at+1:]); err != nil {
			exponent = max(min(exponent, 1<<30), -1<<30) // it says which end it is beyond
		}
		digits = digits[:at]
	}
	digits, fraction, _ := strings.Cut(digits, ".")
	exponent -= len(fraction)
	digits = strings.TrimLeft(digits+fraction, "0")
	short := strings.TrimRight(digits, "0")
	exponent += len(digits) - len(short)
	switch {
	case short == "":
		return "0", true
	case exponent < 0 || exponent > most-len(short):
		return "", false
	}
	short += strings.Repeat("0", exponent)
	if minus {
		short = "-" + short
	}
	return short, true
}
