package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// authority makes certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.issue(t, "authority")
	return a
}

// issue makes a certificate and writes NAME.pem and NAME.key.
func (a *authority) issue(t testing.TB, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{".pem": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "EC PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(a.file(name+file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// client returns what a client needs that trusts the authority.
func (a *authority) client() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{RootCAs: pool, ServerName: "127.0.0.1"}
}

// options are those of a broker with the certificate "box".
func (a *authority) options(b *broker) {
	for _, kv := range [][2]string{{"tls.tcp", "127.0.0.1:0"}, {"tls.ws", "127.0.0.1:0"}, {"tls.cert_file", a.file("box.pem")}, {"tls.key_file", a.file("box.key")}} {
		set(kv[0], kv[1])(b)
	}
}

// Messages inside TLS, over TCP and WebSocket, encrypted by the protocol or not;
// a certificate that is replaced; rubbish beside it.
func TestTLS(t *testing.T) {
	for _, encrypted := range []bool{false, true} {
		t.Run(fmt.Sprintf("encryption=%v", encrypted), func(t *testing.T) {
			ca := newAuthority(t)
			ca.issue(t, "box")
			b := start(t, encryption(encrypted), ca.options)
			outside := b.must(t, dialer{uid: "outside"})
			inside := b.must(t, dialer{uid: "inside", tls: ca.client()})
			web := b.must(t, dialer{uid: "web", ws: true, tls: ca.client()})
			all := []*client{outside, inside, web}
			for i, from := range all {
				for j, to := range all {
					if i != j {
						text := strings.Repeat(fmt.Sprint(from.uid, " to ", to.uid, ", "), 1+500*(i+j))
						from.tell(t, to.uid, fmt.Sprint(i, j), text)
						if m := to.nextRecv(t); string(m.payload) != text {
							t.Errorf("%s received %v from %s", to.uid, m, from.uid)
						}
					}
				}
			}
			out, in := newLedger(), newLedger()
			sender := b.must(t, dialer{uid: "sender", tls: ca.client(), onAck: out.onAck})
			b.must(t, dialer{uid: "receiver", ws: true, tls: ca.client(), onRecv: in.onRecv})
			const n = 20_000
			if _, err := sender.pipeline(n, 100, func(int) send { return send{channel: "receiver", kind: person} }, "tls", nil); err != nil {
				t.Fatal(err)
			}
			out.wait(t, n, 0)
			in.wait(t, 0, n)
			for i, m := range in.got {
				if m.seq != uint32(i+1) || out.acks[i].seq != m.seq {
					t.Fatalf("RECV number %d is %v, SENDACK %+v", i+1, m, out.acks[i])
				}
			}
			// Rubbish, and those who say nothing.
			for i := range 50 {
				c, err := dialTCP(b.tls)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				switch i % 3 {
				case 0:
					fmt.Fprintf(c, "GET / HTTP/1.1\r\n\r\n")
				case 1:
					c.Write([]byte{22, 3, 1, 0, 200, 1, 0})
				}
			}
			inside.tell(t, "web", "beside", "rubbish")
			if m := web.nextRecv(t); m.no != "beside" {
				t.Errorf("received %v", m)
			}
			// Another certificate; a wrong one changes nothing.
			serial := func() string {
				t.Helper()
				c, err := tls.Dial("tcp", b.tls, ca.client())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				return c.ConnectionState().PeerCertificates[0].SerialNumber.String()
			}
			before := serial()
			ca.issue(t, "box")
			again := func(said string) {
				t.Helper()
				count := strings.Count(b.log.String(), said)
				b.signal(syscall.SIGHUP)
				for deadline := time.Now().Add(never); strings.Count(b.log.String(), said) == count; time.Sleep(5 * time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("the log does not say %q", said)
					}
				}
			}
			again("configuration read again")
			after := serial()
			if after == before {
				t.Error("the old certificate is still there")
			}
			if err := os.WriteFile(ca.file("box.pem"), []byte("rubbish"), 0o600); err != nil {
				t.Fatal(err)
			}
			again("configuration not read again")
			if serial() != after {
				t.Error("a bad certificate took the place of a good one")
			}
			inside.ping(t)
			web.ping(t)
			if !strings.Contains(b.log.String(), "bad TLS peer") {
				t.Error("the log does not say that there was rubbish")
			}
		})
	}
}

// With authorities of clients, only who has a certificate of them gets in.
func TestTLSOfClients(t *testing.T) {
	ca, others := newAuthority(t), newAuthority(t)
	ca.issue(t, "box")
	ca.issue(t, "device")
	others.issue(t, "device")
	b := start(t, plain, ca.options, set("tls.client_ca_file", ca.file("authority.pem")))
	with := func(a *authority) *tls.Config {
		t.Helper()
		o := ca.client()
		if a != nil {
			pair, err := tls.LoadX509KeyPair(a.file("device.pem"), a.file("device.key"))
			if err != nil {
				t.Fatal(err)
			}
			o.Certificates = []tls.Certificate{pair}
		}
		return o
	}
	good := b.must(t, dialer{uid: "good", tls: with(ca)})
	for name, o := range map[string]*tls.Config{"none": with(nil), "another authority's": with(others)} {
		if c, _, err := b.login(dialer{uid: "bad", tls: o}); err == nil {
			c.close()
			t.Errorf("a client with a certificate of %s got in", name)
		}
	}
	good.ping(t)
}

// HTTP inside TLS, and the commands with it.
func TestTLSOfHTTP(t *testing.T) {
	ca := newAuthority(t)
	ca.issue(t, "box")
	b := start(t, plain, ca.options, set("tls.http", "true"))
	t.Setenv("GATEPOST_CA_FILE", ca.file("authority.pem"))
	works(t, "channel", "create", "g", "--members", "alice", "--http", "https://"+b.http)
	works(t, "status", "--http", "https://"+b.http)
	works(t, "send", "--uid", "alice", "--group", "g", "hello", "--addr", "tls://"+b.tls)
	t.Setenv("GATEPOST_CA_FILE", "")
	if _, said, code := gatepost(t, "send", "--uid", "alice", "--group", "g", "hello", "--addr", "tls://"+b.tls); code == 0 || !strings.Contains(said, "certificate") {
		t.Errorf("with a certificate that nobody trusts: exit code %d\n%s", code, said)
	}
	for _, args := range [][]string{
		{"--tls.tcp", "127.0.0.1:0"},
		{"--tls.tcp", "127.0.0.1:0", "--tls.cert_file", ca.file("none.pem"), "--tls.key_file", ca.file("box.key")},
	} {
		args = append([]string{"run", "--data", t.TempDir(), "--tcp", "127.0.0.1:0", "--ws", "127.0.0.1:0", "--http", "127.0.0.1:0"}, args...)
		if _, said, code := gatepost(t, args...); code == 0 || !strings.Contains(said, "tls.cert_file") {
			t.Errorf("%q: exit code %d\n%s", args, code, said)
		}
	}
}

// What an idle connection inside TLS costs.
func TestManyTLSConnections(t *testing.T) {
	n := pick(500, 5_000)
	ca := newAuthority(t)
	ca.issue(t, "box")
	b := start(t, plain, ca.options, set("tls.max_connections", fmt.Sprint(n+20)), set("log.level", "warn"))
	o := ca.client()
	crowd := func(from, to int) (all []*client) {
		t.Helper()
		for i := from; i < to; i++ {
			all = append(all, b.must(t, dialer{uid: fmt.Sprint("u", i), tls: o, buffer: 512}))
		}
		return all
	}
	crowd(0, 20)
	low := quiet(b)
	all := crowd(20, n)
	high := quiet(b)
	each := float64(high-low) / float64(n-20)
	t.Logf("%d idle connections inside TLS: %.1f KiB of process memory each", n, each/1024)
	if each > 48<<10 {
		t.Errorf("one costs %.1f KiB, the budget counts 48", each/1024)
	}
	for _, c := range all {
		c.ping(t)
	}
	for i := range 40 { // more than there may be are closed, and nobody else
		if c, _, err := b.login(dialer{uid: fmt.Sprint("more", i), tls: o}); err == nil && c != nil && i >= 20 {
			t.Error("there are more connections than there may be")
		}
	}
	all[0].ping(t)
}
