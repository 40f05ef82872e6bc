package api

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// application is the other side of webhook and datasource: one address, and the
// secret that requests to it are signed with.
type application struct {
	url    string
	secret []byte // empty: not signed
	client http.Client
}

func newApplication(url string, secret []byte, timeout time.Duration) application {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = hookChannels
	return application{url: url, secret: secret, client: http.Client{Timeout: timeout, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// SignatureHeader says who made a request to the application:
//
//	t=<unix seconds>,v1=<hex of HMAC-SHA-256 under the secret of "<t>.<body>">
const SignatureHeader = "X-Gatepost-Signature"

// A statusError says that the application was reached and did not do what it was
// asked for.
type statusError struct {
	host   string
	status int
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s answers %d %s", e.host, e.status, http.StatusText(e.status))
}

// A reachError says that the application was not reached, or broke off.
type reachError struct {
	host string
	err  error
}

func (e *reachError) Error() string { return fmt.Sprintf("cannot reach %s: %v", e.host, e.err) }
func (e *reachError) Unwrap() error { return e.err }

// call makes one request, a POST of text, and returns the answer, which has limit
// bytes at most; 0: it is not wanted. What is not 2xx is an error.
func (a *application) call(ctx context.Context, query url.Values, text []byte, limit int64) ([]byte, error) {
	u, err := url.Parse(a.url)
	if err != nil {
		return nil, errors.New("its address cannot be read") // the error would show it, and it may have a secret
	}
	q := u.Query()
	maps.Copy(q, query)
	u.RawQuery = q.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if len(a.secret) > 0 {
		r.Header.Set(SignatureHeader, sign(a.secret, time.Now().Unix(), text))
	}
	res, err := a.client.Do(r)
	if err != nil {
		var named *url.Error // its text has the whole address, which may have a secret
		if errors.As(err, &named) {
			err = named.Err
		}
		return nil, &reachError{u.Host, err}
	}
	defer res.Body.Close()
	good := res.StatusCode >= 200 && res.StatusCode <= 299
	if !good || limit == 0 {
		_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection is used again
		if !good {
			return nil, &statusError{u.Host, res.StatusCode}
		}
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	switch {
	case err != nil:
		return nil, &reachError{u.Host, err}
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("the answer of %s has more than %d bytes", u.Host, limit)
	}
	return body, nil
}

func sign(secret []byte, unix int64, text []byte) string {
	m := hmac.New(sha256.New, secret)
	t := strconv.FormatInt(unix, 10)
	m.Write([]byte(t + "."))
	m.Write(text)
	return "t=" + t + ",v1=" + hex.EncodeToString(m.Sum(nil))
}

// pause reports false when ctx ends before d has passed.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
