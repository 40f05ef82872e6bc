package config

import (
	"errors"
	"strings"
	"testing"

	"gatepost/hwprofile"
)

// TestClasses tells which machine gets which class, loops and limit.
func TestClasses(t *testing.T) {
	f := func(facts hwprofile.Facts, class string, loops int, limit int64) {
		t.Helper()
		prof := hwprofile.For(facts)
		c, err := load("", nil, nil, prof, plenty)
		if err != nil {
			t.Errorf("%s: %s", facts, err)
			return
		}
		if prof.Class() != class || c.Net.Loops != loops || c.Memory.Limit != limit {
			t.Errorf("%s: found %s with %d loops and %d MiB, expected %s with %d and %d MiB",
				facts, prof.Class(), c.Net.Loops, c.Memory.Limit/mib, class, loops, limit/mib)
		}
	}
	type facts = hwprofile.Facts
	// a board with one processor, whatever its memory
	f(facts{Arch: "arm", CPUs: 1, Memory: 480 * mib}, "tiny", 1, 64*mib)
	f(facts{Arch: "amd64", CPUs: 1, Memory: 8 * gib}, "tiny", 1, 64*mib)
	// four processors and 512 MiB, as installed or as left to us
	f(facts{Arch: "arm64", CPUs: 4, Memory: 512 * mib}, "tiny", 1, 64*mib)
	f(facts{Arch: "amd64", CPUs: 8, Memory: 32 * gib, GroupLimit: 256 * mib}, "tiny", 1, 64*mib)
	f(facts{Arch: "arm64", CPUs: 4, Memory: 512*mib + 1}, "small", 1, 128*mib)
	f(facts{Arch: "arm64", CPUs: 4, Memory: 1 * gib}, "small", 1, 128*mib)
	// boards and PCs: one processor stays free, four loops at most
	f(facts{Arch: "riscv64", CPUs: 4, Memory: 2 * gib}, "mid", 3, 256*mib)
	f(facts{Arch: "arm64", CPUs: 2, Memory: 2 * gib}, "mid", 1, 256*mib)
	f(facts{Arch: "arm64", CPUs: 8, Memory: 16 * gib}, "mid", 4, 256*mib)
	f(facts{Arch: "amd64", CPUs: 2, Memory: 24 * gib}, "x86", 1, 512*mib)
	f(facts{Arch: "386", CPUs: 4, Memory: 2 * gib}, "x86", 3, 512*mib)
	f(facts{Arch: "amd64", CPUs: 64, Memory: 256 * gib}, "x86", 4, 512*mib)
	// a control group larger than the machine means nothing
	f(facts{Arch: "arm64", CPUs: 4, Memory: 1 * gib, GroupLimit: 8 * gib}, "small", 1, 128*mib)
	// nothing known: the small side
	f(facts{}, "tiny", 1, 64*mib)
	// 40 % of little memory
	f(facts{Arch: "arm", CPUs: 1, Memory: 100 * mib}, "tiny", 1, 40*mib)
}

// TestFits: whatever the machine, everything that can fill up fits the budget,
// and only below 64 MiB of memory does the budget exceed its 40 %.
func TestFits(t *testing.T) {
	for _, arch := range []string{"arm", "amd64", "riscv64"} {
		for _, cpus := range []int{1, 2, 4, 16} {
			for memory := 16 * mib; memory <= 2048*mib; memory += 64 * mib {
				prof := hwprofile.For(hwprofile.Facts{Arch: arch, CPUs: cpus, Memory: memory, PageSize: 4096})
				c, problems := defaults(prof)
				if len(problems) > 0 {
					t.Fatal(errors.Join(problems...))
				}
				if c.Ceiling() > c.Memory.Limit {
					t.Fatalf("%s: ceiling of %d bytes is above the limit of %d", prof, c.Ceiling(), c.Memory.Limit)
				}
				if memory >= 64*mib && c.Memory.Limit > memory/5*2 {
					t.Fatalf("%s: limit of %d bytes is above 40 %% of the memory", prof, c.Memory.Limit)
				}
			}
		}
	}
}

// TestLayers: later layers win, and each value says where it came from.
func TestLayers(t *testing.T) {
	prof := hwprofile.For(hwprofile.Facts{Arch: "arm64", CPUs: 8, Memory: 8 * gib, PageSize: 4096,
		Compatible: []string{"radxa,rock-5b", "rockchip,rk3588"}, Storage: hwprofile.SD})
	own, problems := hwprofile.Parse("/etc/gatepost/profile.d/50-ours.profile", []byte("wal.linger = '3ms'\n[net]\nmax_connections = 99\n"), nil)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	prof.Layers = append(prof.Layers, own)
	if prof.String() != "mid + rock-5b + sd + 50-ours" {
		t.Errorf("found layers %s", prof)
	}
	c, err := load("g.toml", []byte("net.max_connections = 98"), nil, prof, plenty)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"net.loops":               "3 rock-5b.profile:",
		"net.ring_pool":           "32MiB mid.profile:12",
		"wal.linger":              "3ms /etc/gatepost/profile.d/50-ours.profile:1",
		"session.cursor_interval": "3s sd.profile:",
		"net.max_connections":     "98 g.toml:1",
		"retry.first":             "10s built-in",
	} {
		k, _ := find(name)
		if got := k.get(c) + " " + c.Origin(name); !strings.HasPrefix(got, want) {
			t.Errorf("%s: found %s, expected %s", name, got, want)
		}
	}
}

// TestEmbeddedProfiles: whatever is in the binary can be laid over every class
// without a word.
func TestEmbeddedProfiles(t *testing.T) {
	for _, board := range hwprofile.Embedded(hwprofile.KindBoard) {
		facts, err := hwprofile.As(board.Name)
		if err != nil {
			t.Fatal(err)
		}
		prof := hwprofile.For(facts)
		if len(prof.Layers) < 2 || prof.Layers[1].Name != board.Name {
			t.Errorf("%s: as itself it is %s", board.Name, prof)
		}
		if _, err := load("", nil, nil, prof, plenty); err != nil {
			t.Errorf("%s: %s", board.Name, err)
		}
		if len(board.Advice) == 0 && board.About == "" {
			t.Errorf("%s says nothing", board.Name)
		}
	}
	for _, s := range hwprofile.Embedded(hwprofile.KindStorage) {
		if _, problems := CheckProfile(s, board().Facts); len(problems) > 0 {
			t.Error(problems)
		}
	}
}
