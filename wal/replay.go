package wal

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gatepost/diskio"
	"gatepost/message"
)

const (
	logName     = "log"
	segmentName = "00000000000000000001" // the library's name for the file that begins with entry 1
)

// generationDir returns the directory of a generation.
func generationDir(dir string, number uint64) string {
	return filepath.Join(dir, logName, fmt.Sprintf("%016x", number))
}

// generationFile returns the file of a generation.
func generationFile(dir string, number uint64) string {
	return filepath.Join(generationDir(dir, number), segmentName)
}

// generation is what a first look finds.
type generation struct {
	number uint64
	path   string
	size   int64
	whole  bool   // the header frame is good: first and mark are true
	wrong  string // or this says why not
	first  entry
	mark   mark
	prefix byte // in front of the header frame
	plain  bool // its entries have no varint in front

	// What the next good header says.
	void   bool   // nothing in here is valid
	stated int64  // end of the valid part; 0: not known
	until  uint64 // index of the group behind this generation; 0: not known
	limit  int64  // how far to read
}

// position is where a log ends.
type position struct {
	highest    uint64 // number of a generation directory, valid or not; 0: none
	generation uint64 // last one with a valid part; 0: none
	end        int64  // of the valid part
	next       uint64 // index of the group to come
}

// stretch is a part of the file of a generation.
type stretch struct {
	generation uint64
	start, end int64
}

// walk is one pass over a whole log. Any function may be nil.
type walk struct {
	dir    string
	read   reading
	first  uint64 // generations below it are not looked at
	after  uint64 // groups up to it are not handed on
	report Report
	seen   position
	tail   stretch  // the newest group
	last   uint64   // number of the last generation read
	empty  uint64   // the newest generation, if it is whole and has no group; else 0
	prior  position // where the log ended in front of it

	generation func(g *generation)
	group      func(g *generation, e *entry, b *message.Batch) error // takes over the reference
	gap        func(generation uint64, gap Gap)
}

// run reads everything. It fails only as the package comment says, and then what
// it has reported is not true of what was not read.
func (w *walk) run() error {
	generations, err := w.list()
	if err != nil {
		return err
	}
	w.seen.next = w.after + 1
	if w.first > 0 {
		w.seen.highest, w.last = w.first-1, w.first-1
	}
	for i := range generations {
		g := &generations[i]
		w.seen.highest = g.number
		if g.void {
			continue
		}
		if err := w.through(g); err != nil {
			return err
		}
	}
	if len(generations) == 0 && w.first > 0 {
		w.add(w.first, Gap{File: generationFile(w.dir, w.first),
			Reason: fmt.Sprintf("the generation is missing; what was behind group %d is not known", w.after)})
	}
	w.seen.next = max(w.seen.next, w.after+1)
	w.report.LastIndex = w.seen.next - 1
	return nil
}

// list looks at the beginning of each generation, because a header says what
// the generation before is worth.
func (w *walk) list() ([]generation, error) {
	numbers, err := w.read.list(w.dir)
	if err != nil {
		return nil, err
	}
	var all []generation
	for _, number := range numbers {
		if number < w.first {
			continue
		}
		g := generation{number: number, path: generationFile(w.dir, number)}
		if err := g.look(&w.read); err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	var later *generation // nearest one behind that has a good header
	for i := len(all) - 1; i >= 0; i-- {
		g := &all[i]
		g.limit = g.size
		if later != nil {
			g.void = later.mark.previous < g.number
			if later.mark.previous == g.number {
				g.stated, g.until = later.mark.end, later.first.index
				g.limit = min(g.size, g.stated)
			}
		}
		if g.whole {
			later = g
		}
	}
	return all, nil
}

// list returns the numbers of the generations that are there, ascending.
func list(dir string) ([]uint64, error) {
	dirs, err := os.ReadDir(filepath.Join(dir, logName)) // sorted; so are the numbers
	if err != nil {
		return nil, fmt.Errorf("cannot list the log: %w", err)
	}
	var numbers []uint64
	for _, d := range dirs {
		number, err := strconv.ParseUint(d.Name(), 16, 63)
		if err == nil && number > 0 && len(d.Name()) == 16 && d.IsDir() { // else it is not ours
			numbers = append(numbers, number)
		}
	}
	return numbers, nil
}

// look reads the header frame.
func (g *generation) look(r *reading) error {
	f, err := r.open(g.path)
	if diskio.Classify(err) == diskio.Gone {
		g.wrong = "the file is missing"
		return nil
	}
	if err != nil {
		return err
	}
	defer f.close()
	if g.size = f.size; g.size == 0 {
		g.wrong = "the file is empty"
		return nil
	}
	s := scanner{file: f, limit: g.size, generation: g.number}
	g.plain = isPlain(s.view(0, int(min(g.size, 128))))
	s.plain = g.plain
	g.first, g.mark, g.wrong = s.head()
	g.whole, g.prefix = g.wrong == "", s.view(0, 1)[0]
	if s.err != nil {
		return s.err
	}
	if v := g.first.version; g.first.decoded && v != version {
		return fmt.Errorf("cannot read %s: %w", g.path, wrongVersion(v))
	}
	return nil
}

// wrongVersion is the error of whole frames of another version. They are not read,
// neither is anything written after them.
type wrongVersion uint8

func (found wrongVersion) Error() string {
	by := "a newer program, use that"
	if found < version {
		by = "an older program and this one cannot read it, use the older one"
	}
	return fmt.Sprintf("it has format version %d and this program reads version %d; nothing was changed; it was written by %s", uint8(found), version, by)
}

// isPlain tells from the beginning of a file whether varints are in front of
// its frames. If damage took the first magic, the second one tells.
func isPlain(p []byte) bool {
	has := func(at int) bool { return len(p) >= at+len(magic) && string(p[at:at+len(magic)]) == magic }
	return has(0) || !has(1) && has(headerSize+markSize)
}

// through goes through one generation and reports what is missing in front of it
// and in it.
func (w *walk) through(g *generation) error {
	w.report.Generations++
	gaps := len(w.report.Gaps)
	w.empty, w.prior = 0, w.seen
	defer func() {
		if g.whole && w.seen.generation == g.number && w.seen.end == g.first.end() && len(w.report.Gaps) == gaps {
			w.empty = g.number
		}
	}()
	if w.generation != nil {
		w.generation(g)
	}
	s := scanner{limit: g.limit, generation: g.number, plain: g.plain, open: g.stated == 0, filler: []byte(diskio.LostFill)}
	if g.whole {
		if g.mark.previous > w.last {
			gap := Gap{File: generationFile(w.dir, g.mark.previous),
				Reason: fmt.Sprintf("the generation is missing, its successor says it had %d bytes", g.mark.end)}
			gap.FirstIndex, gap.LastIndex = between(w.seen.next, g.first.index)
			w.add(g.mark.previous, gap)
		}
		if n, _ := entrySize(markSize, false); !g.plain && g.prefix != byte(n-1) {
			w.add(g.number, Gap{File: g.path, Bytes: 1, Reason: fmt.Sprintf("entry says %d bytes, its header frame has %d", g.prefix, n-1)})
		}
		s.salt, s.next = g.first.salt, g.first.index
		s.filler = lostFill(s.salt)
		w.seen = position{g.number, g.number, g.first.end(), g.first.index}
	}
	w.last = g.number
	if g.limit == 0 {
		gap := Gap{File: g.path, Reason: g.wrong}
		gap.FirstIndex, gap.LastIndex = between(w.seen.next, g.until)
		w.add(g.number, gap)
		return nil
	}
	f, err := w.read.open(g.path)
	if err != nil {
		return err
	}
	defer f.close()
	s.file = f
	var off int64
	if g.whole {
		off = g.first.end()
	}
	for found := true; found; {
		var e entry
		var body []byte
		var d damage
		e, body, found, d = s.group(off)
		if s.err != nil {
			return fmt.Errorf("cannot replay %s: %w", g.path, s.err)
		}
		w.damaged(g, d, e, found)
		if found {
			off = e.end()
			w.seen = position{g.number, g.number, off, e.index + 1}
			w.tail = stretch{g.number, e.start, off}
			if err := w.hand(g, &e, body); err != nil {
				return err
			}
		}
	}
	return nil
}

// damaged reports d, a stretch of g in front of the group e, or at the end if
// there is none. What the headers around know is added.
func (w *walk) damaged(g *generation, d damage, e entry, found bool) {
	if d.start == 0 && !g.whole {
		d.reason = "header frame: " + g.wrong
	}
	switch {
	case found && d.start == 0 && !g.whole && d.first == 0:
		d.first, d.last = between(w.seen.next, e.index)
	case !found && g.until > w.seen.next:
		d.first, d.last = between(w.seen.next, g.until)
		if d.first != d.last {
			d.records = 0
		}
	}
	if short := g.stated - g.limit; !found && short > 0 {
		d.reason = strings.TrimPrefix(fmt.Sprintf("%s; cut off: its successor says %d bytes, it has %d", d.reason, g.stated, g.limit), "; ")
	}
	if d.reason != "" {
		w.add(g.number, Gap{g.path, d.start, d.end - d.start, d.first, d.last, d.records, d.reason, !found && g.stated == 0 && d.start > 0 && !d.given})
	}
}

// between returns the indexes from next to the one in front of following, or
// zeros if there are none.
func between(next, following uint64) (first, last uint64) {
	if following <= next {
		return 0, 0
	}
	return next, following - 1
}

func (w *walk) add(generation uint64, g Gap) {
	w.report.Gaps = append(w.report.Gaps, g)
	if w.gap != nil {
		w.gap(generation, g)
	}
}

// hand passes a group on. A body that is no row of records though its checksum
// is right is a gap, too.
func (w *walk) hand(g *generation, e *entry, body []byte) error {
	if e.index <= w.after {
		return nil
	}
	b, err := message.Parse(body)
	if err == nil && b.Len() != int(e.records) {
		err = fmt.Errorf("%d records, the frame says %d", b.Len(), e.records)
		b.Release()
	}
	if err != nil {
		w.add(g.number, Gap{File: g.path, Offset: e.start, Bytes: e.end() - e.start, FirstIndex: e.index, LastIndex: e.index, Records: int64(e.records),
			Reason: fmt.Sprintf("whole frame with a wrong content, a mistake of the program that wrote it: %v", err)})
		return nil
	}
	w.report.Frames++
	w.report.Records += int64(b.Len())
	w.report.Bytes += int64(b.Size())
	if w.group == nil {
		b.Release()
		return nil
	}
	return w.group(g, e, b)
}

// Check reads the log in the data directory dir without changing or locking
// anything. first and after are as in Options. On a running broker the newest
// group may look torn. What cannot be read is an error, as for Open; what it reports
// until then is not complete.
func Check(dir string, first, after uint64) (Report, error) {
	w := walk{dir: dir, read: newReading(0, nil), first: first, after: after}
	err := w.run()
	return w.report, err
}
