package api

import (
	_ "embed"
	"net/http"
)

// openAPI describes the requests and answers, OpenAPI 3.1. A test holds it and the
// code together.
//
//go:embed openapi.json
var openAPI []byte

// describe answers GET /openapi.json.
func (s *Server) describe(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(openAPI) // who asked is gone
}
