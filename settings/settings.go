package settings

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// MaxFile bounds a file in bytes: the configuration written out with every
// default is 7 KiB.
const MaxFile = 1 << 20

// Entry is one key of a file, or a section, whose Value is a map.
type Entry struct {
	Path  []string // the parts between dots; a quoted part may have dots of its own
	Value any      // string, bool, int64, float64, map[string]any, a list, or a time
	Line  int      // counted from 1
}

// Name is the path as it would be written.
func (e *Entry) Name() string { return toml.Key(e.Path).String() }

// Key is the path joined with dots, "" when a quoted part has dots: "net.loops"
// in quotes is one part and not the key loops of the section net.
func (e *Entry) Key() string {
	for _, part := range e.Path {
		if strings.Contains(part, ".") {
			return ""
		}
	}
	return strings.Join(e.Path, ".")
}

// Table reports whether the entry is a section.
func (e *Entry) Table() bool { _, ok := e.Value.(map[string]any); return ok }

// Text returns the value as text, which is how flags give theirs; ok is false
// for what is no single value.
func (e *Entry) Text() (text string, ok bool) {
	switch v := e.Value.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	default:
		return "", false
	}
}

// Describe says what a value is.
func Describe(value any) string {
	switch v := value.(type) {
	case string:
		return "the text " + strconv.Quote(v)
	case bool:
		return strconv.FormatBool(v) + " without quotes"
	case int64:
		return "the bare number " + strconv.FormatInt(v, 10)
	case float64:
		return "the fraction " + strconv.FormatFloat(v, 'g', -1, 64)
	case map[string]any:
		return "a section"
	case []map[string]any:
		return "a list of sections"
	case []any:
		return "a list"
	default:
		return "a date or time"
	}
}

// ReadFile returns the bytes of a file, unless it is far too large to be one.
// what names it in the error: "the configuration".
func ReadFile(what, path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", what, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", what, err)
	}
	if len(text) > MaxFile {
		return nil, fmt.Errorf("cannot read %s %s: found more than %d bytes; is this the right file?", what, path, MaxFile)
	}
	return text, nil
}

// Parse returns the entries of a file in the order they are written. path is
// for the error, which names the line.
func Parse(path string, file []byte) ([]Entry, error) {
	var doc document
	var err error
	if doc.meta, err = toml.Decode(string(file), &doc.primitives); err != nil {
		return nil, syntax(path, err)
	}
	names := doc.meta.Keys()
	doc.values = make(map[string]any)
	for name, p := range doc.primitives {
		var value any
		if err := doc.meta.PrimitiveDecode(p, &value); err != nil {
			return nil, syntax(path, err)
		}
		doc.values[name] = value
	}
	var all []Entry
	for _, name := range names {
		if value, ok := doc.value(name); ok { // not inside a list of sections, which counts as a whole
			all = append(all, Entry{name, value, doc.line(name)})
		}
	}
	return all, nil
}

// syntax turns the library's error into ours.
func syntax(path string, err error) error {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("%s:%d: this is not TOML: %s", path, parse.Position.Line, parse.Message)
	}
	return fmt.Errorf("cannot read %s: %w", path, err)
}

// document is a decoded file twice over: as plain values, and as primitives,
// which remember where they stood.
type document struct {
	values     map[string]any
	primitives map[string]toml.Primitive
	meta       toml.MetaData
}

// value returns what stands at a path, false when the path leads through
// something that is not a table.
func (d *document) value(name toml.Key) (any, bool) {
	var at any = d.values
	for _, part := range name {
		t, ok := at.(map[string]any)
		if !ok {
			return nil, false
		}
		if at, ok = t[part]; !ok {
			return nil, false
		}
	}
	return at, true
}

// line returns the line of a path, counted from 1. The library keeps positions
// to itself but puts them into the error of a type that refuses to be decoded,
// so one such type is decoded there.
func (d *document) line(name toml.Key) int {
	tables := d.primitives
	for i, part := range name {
		p := tables[part]
		if i == len(name)-1 {
			var parse toml.ParseError
			if errors.As(d.meta.PrimitiveDecode(p, &refusal{}), &parse) {
				return parse.Position.Line
			}
			break
		}
		tables = nil
		if err := d.meta.PrimitiveDecode(p, &tables); err != nil {
			break
		}
	}
	return 0
}

// refusal is the type that refuses to be decoded.
type refusal struct{}

// UnmarshalTOML always fails; see document.line.
func (*refusal) UnmarshalTOML(any) error { return errors.New("position wanted") }
