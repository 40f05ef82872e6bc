package api

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"strings"
	"testing"
)

// Certificates refused for their time are said once, with the clock; what else net/http
// says of connections is for debugging.
func TestExpiredCertificatesAreSaid(t *testing.T) {
	var text bytes.Buffer
	l := newErrorLog(slog.New(slog.NewTextHandler(&text, nil)))
	l.Print("http: TLS handshake error from 1.2.3.4:5: EOF")
	for range 3 {
		l.Print("http: TLS handshake error from 1.2.3.4:5: tls: failed to verify certificate: ",
			x509.CertificateInvalidError{Reason: x509.Expired, Detail: "current time 1970-01-01T00:00:09Z is before 2026-01-01T00:00:00Z"})
	}
	if got := text.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=WARN") || !strings.Contains(got, "clock=") || !strings.Contains(got, "1.2.3.4:5") {
		t.Errorf("said:\n%s", got)
	}
}
