package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// kept is a data directory with checkpoints: one person channel with messages
// that cannot be packed, a group, and a part that is only in the log.
type kept struct {
	dir   string
	texts []string // of bob's messages, sequence 1 first
	ids   []int64
}

func keep(t testing.TB) *kept {
	t.Helper()
	r := random(t)
	b := start(t, plain, set("wal.roll_size", "1MiB"), set("wal.group_bytes", "256KiB"))
	k := &kept{dir: b.dir}
	b.channel("g", "alice", "bob", "carol")
	alice := b.must(t, dialer{uid: "alice"})
	for i := range 4500 {
		text := make([]byte, 1000)
		for i := range text {
			text[i] = byte(r.Uint32())
		}
		k.texts = append(k.texts, string(text))
		alice.post(t, send{channel: "bob", kind: person, no: fmt.Sprint("n", i)}, string(text))
		if i%100 == 99 {
			for range 100 {
				a := alice.nextAck(t)
				if a.reason != reasonSuccess || a.seq != uint32(len(k.ids)+1) {
					t.Fatalf("SENDACK %+v", a)
				}
				k.ids = append(k.ids, a.id)
			}
		}
	}
	if a := alice.send(t, send{channel: "g", kind: group, no: "g1"}, "to the group"); a.reason != reasonSuccess {
		t.Fatalf("SENDACK %+v", a)
	}
	b.kill()
	if n := strings.Count(b.log.String(), "msg=checkpoint "); n < 3 {
		t.Fatalf("%d checkpoints were made, want 3 and more", n)
	}
	return k
}

// Whatever happens to metadata and block files: the broker starts, says what is
// wrong, and has every message that was not damaged itself.
func TestDamagedStore(t *testing.T) {
	k := keep(t)
	one := func(t *testing.T, dir, pattern string) string {
		t.Helper()
		paths, _ := filepath.Glob(filepath.Join(dir, pattern))
		if len(paths) == 0 {
			t.Fatalf("there is no %s", pattern)
		}
		return paths[0]
	}
	flip := func(offset int) func(p []byte) []byte {
		return func(p []byte) []byte { p[offset%len(p)] ^= 0x10; return p }
	}
	for _, c := range []struct {
		name  string
		said  string // words of the output
		group bool   // the group's members are known
		lost  int    // messages at most
		harm  func(t *testing.T, dir string)
	}{
		{"unharmed", "", true, 0, func(*testing.T, string) {}},
		{"all metadata gone", "made again", false, 0, func(t *testing.T, dir string) { os.RemoveAll(dir + "/meta") }},
		{"CURRENT gone", "CURRENT", true, 0, func(t *testing.T, dir string) { os.Remove(dir + "/meta/CURRENT") }},
		{"buckets gone", "", true, 0, func(t *testing.T, dir string) { os.Truncate(one(t, dir, "meta/*/bucket.Meta"), 0) }},
		{"metadata's data gone", "made again", false, 0, func(t *testing.T, dir string) { os.Remove(one(t, dir, "meta/*/0.dat")) }},
		{"garbage behind the metadata", "cut off", true, 0, func(t *testing.T, dir string) {
			edit(t, one(t, dir, "meta/*/0.dat"), func(p []byte) []byte { return append(p, "garbage"...) })
		}},
		{"a bit of a block flipped", "", true, 70, func(t *testing.T, dir string) { edit(t, one(t, dir, "blocks/*.blk"), flip(300_000)) }},
		{"a block file cut", "missing or cut short", true, 4500, func(t *testing.T, dir string) { os.Truncate(one(t, dir, "blocks/*.blk"), 1_500_000) }},
		{"all block files gone", "missing or cut short", true, 4500, func(t *testing.T, dir string) { os.RemoveAll(dir + "/blocks") }},
		{"log gone", "missing", false, 4500, func(t *testing.T, dir string) { os.RemoveAll(dir + "/log") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(k.dir)); err != nil {
				t.Fatal(err)
			}
			c.harm(t, dir)
			b := start(t, plain, inDir(dir))
			defer b.end()
			alice := b.must(t, dialer{uid: "alice", device: "new"})
			end := alice.tell(t, "bob", "end", "end")
			in := newLedger()
			b.must(t, dialer{uid: "bob", flag: 1, onRecv: in.onRecv})
			found, last := 0, uint32(0)
			for at := 0; last < end.seq; at++ {
				in.wait(t, 0, at+1)
				in.mu.Lock()
				m := in.got[at]
				in.mu.Unlock()
				if m.channel != "alice" || m.dup() && m.seq <= last {
					continue
				}
				if m.seq <= last {
					t.Fatalf("%v behind sequence %d", m, last)
				}
				if last = m.seq; m.no == "end" {
					continue
				}
				if found++; string(m.payload) != k.texts[m.seq-1] || m.id != k.ids[m.seq-1] {
					t.Fatalf("%v is not what was sent", m)
				}
			}
			if lost := len(k.texts) - found; lost > c.lost || lost == 0 && c.lost > 0 {
				t.Errorf("%d of %d messages are gone, want at most %d", lost, len(k.texts), c.lost)
			} else if lost > 0 {
				t.Logf("%d messages are gone", lost)
			}
			a := alice.send(t, send{channel: "g", kind: group, no: "g2"}, "again")
			if known := a.reason == reasonSuccess; known != c.group && c.name != "log gone" {
				t.Errorf("SENDACK of the group %+v", a)
			}
			if _, text, err := b.call("GET", "/health", nil); err != nil || strings.Contains(text, "damage") != (strings.Contains(b.log.String(), "store damaged") || strings.Contains(b.log.String(), "log damaged")) {
				t.Errorf("/health: %s %v", text, err)
			}
			if said := b.log.String(); !strings.Contains(said, c.said) || c.lost > 0 && !containsAny(said, "lost", "damaged", "missing") {
				t.Errorf("the output does not say %q:\n%s", c.said, tail(said, 20))
			}
		})
	}
}

// check says what is damaged and repair takes it out of the way; neither
// touches what is whole.
func TestCheckAndRepair(t *testing.T) {
	k := keep(t)
	copied := func(t *testing.T) string {
		dir := filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(dir, os.DirFS(k.dir)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	block := func(t *testing.T, dir string) string {
		paths, _ := filepath.Glob(dir + "/blocks/*.blk")
		if len(paths) == 0 {
			t.Fatal("there are no block files")
		}
		return paths[0]
	}
	t.Run("whole", func(t *testing.T) {
		dir := copied(t)
		if out := works(t, "check", dir); !strings.Contains(out, "whole") || strings.Contains(out, "damaged") {
			t.Errorf("check prints\n%s", out)
		}
		if out := works(t, "repair", dir); strings.Contains(out, "taken out") {
			t.Errorf("repair prints\n%s", out)
		}
	})
	t.Run("nothing there", func(t *testing.T) {
		for _, command := range []string{"check", "repair"} {
			if out, said, code := gatepost(t, command, t.TempDir()); code != 1 || !strings.Contains(said, "is no data directory") || strings.Contains(out, "whole") {
				t.Errorf("%s of an empty directory: %d %s%s", command, code, out, said)
			}
		}
		if _, said, code := gatepost(t, "check", "/no/such/directory"); code != 1 || !strings.Contains(said, "/no/such/directory") {
			t.Errorf("check of nothing: %d %s", code, said)
		}
	})
	t.Run("a damaged block", func(t *testing.T) {
		dir := copied(t)
		edit(t, block(t, dir), func(p []byte) []byte { p[300_000] ^= 1; return p })
		out, _, code := gatepost(t, "check", "--json", dir)
		var v struct {
			Whole bool
			Store struct {
				Messages int
				Damage   []struct {
					File     string
					Channel  string
					FirstSeq uint64 `json:"first_seq"`
					LastSeq  uint64 `json:"last_seq"`
				}
			}
		}
		if err := json.Unmarshal([]byte(out), &v); err != nil || code != 1 || v.Whole || len(v.Store.Damage) != 1 {
			t.Fatalf("check: %d %v\n%s", code, err, out)
		}
		d := v.Store.Damage[0]
		if d.File != block(t, dir) || !strings.Contains(d.Channel, "bob") || d.LastSeq < d.FirstSeq || d.LastSeq-d.FirstSeq > 70 {
			t.Errorf("damage %+v", d)
		}
		gone := int(d.LastSeq - d.FirstSeq + 1)
		if out := works(t, "repair", dir); !strings.Contains(out, fmt.Sprintf("1 blocks with %d messages", gone)) || !strings.Contains(out, "quarantine") {
			t.Errorf("repair prints\n%s", out)
		}
		works(t, "check", dir)
		b := start(t, plain, inDir(dir))
		defer b.end()
		p := b.past(t, fmt.Sprintf("uid=bob&to=alice&from=%d&limit=1000", d.FirstSeq-2))
		if p.Lost != gone || p.Messages[1].Seq != d.FirstSeq-1 || p.Messages[2].Seq != d.LastSeq+1 || string(p.Messages[2].Payload) != k.texts[d.LastSeq] {
			t.Errorf("around the damage %d messages are lost, want %d", p.Lost, gone)
		}
		if strings.Contains(b.log.String(), "store damaged") {
			t.Errorf("the start speaks of damage again:\n%s", tail(b.log.String(), 10))
		}
		if _, said, code := gatepost(t, "repair", dir); code != 1 || !strings.Contains(said, "another process has it") {
			t.Errorf("repair of a running broker: %d %s", code, said)
		}
	})
	t.Run("metadata gone", func(t *testing.T) {
		dir := copied(t)
		if err := os.RemoveAll(dir + "/meta"); err != nil {
			t.Fatal(err)
		}
		if _, _, code := gatepost(t, "check", dir); code != 1 {
			t.Errorf("check: %d", code)
		}
		if out := works(t, "repair", dir); !strings.Contains(out, "made again") {
			t.Errorf("repair prints\n%s", out)
		}
		if out := works(t, "check", dir); !strings.Contains(out, "whole") {
			t.Errorf("check after it prints\n%s", out)
		}
	})
	t.Run("the log damaged", func(t *testing.T) {
		dir := copied(t)
		paths, _ := filepath.Glob(dir + "/log/*/00000000000000000001")
		edit(t, paths[len(paths)-1], func(p []byte) []byte {
			i := bytes.LastIndex(p, []byte("n4450"))
			if i < 0 {
				t.Fatal("message n4450 is not in the newest file of the log")
			}
			p[i] ^= 1
			return p
		})
		out, _, code := gatepost(t, "check", dir)
		if code != 1 || !strings.Contains(out, "damaged: gap in") {
			t.Errorf("check: %d\n%s", code, out)
		}
	})
}

// check, the start, /health and the counters say the same of the same data.
func TestOneVerdict(t *testing.T) {
	k := keep(t)
	newest := func(t *testing.T, dir, pattern string) string {
		t.Helper()
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("no %s: %v", pattern, err)
		}
		return paths[len(paths)-1]
	}
	const segment = "log/*/00000000000000000001"
	for name, c := range map[string]struct {
		damaged bool
		harm    func(t *testing.T, dir string)
	}{
		"nothing": {false, func(*testing.T, string) {}},
		"a group in the middle of the log": {true, func(t *testing.T, dir string) {
			edit(t, newest(t, dir, segment), func(p []byte) []byte { p[bytes.LastIndex(p, []byte("n4450"))] ^= 1; return p })
		}},
		"the newest group": {false, func(t *testing.T, dir string) { // as a power cut leaves it
			edit(t, newest(t, dir, segment), func(p []byte) []byte {
				end := len(bytes.TrimRight(p, "\x00"))
				p[end-1] ^= 1
				return p
			})
		}},
		"a block file is gone": {true, func(t *testing.T, dir string) {
			if err := os.Remove(newest(t, dir, "blocks/*.blk")); err != nil {
				t.Fatal(err)
			}
		}},
		"the metadata is gone": {true, func(t *testing.T, dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "meta")); err != nil {
				t.Fatal(err)
			}
		}},
		"a bit of the metadata": {true, func(t *testing.T, dir string) {
			edit(t, newest(t, dir, "meta/*/0.dat"), func(p []byte) []byte { p[len(bytes.TrimRight(p, "\x00"))/2] ^= 1; return p })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(dir, os.DirFS(k.dir)); err != nil {
				t.Fatal(err)
			}
			c.harm(t, dir)
			out, _, code := gatepost(t, "check", "--json", dir)
			var v struct{ Verdict string }
			if err := json.Unmarshal([]byte(out), &v); err != nil {
				t.Fatal(err)
			}
			said, _, _ := gatepost(t, "check", dir)
			b := start(t, plain, inDir(dir))
			defer b.end()
			_, text, err := b.call("GET", "/health", nil)
			if err != nil {
				t.Fatal(err)
			}
			counted := b.metric("gatepost_wal_gaps") + b.metric("gatepost_store_damage")
			for who, damaged := range map[string]bool{
				"check":            code == 1,
				"check --json":     v.Verdict == "damaged",
				"check's words":    strings.Contains(said, "\ndamaged: "),
				"/health":          strings.Contains(text, "damage"),
				"the counters":     counted > 0,
				"the start's log":  containsAny(b.log.String(), "log damaged", "store damaged"),
				"the start's line": !strings.Contains(b.log.String(), " 0 gaps)") || strings.Contains(b.log.String(), "store damaged"),
			} {
				if damaged != c.damaged {
					t.Errorf("%s says damaged: %t, want %t\n%s\n%s", who, damaged, c.damaged, said, text)
				}
			}
		})
	}
}

// A disk that does not answer proves nothing: check calls the data neither whole nor
// damaged, repair changes nothing, and all is there when it answers again.
func TestCheckWhileReadsFail(t *testing.T) {
	k := keep(t)
	f := newFaultFS(t)
	dir := filepath.Join(f.dir, "data")
	if err := os.CopyFS(dir, os.DirFS(k.dir)); err != nil {
		t.Fatal(err)
	}
	sizes := func() (all []string) {
		for _, name := range files(t, filepath.Join(f.below, "data")) {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprint(name, " ", info.Size(), " ", info.ModTime()))
		}
		return all
	}
	before := sizes()
	for _, c := range []struct{ op, place string }{{"read", "/log/"}, {"read", "/blocks/"}, {"open", "/blocks/"}, {"read", "/meta/"}, {"open", "/meta/"}} {
		f.plan(t, faultPlan{What: &faultCalls{Ops: faultOps[c.op], Path: c.place}, Errno: int(syscall.EIO)})
		for _, command := range []string{"check", "repair"} {
			out, said, code := gatepost(t, command, dir)
			if code != 3 || !strings.Contains(said, "input/output error") || !strings.Contains(said, "nothing is proven") {
				t.Errorf("%s while %s fails in %s: exit code %d\n%s%s", command, c.op, c.place, code, out, said)
			}
			if containsAny(out, "whole", "damaged", "repaired", "taken out") {
				t.Errorf("%s while %s fails in %s judges:\n%s", command, c.op, c.place, out)
			}
		}
		if hits := f.heal(t).Hits; hits == 0 {
			t.Errorf("no %s failed in %s", c.op, c.place)
		}
	}
	if after := sizes(); !slices.Equal(after, before) {
		t.Errorf("files have changed:\n%s\nthey were\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	if out := works(t, "check", dir); !strings.Contains(out, "whole") {
		t.Errorf("with a disk that answers:\n%s", out)
	}
}
