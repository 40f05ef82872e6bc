package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gatepost/message"
)

// drawer is an archive in which every channel has one message.
type drawer struct{}

func (drawer) Find(uint8, []byte) (*message.Channel, uint64, uint64) {
	return &message.Channel{}, 1, 1
}

func (drawer) Read(*message.Channel, uint64, int, int) (*message.Page, error) {
	b := message.NewBatch(false)
	b.Add(&message.Record{Kind: message.KindMessage, ChannelType: message.ChannelGroup, ChannelID: []byte("g1"), FromUID: []byte("alice"),
		ClientMsgNo: []byte("n1"), MessageID: 7, Payload: []byte("hello")}, message.Origin{})
	return &message.Page{Batch: b, Seqs: []uint64{1}, First: 1, Next: 2}, nil
}

// exampleServer is a server of a box in which the examples of openapi.json make
// sense.
func exampleServer(t testing.TB) (*Server, *obedient) {
	t.Helper()
	s, log := newServer(t)
	b := message.NewBatch(false)
	b.Add(&message.Record{Kind: message.KindChannel, ChannelType: message.ChannelGroup, ChannelID: []byte("g1"),
		Payload: message.AppendChange(nil, message.OpCreate, []string{"alice", "bob"})}, message.Origin{})
	if err := s.core.Replay(message.Committed{Index: 2, Generation: 1, Batch: b}); err != nil {
		t.Fatal(err)
	}
	s.archive, s.o.Backup = drawer{}, func(w io.Writer) error { _, err := w.Write([]byte("a backup")); return err }
	s.SetLimits(Limits{MaxMembers: s.limits.Load().MaxMembers, MaxPayload: 64})
	done := make(chan error)
	go func() { done <- s.core.Run(nil) }()
	t.Cleanup(func() {
		s.core.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, log
}

type schema struct {
	Ref             string `json:"$ref"`
	Type            string
	ContentEncoding string
	Minimum         *json.Number
	Properties      map[string]*schema
	Items           *schema
}

type operation struct {
	Parameters []struct {
		Name     string
		Required bool
		Example  any
	}
	RequestBody *struct {
		Content map[string]struct {
			Schema  *schema
			Example json.RawMessage
		}
	}
	Responses map[string]any
}

type document struct {
	Paths      map[string]map[string]*operation
	Components struct{ Schemas map[string]*schema }
}

func described(t testing.TB) (d document) {
	t.Helper()
	if err := json.Unmarshal(openAPI, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *document) follow(s *schema) *schema {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		return d.Components.Schemas[name]
	}
	return s
}

// patterns are what a server serves, "GET /health" and others, sorted.
func patterns(s *Server) (all []string) {
	for _, r := range s.routes() {
		all = append(all, r.method+" "+r.path)
	}
	slices.Sort(all)
	return all
}

// example makes the request of an operation's examples.
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
		body = string(o.RequestBody.Content["application/json"].Example)
	}
	return path, body
}

// Every path is described and every description is served.
func TestEveryPathIsDescribed(t *testing.T) {
	s, _ := exampleServer(t)
	var want []string
	for path, methods := range described(t).Paths {
		for method, o := range methods {
			want = append(want, strings.ToUpper(method)+" "+path)
			if has := o.RequestBody != nil; has != (method == "post" && path != "/backup") {
				t.Errorf("%s %s has a body: %t", method, path, has)
			}
		}
	}
	served := patterns(s)
	if slices.Sort(want); !slices.Equal(served, want) {
		for _, p := range served {
			if !slices.Contains(want, p) {
				t.Errorf("%s is served and not in openapi.json", p)
			}
		}
		for _, p := range want {
			if !slices.Contains(served, p) {
				t.Errorf("%s is in openapi.json and not served", p)
			}
		}
	}
}

// The examples are what the handlers take.
func TestExamplesAreTaken(t *testing.T) {
	s, _ := exampleServer(t)
	for path, methods := range described(t).Paths {
		for method, o := range methods {
			want := 200
			if strings.HasPrefix(path, "/conn/") {
				want = 404 // nobody is connected
			}
			target, body := o.example(path)
			w := httptest.NewRecorder()
			s.http.Handler.ServeHTTP(w, newRequest(strings.ToUpper(method), target, strings.NewReader(body)))
			if w.Code != want || o.Responses[fmt.Sprint(w.Code)] == nil {
				t.Errorf("%s %s %s: %d %s, want %d, and described", method, target, body, w.Code, w.Body, want)
			}
		}
	}
}

// What a body may have is what is decoded: the description of a path has nothing
// else, and all paths of one Go type have all of it.
func TestEveryFieldIsDescribed(t *testing.T) {
	s, _ := exampleServer(t)
	d := described(t)
	fields := make(map[string]reflect.Type) // "type field" of structs
	spoken := make(map[string]bool)
	var compare func(at string, typ reflect.Type, have *schema)
	compare = func(at string, typ reflect.Type, have *schema) {
		have = d.follow(have)
		want := ""
		switch k := typ.Kind(); {
		case k == reflect.Pointer:
			compare(at, typ.Elem(), have)
			return
		case typ == reflect.TypeFor[json.RawMessage](): // anything
		case k == reflect.Slice && typ.Elem().Kind() == reflect.Uint8:
			if want = "string"; have.ContentEncoding != "base64" {
				t.Errorf("%s: bytes are base64, the description has contentEncoding %q", at, have.ContentEncoding)
			}
		case k == reflect.Slice:
			if want = "array"; have.Type == want {
				compare(at+"[]", typ.Elem(), have.Items)
			}
		case k == reflect.Struct:
			if want = "object"; have.Type == want {
				known := make(map[string]reflect.Type)
				flatten(typ, known)
				for name, f := range known {
					fields[fmt.Sprint(typ, " ", name)] = f
				}
				for name, p := range have.Properties {
					if f := known[name]; f == nil {
						t.Errorf("%s.%s is described and not decoded", at, name)
					} else {
						spoken[fmt.Sprint(typ, " ", name)] = true
						compare(at+"."+name, f, p)
					}
				}
			}
		case k == reflect.String:
			want = "string"
		case k == reflect.Bool:
			want = "boolean"
		case k >= reflect.Uint && k <= reflect.Uint64:
			if want = "integer"; have.Minimum == nil {
				t.Errorf("%s has no sign, the description has no minimum", at)
			}
		case k >= reflect.Int && k <= reflect.Int64:
			want = "integer"
		}
		if have.Type != want {
			t.Errorf("%s is described as %q and decoded into %v", at, have.Type, typ)
		}
	}
	for path, methods := range d.Paths {
		o := methods["post"]
		if o == nil || o.RequestBody == nil {
			continue
		}
		var into reflect.Type
		target, body := o.example(path)
		r := newRequest("POST", target, strings.NewReader(body))
		ctx := context.WithValue(r.Context(), bodies{}, func(c any) { into = reflect.TypeOf(c).Elem() })
		s.http.Handler.ServeHTTP(httptest.NewRecorder(), r.WithContext(ctx))
		if into == nil {
			t.Errorf("%s: no body was decoded", path)
			continue
		}
		compare(path, into, o.RequestBody.Content["application/json"].Schema)
	}
	for f := range fields {
		if !spoken[f] {
			t.Errorf("%s is decoded and not described", f)
		}
	}
}

// flatten collects what encoding/json would decode into a struct.
func flatten(typ reflect.Type, into map[string]reflect.Type) {
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			flatten(f.Type, into)
		case f.IsExported() && name != "-":
			into[name] = f.Type
		}
	}
}

// What nothing serves is answered in JSON too.
func TestNothingIsAnsweredInJSON(t *testing.T) {
	s, _ := exampleServer(t)
	for _, c := range []struct {
		method, path, text, allow string
		code                      int
	}{
		{"GET", "/nothing", "no such path", "", 404},
		{"POST", "/", "no such path", "", 404},
		{"POST", "/health", "GET, HEAD is possible", "GET, HEAD", 405},
		{"GET", "/channel", "POST is possible", "POST", 405},
		{"DELETE", "/channel/whitelist", "GET, HEAD is possible", "GET, HEAD", 405},
	} {
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, newRequest(c.method, c.path, strings.NewReader("{}")))
		var said struct {
			Status int
			Msg    string
		}
		err := json.Unmarshal(w.Body.Bytes(), &said)
		if w.Code != c.code || err != nil || said.Status != c.code || !strings.Contains(said.Msg, c.text) ||
			w.Header().Get("Content-Type") != "application/json" || w.Header().Get("Allow") != c.allow {
			t.Errorf("%s %s: %d %v %s, want %d and %q", c.method, c.path, w.Code, w.Header(), w.Body, c.code, c.text)
		}
	}
}
