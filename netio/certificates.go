package netio

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
)

// Certificates are those of a server, from files that can be read again while it
// serves. Safe on any goroutine.
type Certificates struct {
	cert, key, clients string
	now                atomic.Pointer[tls.Config]
}

// LoadCertificates reads a certificate chain and its key, both PEM. clients is a
// file with the authorities of which every client must have a certificate, "":
// none needs one.
func LoadCertificates(cert, key, clients string) (*Certificates, error) {
	c := &Certificates{cert: cert, key: key, clients: clients}
	return c, c.Reload()
}

// Reload reads the files again, for connections from now on. After an error
// everything is as before.
func (c *Certificates) Reload() error {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("cannot use the certificate %s with the key %s: %w", c.cert, c.key, err)
	}
	o := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true}
	if c.clients != "" {
		text, err := os.ReadFile(c.clients)
		if err != nil {
			return fmt.Errorf("cannot read the authorities of clients: %w", err)
		}
		o.ClientCAs, o.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !o.ClientCAs.AppendCertsFromPEM(text) {
			return fmt.Errorf("cannot use the authorities of clients in %s: %w", c.clients, errors.New("there is no certificate in PEM"))
		}
	}
	c.now.Store(o)
	return nil
}

// Config is what a server needs. It follows Reload.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.now.Load(), nil }}
}
