package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"gatepost/message"
)

// batch returns a batch with one record per text.
func batch(texts ...string) *message.Batch {
	b := message.NewBatch(false)
	for i, text := range texts {
		b.Add(&message.Record{
			Kind: message.KindMessage, MessageID: int64(len(text)*1000 + i), ChannelType: message.ChannelPerson,
			ChannelID: []byte("alice@bob"), FromUID: []byte("alice"), Payload: []byte(text),
		}, message.Origin{Conn: 7})
	}
	return b
}

// recordSize is what a text takes in a batch.
func recordSize(text string) int {
	b := batch(text)
	defer b.Release()
	return b.Size()
}

// texts returns the payloads of b.
func texts(t testing.TB, b *message.Batch) []string {
	t.Helper()
	var r message.Record
	var all []string
	for i := range b.Len() {
		if err := b.Record(i, &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, string(r.Payload))
	}
	return all
}

// replayed is what a log gave back.
type replayed struct {
	t       testing.TB
	groups  []string // the payloads of each, with spaces between
	indexes []uint64
	places  []message.Committed // without the batch
	report  Report
}

func (r *replayed) take(c message.Committed) error {
	if c.Err != nil || c.Term != 1 || c.Batch.Origin(0) != (message.Origin{}) {
		r.t.Errorf("replay gave %+v with origin %+v", c, c.Batch.Origin(0))
	}
	r.groups = append(r.groups, strings.Join(texts(r.t, c.Batch), " "))
	r.indexes = append(r.indexes, c.Index)
	c.Batch.Release()
	c.Batch = nil
	r.places = append(r.places, c)
	return nil
}

// open opens the log in dir without syncs.
func open(t testing.TB, dir string, change ...func(*Options)) (*Log, *replayed) {
	t.Helper()
	o := Options{Dir: dir, NoSync: true}
	for _, f := range change {
		f(&o)
	}
	r := &replayed{t: t}
	l, report, err := Open(o, r.take)
	if err != nil {
		t.Fatal(err)
	}
	r.report = report
	return l, r
}

// add appends a group of one batch.
func add(t testing.TB, l *Log, texts ...string) (index uint64, generation uint64, offset int64) {
	t.Helper()
	b := batch(texts...)
	defer b.Release()
	index, offset, err := l.append(append(make([]byte, headerSize), b.Bytes()...), b.Len())
	if err != nil {
		t.Fatal(err)
	}
	return index, l.at.generation, offset
}

func closeLog(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func same(t testing.TB, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRestartReplaysEverythingInOrder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	l, r := open(t, dir)
	same(t, len(r.groups), 0)
	same(t, r.report.LastIndex, uint64(0))
	add(t, l, "a")
	add(t, l, "b", "c")
	closeLog(t, l)

	l, r = open(t, dir)
	same(t, r.groups, []string{"a", "b c"})
	add(t, l, "d")
	closeLog(t, l)

	l, r = open(t, dir, func(o *Options) { o.NoSync = false })
	defer closeLog(t, l)
	same(t, r.groups, []string{"a", "b c", "d"})
	same(t, r.indexes, []uint64{1, 2, 3})
	same(t, r.report, Report{Generations: 2, Frames: 3, Records: 4, Bytes: 4 * int64(recordSize("a")), LastIndex: 3})
	// Each is where its Committed says.
	p := make([]byte, recordSize("a"))
	for i, want := range []string{"a", "b", "d"} {
		var rec message.Record
		if err := l.ReadAt(p, r.places[i].Generation, r.places[i].Offset); err != nil {
			t.Fatal(err)
		}
		if _, err := rec.Decode(p); err != nil || string(rec.Payload) != want {
			t.Errorf("at %+v lies %q, %v; want %q", r.places[i], rec.Payload, err, want)
		}
	}
}

func TestGenerationsRollAndStayReadable(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir, func(o *Options) { o.RollSize = 1000 })
	var want []string
	places := map[string]message.Committed{}
	for i := range 40 {
		text := fmt.Sprint("text number ", i)
		_, g, off := add(t, l, text)
		want = append(want, text)
		places[text] = message.Committed{Generation: g, Offset: off}
	}
	if l.at.generation < 4 {
		t.Errorf("only %d generations of 1000 bytes", l.at.generation)
	}
	read := func(l *Log) {
		for text, at := range places {
			p := make([]byte, recordSize(text))
			var r message.Record
			if err := l.ReadAt(p, at.Generation, at.Offset); err != nil {
				t.Fatal(err)
			} else if _, err := r.Decode(p); err != nil || string(r.Payload) != text {
				t.Errorf("%q is not at %+v: %q %v", text, at, r.Payload, err)
			}
		}
		if n := len(l.files.open); n > maxFiles {
			t.Errorf("%d files are open, want %d at most", n, maxFiles)
		}
	}
	read(l)
	closeLog(t, l)
	l, r := open(t, dir)
	same(t, r.groups, want)
	read(l)
	if err := l.ReadAt(make([]byte, 1), 999, 5); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reading a generation that is not there: %v", err)
	}
	closeLog(t, l)
	if err := l.ReadAt(make([]byte, 1), 1, 5); !errors.Is(err, os.ErrClosed) {
		t.Errorf("reading a closed log: %v", err)
	}
}

func TestOneProcessAtATime(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	if _, _, err := Open(Options{Dir: dir}, nil); err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second log in the same directory: %v", err)
	}
	closeLog(t, l)
	l, _ = open(t, dir)
	closeLog(t, l)
}

func TestUnusableDirectoryIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(Options{Dir: file}, nil); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file as data directory: %v", err)
	}
}

func TestFailingReplayStopsTheStart(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	add(t, l, "a")
	closeLog(t, l)
	broken := errors.New("broken")
	_, _, err := Open(Options{Dir: dir}, func(c message.Committed) error { c.Batch.Release(); return broken })
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "group 1 at offset") {
		t.Errorf("open with a failing replay: %v", err)
	}
}

// setVersion changes the version of the frame at off and makes its checksum right.
func setVersion(t testing.TB, path string, off int, v byte) {
	t.Helper()
	edit(t, path, func(p []byte) []byte {
		p[off+4] = v
		putHeaderCRC(p[off:])
		return p
	})
}

// A log of another format is whole, newer or older: the start refuses, names both
// versions and changes no byte, wherever the first such frame lies.
func TestAnotherFormatIsRefused(t *testing.T) {
	for _, recycle := range []bool{false, true} {
		for _, v := range []byte{version - 1, version + 1} {
			for _, where := range []string{"header", "group"} {
				dir := t.TempDir()
				l, _ := open(t, dir, func(o *Options) { o.Recycle = recycle })
				header := 1
				if recycle {
					header = 0
				}
				off := header
				if where == "group" {
					off = int(l.at.end) + 2*header // behind a length of two bytes
				}
				add(t, l, strings.Repeat("a", 200))
				add(t, l, "b")
				closeLog(t, l)
				setVersion(t, generationFile(dir, 1), off, v)
				before := everything(t, dir)
				if _, err := Oldest(dir); where == "header" && (err == nil || !strings.Contains(err.Error(), "format version")) {
					t.Errorf("version %d: who opens the store first learns %v", v, err)
				}
				l, report, err := Open(Options{Dir: dir, NoSync: true, Recycle: recycle}, (&replayed{t: t}).take)
				if err == nil {
					closeLog(t, l)
					t.Errorf("recycled %t: a %s of version %d is taken for damage: %v", recycle, where, v, report)
					continue
				}
				who := "newer program"
				if v < version {
					who = "older program"
				}
				for _, word := range []string{who, fmt.Sprintf("version %d ", v), fmt.Sprintf("version %d;", version), generationFile(dir, 1)} {
					if !strings.Contains(err.Error(), word) {
						t.Errorf("a %s of version %d: the error does not say %q: %v", where, v, word, err)
					}
				}
				unchanged(t, dir, before)
			}
		}
	}
}

func TestMissingSyncsAreSaidLoudly(t *testing.T) {
	var said strings.Builder
	l, _ := open(t, t.TempDir(), func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&said, nil)) })
	closeLog(t, l)
	if !strings.Contains(said.String(), "NOTHING IS SYNCED") {
		t.Errorf("the log says only:\n%s", said.String())
	}
}

func TestDumpNamesTheDeviceOfACursor(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	b := message.NewBatch(false)
	b.Add(&message.Record{Kind: message.KindCursor, Setting: 9, Device: 2, MessageID: 17, ChannelType: message.ChannelGroup,
		ChannelID: []byte("g"), FromUID: []byte("alice")}, message.Origin{})
	if _, _, err := l.append(append(make([]byte, headerSize), b.Bytes()...), b.Len()); err != nil {
		t.Fatal(err)
	}
	b.Release()
	closeLog(t, l)
	var out strings.Builder
	if err := Dump(&out, dir); err != nil || !strings.Contains(out.String(), `of "alice" device 2, at 17`) {
		t.Errorf("%v\n%s", err, out.String())
	}
}

func TestDumpShowsWhatIsThereButNoPayload(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	add(t, l, "secret one", "secret two")
	add(t, l, "secret three")
	var out strings.Builder
	if err := Dump(&out, dir); err != nil { // of a running log
		t.Fatal(err)
	}
	closeLog(t, l)
	for _, want := range []string{"generation 1", "group 1", "group 2", "2 records", `"alice"`, `"alice@bob"`, "10 bytes", "0 gaps"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the listing does not say %s", want)
		}
	}
	if strings.Contains(out.String(), "secret") {
		t.Error("the listing shows a payload")
	}
	if t.Failed() {
		t.Log(out.String())
	}
	edit(t, generationFile(dir, 1), func(p []byte) []byte { p[len(p)-1] ^= 1; return p })
	out.Reset()
	if err := Dump(&out, dir); err != nil || !strings.Contains(out.String(), "unfinished end of ") {
		t.Errorf("the listing of a damaged log: %v\n%s", err, out.String())
	}
	if err := Dump(&out, t.TempDir()); err == nil {
		t.Error("a directory without a log was listed")
	}
}
