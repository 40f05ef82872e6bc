package wal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatepost/message"
	"gatepost/queue"
)

// disk is a disk that fails when told to. Its fields are set before a step and
// read after it; the atomics may be touched at any time.
type disk struct {
	mu          sync.Mutex
	write, sync error  // what they return
	once        bool   // only the next sync fails
	begin       error  // what making a generation returns
	left        int    // bytes of a failing write that reach the file; -1: all
	written     []byte // those bytes, with the file they went to
	failed      string

	writes, syncs atomic.Int64
	free          atomic.Int64
	held          chan struct{} // not nil: a write waits here
}

func (d *disk) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// log returns a log on d that has not been started.
func (d *disk) log(o Options) *Log {
	if d.free.Load() == 0 {
		d.free.Store(1 << 40)
	}
	l := newLog(o)
	l.free = func(*os.File) (int64, bool) { return d.free.Load(), true }
	l.newEngine = func(dir string) (engine, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.begin != nil {
			return nil, d.begin
		}
		e, err := openLibrary(dir)
		if err != nil {
			return nil, err
		}
		f, err := os.OpenFile(filepath.Join(dir, segmentName), os.O_RDWR, 0)
		return &flaky{e, d, f}, err
	}
	return l
}

// flaky is an engine on a disk.
type flaky struct {
	engine
	disk *disk
	file *os.File // the directory gets its name later
}

// path is where the file is now.
func (f *flaky) path() string {
	path, _ := os.Readlink(fmt.Sprint("/proc/self/fd/", f.file.Fd()))
	return path
}

func (f *flaky) Close() error {
	f.file.Close()
	return f.engine.Close()
}

func (f *flaky) Append(frame []byte) error {
	d := f.disk
	if d.held != nil {
		<-d.held
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes.Add(1)
	if d.write == nil && d.sync == nil {
		return f.engine.Append(frame)
	}
	path := f.path()
	before, _ := os.ReadFile(path)
	f.engine.Append(frame)
	after, _ := os.ReadFile(path)
	end := len(after)
	if d.write != nil && d.left >= 0 {
		end = min(end, len(before)+d.left)
	}
	os.Truncate(path, int64(end))
	d.written, d.failed = slices.Clone(after[len(before):end]), path
	return d.write
}

func (f *flaky) Sync() error {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.syncs.Add(1)
	err := f.disk.sync
	if err == nil {
		return f.engine.Sync()
	}
	if f.disk.once {
		f.disk.sync = nil
	}
	return err
}

// put appends p to a file, as if the disk remembered a refused write.
func put(t testing.TB, path string, p []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(p)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// box is a committer that runs, and what its sink got.
type box struct {
	t     testing.TB
	log   *Log
	c     *Committer
	out   chan message.Committed
	ended chan error
}

func start(t testing.TB, l *Log, o CommitterOptions) *box {
	t.Helper()
	b := &box{t: t, log: l, out: make(chan message.Committed, 1000), ended: make(chan error, 1)}
	b.c = NewCommitter(l, o, func(c message.Committed) error { b.out <- c; return nil })
	b.c.every = time.Millisecond
	go func() { b.ended <- b.c.Run() }()
	return b
}

// newBox starts on a fresh directory on d.
func newBox(t testing.TB, d *disk, o CommitterOptions, change ...func(*Options)) *box {
	t.Helper()
	options := Options{Dir: t.TempDir(), Headroom: 1000}
	for _, f := range change {
		f(&options)
	}
	l := d.log(options)
	if _, err := l.start(func(message.Committed) error { return nil }); err != nil {
		t.Fatal(err)
	}
	return start(t, l, o)
}

func (b *box) propose(texts ...string) {
	b.t.Helper()
	if err := b.c.Propose(batch(texts...)); err != nil {
		b.t.Fatalf("propose %q: %v", texts, err)
	}
}

// next returns the next Committed, its batch still held, and its payloads.
func (b *box) next() (message.Committed, string) {
	b.t.Helper()
	select {
	case c := <-b.out:
		return c, strings.Join(texts(b.t, c.Batch), " ")
	case <-time.After(10 * time.Second):
		b.t.Fatal("nothing comes out")
		panic("unreachable")
	}
}

// commits waits for a batch that must be durable; refuses for one that is not.
func (b *box) commits(want string) message.Committed {
	b.t.Helper()
	c, got := b.next()
	if c.Err != nil || got != want {
		b.t.Fatalf("got %q, %v; want %q committed", got, c.Err, want)
	}
	c.Batch.Release()
	return c
}

func (b *box) refuses(want string, why error) error {
	b.t.Helper()
	c, got := b.next()
	if !errors.Is(c.Err, why) || got != want || c.Index != 0 {
		b.t.Fatalf("got %q, index %d, %v; want %q refused with %v", got, c.Index, c.Err, want, why)
	}
	c.Batch.Release()
	return c.Err
}

// stop ends everything and returns what the log replays then.
func (b *box) stop(want error) []string {
	b.t.Helper()
	b.c.Close()
	if err := <-b.ended; !errors.Is(err, want) {
		b.t.Errorf("Run returned %v, want %v", err, want)
	}
	b.log.Close() // fails after a failed sync
	l, r := open(b.t, b.log.dir)
	closeLog(b.t, l)
	if n := len(b.out); n > 0 {
		b.t.Errorf("%d batches more than expected came out", n)
	}
	return r.groups
}

// recover waits until the committer takes batches again.
func (b *box) recover() {
	b.t.Helper()
	for end := time.Now().Add(10 * time.Second); b.c.Stats().State != "ok"; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("does not recover: %s", b.c.Stats().State)
		}
	}
}

func TestWaitingBatchesShareOneWriteAndOneSync(t *testing.T) {
	d := &disk{}
	b := newBox(t, d, CommitterOptions{})
	d.writes.Store(0)
	d.syncs.Store(0)
	d.held = make(chan struct{})
	b.propose("first")
	for b.c.inbox.Len() > 0 { // Run has it and waits in the write
		time.Sleep(time.Millisecond)
	}
	var want []string
	for i := range 50 {
		want = append(want, fmt.Sprint("text ", i))
		b.propose(want[i])
	}
	d.held <- struct{}{}
	d.held <- struct{}{}
	first := b.commits("first")
	var all []message.Committed
	for _, text := range want {
		all = append(all, b.commits(text))
	}
	if w, s := d.writes.Load(), d.syncs.Load(); w != 2 || s != 2 {
		t.Errorf("%d writes and %d syncs for 2 groups", w, s)
	}
	for i, c := range all {
		if c.Index != first.Index+1 || c.Term != 1 || c.Generation != first.Generation {
			t.Errorf("batch %d of the group is at %+v, the group before at %+v", i, c, first)
		}
		p := make([]byte, recordSize(want[i]))
		var r message.Record
		if err := b.log.ReadAt(p, c.Generation, c.Offset); err != nil {
			t.Fatal(err)
		} else if _, err := r.Decode(p); err != nil || string(r.Payload) != want[i] {
			t.Errorf("at %+v lies %q, %v; want %q", c, r.Payload, err, want[i])
		}
	}
	s := b.c.Stats()
	if s.Groups != 2 || s.Records != 51 || s.Syncs != 2 || s.State != "ok" || s.GroupRecords.Quantile(1) < 50 || s.SyncTime.Quantile(1) == 0 {
		t.Errorf("%+v", s)
	}
	close(d.held)
	same(t, b.stop(nil), []string{"first", strings.Join(want, " ")})
}

func TestGroupsAreBounded(t *testing.T) {
	for _, o := range []CommitterOptions{{GroupItems: 3}, {GroupBytes: 3 * recordSize("x")}} {
		d := &disk{}
		b := newBox(t, d, o)
		d.held = make(chan struct{})
		b.propose("0")
		for b.c.inbox.Len() > 0 {
			time.Sleep(time.Millisecond)
		}
		for _, text := range strings.Fields("1 2 3 4 5 6 7") {
			b.propose(text)
		}
		b.propose(strings.Repeat("large", 100))
		close(d.held)
		for range 9 {
			c, _ := b.next()
			c.Batch.Release()
		}
		if groups := b.stop(nil); !slices.Equal(groups[:3], []string{"0", "1 2 3", "4 5 6"}) {
			t.Errorf("%+v: groups %q", o, groups)
		}
	}
}

// A group that lingers has the bounds of any other, counted over all of it, and 0 is
// no bound for it either. What it could not be replayed with is not written.
func TestGroupThatLingersIsBounded(t *testing.T) {
	size := recordSize("x")
	for _, c := range []struct {
		items, bytes int
		want         []string
	}{
		{items: 3, want: []string{"0 1 2", "3 4 5", "6 7"}},
		{items: 2, want: []string{"0 1", "2 3", "4 5", "6 7"}},
		{bytes: 3*size + size/2, want: []string{"0 1 2", "3 4 5", "6 7"}},
		{bytes: size, want: []string{"0", "1", "2", "3", "4", "5", "6", "7"}},
		{want: []string{"0 1 2 3 4 5 6 7"}},
	} {
		d := &disk{}
		b := newBox(t, d, CommitterOptions{GroupItems: c.items, GroupBytes: c.bytes, Linger: 50 * time.Millisecond})
		d.held = make(chan struct{})
		b.propose("first")
		for b.c.inbox.Len() > 0 {
			time.Sleep(time.Millisecond)
		}
		d.set(func() {})
		for i := range 8 { // what is waiting now, and what comes meanwhile
			b.propose(fmt.Sprint(i))
		}
		close(d.held)
		for range 9 {
			got, _ := b.next()
			if got.Err != nil {
				t.Errorf("%+v: %v", c, got.Err)
			}
			got.Batch.Release()
		}
		groups := b.stop(nil)
		if c.items == 0 && c.bytes == 0 { // the first may have been joined by some
			same(t, strings.Fields(strings.Join(groups, " ")), strings.Fields("first "+strings.Join(c.want, " ")))
			continue
		}
		for _, g := range groups {
			if n := len(strings.Fields(g)); c.items > 0 && n > c.items || c.bytes > 0 && n*size > c.bytes && n > 1 {
				t.Errorf("%d items, %d bytes at most: a group of %d, %q", c.items, c.bytes, n, g)
			}
		}
		same(t, strings.Fields(strings.Join(groups, " ")), strings.Fields("first "+strings.Join(c.want, " ")))
	}
}

// manyBytes is a batch of so many MiB.
func manyBytes(mib int) *message.Batch {
	b := message.NewBatch(false)
	for payload := make([]byte, 1<<20-100); b.Size() < mib<<20-1<<20; {
		b.Add(&message.Record{Kind: message.KindMessage, ChannelType: message.ChannelPerson, ChannelID: []byte("a@b"), FromUID: []byte("a"), Payload: payload}, message.Origin{})
	}
	return b
}

// Two batches that together are more than a replay takes are two groups, however
// long the first has waited for the second.
func TestLingerNeverMakesAGroupThatIsLost(t *testing.T) {
	d := &disk{}
	b := newBox(t, d, CommitterOptions{GroupBytes: maxBody, Linger: 5 * time.Millisecond}, func(o *Options) { o.NoSync = true })
	d.held = make(chan struct{})
	b.propose("first")
	for b.c.inbox.Len() > 0 {
		time.Sleep(time.Millisecond)
	}
	want := 1
	for range 2 {
		large := manyBytes(40)
		want += large.Len()
		if err := b.c.Propose(large); err != nil {
			t.Fatal(err)
		}
	}
	close(d.held)
	for range 3 {
		c := <-b.out
		if c.Err != nil {
			t.Error(c.Err)
		}
		c.Batch.Release()
	}
	replayed := 0
	for _, g := range b.stop(nil) {
		replayed += len(strings.Fields(g))
	}
	same(t, replayed, want)
}

// The log writes nothing that its replay would refuse, and goes on.
func TestLogRefusesWhatItCouldNotReplay(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	add(t, l, "a")
	before := contents(t, generationFile(dir, 1))
	if _, _, err := l.append(make([]byte, headerSize+maxBody+1), 1); err == nil || !strings.Contains(err.Error(), "the limit is 67108864") {
		t.Errorf("append of a group that is too large: %v", err)
	}
	if !slices.Equal(contents(t, generationFile(dir, 1)), before) {
		t.Error("something was written")
	}
	add(t, l, "b")
	closeLog(t, l)
	l, r := open(t, dir)
	same(t, r.groups, []string{"a", "b"})
	closeLog(t, l)
}

func TestVolatileBatchesPassInOrderAndAreNotWritten(t *testing.T) {
	d := &disk{}
	b := newBox(t, d, CommitterOptions{})
	d.writes.Store(0)
	volatile := func(text string) *message.Batch {
		v := message.NewBatch(true)
		v.Add(&message.Record{Kind: message.KindMessage, Payload: []byte(text)}, message.Origin{})
		return v
	}
	if err := b.c.Propose(volatile("alone")); err != nil {
		t.Fatal(err)
	}
	if c := b.commits("alone"); c.Index != 0 || c.Offset != 0 || d.writes.Load() != 0 {
		t.Errorf("a volatile batch: %+v, %d writes", c, d.writes.Load())
	}
	for i := range 20 {
		b.propose(fmt.Sprint(i))
		if err := b.c.Propose(volatile(fmt.Sprint("v", i))); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for i := range 20 {
		b.commits(fmt.Sprint(i))
		b.commits(fmt.Sprint("v", i))
		want = append(want, fmt.Sprint(i))
	}
	if got := strings.Join(b.stop(nil), " "); got != strings.Join(want, " ") {
		t.Errorf("replayed %q", got)
	}
	if s := b.c.Stats(); s.Volatile != 21 || s.Records != 20 {
		t.Errorf("%+v", s)
	}
}

func TestFullQueueRefusesAtTheDoor(t *testing.T) {
	d := &disk{}
	b := newBox(t, d, CommitterOptions{QueueItems: 2})
	d.held = make(chan struct{})
	b.propose("0")
	for b.c.inbox.Len() > 0 {
		time.Sleep(time.Millisecond)
	}
	b.propose("1")
	b.propose("2")
	more := batch("3")
	if err := b.c.Propose(more); err != queue.ErrFull {
		t.Errorf("propose to a full queue: %v", err)
	}
	same(t, texts(t, more), []string{"3"}) // it is still ours
	more.Release()
	close(d.held)
	for _, text := range strings.Fields("0 1 2") {
		b.commits(text)
	}
	same(t, b.stop(nil), []string{"0", "1 2"})
	if err := b.c.Propose(batch("late")); err != queue.ErrClosed {
		t.Errorf("propose to a closed committer: %v", err)
	}
}

func TestCloseWritesWhatWasTaken(t *testing.T) {
	d := &disk{}
	b := newBox(t, d, CommitterOptions{GroupItems: 10})
	var want []string
	for i := range 100 {
		want = append(want, fmt.Sprint(i))
		b.propose(want[i])
	}
	b.c.Close()
	if n := len(b.out); n != 100 {
		t.Errorf("after Close %d batches have come out, want 100", n)
	}
	for _, text := range want {
		b.commits(text)
	}
	same(t, strings.Fields(strings.Join(b.stop(nil), " ")), want)
}

// queued lets a group get stuck in the disk, queues more behind it and lets go.
func queued(b *box, d *disk, fail func()) {
	d.held = make(chan struct{})
	b.propose("doomed")
	for b.c.inbox.Len() > 0 {
		time.Sleep(time.Millisecond)
	}
	b.propose("queued 1")
	b.propose("queued 2")
	d.set(fail)
	close(d.held)
}

func TestFailedSyncPoisonsForGood(t *testing.T) {
	for name, fail := range map[string]func(d *disk){
		"write": func(d *disk) { d.write, d.left = unix.EIO, -1 },
		"sync":  func(d *disk) { d.sync = unix.EIO },
	} {
		t.Run(name, func(t *testing.T) {
			d := &disk{}
			b := newBox(t, d, CommitterOptions{})
			b.propose("safe")
			b.commits("safe")
			queued(b, d, func() { fail(d) })
			why := b.refuses("doomed", unix.EIO)
			b.refuses("queued 1", ErrPoisoned)
			b.refuses("queued 2", ErrPoisoned)
			if err := <-b.ended; !errors.Is(err, unix.EIO) || !strings.Contains(err.Error(), generationFile(b.log.dir, 1)) || !strings.Contains(err.Error(), name) {
				t.Errorf("Run returned %v", err)
			} else if err.Error() != why.Error() {
				t.Errorf("Run says %v, the sink heard %v", err, why)
			}
			b.ended <- nil
			d.set(func() { d.write, d.sync = nil, nil })
			before := d.writes.Load()
			for range 3 {
				if err := b.c.Propose(batch("late")); err != ErrPoisoned {
					t.Errorf("propose to a failed log: %v", err)
				}
			}
			if !strings.Contains(b.c.Stats().State, "input/output error") || b.c.Stats().Refused != 3 {
				t.Errorf("%+v", b.c.Stats())
			}
			same(t, b.stop(nil), []string{"safe"})
			same(t, d.writes.Load(), before)
		})
	}
}

// A group whose write or sync failed was refused if what it left is cut off, durable;
// else nobody knows, and that is said of this group alone: what was queued behind it
// was never written.
func TestOutcomeIsUnknownOnlyWhereItIs(t *testing.T) {
	for _, errno := range []error{unix.EIO, unix.ENOSPC} {
		for _, cut := range []bool{true, false} {
			for name, fail := range map[string]func(d *disk){
				"write": func(d *disk) { d.write, d.left = errno, -1 },
				"sync":  func(d *disk) { d.sync = errno },
			} {
				t.Run(fmt.Sprintf("%v of a %s, cut off %t", errno, name, cut), func(t *testing.T) {
					d := &disk{}
					b := newBox(t, d, CommitterOptions{})
					b.propose("safe")
					b.commits("safe")
					if !cut {
						b.log.syncFile = func(*os.File) error { return unix.EIO }
					}
					queued(b, d, func() { fail(d) })
					why := b.refuses("doomed", errno)
					if unknown := errors.Is(why, message.ErrUnknown); unknown == cut {
						t.Errorf("the sink hears that the outcome is unknown: %t, %v", unknown, why)
					}
					kind := ErrPoisoned
					if errno == unix.ENOSPC {
						kind = ErrDiskFull
					}
					for _, text := range []string{"queued 1", "queued 2"} {
						if why := b.refuses(text, kind); errors.Is(why, message.ErrUnknown) {
							t.Errorf("%s was never written, and the sink hears %v", text, why)
						}
					}
					if strings.Contains(b.c.Stats().State, "unknown") {
						t.Errorf("the log is said to be unknown: %s", b.c.Stats().State)
					}
					d.set(func() { d.write, d.sync = nil, nil })
					ended := error(nil)
					if errno == unix.EIO {
						ended = ErrPoisoned
					}
					got := b.stop(ended)
					if cut {
						same(t, got, []string{"safe"})
					}
				})
			}
		}
	}
}

func TestFullDiskRefusesAndRecoversWithANewGeneration(t *testing.T) {
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT} {
		for name, fail := range map[string]func(d *disk){
			"nothing written": func(d *disk) { d.write, d.left = full, 0 },
			"torn write":      func(d *disk) { d.write, d.left = full, 30 },
			"whole write":     func(d *disk) { d.write, d.left = full, -1 },
			"sync":            func(d *disk) { d.sync = full },
		} {
			t.Run(fmt.Sprint(full, " ", name), func(t *testing.T) {
				d := &disk{}
				b := newBox(t, d, CommitterOptions{})
				b.propose("safe")
				first := b.commits("safe")
				queued(b, d, func() { fail(d) })
				if err := b.refuses("doomed", ErrDiskFull); !errors.Is(err, full) {
					t.Errorf("refused with %v, want %v", err, full)
				}
				b.refuses("queued 1", ErrDiskFull)
				b.refuses("queued 2", ErrDiskFull)
				if err := b.c.Propose(batch("late")); err != ErrDiskFull {
					t.Errorf("propose to a full disk: %v", err)
				}
				v := message.NewBatch(true)
				v.Add(&message.Record{Payload: []byte("volatile")}, message.Origin{})
				if err := b.c.Propose(v); err != nil {
					t.Errorf("propose a volatile batch to a full disk: %v", err)
				}
				b.commits("volatile")
				var refused []byte
				var file string
				d.set(func() { refused, file = d.written, d.failed })
				d.set(func() { d.write, d.sync = nil, nil })
				b.recover()
				b.propose("again")
				if again := b.commits("again"); again.Index != first.Index+1 || again.Generation <= first.Generation {
					t.Errorf("%+v after %+v", again, first)
				}
				// Even if cutting it off had not worked, it does not come back.
				if strings.HasSuffix(filepath.Dir(file), "1") {
					put(t, file, refused)
				}
				same(t, b.stop(nil), []string{"safe", "again"})
			})
		}
	}
}

func TestHeadroomIsKept(t *testing.T) {
	d := &disk{}
	b := newBox(t, d, CommitterOptions{GroupBytes: 100})
	b.propose("safe")
	first := b.commits("safe")
	d.free.Store(1000)
	before := d.writes.Load()
	b.propose("too much")
	if err := b.refuses("too much", ErrDiskFull); !strings.Contains(err.Error(), "headroom of 1000") {
		t.Error(err)
	}
	same(t, d.writes.Load(), before)
	for _, free := range []int64{1000, 1099, 1249} { // a little more than the headroom is not enough
		d.free.Store(free)
		b.c.inbox.Push(nil) // look again
		passes := message.NewBatch(true)
		passes.Add(&message.Record{Payload: []byte("volatile")}, message.Origin{})
		if err := b.c.Propose(passes); err != nil {
			t.Fatal(err)
		}
		b.commits("volatile")
		if b.c.state.Load() == nil {
			t.Errorf("messages are taken again with %d bytes free", free)
		}
	}
	d.free.Store(1250)
	b.recover()
	b.propose("again")
	if c := b.commits("again"); c.Generation != first.Generation {
		t.Errorf("a generation that never failed was left: %+v after %+v", c, first)
	}
	same(t, b.stop(nil), []string{"safe", "again"})
}

// While the store does not follow, nothing is written, what needs no writing
// passes, and it goes on in the same generation when the store has caught up.
func TestTheLogWaitsForTheStore(t *testing.T) {
	d := &disk{}
	var behind atomic.Pointer[string]
	b := newBox(t, d, CommitterOptions{}, func(o *Options) {
		o.Behind = func() error {
			if why := behind.Load(); why != nil {
				return errors.New(*why)
			}
			return nil
		}
	})
	b.propose("safe")
	first := b.commits("safe")
	why := "checkpoints fail"
	behind.Store(&why)
	before := d.writes.Load()
	b.propose("too much")
	if err := b.refuses("too much", ErrBehind); !strings.Contains(err.Error(), why) {
		t.Error(err)
	}
	if err := b.c.Propose(batch("late")); err != ErrBehind {
		t.Errorf("propose: %v", err)
	}
	same(t, d.writes.Load(), before)
	behind.Store(nil)
	b.recover()
	b.propose("again")
	if c := b.commits("again"); c.Generation != first.Generation {
		t.Errorf("a generation that never failed was left: %+v after %+v", c, first)
	}
	same(t, b.stop(nil), []string{"safe", "again"})
}

// A start that waits for the store says that, and not that the disk is full: there
// is nothing to delete.
func TestAStartThatWaitsForTheStoreSaysSo(t *testing.T) {
	why := errors.New("checkpoints fail")
	l, _ := open(t, t.TempDir(), func(o *Options) { o.Behind = func() error { return why } })
	defer closeLog(t, l)
	c := NewCommitter(l, CommitterOptions{}, func(message.Committed) error { return nil })
	if err := c.Propose(batch("x")); err != ErrBehind {
		t.Errorf("propose: %v, want %v", err, ErrBehind)
	}
	if state := c.Stats().State; c.Full() || !strings.Contains(state, why.Error()) || strings.Contains(state, "space") {
		t.Errorf("full %t, state %q", c.Full(), state)
	}
}

func TestRestartWhileFull(t *testing.T) {
	dir := t.TempDir()
	l, _ := open(t, dir)
	add(t, l, "old")
	closeLog(t, l)

	for name, c := range map[string]struct{ full, space func(d *disk) }{
		"no headroom": {func(d *disk) { d.free.Store(10) }, func(d *disk) { d.free.Store(1 << 30) }},
		"no byte":     {func(d *disk) { d.write, d.left = unix.ENOSPC, 20 }, func(d *disk) { d.write = nil }},
		"no file":     {func(d *disk) { d.begin = unix.ENOSPC }, func(d *disk) { d.begin = nil }},
	} {
		t.Run(name, func(t *testing.T) {
			copied := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			d := &disk{}
			d.free.Store(1 << 30)
			c.full(d)
			for range 3 {
				l := d.log(Options{Dir: copied, Headroom: 1000})
				r := &replayed{t: t}
				if _, err := l.start(r.take); err != nil {
					t.Fatal(err)
				}
				same(t, r.groups, []string{"old"})
				b := start(t, l, CommitterOptions{})
				if err := b.c.Propose(batch("x")); err != ErrDiskFull {
					t.Errorf("propose after a start on a full disk: %v", err)
				}
				p := make([]byte, recordSize("old"))
				if err := l.ReadAt(p, r.places[0].Generation, r.places[0].Offset); err != nil {
					t.Error(err)
				}
				same(t, b.stop(nil), []string{"old"})
				os.RemoveAll(generationDir(copied, 2)) // that of stop's own look
			}
			l := d.log(Options{Dir: copied, Headroom: 1000})
			if _, err := l.start((&replayed{t: t}).take); err != nil {
				t.Fatal(err)
			}
			b := start(t, l, CommitterOptions{})
			d.set(func() { c.space(d) })
			b.recover()
			b.propose("new")
			same(t, b.commits("new").Index, uint64(2))
			same(t, b.stop(nil), []string{"old", "new"})
		})
	}
}

func TestRollThatFailsBeforeItBeganGoesOnInTheOldGeneration(t *testing.T) {
	for _, err := range []error{unix.EMFILE, unix.ENFILE, unix.ENOSPC} {
		d := &disk{}
		l := d.log(Options{Dir: t.TempDir(), RollSize: 500})
		if _, err := l.start(nil); err != nil {
			t.Fatal(err)
		}
		b := start(t, l, CommitterOptions{})
		d.set(func() { d.begin = err })
		var want []string
		for i := range 20 {
			want = append(want, fmt.Sprint("text ", i))
			b.propose(want[i])
			same(t, b.commits(want[i]).Generation, uint64(1))
		}
		if why := l.Stuck(); !errors.Is(why, err) {
			t.Errorf("the log says of a generation that cannot be begun: %v", why)
		}
		d.set(func() { d.begin = nil })
		for i := range 10 {
			want = append(want, fmt.Sprint("more ", i))
			b.propose(want[20+i])
			b.commits(want[20+i])
		}
		if l.at.generation == 1 {
			t.Error("it never rolled again")
		}
		if why := l.Stuck(); why != nil {
			t.Errorf("the log still says %v", why)
		}
		same(t, b.stop(nil), want)
	}
}

// The header of a new generation says where the old one ends. Until it has its name
// the old one goes on; once it may have it, that must not grow.
func TestRollThatFailsHalfWayLeavesTheOldGeneration(t *testing.T) {
	for _, named := range []bool{false, true} {
		d := &disk{}
		l := d.log(Options{Dir: t.TempDir(), RollSize: 200})
		if _, err := l.start(nil); err != nil {
			t.Fatal(err)
		}
		b := start(t, l, CommitterOptions{})
		b.propose("the text that fills it up")
		b.commits("the text that fills it up")
		b.propose("one more")
		first := b.commits("one more")
		size := int64(len(contents(t, generationFile(l.dir, 1))))
		want := []string{"the text that fills it up", "one more"}
		if named {
			sync := l.syncDir
			l.syncDir = func(dir *os.File) error {
				if filepath.Base(dir.Name()) == logName {
					l.syncDir = sync
					return unix.ENOSPC
				}
				return sync(dir)
			}
			b.propose("refused")
			b.refuses("refused", ErrDiskFull)
			b.recover()
			b.propose("again")
			if c := b.commits("again"); c.Generation <= first.Generation+1 {
				t.Errorf("%+v", c)
			}
			want = append(want, "again")
			same(t, int64(len(contents(t, generationFile(l.dir, 1)))), size)
		} else {
			d.set(func() { d.sync, d.once = unix.ENOSPC, true })
			b.propose("goes on")
			same(t, b.commits("goes on").Generation, first.Generation)
			want = append(want, "goes on")
		}
		same(t, b.stop(nil), want)
	}
}

func TestSinkThatIsClosedEndsTheCommitter(t *testing.T) {
	d := &disk{}
	l := d.log(Options{Dir: t.TempDir()})
	if _, err := l.start(nil); err != nil {
		t.Fatal(err)
	}
	c := NewCommitter(l, CommitterOptions{}, func(message.Committed) error { return queue.ErrClosed })
	kept := batch("a")
	kept.Retain()
	if err := c.Propose(kept); err != nil {
		t.Fatal(err)
	}
	if err := c.Run(); !errors.Is(err, queue.ErrClosed) {
		t.Errorf("Run returned %v", err)
	}
	c.Close()
	kept.Release() // the last reference: panics if the committer kept none
	if err := c.Propose(batch("b")); err != queue.ErrClosed {
		t.Errorf("propose: %v", err)
	}
	closeLog(t, l)
}

func TestBatchThatIsTooLargeIsRefused(t *testing.T) {
	d := &disk{}
	b := newBox(t, d, CommitterOptions{})
	big := message.NewBatch(false)
	for payload := make([]byte, 1<<20); big.Size() <= maxBody; {
		big.Add(&message.Record{Kind: message.KindMessage, Payload: payload}, message.Origin{})
	}
	if err := b.c.Propose(big); err == nil || !strings.Contains(err.Error(), "limit is") {
		t.Errorf("propose: %v", err)
	}
	big.Release()
	large := message.NewBatch(false) // which the next start could not read
	large.Add(&message.Record{Kind: message.KindChannel}, message.Origin{})
	large.Add(&message.Record{Kind: message.KindChannel, Payload: make([]byte, message.MaxRecord)}, message.Origin{})
	large.Add(&message.Record{Kind: message.KindChannel}, message.Origin{})
	if err := b.c.Propose(large); err == nil || !strings.Contains(err.Error(), "the limit is 2097152") {
		t.Errorf("propose: %v", err)
	}
	large.Release()
	same(t, len(b.stop(nil)), 0)
}

// Many producers and a reader of old records at the same time. With -race.
func TestProducersAndReadersTogether(t *testing.T) {
	l, _ := open(t, t.TempDir(), func(o *Options) { o.RollSize = 20_000 })
	b := start(t, l, CommitterOptions{GroupItems: 8})
	const producers, each = 4, 250
	var all sync.WaitGroup
	for p := range producers {
		all.Go(func() {
			for i := range each {
				for b.c.Propose(batch(fmt.Sprintf("%d %04d", p, i))) != nil {
					t.Error("refused")
				}
			}
		})
	}
	places := make(chan message.Committed, producers*each)
	for range 3 {
		all.Go(func() {
			p := make([]byte, recordSize("0 0000"))
			for c := range places {
				var r message.Record
				if err := l.ReadAt(p, c.Generation, c.Offset); err != nil {
					t.Error(err)
				} else if _, err := r.Decode(p); err != nil {
					t.Errorf("%+v: %v", c, err)
				}
			}
		})
	}
	next := [producers]int{}
	for range producers * each {
		c, text := b.next()
		var p, i int
		if _, err := fmt.Sscanf(text, "%d %d", &p, &i); err != nil || i != next[p] {
			t.Fatalf("%q out of order: %v", text, err)
		}
		next[p]++
		c.Batch.Release()
		places <- c
	}
	close(places)
	all.Wait()
	b.stop(nil)
}

// A real file system that is really full.
func TestSmallFileSystemFillsUpAndGetsSpaceAgain(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a tmpfs needs root")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m", "none", dir).CombinedOutput(); err != nil {
		t.Skipf("cannot mount a tmpfs: %v %s", err, out)
	}
	t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
	for _, headroom := range []int64{0, 100_000} {
		data := filepath.Join(dir, fmt.Sprint("data", headroom))
		l, _ := open(t, data, func(o *Options) { o.Headroom, o.NoSync = headroom, false })
		b := start(t, l, CommitterOptions{GroupBytes: 10_000})
		hog, err := os.Create(filepath.Join(dir, "hog"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(hog, zeros{}, 600_000); err != nil {
			t.Fatal(err)
		}
		var want []string
		for i := 0; ; i++ {
			text := fmt.Sprint(i, strings.Repeat(" text", 1000))
			b.propose(text)
			c, _ := b.next()
			c.Batch.Release()
			if c.Err != nil {
				if !errors.Is(c.Err, ErrDiskFull) {
					t.Fatal(c.Err)
				}
				break
			}
			want = append(want, text)
		}
		t.Logf("headroom %d: %d batches of 5 KB until %s", headroom, len(want), b.c.Stats().State)
		if free, _ := freeBytes(l.lock); len(want) < 10 || free < headroom {
			t.Errorf("%d batches, %d bytes are left of a headroom of %d", len(want), free, headroom)
		}
		io.Copy(hog, zeros{}) // and now the last byte
		b.c.Close()
		<-b.ended
		closeLog(t, l)
		l, r := open(t, data, func(o *Options) { o.Headroom, o.NoSync = headroom, false })
		if !slices.Equal(r.groups, want) {
			t.Errorf("restarted while full: %d groups, want %d", len(r.groups), len(want))
		}
		b = start(t, l, CommitterOptions{GroupBytes: 10_000})
		if headroom > 0 {
			if err := b.c.Propose(batch("x")); err != ErrDiskFull {
				t.Errorf("propose with no byte left: %v", err)
			}
		}
		hog.Close()
		if err := os.Remove(hog.Name()); err != nil {
			t.Fatal(err)
		}
		b.recover()
		b.propose("space again")
		b.commits("space again")
		if got := b.stop(nil); !slices.Equal(got, append(want, "space again")) {
			t.Errorf("%d groups, want %d", len(got), len(want)+1)
		}
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
