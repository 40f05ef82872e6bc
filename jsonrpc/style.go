package jsonrpc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"unicode/utf8"
)

// Style is how a client writes, which is how it is written to. The zero value is
// the protocol as described: names like messageId, payloads in base64.
type Style uint8

const (
	// StyleSnake is set for a client whose params have names like message_id: the
	// results that it gets have such names too. Its payloads are text as it is.
	StyleSnake Style = 1 << iota
	// StyleObject is set for a client that writes payloads as JSON objects: those of
	// messages that are objects or arrays come to it as such.
	StyleObject

	// Styles is how many there are, with all combinations.
	Styles = 1 << iota
)

// Style returns the style of a client after this request, whose params have been
// read: before is what it was.
func (r *Request) Style(before Style) Style {
	switch {
	case r.snake:
		return before | StyleSnake | StyleObject
	case r.payload == payloadObject:
		return before | StyleObject
	case r.payload == payloadBase64 && before&StyleSnake == 0:
		return before &^ StyleObject
	}
	return before
}

// payload is how the payload of a SEND came.
type payload uint8

const (
	payloadNone payload = iota
	payloadBase64
	payloadText
	payloadObject
)

// readPayload returns the bytes of a payload: those of an object or an array are
// its JSON. A string is base64, but that of a client with names like message_id is
// text if it is not JSON in base64, and JSON in a string is what it is.
func readPayload(raw json.RawMessage, snake bool) ([]byte, payload, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, payloadNone, nil
	}
	switch raw[0] {
	case '{', '[':
		return bytes.Clone(raw), payloadObject, nil
	case '"':
	default:
		return nil, payloadNone, &Error{CodeInvalidParams, "payload must be base64 in a string, or an object"}
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, payloadNone, &Error{CodeInvalidParams, "payload cannot be read"}
	}
	decoded, err := base64.StdEncoding.DecodeString(text)
	if err == nil && (!snake || text == "" || isObject(decoded)) {
		return decoded, payloadBase64, nil
	}
	if snake || isObject([]byte(text)) {
		return []byte(text), payloadText, nil
	}
	return nil, payloadNone, &Error{CodeInvalidParams, "payload is not base64"}
}

// isObject reports whether p is a JSON object or array in UTF-8.
func isObject(p []byte) bool {
	return len(p) > 1 && (p[0] == '{' || p[0] == '[') && utf8.Valid(p) && json.Valid(p)
}

// either returns the first of two that is there.
func either[T text | json.RawMessage](a, b T) T {
	if len(a) > 0 {
		return a
	}
	return b
}
