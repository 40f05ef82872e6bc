package settings

import "testing"

// TestParse: keys come in the order of the file, with their lines.
func TestParse(t *testing.T) {
	all, err := Parse("a.toml", []byte("z = 1\n\n[net]\nb.c = 'x' # why\n\"a.b\" = true\n[[list]]\nin = 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		name, key, text string
		line            int
	}{{"z", "z", "1", 1}, {"net", "net", "", 3}, {"net.b.c", "net.b.c", "x", 4}, {`net."a.b"`, "", "true", 5}, {"list", "list", "", 6}}
	if len(all) != len(want) {
		t.Fatalf("found %d entries, expected %d: %v", len(all), len(want), all)
	}
	for i, w := range want {
		e := &all[i]
		if text, _ := e.Text(); e.Name() != w.name || e.Key() != w.key || text != w.text || e.Line != w.line {
			t.Errorf("entry %d: found %s %q %q in line %d, expected %v", i, e.Name(), e.Key(), text, e.Line, w)
		}
	}
}
