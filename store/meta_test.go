package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var testBuckets = []string{"one", "two"}

// openTestMeta opens metadata with a small data file.
func openTestMeta(t testing.TB, dir string, change ...func(*metaOptions)) (*meta, metaReport) {
	t.Helper()
	o := metaOptions{Dir: filepath.Join(dir, "meta"), Buckets: testBuckets, NoSync: true, Segment: 1 << 20}
	for _, f := range change {
		f(&o)
	}
	m, report, err := openMeta(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.close() })
	return m, report
}

func put(t testing.TB, m *meta, bucket string, pairs ...string) {
	t.Helper()
	if err := m.update(func(tx *metaTx) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := tx.put(bucket, []byte(pairs[i]), []byte(pairs[i+1])); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// all is everything in the metadata.
func (m *meta) all(t testing.TB) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, b := range testBuckets {
		last := ""
		if err := m.each(b, nil, func(key, value []byte) error {
			if string(key) <= last {
				t.Errorf("key %q behind %q", key, last)
			}
			last = string(key)
			got[b+"/"+string(key)] = string(value)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	return got
}

// Random transactions, with restarts and compactions, against a map.
func TestMetaAgainstAModel(t *testing.T) {
	r := random(t)
	dir := t.TempDir()
	m, report := openTestMeta(t, dir)
	if !report.fresh {
		t.Errorf("a new directory: %+v", report)
	}
	model := map[string]string{}
	compactions := 0
	for i := range 2000 {
		switch n := r.IntN(100); {
		case n < 90:
			if err := m.update(func(tx *metaTx) error {
				for range r.IntN(6) {
					b, key := testBuckets[r.IntN(2)], fmt.Sprint("key", r.IntN(60))
					if r.IntN(4) == 0 {
						delete(model, b+"/"+key)
						if err := tx.delete(b, []byte(key)); err != nil {
							return err
						}
						continue
					}
					value := strings.Repeat(fmt.Sprint(i, " "), r.IntN(20))
					if r.IntN(200) == 0 {
						value = strings.Repeat("large ", 10_000)
					}
					model[b+"/"+key] = value
					if err := tx.put(b, []byte(key), []byte(value)); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		case n < 96 && m.written < 900_000:
		case n < 98 || m.written >= 700_000:
			if err := m.compact(); err != nil {
				t.Fatal(err)
			}
			compactions++
		default:
			m.close()
			if m, report = openTestMeta(t, dir); len(report.reasons) > 0 || report.fresh {
				t.Fatalf("opened again: %+v", report)
			}
		}
		if i%50 == 0 {
			if got := m.all(t); !reflect.DeepEqual(got, model) {
				t.Fatalf("after %d steps there are %d keys, want %d", i, len(got), len(model))
			}
		}
	}
	if v, err := m.get("one", []byte("no such key")); v != nil || err != nil {
		t.Errorf("a key that is not there: %q, %v", v, err)
	}
	if compactions == 0 {
		t.Error("nothing was compacted")
	}
}

// A compaction that is killed at any step leaves everything there.
func TestCompactionKilled(t *testing.T) {
	for _, step := range []string{"begin", "update", "point", "remove"} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			m, _ := openTestMeta(t, dir)
			put(t, m, "one", "a", "1", "b", "2")
			put(t, m, "two", "c", "3")
			want := m.all(t)
			m.o.fail = func(s string) error {
				if s == step {
					return errors.New("killed")
				}
				return nil
			}
			if err := m.compact(); err == nil {
				t.Fatal("it was not killed")
			}
			if err := m.update(func(*metaTx) error { return nil }); err == nil {
				t.Error("it goes on after an error")
			}
			m.close()
			m, report := openTestMeta(t, dir)
			if got := m.all(t); !reflect.DeepEqual(got, want) || report.lost || len(report.reasons) > 0 {
				t.Errorf("there is %v, want %v; %+v", got, want, report)
			}
			put(t, m, "one", "d", "4")
			m.close()
			if m, _ = openTestMeta(t, dir); len(m.all(t)) != 4 {
				t.Errorf("after one more: %v", m.all(t))
			}
			if numbers, err := m.generations(); err != nil || len(numbers) != 1 {
				t.Errorf("generations %v (%v), want one", numbers, err)
			}
		})
	}
}

// used is the data of a file without the zeros behind it.
func used(p []byte) []byte { return bytes.TrimRight(p, "\x00") }

// The rules that came from losses: each of these states was made by a crash.
func TestMetaTornAndDamaged(t *testing.T) {
	source := t.TempDir()
	m, _ := openTestMeta(t, source)
	apart := func() { time.Sleep(5 * time.Millisecond) } // the library numbers transactions by the millisecond
	put(t, m, "one", "a", "1")
	apart()
	put(t, m, "one", "b", "2", "c", "3")
	m.close()
	apart()
	path := filepath.Join("meta", "0000000000000001", dataName)
	two, err := os.ReadFile(filepath.Join(source, path))
	if err != nil {
		t.Fatal(err)
	}
	two = slices.Clone(used(two))
	m, _ = openTestMeta(t, source)
	put(t, m, "two", "d", "4", "e", strings.Repeat("5", 300))
	m.close()
	three, err := os.ReadFile(filepath.Join(source, path))
	if err != nil {
		t.Fatal(err)
	}
	three = slices.Clone(used(three))
	state := func(n int) map[string]string {
		all := map[string]string{"one/a": "1"}
		if n > 1 {
			all["one/b"], all["one/c"] = "2", "3"
		}
		if n > 2 {
			all["two/d"], all["two/e"] = "4", strings.Repeat("5", 300)
		}
		return all
	}
	try := func(what string, data []byte, want map[string]string, said bool) metaReport {
		t.Helper()
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), data, 0o600); err != nil {
			t.Fatal(err)
		}
		m, report := openTestMeta(t, dir)
		if got := m.all(t); !reflect.DeepEqual(got, want) || len(report.reasons)+len(report.notes) > 0 != said {
			t.Fatalf("%s: there is %v, want %v; %+v", what, got, want, report)
		}
		put(t, m, "one", "z", "26")
		want = cloneMap(want)
		want["one/z"] = "26"
		m.close()
		if m, report = openTestMeta(t, dir); !reflect.DeepEqual(m.all(t), want) || len(report.reasons)+len(report.notes) > 0 {
			t.Fatalf("%s, and one more transaction: there is %v, want %v; %+v", what, m.all(t), want, report)
		}
		m.close()
		return report
	}
	try("unharmed", three, state(3), false)
	for n := len(two); n < len(three); n++ {
		try(fmt.Sprint("torn at ", n), three[:n], state(2), len(used(three[len(two):n])) > 0)
		if n%7 == 0 {
			try(fmt.Sprint("zeros from ", n), append(slices.Clone(three[:n]), make([]byte, 5000)...), state(2), len(used(three[len(two):n])) > 0)
		}
	}
	try("garbage behind it", append(slices.Clone(three), "garbage"...), state(3), true)
	try("garbage far behind it", append(append(slices.Clone(three), make([]byte, 9000)...), 7), state(3), true)
	for bit := range 8 * 40 { // the header of the last transaction's first entry, and more
		p := slices.Clone(three)
		p[len(two)+bit/8] ^= 1 << (bit % 8)
		try(fmt.Sprintf("bit %d of the last transaction", bit), p, state(2), true)
	}
	// Damage in the middle: what is in front and the newest state behind it.
	p := slices.Clone(three)
	p[3] ^= 1
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, path), p, 0o600); err != nil {
		t.Fatal(err)
	}
	m, report := openTestMeta(t, dir)
	if got := m.all(t); !report.damaged || got["two/d"] != "4" {
		t.Errorf("damage in the middle: %v, %+v", got, report)
	}
	m.close()
	if paths, _ := filepath.Glob(filepath.Join(dir, "quarantine", "*")); len(paths) == 0 {
		t.Error("the damaged generation was not kept")
	}
	// A crash in front of the repair must not hide what is missing.
	m, report = openTestMeta(t, dir)
	if !report.damaged {
		t.Error("the next start does not know of the damage")
	}
	if err := m.update(func(tx *metaTx) error { return tx.delete(testBuckets[0], []byte(damagedKey)) }); err != nil {
		t.Fatal(err)
	}
	m.close()
	if m, report = openTestMeta(t, dir); report.damaged {
		t.Errorf("damage is reported after its repair: %+v", report)
	}
	m.close()

	// Of a transaction that is damaged only what is damaged is missing. The one
	// behind it is whole if what is left of the damaged entry leads to its begin;
	// if not, it may be a torn one.
	s := metaScan{file: bytes.NewReader(three), size: int64(len(three)), buckets: 2}
	s.run(0)
	for _, c := range []struct {
		entry  int
		header bool // the damage is in it
		want   map[string]string
	}{
		{0, false, state(3)},
		{1, false, state(3)},
		{0, true, state(3)},
		{1, true, state(2)},
	} {
		p, e := slices.Clone(three), s.whole[1][c.entry]
		delete(c.want, "one/"+string(p[e.at+e.header:][:e.key])) // the library writes them in any order
		if c.header {
			clear(p[e.at+4 : e.at+e.header])
		} else {
			p[e.end()-1] ^= 1
		}
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), p, 0o600); err != nil {
			t.Fatal(err)
		}
		m, report := openTestMeta(t, dir)
		got := m.all(t)
		delete(got, testBuckets[0]+"/"+damagedKey)
		if !report.damaged || !reflect.DeepEqual(got, c.want) {
			t.Errorf("entry %d is damaged (its header: %v): there is %v, want %v; %+v", c.entry, c.header, got, c.want, report)
		}
		m.close()
	}

	// A transaction that was never committed in front of one that was: the
	// library would take parts of the first for committed.
	partial := slices.Clone(three[:s.whole[1][1].at]) // without the committed entry of the second
	partial = append(partial, three[len(two):]...)
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(source)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, path), partial, 0o600); err != nil {
		t.Fatal(err)
	}
	m, report = openTestMeta(t, dir)
	if got := m.all(t); got["one/b"] != "" || got["one/a"] != "1" || len(report.reasons) == 0 {
		t.Errorf("a transaction without an end: %v, %+v", got, report)
	}
}

func cloneMap(m map[string]string) map[string]string {
	c := make(map[string]string, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

// A length that cannot be is not believed.
func TestMetaLengthsAreBounded(t *testing.T) {
	e := []byte{0, 0, 0, 0, 1}
	e = binary.AppendUvarint(e, 5)
	e = binary.AppendUvarint(e, 1<<40)
	e = append(e, 1, 0, 1, 2, 1, 1)
	e = append(e, "garbage, and more garbage"...)
	binary.LittleEndian.PutUint32(e, crc32.ChecksumIEEE(e[4:]))
	s := metaScan{file: bytes.NewReader(e), size: int64(len(e)), buckets: 2}
	if n := testing.AllocsPerRun(1, func() {
		if s.run(0) != 0 || s.search(0, int64(len(e))) != int64(len(e)) {
			t.Error("an entry was found")
		}
	}); n > 20 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzMetaScan(f *testing.F) {
	m, _ := openTestMeta(f, f.TempDir())
	put(f, m, "one", "a", "1", "b", "2")
	put(f, m, "two", "c", "3")
	p, err := os.ReadFile(filepath.Join(m.dir(1), dataName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(used(p))
	f.Fuzz(func(t *testing.T, p []byte) {
		s := metaScan{file: bytes.NewReader(p), size: int64(len(p)), buckets: 2}
		end := s.run(0)
		if rest := s.rest(end); end < 0 || end > int64(len(p)) || rest < 0 {
			t.Fatalf("end %d, %d behind it, of %d", end, rest, len(p))
		}
		for at := end + 1; at < s.data; {
			if at = s.search(at, s.data); at < s.data {
				at = max(s.run(at), at+1)
			}
		}
		if _, err := s.contents(testBuckets); err != nil {
			t.Fatal(err)
		}
	})
}

// However often the metadata are opened in between, compaction comes at the same
// amount of garbage. It is what keeps the library from a second data file, which
// nobody here would read.
func TestRestartsDoNotPutCompactionOff(t *testing.T) {
	const rounds, size = 150, 20_000
	for _, keys := range []int{3, 12} { // that live: less than a quarter of the least garbage, and more
		most := max(512<<10, 4*int64(keys)*entrySizeMax(5, size)) // half a data file, or four times what lives
		run := func(t *testing.T, m *meta, again func() *meta) (compactions uint64) {
			for i := range rounds {
				key, value := fmt.Sprintf("key%02d", i%keys), fmt.Sprintf("%0*d", size, i)
				put(t, m, m.o.Buckets[0], key, value)
				if m.grown() {
					if err := m.compact(); err != nil {
						t.Fatal(err)
					}
				}
				if m = again(); m.written > most {
					t.Fatalf("round %d: %d bytes are written, want at most %d", i, m.written, most)
				}
				if got, err := m.get(m.o.Buckets[0], []byte(key)); string(got) != value || err != nil {
					t.Fatalf("round %d: %s is %.20q: %v", i, key, bytes.TrimLeft(got, "0"), err)
				}
			}
			if names := glob(t, m.o.Dir, "*/*.dat"); len(names) != 1 {
				t.Errorf("data files %q, want one", names)
			}
			return m.number - 1
		}
		m, _ := openTestMeta(t, t.TempDir())
		want := run(t, m, func() *meta { return m })
		check := func(t *testing.T, got uint64) {
			if got+1 < want || got > want+1 || want == 0 {
				t.Errorf("%d compactions, %d if they stay open", got, want)
			}
		}
		t.Run(fmt.Sprint(keys, " keys and restarts"), func(t *testing.T) {
			dir := t.TempDir()
			m, _ := openTestMeta(t, dir)
			check(t, run(t, m, func() *meta {
				m.close()
				m, _ = openTestMeta(t, dir)
				return m
			}))
		})
		t.Run(fmt.Sprint(keys, " keys and checkpoints that fail"), func(t *testing.T) {
			w := newWorld(t)
			defer w.kill()
			w.say("a", nil)
			w.roll()
			f := <-w.store.work
			check(t, run(t, w.store.meta, func() *meta {
				w.store.meta.o.fail = func(string) error { return errors.New("the disk is gone") }
				if err := w.store.write(f); err == nil {
					t.Fatal("the checkpoint did not fail")
				}
				if w.store.again() || w.store.meta == nil {
					t.Fatal("the store was not opened again")
				}
				return w.store.meta
			}))
		})
	}
}

// A start that made damaged metadata anew and did not get to move the damaged
// ones away: the next one does that. Nothing is deleted.
func TestDamagedMetaIsSetAsideAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	m, _ := openTestMeta(t, dir)
	put(t, m, "one", "a", "1")
	put(t, m, "one", "b", "2")
	put(t, m, "one", "c", "3")
	m.close()
	edit(t, filepath.Join(dir, "meta", "0000000000000001", dataName), func(p []byte) []byte { p[3] ^= 1; return p })
	_, _, err := openMeta(metaOptions{Dir: filepath.Join(dir, "meta"), Buckets: testBuckets, NoSync: true, Segment: 1 << 20,
		fail: func(step string) error {
			if step == "set aside" {
				return errors.New("killed")
			}
			return nil
		}})
	if err == nil {
		t.Fatal("it was not killed")
	}
	m, report := openTestMeta(t, dir)
	if !report.damaged || m.all(t)["one/c"] != "3" {
		t.Errorf("there is %v, %+v", m.all(t), report)
	}
	glob(t, dir, "quarantine/meta-0000000000000001/0.dat")
}

// More lives than the data file of a small box has room for: the file grows with
// it, so that no transaction spans two, and compaction stays as rare as before.
func TestMetadataThatOutgrowTheDataFile(t *testing.T) {
	dir := t.TempDir()
	m, _ := openTestMeta(t, dir)
	const keys, rounds = 3000, 40
	value := strings.Repeat("v", 1000) // 3 MB of keys live, in files that begin with 1 MiB
	compactions := 0
	grow := func() {
		if !m.grown() {
			return
		}
		if err := m.compact(); err != nil {
			t.Fatal(err)
		}
		compactions++
	}
	for i := 0; i < keys; i += 100 {
		var pairs []string
		for k := range 100 {
			pairs = append(pairs, fmt.Sprintf("key%05d", i+k), value)
		}
		put(t, m, "one", pairs...)
		grow()
	}
	compactions = 0
	for i := range rounds { // 100 KB each
		var pairs []string
		for k := range 100 {
			pairs = append(pairs, fmt.Sprintf("key%05d", k), fmt.Sprint(i, value))
		}
		put(t, m, "one", pairs...)
		grow()
	}
	if compactions > 2 {
		t.Errorf("%d compactions of %d MB for %d transactions of 100 KB", compactions, keys/1000, rounds)
	}
	files, err := filepath.Glob(filepath.Join(m.dir(m.number), "*.dat"))
	if err != nil || len(files) != 1 {
		t.Errorf("the generation has the files %v, want one: %v", files, err)
	}
	m.close()
	for range 2 { // the second time as it was left by the first
		var report metaReport
		if m, report = openTestMeta(t, dir); report.damaged || report.lost || len(report.reasons) > 0 {
			t.Fatalf("%+v", report)
		}
		if all := m.all(t); len(all) != keys || all["one/key00007"] != fmt.Sprint(rounds-1, value) {
			t.Fatalf("%d keys of %d are there, key 7 is %.20s", len(all), keys, all["one/key00007"])
		}
		put(t, m, "two", "again", "")
		m.update(func(tx *metaTx) error { return tx.delete("two", []byte("again")) })
		m.close()
	}
}

// One transaction that is larger than the file: a checkpoint of very many
// channels, or what is restored.
func TestATransactionLargerThanTheDataFile(t *testing.T) {
	dir := t.TempDir()
	m, _ := openTestMeta(t, dir)
	put(t, m, "one", "a", "first")
	var pairs []string
	for i := range 300 {
		pairs = append(pairs, fmt.Sprintf("key%05d", i), strings.Repeat("v", 10_000))
	}
	if err := m.room(4 << 20); err != nil {
		t.Fatal(err)
	}
	put(t, m, "one", pairs...)
	put(t, m, "one", "b", "last")
	m.close()
	m, report := openTestMeta(t, dir)
	if all := m.all(t); len(all) != 302 || all["one/a"] != "first" || all["one/b"] != "last" || len(report.reasons) > 0 {
		t.Errorf("%d keys of 302 are there: %+v", len(all), report)
	}
	// Nobody made room: it is refused, and what was there stays.
	var huge []string
	for i := range 4000 {
		huge = append(huge, fmt.Sprintf("huge%05d", i), strings.Repeat("v", 10_000))
	}
	err := m.update(func(tx *metaTx) error {
		for i := 0; i < len(huge); i += 2 {
			if err := tx.put("one", []byte(huge[i]), []byte(huge[i+1])); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "does not fit") {
		t.Errorf("a transaction that spans two files: %v", err)
	}
	m.close()
	m, report = openTestMeta(t, dir)
	if all := m.all(t); len(all) != 302 || len(report.reasons) > 0 {
		t.Errorf("%d keys of 302 are there: %+v", len(all), report)
	}
}
