package main_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	module = "gatepost/"
	xsys   = "golang.org/x/sys/unix"
)

// allowed says what a package may import beside the standard library. Packages
// of this module are written without its name, "" is the main package. Tests
// may import what their package may. A line gets longer only when the flow
// still goes one way: bytes in, log, core, bytes out.
var allowed = map[string][]string{
	// Leaves: they know nothing of a broker.
	"ack":       {},
	"diskio":    {},
	"queue":     {},
	"metrics":   {},
	"guesses":   {},
	"systemd":   {xsys},
	"wukong":    {},
	"settings":  {"github.com/BurntSushi/toml"},
	"hwprofile": {"settings", xsys},
	"handover":  {xsys},
	"ring":      {xsys},
	"message":   {"github.com/valyala/bytebufferpool"},
	"jsonrpc":   {"wukong"}, // its frames in another encoding

	"config": {"hwprofile", "settings"},
	"netio":  {"ring", xsys},
	"wal":    {"diskio", "message", "metrics", "queue", xsys, "github.com/tidwall/wal"},
	"store":  {"diskio", "message", "github.com/klauspost/compress/s2", "github.com/nutsdb/nutsdb", xsys},

	"backup": {"diskio", "message", "store", "wal"},

	"calibrate": {"hwprofile", "netio", xsys},

	// The core knows no socket, no protocol and no disk.
	"broker":  {"diskio", "message", "queue", "github.com/dchest/siphash"},
	"session": {"diskio", "ack", "broker", "guesses", "jsonrpc", "message", "netio", "queue", "wukong"},
	"api":     {"diskio", "broker", "guesses", "message", "metrics", "queue", "wukong"},
	"cli":     {"diskio", "backup", "calibrate", "config", "hwprofile", "metrics", "settings", "store", "wal", "wukong"},
	"": {"ack", "api", "backup", "broker", "cli", "config", "diskio", "handover", "hwprofile", "message", "metrics", "netio", "queue",
		"ring", "session", "store", "systemd", "wal", "wukong"},

	// Measures the binary from outside, with the CLI's client.
	"bench": {"cli", "wukong", xsys},

	// The black-box suite shares no code with what it tests.
	"e2e": {xsys},
	// A module of its own, built by the suite and in no binary.
	"e2e/faultfs": {"github.com/hanwen/go-fuse/v2/fs", "github.com/hanwen/go-fuse/v2/fuse"},
}

// TestImportsGoOneWay reads every Go file of the repository, for whatever
// platform it is.
func TestImportsGoOneWay(t *testing.T) {
	seen := make(map[string]bool)
	err := fs.WalkDir(os.DirFS("."), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && (d.Name()[0] == '.' || d.Name() == "testdata" || d.Name() == "node_modules"):
			return fs.SkipDir
		case d.IsDir() || path.Ext(name) != ".go":
			return nil
		}
		pkg := strings.TrimPrefix(path.Dir(name), ".")
		may, listed := allowed[pkg]
		if !listed {
			t.Errorf("%s: package %q is not in the list of imports_test.go", name, pkg)
			return nil
		}
		seen[pkg] = true
		file, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(name), nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			own, local := strings.CutPrefix(imported, module)
			if standard := !strings.Contains(strings.Split(imported, "/")[0], "."); standard && !local {
				continue
			}
			if local && own == pkg { // a test from outside
				continue
			}
			if !slices.Contains(may, own) {
				t.Errorf("%s: package %q may not import %s", name, pkg, imported)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for pkg := range allowed {
		if !seen[pkg] {
			t.Errorf("package %q is in the list and has no files", pkg)
		}
	}
}
