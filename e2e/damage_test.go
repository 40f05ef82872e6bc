package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The wal package cuts and flips every byte of a log. Here the real binary
// gets a sample of it: it must start, serve, report what is gone, and have
// everything else.

// written is a data directory with three generations of messages from alice to
// bob, each waited for, so that each has a frame of the log to itself.
type written struct {
	dir   string
	acks  []sendack
	files []string // those that hold messages, in order of their messages
	ends  []int    // messages up to the end of each file
}

func marker(k int) string { return fmt.Sprintf("the %05d-th message to survive", k) }

func writeLog(t testing.TB, each int) *written {
	t.Helper()
	w := &written{}
	b := start(t, plain)
	w.dir = b.dir
	for generation := range 3 {
		if generation > 0 {
			b.start()
		}
		c := b.must(t, dialer{uid: "alice"})
		for range each {
			k := len(w.acks)
			w.acks = append(w.acks, c.tell(t, "bob", fmt.Sprint("no-", k), marker(k)))
		}
		c.close()
		b.kill()
	}
	// The third start makes a checkpoint of what the others wrote. Here the log is
	// all there is.
	for _, part := range []string{"meta", "blocks"} {
		if err := os.RemoveAll(filepath.Join(b.dir, part)); err != nil {
			t.Fatal(err)
		}
	}
	// Which file holds which message is found by looking for its text.
	paths := files(t, b.dir)
	for k := range w.acks {
		for _, path := range paths {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(content, []byte(marker(k))) {
				continue
			}
			path = strings.TrimPrefix(path, b.dir)
			if n := len(w.files); n == 0 || w.files[n-1] != path {
				w.files, w.ends = append(w.files, path), append(w.ends, 0)
			}
			w.ends[len(w.ends)-1] = k + 1
			break
		}
	}
	if len(w.files) != 3 || w.ends[2] != 3*each {
		t.Fatalf("3 starts wrote the files %v that end with messages %v, want 3 files of %d", w.files, w.ends, each)
	}
	return w
}

// survivors starts a broker on a copy of w that harm has been done to and
// returns which messages it still has. It fails if one of those is not what it
// was, if the broker does not serve, or if it should have reported that
// something is gone and did not.
func (w *written) survivors(t *testing.T, name string, reported bool, harm func(t *testing.T, dir string)) map[int]bool {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(dir, os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	harm(t, dir)
	b := start(t, plain, inDir(dir))
	defer b.end()
	in := newLedger()
	b.must(t, dialer{uid: "bob", onRecv: in.onRecv})
	end := b.must(t, dialer{uid: "alice"}).tell(t, "bob", "end", "end")
	got := map[int]bool{}
	moved := 0 // sequences are given out again by the replay; see the end
	var last *recv
	for at := 0; last == nil || last.id != end.id; at++ {
		in.wait(t, 0, at+1)
		in.mu.Lock()
		m := in.got[at]
		in.mu.Unlock()
		if last != nil && m.seq <= last.seq {
			t.Errorf("%s: %v behind seq %d", name, m, last.seq)
		}
		if last = m; m.id == end.id {
			continue
		}
		var k int
		if _, err := fmt.Sscanf(m.no, "no-%d", &k); err != nil || k >= len(w.acks) || string(m.payload) != marker(k) {
			t.Fatalf("%s: %v %q was never sent", name, m, m.payload)
		}
		if m.id != w.acks[k].id {
			t.Errorf("%s: message %d is now %v, its SENDACK said %+v", name, k, m, w.acks[k])
		}
		if m.seq != w.acks[k].seq {
			moved++
		}
		got[k] = true
	}
	if moved > 0 && len(missing(got, 0, len(w.acks))) == 0 {
		t.Errorf("%s: nothing is gone, and yet %d sequences moved", name, moved)
	} else if moved > 0 {
		t.Logf("%s: %d messages behind the gap have another sequence now", name, moved)
	}
	if code, text, err := b.call("GET", "/health", nil); code != 200 {
		t.Errorf("%s: /health: %d %s %v", name, code, text, err)
	}
	if reported && len(missing(got, 0, len(w.acks))) > 0 && !containsAny(strings.ToLower(b.log.String()), "gap", "damage", "torn", "missing", "lost", "corrupt") {
		t.Errorf("%s: not a word in the output about what is gone:\n%s", name, b.log)
	}
	return got
}

func containsAny(s string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// missing says which messages of [from, to) are not in got.
func missing(got map[int]bool, from, to int) (gone []int) {
	for k := from; k < to; k++ {
		if !got[k] {
			gone = append(gone, k)
		}
	}
	return gone
}

// edit changes the bytes of a file.
func edit(t testing.TB, path string, change func(p []byte) []byte) {
	t.Helper()
	p, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, change(p), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDamagedLog(t *testing.T) {
	r := random(t)
	const each = 20
	w := writeLog(t, each)
	all := len(w.acks)
	newest, oldest := w.files[2], w.files[0]
	at := func(file string, change func(p []byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) { edit(t, dir+file, change) }
	}
	noise := func(n int) []byte {
		p := make([]byte, n)
		for i := range p {
			p[i] = byte(r.IntN(256))
		}
		return p
	}
	// end is where the last message's text ends in the newest file; what is
	// behind it is the rest of its frame, or unused.
	end := func(p []byte, k int) int {
		i := bytes.Index(p, []byte(marker(k)))
		if i < 0 {
			t.Fatalf("message %d is not in the file", k)
		}
		return i + len(marker(k))
	}

	t.Run("unharmed", func(t *testing.T) {
		if gone := missing(w.survivors(t, "unharmed", false, func(*testing.T, string) {}), 0, all); len(gone) > 0 {
			t.Errorf("messages %v are gone", gone)
		}
	})
	for _, cut := range []int{1, 2, 5, 11, 30, 31, 32, 33, 64, 90, 120}[:pick(6, 11)] {
		t.Run(fmt.Sprintf("cut %d bytes before the last text ends", cut), func(t *testing.T) {
			got := w.survivors(t, "torn tail", false, at(newest, func(p []byte) []byte { return p[:end(p, all-1)-cut] }))
			if gone := missing(got, 0, all); len(gone) < 1 || len(gone) > 2 || gone[0] < all-2 {
				t.Errorf("messages %v are gone, want only the last one or two of %d", gone, all)
			}
		})
	}
	for name, more := range map[string][]byte{
		"4 KiB of zeros appended":        make([]byte, 4096),
		"garbage appended":               noise(1 + r.IntN(5000)),
		"one byte appended":              noise(1),
		"the end appended once more":     nil,
		"a length without body appended": {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.survivors(t, name, false, at(newest, func(p []byte) []byte {
				if more == nil {
					more = p[end(p, all-1)-77:]
				}
				return append(p, more...)
			}))
			if gone := missing(got, 0, all); len(gone) > 0 {
				t.Errorf("messages %v are gone", gone)
			}
		})
	}
	for i := range pick(40, 1000) {
		file := r.IntN(3)
		t.Run(fmt.Sprintf("bit flip %d in file %d", i, file), func(t *testing.T) {
			var offset int
			got := w.survivors(t, "bit flip", true, at(w.files[file], func(p []byte) []byte {
				offset = r.IntN(end(p, w.ends[file]-1))
				p[offset] ^= 1 << r.IntN(8)
				return p
			}))
			if gone := missing(got, 0, all); len(gone) > 1 {
				t.Errorf("one bit at offset %d of %s, and messages %v are gone", offset, w.files[file], gone)
			}
		})
	}
	t.Run("payload bit in the middle", func(t *testing.T) {
		k := w.ends[0] + each/2
		got := w.survivors(t, "payload bit", true, at(w.files[1], func(p []byte) []byte { p[end(p, k)-3] ^= 4; return p }))
		if gone := missing(got, 0, all); len(gone) != 1 || gone[0] != k {
			t.Errorf("messages %v are gone, want only %d", gone, k)
		}
	})
	t.Run("a page of zeros in the middle", func(t *testing.T) {
		got := w.survivors(t, "zero page", true, at(w.files[1], func(p []byte) []byte {
			from := end(p, w.ends[0]+3)
			clear(p[from:min(from+512, len(p))])
			return p
		}))
		if gone := missing(got, 0, all); len(gone) == 0 || gone[0] < w.ends[0] || gone[len(gone)-1] >= w.ends[1] || len(gone) > 10 {
			t.Errorf("512 bytes zeroed, messages %v are gone", gone)
		}
	})
	for i, name := range []string{"oldest", "middle", "newest"} {
		t.Run(name+" file missing", func(t *testing.T) {
			got := w.survivors(t, name+" file missing", i < 2, func(t *testing.T, dir string) {
				if err := os.Remove(dir + w.files[i]); err != nil {
					t.Fatal(err)
				}
			})
			from := w.ends[i] - each
			if gone := missing(got, 0, all); len(gone) != each || gone[0] != from || gone[each-1] != w.ends[i]-1 {
				t.Errorf("messages %v are gone, want %d to %d", gone, from, w.ends[i]-1)
			}
		})
	}
	t.Run("oldest file empty", func(t *testing.T) {
		got := w.survivors(t, "empty file", true, at(oldest, func(p []byte) []byte { return nil }))
		if gone := missing(got, each, all); len(gone) > 0 {
			t.Errorf("messages %v are gone", gone)
		}
	})
	t.Run("all of it noise", func(t *testing.T) {
		got := w.survivors(t, "noise", true, at(w.files[1], func(p []byte) []byte { return noise(len(p)) }))
		if gone := missing(got, 0, all); len(gone) != each {
			t.Errorf("messages %v are gone, want those of the file", gone)
		}
	})
}

// A data directory that cannot be used is said so, at once, with its name.
func TestUnusableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := &broker{t: t, dir: file, log: &logBuffer{}, want: [3]string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"}}
	if err := b.tryStart(); err == nil {
		b.kill()
		t.Fatal("started on a file as data directory")
	}
	if !strings.Contains(b.log.String(), file) {
		t.Errorf("the output does not name %s:\n%s", file, b.log)
	}

	// One process at a time.
	first := start(t)
	second := &broker{t: t, dir: first.dir, log: &logBuffer{}, want: first.want}
	if err := second.tryStart(); err == nil {
		second.kill()
		t.Fatal("two brokers on one data directory")
	}
	if !strings.Contains(second.log.String(), first.dir) {
		t.Errorf("the output does not name %s:\n%s", first.dir, second.log)
	}
	first.must(t, dialer{uid: "alice"}).tell(t, "bob", "1", "still serving")
}

// A data directory that is away, because its disk is not mounted, is not made new
// without a word: a start warns, and with a marker it does not begin.
func TestDataDirectoryThatIsAway(t *testing.T) {
	dir := t.TempDir()
	data, mark := filepath.Join(dir, "data"), filepath.Join(dir, "own-disk")
	const made = "new data directory"
	b := start(t, inDir(data), set("data_marker", mark))
	b.must(t, dialer{uid: "alice"}).tell(t, "bob", "1", "kept")
	b.end()
	if !strings.Contains(b.log.String(), made) || !strings.Contains(b.log.String(), data) {
		t.Errorf("a new directory was made without a word:\n%s", b.log)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a directory on the disk of the marker got one")
	}
	b = start(t, inDir(data), set("data_marker", mark))
	b.end()
	if strings.Contains(b.log.String(), made) {
		t.Errorf("the data are there:\n%s", b.log)
	}

	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(data, data+".away"); err != nil {
		t.Fatal(err)
	}
	refused := &broker{t: t, dir: data, log: &logBuffer{}, want: [3]string{"127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"}, args: []string{"--data_marker", mark}}
	if err := refused.tryStart(); err == nil {
		refused.kill()
		t.Fatal("started without the data")
	}
	for _, want := range []string{data, mark, "holds no data", "remove"} {
		if !strings.Contains(refused.log.String(), want) {
			t.Errorf("the refusal does not say %q:\n%s", want, refused.log)
		}
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("the refused start made the directory")
	}
}
