package config

import (
	"errors"
	"strings"
	"testing"
)

// TestRedacted: scheme and host of an address and the name of a file are shown,
// what may be a secret is not.
func TestRedacted(t *testing.T) {
	c, err := load("", nil, map[string]string{
		"webhook.url": "https://user:pass@app.example:8443/hook/token?key=value#part", "datasource.url": "http://app.example",
		"api.token_file": "pasted", "webhook.secret_file": "/etc/gatepost/secret", "datasource.secret_file": "credential:secret",
	}, board(), plenty)
	if err != nil {
		t.Fatal(err)
	}
	r := c.Redacted()
	for _, want := range []string{`"https://app.example:8443/(not shown)"`, `"http://app.example"`, `"/etc/gatepost/secret"`, `"credential:secret"`, `token_file = "(not shown)"`, "flag --webhook.url"} {
		if !strings.Contains(r.Text, want) {
			t.Errorf("there is no %s in\n%s", want, r.Text)
		}
	}
	hidden := "\n" + strings.Join(r.Hidden, "\n") + "\n"
	for _, secret := range []string{"user", "pass", "token", "key", "value", "part", "pasted", "key=value"} {
		if !strings.Contains(hidden, "\n"+secret+"\n") {
			t.Errorf("%s is not said to be hidden: %q", secret, r.Hidden)
		}
	}
	if got := strings.Join(r.Files, " "); got != "pasted /etc/gatepost/secret" && got != "/etc/gatepost/secret pasted" {
		t.Errorf("files: %s", got)
	}
}

// TestRedactError: of a mistake its place is left and what was expected.
func TestRedactError(t *testing.T) {
	for text, want := range map[string]string{
		"f:4: net.loops: found \"a secret\", expected a number": "f:4: net.loops: found (not shown), expected a number",
		"f:1: found \"x, expected y\", expected a, expected b":  "f:1: found (not shown), expected b",
		"f:2: this is not TOML: expected \"=\" but found 'a'":   "f:2: this is not TOML: expected (not shown) but found (not shown)",
		"one: found `b`, expected c\ntwo: no such key":          "one: found (not shown), expected c\ntwo: no such key",
	} {
		if got := RedactError(errors.New(text)); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// TestShowKeepsSecrets: what is printed for a person has no secret of an address of
// the application, in whatever part of it that stands, and is still a file that can
// be used.
func TestShowKeepsSecrets(t *testing.T) {
	for address, want := range map[string]string{
		"https://user:s3cret@app.example/":                   `# url = "https://app.example/(not shown)"`,
		"https://app.example/hook?key=s3cret":                `# url = "https://app.example/(not shown)"`,
		"https://app.example/s3cret":                         `# url = "https://app.example/(not shown)"`,
		"https://app.example#s3cret":                         `# url = "https://app.example/(not shown)"`,
		"https://s3cret@app.example:8443/a/b":                `# url = "https://app.example:8443/(not shown)"`,
		"https://app.example/":                               `url = "https://app.example/"`,
		"http://[2001:db8::1]:80":                            `url = "http://[2001:db8::1]:80"`,
		"https://app.example/%73%33cret?a=1&%73%33cret=2;b#": `# url = "https://app.example/(not shown)"`,
	} {
		for _, name := range []string{"webhook.url", "datasource.url"} {
			c, err := load("", nil, map[string]string{name: address}, board(), plenty)
			if err != nil {
				t.Fatal(err)
			}
			shown := c.Show()
			if strings.Contains(shown, "s3cret") || strings.Contains(shown, "%73") || !strings.Contains(shown, "\n"+want) {
				t.Errorf("%s = %s: there is no %s in\n%s", name, address, want, shown)
			}
			back, err := load("s.toml", []byte(shown), nil, board(), plenty)
			if err != nil {
				t.Fatalf("%v\n%s", err, shown)
			}
			k, _ := find(name)
			if got := k.get(back); got != "off" && got != address {
				t.Errorf("%s: read back as %q, which is another address", name, got)
			}
		}
	}
}
