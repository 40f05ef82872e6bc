package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatepost/config"
)

// unpack reads a bundle.
func unpack(t *testing.T, file string) map[string]string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the bundle has mode %v, want 0600; %v", info.Mode(), err)
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found[strings.TrimPrefix(h.Name, "gatepost-support/")] = string(text)
	}
}

const marker = "MARKER-of-a-secret"

// planted is a file with a configuration that has a secret wherever there can be
// one, and all that is said of the box by others repeats them.
func planted(t *testing.T) (file string) {
	t.Helper()
	var secrets []string
	dir := t.TempDir()
	write := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return name
	}
	secret := func() string {
		s := fmt.Sprintf("%s-%d-", marker, len(secrets)+1)
		secrets = append(secrets, s)
		return s
	}
	text := "# " + marker + "\n" // nothing but the file knows it
	section := ""
	for _, f := range config.Flags() { // in the order of sections
		name, key, in := strings.Cut(f.Name, ".")
		if !in {
			name, key = "", f.Name
		}
		value := ""
		switch {
		case f.Name == "api.token_file":
			value = secret() // somebody has mistaken it for the token
		case strings.HasSuffix(key, "_file"):
			value = write(f.Name, "-----BEGIN X-----\n"+secret()+"\n"+secret()+"\n-----END X-----\n")
		case key == "url":
			value = "https://" + secret() + ":" + secret() + "@app.example:8443/hook/" + secret() + "?key=" + secret() + "&" + secret()
		default:
			continue
		}
		if name != section {
			section = name
			text += "[" + section + "]\n"
		}
		text += fmt.Sprintf("%s = %q # %s\n", key, value, marker)
	}
	if n := len(secrets); n < 15 {
		t.Fatalf("%d secrets: the table is not read right", n)
	}
	// What the journal says, and a broker that repeats what it should not.
	bin := write("journalctl", "#!/bin/sh\ncat "+filepath.Join(dir, "said")+"\n")
	write("systemctl", "#!/bin/sh\ncat "+filepath.Join(dir, "said")+"; exit 3\n")
	var said strings.Builder
	for _, s := range secrets {
		fmt.Fprintf(&said, "cannot reach https://app.example/hook/%s: %q\n", s, s)
	}
	write("said", said.String())
	t.Setenv("PATH", filepath.Dir(bin)+":"+os.Getenv("PATH"))
	return write("gatepost.toml", text)
}

// No secret of a box is in a bundle, wherever it stood, and the rest is.
func TestSupportBundleHasNoSecrets(t *testing.T) {
	file := planted(t)
	said, err := os.ReadFile(filepath.Join(filepath.Dir(file), "said"))
	if err != nil || len(said) == 0 {
		t.Fatal(err)
	}
	box := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/metrics" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, "%s %s", r.URL, said)
	}))
	defer box.Close()
	key := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(key, []byte(marker+"-of-the-command\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(tokenVariable, key)
	data := t.TempDir()
	if err := os.WriteFile(filepath.Join(data, "1"), []byte(marker), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		more string // behind the configuration
		want map[string]string
	}{
		"a configuration": {"", map[string]string{
			"config.toml": "https://app.example:8443/(not shown)", "version.txt": "gatepost 1.2", "machine.txt": "/proc/version", "disks.txt": "MiB free",
			"profile.json": "origin", "files.txt": filepath.Join(data, "1"), "health.json": "/health", "varz.json": "/varz", "connz.json": "limit=1000",
			"journal.txt": "cannot reach", "unit.txt": "cannot reach", "metrics.txt": "no",
		}},
		"a wrong one":      {"\n[net]\nloops = \"" + marker + "-wrong-\"\nloop = 1\n", map[string]string{"config.toml": "built-in", "journal.txt": "cannot reach"}},
		"one that is none": {"\n[net\n" + marker + " = '" + marker, map[string]string{"config.toml": "built-in"}},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			use := filepath.Join(t.TempDir(), "gatepost.toml")
			if err := os.WriteFile(use, append(text, c.more...), 0o600); err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(t.TempDir(), "b.tar.gz")
			var printed, complained bytes.Buffer
			code := dispatch(context.Background(), []string{"support-bundle", "-o", out, "--config", use, "--data", data, "--http", strings.TrimPrefix(box.URL, "http://")},
				Env{Stdout: &printed, Stderr: &complained, Version: "1.2"})
			if code != exitOK {
				t.Fatalf("exit code %d\n%s", code, complained.String())
			}
			found := unpack(t, out)
			for file, text := range found {
				if at := strings.Index(text, marker); at >= 0 {
					t.Errorf("%s has a secret: %.80s", file, text[max(at-40, 0):])
				}
			}
			if strings.Contains(complained.String(), marker) {
				t.Errorf("a secret was printed: %s", complained.String())
			}
			for file, want := range c.want {
				if !strings.Contains(found[file], want) {
					t.Errorf("%s has no %q:\n%s", file, want, found[file])
				}
			}
			// What could not be had is said.
			var manifest struct{ Files []bundleEntry }
			if err := json.Unmarshal([]byte(found["manifest.json"]), &manifest); err != nil {
				t.Fatal(err)
			}
			errors := make(map[string]string)
			for _, e := range manifest.Files {
				errors[e.Name] = e.Error
				if e.Bytes != len(found[e.Name]) {
					t.Errorf("%s: %d bytes in the manifest, %d in the bundle", e.Name, e.Bytes, len(found[e.Name]))
				}
			}
			for file, want := range map[string]string{"metrics.txt": "HTTP 401", "unit.txt": "exit status 3", "check.json": "the broker runs"} {
				if !strings.Contains(errors[file], want) {
					t.Errorf("the manifest says of %s %q, want %q", file, errors[file], want)
				}
			}
			if wrong := errors["config.toml"] != ""; wrong != (c.more != "") {
				t.Errorf("the manifest says of the configuration: %q", errors["config.toml"])
			}
		})
	}
}

// A bundle of a stopped broker has what check says, is bounded, and does not hide
// a failure to write it.
func TestSupportBundleOfAStoppedBroker(t *testing.T) {
	dir, data := t.TempDir(), newData(t)
	long := filepath.Join(dir, "journalctl")
	if err := os.WriteFile(long, []byte("#!/bin/sh\nyes 0123456789 | head -c 30000000; echo the end\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	empty := filepath.Join(dir, "empty.toml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	bundle := func(out string) (int, string) {
		var said bytes.Buffer
		code := dispatch(context.Background(), []string{"support-bundle", "--output", out, "--config", empty, "--data", data, "--http", "127.0.0.1:1"}, Env{Stdout: io.Discard, Stderr: &said})
		return code, said.String()
	}
	out := filepath.Join(dir, "b.tar.gz")
	if code, said := bundle(out); code != exitOK {
		t.Fatalf("exit code %d\n%s", code, said)
	}
	found := unpack(t, out)
	if !strings.Contains(found["check.json"], `"whole": true`) {
		t.Errorf("check says:\n%s", found["check.json"])
	}
	if text := found["journal.txt"]; len(text) > maxEntry || len(text) < maxEntry/2 || !strings.HasSuffix(text, "the end\n") {
		t.Errorf("of a long journal there are %d bytes, want its last %d", len(text), maxEntry)
	}
	if code, said := bundle(filepath.Join(dir, "none", "b.tar.gz")); code != exitFailed || !strings.Contains(said, "cannot write the bundle") {
		t.Errorf("where it cannot be written: exit code %d\n%s", code, said)
	}
}

// The flags of the service are found where the package puts them.
func TestServiceFlags(t *testing.T) {
	env := filepath.Join(t.TempDir(), "gatepost")
	for text, want := range map[string]string{
		"# a comment\nGATEPOST_ARGS=--config /etc/gatepost/gatepost.toml\n": "/etc/gatepost/gatepost.toml map[]",
		"GATEPOST_ARGS=\"--tcp :1 --net.loops=2\"\nOTHER=x":                 " map[net.loops:2 tcp::1]",
		"": " map[]",
	} {
		if err := os.WriteFile(env, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		a, err := serviceFlags("", env)
		if got := fmt.Sprint(a.File, " ", a.Flags); err != nil || got != want {
			t.Errorf("%q: %s, want %s; %v", text, got, want, err)
		}
	}
	if err := os.WriteFile(env, []byte("GATEPOST_ARGS=--webhok.url="+marker), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := serviceFlags("", env); err == nil || strings.Contains(err.Error(), marker) {
		t.Errorf("a wrong flag: %v", err)
	}
}

// The unit says where the data are, also in a drop-in, and whatever GATEPOST_ARGS
// says of the rest.
func TestUnitFlags(t *testing.T) {
	for shown, want := range map[string]string{
		"ExecStart={ path=/usr/bin/gatepost ; argv[]=/usr/bin/gatepost run --data /var/lib/gatepost --data_marker /var/lib/m $GATEPOST_ARGS ; ignore_errors=no ; start_time=[n/a] ; pid=0 }\n": "map[data:/var/lib/gatepost data_marker:/var/lib/m]",
		"ExecStart={ path=/usr/bin/gatepost ; argv[]=/usr/bin/gatepost run --data=/mnt/ssd ${GATEPOST_ARGS} ; ignore_errors=no }":                                                              "map[data:/mnt/ssd]",
		"ExecStart={ path=/usr/bin/env ; argv[]=/usr/bin/env sleep 1 ; ignore_errors=no }":                                                                                                     "map[]",
		"ExecStart=\n": "map[]",
		"":             "map[]",
	} {
		if got := fmt.Sprint(unitFlags(shown)); got != want {
			t.Errorf("%q: %s, want %s", shown, got, want)
		}
	}
}

// A bundle has the data section of the box whatever was written into GATEPOST_ARGS.
func TestSupportBundleFindsTheData(t *testing.T) {
	dir, data := t.TempDir(), newData(t)
	text := "#!/bin/sh\necho 'ExecStart={ path=/usr/bin/gatepost ; argv[]=/usr/bin/gatepost run --data " + data + " $GATEPOST_ARGS ; ignore_errors=no }'\n"
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Chdir(dir)
	out := filepath.Join(dir, "b.tar.gz")
	if _, said, code := does(t, "support-bundle", "-o", out, "--http", "127.0.0.1:1"); code != exitOK {
		t.Fatalf("exit code %d\n%s", code, said)
	}
	found := unpack(t, out)
	if !strings.Contains(found["files.txt"], filepath.Join(data, "meta")) || !strings.Contains(found["check.json"], `"verdict": "whole"`) || !strings.Contains(found["manifest.json"], data) {
		t.Errorf("files:\n%s\ncheck:\n%s", found["files.txt"], found["check.json"])
	}
}
