package api

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// schema is as much of a JSON schema as the test needs.
type schema struct {
	Ref        string             `json:"$ref"`
	Type       string             `json:"type"`
	Properties map[string]*schema `json:"properties"`
	Required   []string           `json:"required"`
}

type operation struct {
	Summary     string
	RequestBody struct {
		Content map[string]struct {
			Schema  *schema
			Example json.RawMessage
		}
	} `json:"requestBody"`
	Responses map[string]json.RawMessage
}

type description struct {
	Paths      map[string]map[string]*operation
	Components struct{ Schemas map[string]*schema }
}

func described(t *testing.T) (d description) {
	t.Helper()
	if err := json.Unmarshal(openAPI, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// Every request is described, and what is described can be asked.
func TestEveryRequestIsDescribed(t *testing.T) {
	s, _ := newServer(t)
	d := described(t)
	served := make(map[string]bool)
	for _, r := range s.routes() {
		served[strings.ToLower(r.method)+" "+r.path] = true
		if d.Paths[r.path][strings.ToLower(r.method)] == nil {
			t.Errorf("%s %s is not described", r.method, r.path)
		}
	}
	for path, all := range d.Paths {
		for method, op := range all {
			if !served[method+" "+path] {
				t.Errorf("%s %s is described and not served", method, path)
			}
			if op.Summary == "" || op.Responses["200"] == nil || path != "/health" && op.Responses["401"] == nil {
				t.Errorf("%s %s has no summary, or not the answers 200 and 401", method, path)
			}
		}
	}
}

// A property of a body that is described is read, and no other that is described
// anywhere: one of the wrong type is noticed.
func TestEveryPropertyIsDescribed(t *testing.T) {
	s, _ := newServer(t)
	d := described(t)
	vocabulary := make(map[string]bool)
	bodies := make(map[string]*schema)
	for path, all := range d.Paths {
		if post := all["post"]; post != nil {
			body := post.RequestBody.Content["application/json"].Schema
			if body == nil {
				t.Errorf("the body of %s is not described", path)
				continue
			}
			if body.Type == "object" {
				bodies[path] = body
				for name := range body.Properties {
					vocabulary[name] = true
				}
			}
			if !json.Valid(post.RequestBody.Content["application/json"].Example) {
				t.Errorf("%s has no example", path)
			}
		}
	}
	if len(bodies) < 30 || len(vocabulary) < 40 {
		t.Fatalf("%d bodies with %d properties: the description is not read right", len(bodies), len(vocabulary))
	}
	for path, body := range bodies {
		for _, name := range slices.Sorted(maps.Keys(vocabulary)) {
			if p := body.Properties[name]; p != nil && p.Type == "" && p.Ref == "" {
				continue // any JSON
			}
			wrong := `{"a":[{}]}`
			if p := body.Properties[name]; p != nil && p.Ref != "" {
				wrong = `"text"`
			}
			code, text := post(s, path, `{"`+name+`":`+wrong+`}`)
			noticed := code == 400 && strings.Contains(text, "not what is expected")
			if has := body.Properties[name] != nil; has != noticed && !tolerant(path, name) {
				t.Errorf("%s, %s: described %t, read %t (%d %s)", path, name, has, noticed, code, text)
			}
		}
	}
}

// tolerant lists what several requests read because they share a body, and where
// it does nothing.
func tolerant(path, name string) bool {
	switch {
	case strings.HasPrefix(path, "/channel") || strings.HasPrefix(path, "/tmpchannel"): // see change
		return slices.Contains([]string{"channel_id", "channel_type", "reset", "temp_subscriber", "subscribers", "uids", "large", "ban", "disband", "send_ban", "allow_stranger"}, name)
	case strings.HasPrefix(path, "/conversations/"): // see reading
		return name == "message_seq" || name == "unread"
	case path == "/user/device_quit":
		return name == "token" || name == "device_level"
	case path == "/message/sendbatch":
		return name == "channel_id" || name == "channel_type"
	}
	return false
}

// What is no request is answered like any other error.
func TestUnknownRequests(t *testing.T) {
	s, _ := newServer(t)
	for _, c := range []struct {
		method, path string
		code         int
		text         string
	}{
		{"GET", "/nothing", 404, "there is no such path"},
		{"DELETE", "/channel", 405, "POST is possible"},
		{"POST", "/health", 405, "GET"},
		{"GET", "/openapi.json", 200, `"openapi": "3.1.0"`},
	} {
		w := httptest.NewRecorder()
		s.http.Handler.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.code || !strings.Contains(w.Body.String(), c.text) || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("%s %s: %d %.200s; want %d and %q", c.method, c.path, w.Code, w.Body, c.code, c.text)
		}
	}
}
