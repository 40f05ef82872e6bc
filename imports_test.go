package main

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed is who may import whom, beside the standard library. A new package
// or import belongs here only if the flow still goes one way.
var allowed = map[string][]string{
	"message":   {"github.com/valyala/bytebufferpool"},
	"ring":      {"golang.org/x/sys/unix"},
	"queue":     {},
	"ack":       {},
	"wukong":    {},
	"metrics":   {},
	"systemd":   {},
	"hwprofile": {},
	"netio":     {"ring", "golang.org/x/sys/unix"},
	"wal":       {"message", "metrics", "queue", "github.com/tidwall/wal", "golang.org/x/sys/unix"},
	"store":     {"message"},
	"config":    {"hwprofile", "github.com/BurntSushi/toml"},
	"broker":    {"message", "queue"},
	"session":   {"ack", "broker", "message", "netio", "queue", "wukong"},
	"api":       {"broker", "message", "metrics", "queue"},
	"cli":       {"config", "hwprofile", "wal", "wukong"},
	"e2e":       {"wukong"},
	"": {"ack", "api", "broker", "cli", "config", "hwprofile", "metrics", "netio", "session", "store",
		"systemd", "wal"},
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, "gatepost"), "/")
		may, known := allowed[name]
		if !known {
			t.Errorf("package %q is not in the list", name)
			continue
		}
		for _, i := range p.Imports {
			own, local := strings.CutPrefix(i, "gatepost/")
			if !local && !strings.Contains(strings.Split(i, "/")[0], ".") {
				continue // the standard library
			}
			if !slices.Contains(may, own) {
				t.Errorf("%q must not import %s", name, i)
			}
		}
	}
	if seen != len(allowed) {
		t.Errorf("%d packages found, %d listed", seen, len(allowed))
	}
}
