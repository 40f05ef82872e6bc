package hwprofile

import (
	"io/fs"
	"os"
	"reflect"
	"testing"
	"testing/fstest"
)

// TestGroupLimit: the tightest limit on the way to the root counts; what cannot
// be read limits nothing.
func TestGroupLimit(t *testing.T) {
	f := func(listing string, limits map[string]string, want int64) {
		t.Helper()
		tree := fstest.MapFS{"proc/self/cgroup": {Data: []byte(listing)}}
		for name, text := range limits {
			tree["sys/fs/cgroup/"+name] = &fstest.MapFile{Data: []byte(text)}
		}
		if got, _ := (System{Root: tree}).groupLimit(); got != want {
			t.Errorf("%q %v: found %d, expected %d", listing, limits, got, want)
		}
	}
	f("0::/a/b\n", map[string]string{"a/b/memory.max": "1000\n"}, 1000)
	f("0::/a/b\n", map[string]string{"a/b/memory.max": "1000\n", "a/memory.max": "500\n"}, 500)
	f("0::/a/b\n", map[string]string{"a/b/memory.max": "max\n", "a/memory.max": "700\n"}, 700)
	f("0::/\n", map[string]string{"memory.max": "800\n"}, 800)
	f("0::/gone\n", map[string]string{"memory.max": "900\n"}, 900) // a container sees its own root
	f("0::/../up\n", map[string]string{"up/memory.max": "600\n"}, 600)
	f("0::/a\n", map[string]string{"a/memory.max": "nonsense\n"}, 0)
	f("0::/a\n", nil, 0)
	f("4:memory:/a\n", map[string]string{"memory.max": "1\n"}, 0) // version 1 has other files
	f("", nil, 0)
}

// TestGroupLimitOfTrees: the files as kernels and containers have them, of version 1,
// 2 and both.
func TestGroupLimitOfTrees(t *testing.T) {
	cases := map[string]int64{
		"v1-service": 128, "v1-none": 0, "v1-nested": 96, "v1-container": 48, "v1-joined-elsewhere": 80, "v1-no-mountinfo": 70,
		"hybrid":     128,
		"v2-service": 256, "v2-none": 0, "v2-nested": 192, "v2-container": 90, "v2-container-of-the-host": 90,
	}
	trees, err := os.ReadDir("testdata/cgroup")
	if err != nil || len(trees) != len(cases) {
		t.Errorf("%d trees, %d are expected: %v", len(trees), len(cases), err)
	}
	for _, tree := range trees {
		want, known := cases[tree.Name()]
		root := os.DirFS("testdata/cgroup/" + tree.Name())
		limit, from := (System{Root: root}).groupLimit()
		if !known || limit != want*mib {
			t.Errorf("%s: found %d from %s, expected %d", tree.Name(), limit, from, want*mib)
		}
		if _, err := fs.Stat(root, from); limit > 0 && err != nil {
			t.Errorf("%s: the source is not there: %v", tree.Name(), err)
		}
		f := System{Root: root, Arch: "amd64", CPUs: 2, Memory: 1024 * mib}.Facts()
		if usable := f.Usable(); want > 0 && usable != want*mib || want == 0 && usable != 1024*mib {
			t.Errorf("%s: %d bytes may be used", tree.Name(), usable)
		}
	}
}

// TestThisMachine: this machine has memory, processors and pages, and says where
// each fact is from.
func TestThisMachine(t *testing.T) {
	f := This(t.TempDir() + "/not/there/yet").Facts()
	if f.Memory <= 0 || f.CPUs < 1 || f.PageSize < 4096 || f.Arch == "" || f.DiskSize <= 0 {
		t.Errorf("found %s and a disk of %d bytes, expected all facts but the control group's", f, f.DiskSize)
	}
	for _, s := range f.Sources {
		if s.From == "" {
			t.Errorf("%s is from nowhere", s.Fact)
		}
	}
}

// TestSpecific: the more specific name
// of the device tree wins, and the device tree over the processor.
func TestSpecific(t *testing.T) {
	f := Facts{Arch: "arm64", CPUs: 4, Memory: 2048 * mib, Compatible: []string{"fsl,imx8mm-evk", "raspberrypi,4-model-b"}}
	if p := For(f); p.String() != "mid + imx8mm" {
		t.Errorf("found %s, expected the first name to win", p)
	}
	f = Facts{Arch: "arm64", CPUs: 4, Memory: 2048 * mib, Compatible: []string{"raspberrypi,4-model-b"}, CPU: "x86,ven0000fam0006mod00BE"}
	if p := For(f); p.String() != "mid + rpi4" {
		t.Errorf("found %s, expected the device tree to win over the processor", p)
	}
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{{"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"*", "", true}, {"a*c", "abc", true}, {"a*c", "abd", false}, {"*-x*", "a-xy", true}} {
		if glob(c.pattern, c.text) != c.want {
			t.Errorf("%s fits %s: expected %t", c.pattern, c.text, c.want)
		}
	}
}

// TestRules: what For reads of a board are the rules of the whole file.
func TestRules(t *testing.T) {
	for _, b := range Embedded(KindBoard) {
		if got := rules(b.Name); len(got) == 0 || !reflect.DeepEqual(got, b.Match) {
			t.Errorf("%s: %v, the file has %v", b.Name, got, b.Match)
		}
	}
}
