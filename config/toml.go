package config

import (
	"errors"
	"fmt"
	"strings"

	"gatepost/settings"
)

// readTOML applies a file. It goes through the keys in the order they are
// written, so that problems come out in the order of the lines.
func (c *Config) readTOML(path string, file []byte) []error {
	entries, err := settings.Parse(path, file)
	if err != nil {
		return []error{err}
	}
	var problems []error
	for i := range entries {
		problems = append(problems, c.apply(path, &entries[i], false)...)
	}
	return problems
}

// apply takes one entry of the file at path, which may be a profile.
func (c *Config) apply(path string, e *settings.Entry, profile bool) []error {
	refuse := func(format string, args ...any) []error {
		place := fmt.Sprintf("%s:%d: %s: ", path, e.Line, e.Name())
		return []error{errors.New(place + fmt.Sprintf(format, args...))}
	}
	if len(e.Path) == 1 && isSection(e.Path[0]) {
		if !e.Table() {
			return refuse("found %s, expected a section [%s]", settings.Describe(e.Value), e.Name())
		}
		return nil
	}
	if t, ok := e.Value.(map[string]any); ok && len(t) > 0 {
		return nil // its keys are refused one by one
	}
	k, ok := find(e.Key())
	switch {
	case !ok && e.Table():
		return refuse("no such section%s", suggestion("", strings.Join(e.Path, ".")))
	case !ok:
		return refuse("no such key%s", suggestion("", strings.Join(e.Path, ".")))
	case profile && !k.tunable():
		return refuse("this is no size, count, limit or interval: it belongs into the configuration, not into a profile")
	}
	text, _ := e.Text()
	if !k.typed(e.Value) {
		return refuse("found %s, expected %s%s", settings.Describe(e.Value), k.expected(), k.nearest(text))
	}
	if p := k.set(c, text); p != nil {
		return refuse("found %s, expected %s%s", p.found, p.expected, k.nearest(text))
	}
	c.origin[k.name] = fmt.Sprintf("%s:%d", path, e.Line)
	return nil
}

func isSection(name string) bool {
	for _, s := range sections() {
		if s.name == name {
			return name != ""
		}
	}
	return false
}

// typed reports whether a TOML value is of the type that this key is written
// with.
func (k *key) typed(value any) bool {
	switch value.(type) {
	case string:
		return k.quoted()
	case bool:
		return k.kind == boolean
	case int64:
		return k.kind == integer
	default:
		return false
	}
}
