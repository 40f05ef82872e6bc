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
	o, err := read(c.cert, c.key, c.clients)
	if err == nil {
		c.now.Store(o)
	}
	return err
}

// Take puts what another one has read in the place of what c has.
func (c *Certificates) Take(other *Certificates) { c.now.Store(other.now.Load()) }

func read(cert, key, clients string) (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("cannot use the certificate %s with the key %s: %w", cert, key, err)
	}
	o := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true}
	if clients != "" {
		text, err := os.ReadFile(clients)
		if err != nil {
			return nil, fmt.Errorf("cannot read the authorities of clients: %w", err)
		}
		o.ClientCAs, o.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !o.ClientCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("cannot use the authorities of clients in %s: %w", clients, errors.New("there is no certificate in PEM"))
		}
	}
	return o, nil
}

// Config is what a server needs. It follows Reload.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.now.Load(), nil }}
}
