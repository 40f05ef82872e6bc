package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// contract is the description that a broker serves of its HTTP API. A word of
// JSON Schema that is not here is a mistake in the file: it would not be checked.
type contract struct {
	OpenAPI                       string
	Info, Servers, Security, Tags any
	Paths                         map[string]map[string]*operation
	Components                    struct {
		SecuritySchemes any
		Schemas         map[string]*schema
		Responses       map[string]*response
	}
}

type operation struct {
	Tags                 []string
	Summary, Description string
	Security             *[]any // empty: it needs no token
	Parameters           []*parameter
	RequestBody          *struct {
		Required bool
		Content  map[string]struct {
			Schema  *schema
			Example any
		}
	}
	Responses map[string]*response
}

type parameter struct {
	Name, In, Description string
	Required              bool
	Schema                *schema
	Example               any
}

type response struct {
	Ref         string `json:"$ref"`
	Description string
	Content     map[string]struct{ Schema *schema }
}

type schema struct {
	Ref                     string `json:"$ref"`
	Description, Type       string
	Format, ContentEncoding string
	Required                []string
	Properties              map[string]*schema
	AdditionalProperties    bool
	Items                   *schema
	Enum                    []any
	OneOf                   []*schema
	Minimum, Maximum        *json.Number
	MinLength, MaxLength    int
	MinItems, MaxItems      int
}

func decodeJSON(text []byte, strict bool, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if strict {
		d.DisallowUnknownFields()
	}
	return d.Decode(v)
}

func (b *broker) contract(t testing.TB) *contract {
	t.Helper()
	code, _, text := b.hit(t, "GET", "/openapi.json", "")
	c := new(contract)
	if err := decodeJSON(text, true, c); code != 200 || err != nil {
		t.Fatalf("/openapi.json: %d %v", code, err)
	}
	return c
}

func (c *contract) follow(s *schema) *schema {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		return c.Components.Schemas[name]
	}
	return s
}

// answer returns the schema of the JSON answer with a status, nil if it is not
// described, or not JSON.
func (c *contract) answer(o *operation, code int) *schema {
	r := o.Responses[fmt.Sprint(code)]
	if r == nil {
		return nil
	}
	if name, ok := strings.CutPrefix(r.Ref, "#/components/responses/"); ok {
		r = c.Components.Responses[name]
	}
	return r.Content["application/json"].Schema
}

func number(n any) *big.Int {
	text, ok := n.(json.Number)
	if !ok {
		return nil
	}
	v, ok := new(big.Int).SetString(text.String(), 10)
	if !ok {
		return nil
	}
	return v
}

// fits says in what a value differs from a schema: all that must be there is,
// nothing else is, and each is of its type. "" is: in nothing.
func (c *contract) fits(at string, s *schema, v any) string {
	s = c.follow(s)
	bad := func(format string, args ...any) string { return at + " " + fmt.Sprintf(format, args...) }
	switch s.Type {
	case "object":
		m, ok := v.(map[string]any)
		if !ok {
			return bad("is %v, not an object", v)
		}
		for _, name := range s.Required {
			if _, ok := m[name]; !ok {
				return bad("has no %s", name)
			}
		}
		for name, v := range m {
			switch p := s.Properties[name]; {
			case p != nil:
				if odd := c.fits(at+"."+name, p, v); odd != "" {
					return odd
				}
			case !s.AdditionalProperties:
				return bad("has %s, which is not described", name)
			}
		}
	case "array":
		all, ok := v.([]any)
		if !ok {
			return bad("is %v, not an array", v)
		}
		if n := len(all); n < s.MinItems || s.MaxItems > 0 && n > s.MaxItems {
			return bad("has %d items", n)
		}
		for i, v := range all {
			if odd := c.fits(fmt.Sprintf("%s[%d]", at, i), s.Items, v); odd != "" {
				return odd
			}
		}
	case "string":
		text, ok := v.(string)
		if !ok {
			return bad("is %v, not a string", v)
		}
		if _, err := base64.StdEncoding.DecodeString(text); s.ContentEncoding == "base64" && err != nil {
			return bad("is no base64: %v", err)
		}
		if len(text) < s.MinLength || s.MaxLength > 0 && len(text) > s.MaxLength {
			return bad("has %d bytes", len(text))
		}
	case "integer":
		n := number(v)
		if n == nil || s.Minimum != nil && n.Cmp(number(*s.Minimum)) < 0 || s.Maximum != nil && n.Cmp(number(*s.Maximum)) > 0 {
			return bad("is %v, not an integer from %v to %v", v, s.Minimum, s.Maximum)
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return bad("is %v, not a boolean", v)
		}
	case "": // anything
	default:
		return bad("is described as %q", s.Type)
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		return bad("is %v, not one of %v", v, s.Enum)
	}
	return ""
}

// wrong is a value that a schema does not allow.
type wrong struct {
	what  string
	value any
}

// wrongs makes values that differ from a good one in one thing each.
func (c *contract) wrongs(s *schema, good any) (all []wrong) {
	s = c.follow(s)
	add := func(what string, v any) { all = append(all, wrong{what, v}) }
	switch s.Type {
	case "object":
		add("is a string", "x")
		m, _ := good.(map[string]any)
		for _, name := range s.Required {
			less := maps.Clone(m)
			delete(less, name)
			add("has no "+name, less)
		}
		for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
			for _, w := range c.wrongs(s.Properties[name], m[name]) {
				other := maps.Clone(m)
				if other == nil {
					other = map[string]any{}
				}
				other[name] = w.value
				add(name+" "+w.what, other)
			}
		}
	case "array":
		add("is a string", "x")
		add("is an object", map[string]any{"x": 1})
		items, _ := good.([]any)
		var item any
		if len(items) > 0 {
			item = items[0]
		}
		if s.MinItems > 0 {
			add("is empty", []any{})
		}
		if s.MaxItems > 0 && item != nil {
			add(fmt.Sprintf("has %d items", s.MaxItems+1), slices.Repeat([]any{item}, s.MaxItems+1))
		}
		for _, w := range c.wrongs(s.Items, item) {
			add("has an item that "+w.what, []any{w.value})
		}
	case "string":
		add("is a number", 5)
		if s.MinLength > 0 {
			add("is empty", "")
		}
		if s.MaxLength > 0 {
			add("is too long", strings.Repeat("a", s.MaxLength+1))
		}
		if s.ContentEncoding == "base64" {
			add("is no base64", "!")
		}
	case "integer":
		add("is a string", "x")
		add("is half a number", json.Number("1.5"))
		add("is beyond 64 bits", json.Number("18446744073709551616"))
		one := big.NewInt(1)
		if s.Minimum != nil {
			n := number(*s.Minimum)
			add("is below the minimum", json.Number(n.Sub(n, one).String()))
		}
		if s.Maximum != nil {
			n := number(*s.Maximum)
			add("is above the maximum", json.Number(n.Add(n, one).String()))
		}
	case "boolean":
		add("is a number", 5)
	}
	return all
}

// example returns the path with parameters and the body of a good request.
func (o *operation) example(path string) (target, body string) {
	v := url.Values{}
	for _, p := range o.Parameters {
		if p.Example != nil {
			v.Set(p.Name, fmt.Sprint(p.Example))
		}
	}
	if len(v) > 0 {
		path += "?" + v.Encode()
	}
	if o.RequestBody != nil {
		body = asJSON(o.RequestBody.Content["application/json"].Example)
	}
	return path, body
}

func asJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// hit makes a request with a body as it is.
func (b *broker) hit(t testing.TB, method, target, body string) (code int, header http.Header, text []byte) {
	t.Helper()
	r, err := http.NewRequest(method, "http://"+b.http+target, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	client := http.Client{Timeout: never, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer resp.Body.Close()
	if text, err = io.ReadAll(resp.Body); err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return resp.StatusCode, resp.Header, text
}

// keeps checks an answer against its description.
func (c *contract) keeps(t testing.TB, what string, o *operation, code int, header http.Header, text []byte) {
	t.Helper()
	if o.Responses[fmt.Sprint(code)] == nil {
		t.Errorf("%s: the answer %d %s is not described", what, code, text)
		return
	}
	s := c.answer(o, code)
	if s == nil { // no JSON
		for kind := range o.Responses[fmt.Sprint(code)].Content {
			if !strings.HasPrefix(header.Get("Content-Type"), kind) {
				t.Errorf("%s: Content-Type %q, want %q", what, header.Get("Content-Type"), kind)
			}
		}
		return
	}
	if kind := header.Get("Content-Type"); kind != "application/json" {
		t.Errorf("%s: Content-Type %q", what, kind)
	}
	var v any
	if err := decodeJSON(text, false, &v); err != nil {
		t.Errorf("%s: the answer %s is no JSON: %v", what, text, err)
	} else if odd := c.fits("the answer", s, v); odd != "" {
		t.Errorf("%s: %s\n%s", what, odd, text)
	}
}

// The rig finds what does not fit.
func TestRigContract(t *testing.T) {
	var c contract
	if err := json.Unmarshal([]byte(`{"components":{"schemas":{"N":{"type":"integer","minimum":1,"maximum":2}}}}`), &c); err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal([]byte(`{"type":"object","required":["a"],"properties":{"a":{"$ref":"#/components/schemas/N"},"b":{"type":"array","items":{"type":"string","maxLength":2}},"c":{"type":"boolean"},"d":{"type":"string","enum":["x"]}}}`), &s); err != nil {
		t.Fatal(err)
	}
	for text, good := range map[string]bool{
		`{"a":1}`: true, `{"a":2,"b":["x","yy"],"c":true,"d":"x"}`: true, `{"a":1,"b":[]}`: true,
		`{}`: false, `{"a":0}`: false, `{"a":3}`: false, `{"a":1.5}`: false, `{"a":"1"}`: false, `{"a":null}`: false, `[]`: false,
		`{"a":1,"e":1}`: false, `{"a":1,"b":null}`: false, `{"a":1,"b":[1]}`: false, `{"a":1,"b":["xxx"]}`: false, `{"a":1,"c":1}`: false, `{"a":1,"d":"y"}`: false,
	} {
		var v any
		if err := decodeJSON([]byte(text), false, &v); err != nil {
			t.Fatal(err)
		}
		if odd := c.fits("it", &s, v); (odd == "") != good {
			t.Errorf("%s: %q, good: %t", text, odd, good)
		}
	}
	var good any
	if err := decodeJSON([]byte(`{"a":1,"b":["x"]}`), false, &good); err != nil {
		t.Fatal(err)
	}
	all := c.wrongs(&s, good)
	for _, w := range all {
		var v any
		if err := decodeJSON([]byte(asJSON(w.value)), false, &v); err != nil {
			t.Fatal(err)
		}
		if c.fits("it", &s, v) == "" {
			t.Errorf("%s: %s is right", w.what, asJSON(w.value))
		}
	}
	if len(all) < 13 {
		t.Errorf("%d wrong values were made", len(all))
	}
}
