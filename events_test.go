package main

import (
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the table of events into docs/operations.md")

// A message that is written in another way has lost its id: each beginning in
// the table stands in the source.
func TestEveryEventIsStillSaid(t *testing.T) {
	var source strings.Builder
	if err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || path == "events.go" || strings.HasPrefix(path, "e2e") {
			return err
		}
		text, err := os.ReadFile(path)
		source.Write(text)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ids := make(map[string]string)
	for i, e := range events() {
		if !strings.Contains(source.String(), strings.TrimSuffix(strconv.Quote(e.begin), `"`)) {
			t.Errorf("no line of the log begins with %q", e.begin)
		}
		if !regexp.MustCompile("^[0-9a-f]{32}$").MatchString(e.id) {
			t.Errorf("%s: %q is no id", e.name, e.id)
		}
		if name, ok := ids[e.id]; ok && name != e.name {
			t.Errorf("%s and %s have the same id", name, e.name)
		}
		ids[e.id] = e.name
		for _, before := range events()[:i] {
			if strings.HasPrefix(e.begin, before.begin) {
				t.Errorf("%q is taken for %q", e.begin, before.begin)
			}
		}
	}
	if eventID("log damaged") == "" || eventID("checkpoint") != "" {
		t.Error("messages are not told apart")
	}
}

// The table of the documentation is the one in the source.
func TestEventsAreDocumented(t *testing.T) {
	const path, begin, end = "docs/operations.md", "<!-- events -->\n", "<!-- end of events -->\n"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok1 := strings.Cut(string(text), begin)
	table, foot, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no %q and %q", path, begin, end)
	}
	if *update {
		if err := os.WriteFile(path, []byte(head+begin+eventTable()+end+foot), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if table != eventTable() {
		t.Errorf("the table in %s is another; write it with: go test . -run TestEventsAreDocumented -update", path)
	}
}
