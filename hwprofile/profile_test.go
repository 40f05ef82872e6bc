package hwprofile

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFor tells which machine gets which class.
func TestFor(t *testing.T) {
	const gib = 1024 * mib
	f := func(facts Facts, class string, loops int, limit int64) {
		t.Helper()
		p := For(facts)
		if p.Class != class || p.Loops != loops || p.MemoryLimit != limit {
			t.Errorf("%s: found %s with %d loops and %d MiB, expected %s with %d and %d MiB",
				facts, p.Class, p.Loops, p.MemoryLimit/mib, class, loops, limit/mib)
		}
		if p.Facts != facts {
			t.Errorf("%s: the profile lost its facts", facts)
		}
	}
	// a board with one processor, whatever its memory
	f(Facts{Arch: "arm", CPUs: 1, Memory: 480 * mib}, Tiny, 1, 64*mib)
	f(Facts{Arch: "amd64", CPUs: 1, Memory: 8 * gib}, Tiny, 1, 64*mib)
	// four processors and 512 MiB, as installed or as left to us
	f(Facts{Arch: "arm64", CPUs: 4, Memory: 512 * mib}, Tiny, 1, 64*mib)
	f(Facts{Arch: "amd64", CPUs: 8, Memory: 32 * gib, GroupLimit: 256 * mib}, Tiny, 1, 64*mib)
	f(Facts{Arch: "arm64", CPUs: 4, Memory: 512*mib + 1}, Small, 1, 128*mib)
	f(Facts{Arch: "arm64", CPUs: 4, Memory: 1 * gib}, Small, 1, 128*mib)
	// boards of two to eight gigabytes: one processor stays free, four loops at most
	f(Facts{Arch: "riscv64", CPUs: 4, Memory: 2 * gib}, Mid, 3, 256*mib)
	f(Facts{Arch: "arm64", CPUs: 2, Memory: 2 * gib}, Mid, 1, 256*mib)
	f(Facts{Arch: "arm64", CPUs: 8, Memory: 16 * gib}, Mid, 4, 256*mib)
	// PCs
	f(Facts{Arch: "amd64", CPUs: 2, Memory: 24 * gib}, X86, 1, 512*mib)
	f(Facts{Arch: "386", CPUs: 4, Memory: 2 * gib}, X86, 3, 512*mib)
	f(Facts{Arch: "amd64", CPUs: 64, Memory: 256 * gib}, X86, 4, 512*mib)
	// a control group larger than the machine means nothing
	f(Facts{Arch: "arm64", CPUs: 4, Memory: 1 * gib, GroupLimit: 8 * gib}, Small, 1, 128*mib)
	// nothing known: the small side
	f(Facts{}, Tiny, 1, 64*mib)
	// 40 % of little memory
	f(Facts{Arch: "arm", CPUs: 1, Memory: 100 * mib}, Tiny, 1, 40*mib)
}

// TestFits: whatever the machine, everything that can fill up fits the budget,
// and only below 64 MiB of memory does the budget exceed its 40 %.
func TestFits(t *testing.T) {
	for _, arch := range []string{"arm", "amd64", "riscv64"} {
		for cpus := 1; cpus <= 16; cpus++ {
			for memory := 16 * mib; memory <= 4096*mib; memory += 4 * mib {
				p := For(Facts{Arch: arch, CPUs: cpus, Memory: memory, PageSize: 4096})
				if p.Ceiling() > p.MemoryLimit {
					t.Fatalf("%s: ceiling of %d bytes is above the limit of %d", p, p.Ceiling(), p.MemoryLimit)
				}
				if memory >= 64*mib && p.MemoryLimit > memory/5*2 {
					t.Fatalf("%s: limit of %d bytes is above 40 %% of the memory", p, p.MemoryLimit)
				}
			}
		}
	}
}

// TestClassesFit: the tables themselves keep their promise.
func TestClassesFit(t *testing.T) {
	for _, p := range Classes() {
		if p.Ceiling() > p.MemoryLimit {
			t.Errorf("class %s: ceiling of %d MiB is above the limit of %d MiB", p.Class, p.Ceiling()/mib, p.MemoryLimit/mib)
		}
	}
}

// TestGroupLimit: the tightest limit on the way to the root counts; what cannot
// be read limits nothing.
func TestGroupLimit(t *testing.T) {
	f := func(listing string, limits map[string]string, want int64) {
		t.Helper()
		dir := t.TempDir()
		write := func(name, text string) {
			name = filepath.Join(dir, name)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		write("cgroup", listing)
		for name, text := range limits {
			write("mount/"+name, text)
		}
		if got := groupLimit(dir+"/cgroup", dir+"/mount"); got != want {
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
	f("4:memory:/a\n", map[string]string{"memory.max": "1\n"}, 0) // version 1
	f("", nil, 0)
	if got := groupLimit("/does/not/exist", "/"); got != 0 {
		t.Errorf("no listing: found %d, expected 0", got)
	}
}

// TestRead: this machine has memory, processors and pages.
func TestRead(t *testing.T) {
	f := Read()
	if f.Memory <= 0 || f.CPUs < 1 || f.PageSize < 4096 || f.Arch == "" {
		t.Errorf("found %s, expected all facts but the control group's", f)
	}
	t.Log(Detect())
}
