package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"
)

// settled returns a handler that holds for each request what net/http leaves to
// its handlers: how long its body may take to come in, and that it is answered.
//
// A read deadline that passes while a handler works ends the context of the
// connection, and so every later request on it. It is cleared when the body is in.
func (s *Server) settled(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if r.Body == nil || r.Body == http.NoBody {
			_ = control.SetReadDeadline(time.Time{})
		} else {
			r.Body = &body{ReadCloser: r.Body, control: control, timeout: s.body}
		}
		if len(r.TransferEncoding) > 0 {
			// A Content-Length beside it is ignored and no longer seen here: who
			// believed it, such as a proxy, has another idea of where the next
			// request begins (RFC 9112, 6.1).
			w.Header().Set("Connection", "close")
		}
		o := &outcome{ResponseWriter: w, r: r}
		if err := r.Context().Err(); err != nil {
			fail(o, http.StatusServiceUnavailable, errors.New("the connection of the request has ended"))
			return
		}
		next.ServeHTTP(o, r)
		if !o.said { // net/http would say 200
			s.o.Logger.Error("HTTP request not answered; closing its connection", "path", r.URL.Path)
			panic(http.ErrAbortHandler)
		}
	})
}

// body is the body of a request, which has a time to come in from its first read
// on.
type body struct {
	io.ReadCloser
	control *http.ResponseController
	timeout time.Duration
	began   bool
}

func (b *body) Read(p []byte) (int, error) {
	if !b.began {
		b.began = true
		_ = b.control.SetReadDeadline(time.Now().Add(b.timeout)) // else ReadTimeout holds
	}
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{}) // nothing more is read for this request
	}
	return n, err
}

// outcome is a response of which is known whether anything was said.
type outcome struct {
	http.ResponseWriter
	r    *http.Request
	said bool
}

func (o *outcome) WriteHeader(status int) {
	o.said = true
	if o.r.Context().Err() != nil { // no request on this connection would be served
		o.Header().Set("Connection", "close")
	}
	o.ResponseWriter.WriteHeader(status)
}

func (o *outcome) Write(p []byte) (int, error) {
	o.said = true
	return o.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (o *outcome) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// within returns a handler whose request ends after a time, for what may wait for
// the disk.
func (s *Server) within(wait time.Duration, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), wait)
		defer cancel()
		next(w, r.WithContext(ctx))
	}
}
