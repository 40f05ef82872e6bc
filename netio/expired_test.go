package netio

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.all.String(), text)
}

// A client whose certificate is not valid at the time of this clock is refused, and
// the log says so with the clock, once.
func TestCertificatesRefusedForTheirTimeAreSaid(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: time.Now().Add(24 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	client, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(client)
	log := new(lines)
	s, err := New(Options{Logger: slog.New(slog.NewTextHandler(log, nil)),
		TLS: &tls.Config{Certificates: []tls.Certificate{certificate(t)}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ListenTLS([]string{"127.0.0.1:0"}, nil); err != nil {
		t.Fatal(err)
	}
	g := newGate()
	run(t, s, g)
	for range 3 {
		c := tls.Client(dial(t, s.TLSAddr()), &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
		if err := c.Handshake(); err == nil {
			if _, err = c.Read(make([]byte, 1)); err == nil {
				t.Fatal("the client was let in")
			}
		}
	}
	eventually(t, "three are closed", func() bool { return s.loops[0].stats.ClosedTLS.Load() == 3 })
	if n := log.count("client certificate refused for its time; is the clock right?"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
	if year := time.Now().UTC().Format("clock=2006-01-02"); log.count(year) != 1 {
		t.Errorf("the line has no %s", year)
	}
}
