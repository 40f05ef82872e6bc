package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"gatepost/message"
)

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

// putHeaderCRC makes the header of frame right again.
func putHeaderCRC(frame []byte) {
	binary.LittleEndian.PutUint32(frame[52:], crc32.Checksum(frame[:52], castagnoli()))
}

func contents(t testing.TB, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// written is a log of three generations with three groups each, and where the
// entries of the files begin and end: header, three groups.
type written struct {
	dir    string
	groups []string
	ends   [4][]int // by generation
}

func writeLog(t testing.TB) *written {
	t.Helper()
	w := &written{dir: t.TempDir()}
	for g := uint64(1); g <= 3; g++ {
		l, _ := open(t, w.dir)
		w.ends[g] = []int{0, int(l.at.end)}
		for i := range 3 {
			text := fmt.Sprintf("group %d of generation %d", i, g)
			add(t, l, text)
			w.groups = append(w.groups, text)
			w.ends[g] = append(w.ends[g], int(l.at.end))
		}
		closeLog(t, l)
	}
	return w
}

// survivors damages a copy of w, opens it and returns the report. Exactly the
// groups with the given indexes must be missing, it must serve, and the next
// start must have the same groups and the new one.
func (w *written) survivors(t testing.TB, name string, gone []uint64, harm func(file func(generation uint64) string)) Report {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(dir, os.DirFS(w.dir)); err != nil {
		t.Fatal(err)
	}
	harm(func(g uint64) string { return generationFile(dir, g) })
	var want []string
	for i, text := range w.groups {
		if !slices.Contains(gone, uint64(i+1)) {
			want = append(want, text)
		}
	}
	l, r := open(t, dir)
	if !slices.Equal(r.groups, want) {
		t.Errorf("%s: replayed %q, want %q\n%v", name, r.groups, want, r.report)
	}
	add(t, l, "new")
	closeLog(t, l)
	report := r.report
	if l, r = open(t, dir); !slices.Equal(r.groups, append(want, "new")) {
		t.Errorf("%s: replayed %q the second time, want %q and new\n%v", name, r.groups, want, r.report)
	}
	if newest := generationFile(dir, 4); slices.ContainsFunc(r.report.Gaps, func(g Gap) bool { return g.File >= newest }) {
		t.Errorf("%s: a leftover is reported for ever: %v", name, r.report)
	}
	closeLog(t, l)
	return report
}

// says fails if no gap of r has the words.
func says(t testing.TB, r Report, words ...string) {
	t.Helper()
	for _, g := range r.Gaps {
		ok := true
		for _, w := range words {
			ok = ok && strings.Contains(g.String(), w)
		}
		if ok {
			return
		}
	}
	t.Errorf("no gap says %q:\n%v", words, r)
}

func TestTailCutAnywhere(t *testing.T) {
	w := writeLog(t)
	ends := w.ends[3]
	for cut := ends[2]; cut < ends[4]; cut++ {
		gone, start := []uint64{9}, ends[3]
		if cut < ends[3] {
			gone, start = []uint64{8, 9}, ends[2]
		}
		r := w.survivors(t, fmt.Sprint("cut at ", cut), gone, func(file func(uint64) string) {
			if err := os.Truncate(file(3), int64(cut)); err != nil {
				t.Fatal(err)
			}
		})
		if torn := int64(cut - start); torn == 0 {
			same(t, len(r.Gaps), 0)
		} else if len(r.Gaps) != 1 || r.Gaps[0].Offset != int64(start) || r.Gaps[0].Bytes != torn {
			t.Errorf("cut at %d, want one gap of %d bytes at %d: %v", cut, torn, start, r)
		}
	}
}

func TestMoreBytesAppended(t *testing.T) {
	w := writeLog(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	noise := make([]byte, 5000)
	for i := range noise {
		noise[i] = byte(r.IntN(256))
	}
	whole := contents(t, generationFile(w.dir, 3))
	for name, more := range map[string][]byte{
		"4 KiB of zeros":              make([]byte, 4096),
		"garbage":                     noise,
		"one byte":                    noise[:1],
		"a length without a body":     {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
		"the last entry once more":    whole[w.ends[3][3]:],
		"the end once more":           whole[len(whole)-77:],
		"the whole file once more":    whole,
		"a frame of a lost era":       contents(t, generationFile(w.dir, 2)),
		"many magics":                 bytes.Repeat([]byte(magic), 100_000),
		"zeros and then a last entry": append(make([]byte, 4096), whole[w.ends[3][3]:]...),
	} {
		for g := uint64(2); g <= 3; g++ { // in the newest and, ignored, in an older one
			report := w.survivors(t, name, nil, func(file func(uint64) string) {
				edit(t, file(g), func(p []byte) []byte { return append(p, more...) })
			})
			want := []Gap(nil)
			if g == 3 {
				want = []Gap{{Offset: int64(len(whole)), Bytes: int64(len(more)), Torn: true}}
			}
			for i := range report.Gaps {
				report.Gaps[i].File, report.Gaps[i].Reason = "", ""
			}
			same(t, report.Gaps, want)
		}
	}
}

func TestEachBitOfAFrameHeaderFlipped(t *testing.T) {
	w := writeLog(t)
	each := func(bit int) int {
		if bit%8 == bit/8%8 {
			return 7
		}
		return 3
	}
	for bit := range (2 + headerSize) * 8 { // with the length in front of it, 2 bytes of a group and 1 of a header
		flip := func(g uint64, entry int) func(func(uint64) string) {
			return func(file func(uint64) string) {
				edit(t, file(g), func(p []byte) []byte { p[w.ends[g][entry]+bit/8] ^= 1 << (bit % 8); return p })
			}
		}
		name := fmt.Sprintf("bit %d of byte %d", bit%8, bit/8)
		lost := func(index uint64) []uint64 {
			if bit < 16 {
				return nil // the frame behind a damaged length is whole
			}
			return []uint64{index}
		}
		for _, c := range []struct {
			generation uint64
			entry      int
			gone       []uint64
		}{
			{2, 0, nil}, {2, 2, lost(5)}, {3, 3, lost(9)}, // a header, in the middle, the last
			{1, 0, nil}, {3, 0, nil}, {1, 1, lost(1)}, {2, 3, lost(6)}, // one bit of each byte will do
		}[:each(bit)] {
			r := w.survivors(t, name, c.gone, flip(c.generation, c.entry))
			// Behind a damaged last frame a successor knows what is missing.
			if len(r.Gaps) != 1 || r.Gaps[0].File == "" || r.Gaps[0].Bytes == 0 {
				t.Errorf("%s of entry %d of generation %d: want one gap: %v", name, c.entry, c.generation, r)
			} else if g := r.Gaps[0]; len(c.gone) > 0 && c.generation < 3 && (g.FirstIndex != c.gone[0] || g.LastIndex != c.gone[0]) {
				t.Errorf("%s of entry %d of generation %d: want group %d named: %v", name, c.entry, c.generation, c.gone[0], r)
			}
		}
		if t.Failed() {
			return
		}
	}
}

func TestPayloadBitFlipped(t *testing.T) {
	w := writeLog(t)
	for i, index := 0, uint64(1); i < 3; i++ {
		for g := uint64(1); g <= 3; g++ {
			index = (g-1)*3 + uint64(i) + 1
			r := w.survivors(t, "payload", []uint64{index}, func(file func(uint64) string) {
				edit(t, file(g), func(p []byte) []byte { p[w.ends[g][i+2]-3] ^= 4; return p })
			})
			if len(r.Gaps) != 1 {
				t.Fatal(r)
			}
			// The header is whole: it says what it was, also of the last frame.
			gap := r.Gaps[0]
			gap.File, gap.Reason = "", ""
			same(t, gap, Gap{Offset: int64(w.ends[g][i+1]), Bytes: int64(w.ends[g][i+2] - w.ends[g][i+1]), FirstIndex: index, LastIndex: index, Records: 1, Torn: g == 3 && i == 2})
			says(t, r, "checksum")
		}
	}
}

func TestPageOfZerosInTheMiddle(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	for i := range 500 {
		add(t, l, fmt.Sprint("text ", i))
	}
	closeLog(t, l)
	edit(t, generationFile(dir, 1), func(p []byte) []byte { clear(p[8192:12288]); return p })
	l, r := open(t, dir)
	defer closeLog(t, l)
	if len(r.report.Gaps) != 1 {
		t.Fatal(r.report)
	}
	g := r.report.Gaps[0]
	if g.FirstIndex == 0 || g.Offset > 8192 || g.Offset+g.Bytes < 12288 || g.Bytes > 4096+300 || len(r.groups) != 500-int(g.LastIndex-g.FirstIndex+1) {
		t.Errorf("%d groups and %v", len(r.groups), g)
	}
}

func TestFilesMissing(t *testing.T) {
	w := writeLog(t)
	all := []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9}
	for g := uint64(1); g <= 3; g++ {
		gone := all[(g-1)*3:][:3]
		lost := fmt.Sprintf("groups %d to %d are gone", gone[0], gone[2])
		if g == 3 {
			lost = "no group known to be lost" // nobody knows what was in the last one
		}
		says(t, w.survivors(t, "file missing", gone, func(file func(uint64) string) { os.Remove(file(g)) }), lost, "missing")
		says(t, w.survivors(t, "file empty", gone, func(file func(uint64) string) { os.Truncate(file(g), 0) }), lost, "empty")
		says(t, w.survivors(t, "noise", gone, func(file func(uint64) string) {
			edit(t, file(g), func(p []byte) []byte { return bytes.Repeat([]byte("noise"), len(p)/5) })
		}), lost, "magic")
		r := w.survivors(t, "directory missing", gone, func(file func(uint64) string) { os.RemoveAll(filepath.Dir(file(g))) })
		if g < 3 {
			says(t, r, lost, "missing")
		}
	}
	says(t, w.survivors(t, "two directories missing", all[:6], func(file func(uint64) string) {
		os.RemoveAll(filepath.Dir(file(1)))
		os.RemoveAll(filepath.Dir(file(2)))
	}), "groups 1 to 6 are gone")
	says(t, w.survivors(t, "old file cut", all[4:6], func(file func(uint64) string) { os.Truncate(file(2), int64(w.ends[2][2])+9) }),
		"groups 5 to 6 are gone", "cut off")
	r := w.survivors(t, "old file cut between frames", all[4:6], func(file func(uint64) string) { os.Truncate(file(2), int64(w.ends[2][2])) })
	says(t, r, "groups 5 to 6 are gone", "cut off")
	says(t, w.survivors(t, "files swapped", all[:6], func(file func(uint64) string) {
		os.Rename(file(1), file(1)+"x")
		os.Rename(file(2), file(1))
		os.Rename(file(1)+"x", file(2))
	}), "frame of generation 2 in a file of generation 1")
	if err := os.MkdirAll(filepath.Join(w.dir, logName, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	same(t, len(w.survivors(t, "somebody else's directory", nil, func(func(uint64) string) {}).Gaps), 0)
}

// What a start on a full disk or a crash at the wrong moment left behind is
// mentioned by the next start, and by no other.
func TestLeftoversAreReportedOnce(t *testing.T) {
	w := writeLog(t)
	for _, junk := range [][]byte{nil, []byte("junk"), contents(t, generationFile(w.dir, 3))[:40]} {
		r := w.survivors(t, "leftover", nil, func(file func(uint64) string) {
			for _, g := range []uint64{4, 7} {
				if err := os.MkdirAll(filepath.Dir(file(g)), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(file(7), junk, 0o600); err != nil {
				t.Fatal(err)
			}
		})
		if len(r.Gaps) != 2 {
			t.Errorf("want both leftovers mentioned: %v", r)
		}
	}
}

// A client sends bytes that are a frame. Behind a damaged frame they must not
// be taken for one.
func TestPayloadCannotPretendToBeAFrame(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	add(t, l, "a")
	forged := batch("forged")
	frame := append(make([]byte, headerSize), forged.Bytes()...)
	(&header{kind: kindGroup, generation: 1, salt: 12345, index: 3, term: 1, records: 1}).seal(frame)
	_, _, off := add(t, l, string(frame))
	add(t, l, "c")
	closeLog(t, l)
	edit(t, generationFile(dir, 1), func(p []byte) []byte { p[off] ^= 1; return p })
	l, r := open(t, dir)
	defer closeLog(t, l)
	same(t, r.groups, []string{"a", "c"})
}

// A frame with a right checksum and a wrong content costs only itself.
func TestFrameThatHoldsNoRecords(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	add(t, l, "a")
	if _, _, err := l.append(append(make([]byte, headerSize), "no records"...), 1); err != nil {
		t.Fatal(err)
	}
	b := batch("x", "y")
	if _, _, err := l.append(append(make([]byte, headerSize), b.Bytes()...), 3); err != nil {
		t.Fatal(err)
	}
	add(t, l, "d")
	closeLog(t, l)
	l, r := open(t, dir)
	defer closeLog(t, l)
	same(t, r.groups, []string{"a", "d"})
	says(t, r.report, "group 2 with 1 records is gone", "wrong content")
	says(t, r.report, "group 3 with 3 records is gone", "2 records, the frame says 3")
}

// Whatever is done to a file, a frame that was not touched is found, in order,
// and each one that is missing is in a gap.
func TestRandomDamage(t *testing.T) {
	for range 200 {
		seed := rand.Uint64()
		if !t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { randomDamage(t, rand.New(rand.NewPCG(seed, 0))) }) {
			return
		}
	}
}

func randomDamage(t *testing.T, r *rand.Rand) {
	// The file is made of pieces: entries, and later what stands in for them.
	var pieces [][]byte
	const frames, salt = 60, 99
	piece := func(kind uint8, index uint64, body []byte) []byte {
		frame := append(make([]byte, headerSize), body...)
		(&header{kind: kind, generation: 1, salt: salt, index: index, term: 1, records: 1}).seal(frame)
		return append(binary.AppendUvarint(nil, uint64(len(frame))), frame...)
	}
	pieces = append(pieces, piece(kindHeader, 1, make([]byte, markSize)))
	for i := range uint64(frames) {
		body := make([]byte, 1+r.IntN(400))
		for j := range body {
			body[j] = "gpwf\x00\x01"[r.IntN(6)]
		}
		pieces = append(pieces, piece(kindGroup, i+1, body))
	}
	touched := map[int]bool{}
	for range 1 + r.IntN(8) {
		i := r.IntN(len(pieces))
		p := slices.Clone(pieces[i])
		what := r.IntN(5)
		touched[i] = touched[i] || what < 4
		switch at := r.IntN(len(p)); what {
		case 0:
			p[at] ^= 1 << r.IntN(8)
		case 1:
			clear(p[at:])
		case 2:
			p = p[:at]
		case 3:
			other := pieces[r.IntN(len(pieces))]
			p = slices.Insert(p, at, other[:min(4, len(other))]...)
		case 4: // an old one once more, whole: it is no damage to this one
			p = append(p, pieces[r.IntN(i+1)]...)
		}
		if len(p) == 0 {
			p = []byte{0}
		}
		pieces[i] = p
	}
	file := bytes.Join(pieces, nil)
	s := scanner{file: bytes.NewReader(file), limit: int64(len(file)), generation: 1}
	var off int64
	if e, _, wrong := s.head(); wrong == "" {
		off = e.end()
	}
	seen, lost := map[int]bool{}, map[int]bool{}
	last, skipped := 0, off
	for found := true; found; {
		var e entry
		var d damage
		e, _, found, d = s.group(off)
		skipped += d.end - d.start
		for i := d.first; i != 0 && i <= d.last; i++ {
			lost[int(i)] = true
		}
		if !found {
			break
		}
		if int(e.index) <= last {
			t.Fatalf("group %d behind %d", e.index, last)
		}
		last = int(e.index)
		seen[last] = true
		skipped += e.end() - e.start
		off = e.end()
	}
	if skipped != int64(len(file)) {
		t.Errorf("frames and gaps are %d bytes of a file of %d", skipped, len(file))
	}
	for i := 1; i <= frames; i++ {
		if !touched[i] && !seen[i] {
			t.Errorf("group %d was not touched and is not found", i)
		}
		if touched[0] && i < 5 {
			continue // without the header nobody knows that it begins with 1
		}
		if i < last && seen[i] == lost[i] {
			t.Errorf("group %d: found %t, in a gap %t", i, seen[i], lost[i])
		}
	}
}

// A length that lies must not cost memory.
func TestLengthsAreNotBelieved(t *testing.T) {
	h := header{kind: kindGroup, generation: 1, salt: 1, index: 1}
	frame := make([]byte, headerSize)
	h.seal(frame)
	binary.LittleEndian.PutUint32(frame[44:], maxBody)
	putHeaderCRC(frame)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s := scanner{file: bytes.NewReader(frame), limit: int64(len(frame)), generation: 1}
	if _, _, wrong := s.frame(0); !strings.Contains(wrong, "torn") {
		t.Fatal(wrong)
	}
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 1<<20 {
		t.Errorf("%d bytes allocated for a frame that is not there", allocated)
	}
}

// Old files stay readable: one lies here for ever.
func TestOldFormat(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "v1"))); err != nil {
		t.Fatal(err)
	}
	l, r := open(t, dir)
	defer closeLog(t, l)
	same(t, r.groups, []string{"the first", "two in one", "the second generation"})
	same(t, len(r.report.Gaps), 0)
}

// repaired makes the checksums right of everything that begins like a frame,
// the last first, so that those inside others come out right too.
func repaired(p []byte) []byte {
	p = slices.Clone(p)
	for end := len(p); ; {
		i := bytes.LastIndex(p[:end], []byte(magic))
		if i < 0 {
			return p
		}
		end = i
		frame := p[i:]
		if len(frame) < headerSize {
			continue
		}
		if n := int64(binary.LittleEndian.Uint32(frame[44:])); n <= int64(len(frame)-headerSize) {
			crc := crc32.Checksum(frame[:48], castagnoli())
			binary.LittleEndian.PutUint32(frame[48:], crc32.Update(crc, castagnoli(), frame[headerSize:][:n]))
		}
		putHeaderCRC(frame)
	}
}

// FuzzScanner throws any bytes at the scanner, as a file of generation 1. It
// must end, never panic, and give groups in rising order that do not overlap.
// With repair the checksums are made right, so that what is behind them is
// reached too.
func FuzzScanner(f *testing.F) {
	dir := f.TempDir()
	l, _ := open(f, dir)
	add(f, l, "a")
	add(f, l, "b", "c")
	add(f, l, strings.Repeat("d", 200))
	closeLog(f, l)
	p := contents(f, generationFile(dir, 1))
	for _, repair := range []bool{false, true} {
		f.Add([]byte{}, repair)
		f.Add(p, repair)
		f.Add(p[:len(p)-1], repair)
		f.Add(p[1:], repair)
		f.Add(append(slices.Clone(p), p...), repair)
		f.Add(append(slices.Clone(p), make([]byte, 100)...), repair)
		for i := 0; i < len(p); i += 7 {
			q := slices.Clone(p)
			q[i] ^= 0x10
			f.Add(q, repair)
		}
	}
	f.Fuzz(func(t *testing.T, p []byte, repair bool) {
		if repair {
			p = repaired(p)
		}
		s := scanner{file: bytes.NewReader(p), limit: int64(len(p)), generation: 1}
		var off int64
		if e, _, wrong := s.head(); wrong == "" {
			off = e.end()
		}
		var index uint64
		for found := true; found; {
			var e entry
			var body []byte
			var d damage
			e, body, found, d = s.group(off)
			if d.start > d.end || d.reason != "" && d.start != off {
				t.Fatalf("damage %+v behind %d", d, off)
			}
			if !found {
				break
			}
			if e.start < off || e.end() > int64(len(p)) || e.index <= index && index != 0 || int(e.length) != len(body) {
				t.Fatalf("group %+v with %d bytes behind offset %d and index %d of %d bytes", e, len(body), off, index, len(p))
			}
			off, index = e.end(), e.index
			if b, err := message.Parse(body); err == nil {
				b.Release()
			}
		}
	})
}

// The newest group, cut or with a wrong checksum, is judged alike by a check and by a
// start, in both engines: an unfinished end, no damage. With a successor that knows of
// it, it is damage for both.
func TestCheckAndStartJudgeTheNewestGroupAlike(t *testing.T) {
	for _, recycle := range []bool{false, true} {
		for _, followed := range []bool{false, true} {
			for name, harm := range map[string]func(p []byte, start, end int) []byte{
				"a bit of the body":    func(p []byte, _, end int) []byte { p[end-3] ^= 1; return p },
				"a bit of the index":   func(p []byte, start, _ int) []byte { p[start+24] ^= 1; return p },
				"cut in the body":      func(p []byte, _, end int) []byte { return p[:end-3] },
				"cut in the header":    func(p []byte, start, _ int) []byte { return p[:start+30] },
				"its second half gone": func(p []byte, start, end int) []byte { clear(p[(start+end)/2 : end]); return p },
			} {
				dir := t.TempDir()
				engine := func(o *Options) { o.Recycle = recycle }
				l, _ := open(t, dir, engine)
				add(t, l, "first")
				start := int(l.at.end)
				add(t, l, "newest "+strings.Repeat("x", 200))
				end := int(l.at.end)
				if !recycle {
					start += 2 // its length
				}
				if followed {
					if err := l.begin(); err != nil {
						t.Fatal(err)
					}
					add(t, l, "follows")
				}
				closeLog(t, l)
				edit(t, generationFile(dir, 1), func(p []byte) []byte { return harm(p, start, end) })
				checked, err := Check(dir, 0, 0)
				if err != nil {
					t.Fatal(err)
				}
				var said strings.Builder
				l, r := open(t, dir, engine, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&said, nil)) })
				closeLog(t, l)
				name = fmt.Sprintf("recycled %t, followed %t, %s", recycle, followed, name)
				if !reflect.DeepEqual(checked, r.report) || len(checked.Gaps) != 1 {
					t.Errorf("%s: a check reports %v, the start %v", name, checked, r.report)
					continue
				}
				if n := len(checked.Damaged()); followed && n != 1 || !followed && n != 0 {
					t.Errorf("%s: %d gaps count as damage", name, n)
				}
				if strings.Contains(said.String(), "log damaged") != followed || strings.Contains(said.String(), "log ends unfinished") == followed {
					t.Errorf("%s: the start says\n%s", name, said.String())
				}
			}
		}
	}
}
