package e2e

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A selftest sends a message all the way, whatever the box asks of its clients,
// and again.
func TestSelftest(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(secret, []byte("a token of the box\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string][]option{
		"as it comes":        nil,
		"without encryption": {plain},
		"tokens and lists":   {set("session.token_auth", "true"), set("broker.person_allow_list", "true"), set("api.token_file", secret)},
		"one device only":    {set("session.device_level", "master")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GATEPOST_TOKEN_FILE", secret)
			b := start(t, options...)
			var found struct {
				OK    bool
				Steps []struct {
					Name string
					US   int64
				}
			}
			channels := 0.0
			for i := range 3 {
				out := works(t, "selftest", "--addr", b.tcp, "--http", b.http, "--json")
				if err := json.Unmarshal([]byte(out), &found); err != nil || !found.OK || len(found.Steps) != 6 {
					t.Fatalf("selftest --json: %v\n%s", err, out)
				}
				for _, s := range found.Steps {
					if s.US <= 0 {
						t.Errorf("%s took %d microseconds", s.Name, s.US)
					}
				}
				// Pairs of users are never forgotten: it is always the same one.
				var values map[string]any
				if err := json.Unmarshal([]byte(works(t, "status", "--http", b.http, "--json")), &values); err != nil {
					t.Fatal(err)
				}
				n, _ := values["gatepost_channels"].(float64)
				if n == 0 || i > 0 && n != channels {
					t.Errorf("selftest %d: %v channels, %v before", i, n, channels)
				}
				channels = n
			}
		})
	}
	if out := works(t, "selftest", "--offline"); !strings.Contains(out, "all is well") {
		t.Errorf("selftest --offline: %s", out)
	}
}

// What does not work fails the selftest and is named.
func TestSelftestFails(t *testing.T) {
	b := start(t)
	ill := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"status":"disk is full"}`, http.StatusServiceUnavailable)
	}))
	defer ill.Close()
	// A wire that lets the login and the acknowledgement of the message through
	// to the sender, and no message to the receiver.
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	go func() {
		for first := true; ; first = false {
			in, err := deaf.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", b.tcp)
			if err != nil {
				in.Close()
				return
			}
			go func() { io.Copy(out, in); out.Close() }()
			go func() {
				defer in.Close()
				if !first { // the receiver logs in first
					io.Copy(in, out)
					return
				}
				connack := make([]byte, 4096)
				n, err := out.Read(connack)
				if err == nil {
					in.Write(connack[:n])
					io.Copy(io.Discard, out)
				}
			}()
		}
	}()
	web := strings.TrimPrefix(ill.URL, "http://")
	for name, c := range map[string]struct {
		addr, http, said string
	}{
		"no broker":           {freeAddr(t), b.http, "cannot reach a broker"},
		"no HTTP":             {b.tcp, freeAddr(t), "cannot reach the broker's HTTP"},
		"a box that is ill":   {b.tcp, web, "disk is full"},
		"nothing is received": {deaf.Addr().String(), b.http, "no RECV"},
	} {
		out, said, code := gatepost(t, "selftest", "--addr", c.addr, "--http", c.http, "--json", "--timeout", "3s")
		var found struct {
			OK    bool
			Error string
		}
		if err := json.Unmarshal([]byte(out), &found); err != nil || code != 1 || found.OK || !strings.Contains(found.Error, c.said) || !strings.Contains(said, c.said) {
			t.Errorf("%s: exit code %d, want 1 and %q\n%s%s", name, code, c.said, out, said)
		}
	}
}
