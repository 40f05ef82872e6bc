package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// readTOML applies a file. It goes through the keys in the order they are
// written, so that problems come out in the order of the lines.
func (c *Config) readTOML(path string, file []byte) []error {
	var doc document
	md, err := toml.Decode(string(file), &doc.values)
	if err != nil {
		return []error{syntax(path, err)}
	}
	if doc.meta, err = toml.Decode(string(file), &doc.primitives); err != nil {
		return []error{syntax(path, err)}
	}

	var problems []error
	refuse := func(name toml.Key, format string, args ...any) {
		place := fmt.Sprintf("%s:%d: %s: ", path, doc.line(name), name)
		problems = append(problems, errors.New(place+fmt.Sprintf(format, args...)))
	}
	for _, name := range md.Keys() {
		value, ok := doc.value(name)
		if !ok {
			continue // inside an array of tables, which was refused as a whole
		}
		if len(name) == 1 && isSection(name[0]) {
			if _, ok := value.(map[string]any); !ok {
				refuse(name, "found %s, expected a section [%s]", describe(value), name)
			}
			continue
		}
		if t, ok := value.(map[string]any); ok && len(t) > 0 {
			continue // its keys are refused one by one
		}
		k, ok := lookup(name)
		if !ok {
			what := "no such key"
			if _, ok := value.(map[string]any); ok {
				what = "no such section"
			}
			refuse(name, "%s%s", what, suggestion("", strings.Join(name, ".")))
			continue
		}
		text, ok := k.literal(value)
		if !ok {
			refuse(name, "found %s, expected %s", describe(value), k.expected())
			continue
		}
		if p := k.set(c, text); p != nil {
			refuse(name, "found %s, expected %s", p.found, p.expected)
			continue
		}
		c.origin[k.name] = fmt.Sprintf("%s:%d", path, doc.line(name))
	}
	return problems
}

// syntax turns the library's error into ours.
func syntax(path string, err error) error {
	var parse toml.ParseError
	if errors.As(err, &parse) {
		return fmt.Errorf("%s:%d: this is not TOML: %s", path, parse.Position.Line, parse.Message)
	}
	return fmt.Errorf("cannot read the configuration %s: %w", path, err)
}

// lookup finds the key of the table that a path of the file names. A quoted
// "net.loops" has one part and is not the key loops of the section net.
func lookup(name toml.Key) (key, bool) {
	for _, part := range name {
		if strings.Contains(part, ".") {
			return key{}, false
		}
	}
	return find(strings.Join(name, "."))
}

func isSection(name string) bool {
	for _, s := range sections() {
		if s.name == name {
			return name != ""
		}
	}
	return false
}

// literal returns the text of a TOML value when its type is the one that this
// key is written with.
func (k *key) literal(value any) (string, bool) {
	switch v := value.(type) {
	case string:
		return v, k.quoted()
	case bool:
		return strconv.FormatBool(v), k.kind == boolean
	case int64:
		return strconv.FormatInt(v, 10), k.kind == integer
	default:
		return "", false
	}
}

// describe says what a TOML value is.
func describe(value any) string {
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
