package config

import (
	"regexp"
	"strings"
	"testing"
)

// TestExample: the example changes nothing, and every key in it is one that can
// be set as it stands there.
func TestExample(t *testing.T) {
	text := Example()
	c, err := load("example.toml", []byte(text), nil, board(), plenty)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range table() {
		if strings.HasPrefix(c.Origin(k.name), "example.toml") {
			t.Errorf("the example sets %s", k.name)
		}
	}
	set := regexp.MustCompile(`(?m)^#([a-z][a-z_0-9]* = )`).ReplaceAllString(text, "$1")
	if c, err = load("example.toml", []byte(set), nil, board(), plenty); err != nil {
		t.Fatal(err)
	}
	for _, k := range table() {
		if !strings.HasPrefix(c.Origin(k.name), "example.toml") {
			t.Errorf("%s is not in the example", k.name)
		}
		if want := k.builtin; want != "" && k.get(c) != want {
			t.Errorf("the example says %s = %s, without it %s holds", k.name, k.get(c), want)
		}
	}
	for line := range strings.Lines(text) {
		if len(line) > 101 {
			t.Errorf("a line of %d bytes: %s", len(line), line)
		}
	}
}
