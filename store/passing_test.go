package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// written carries out the checkpoint f, and reads all n messages of channel c.
func (w *world) written(f *frozen, n, lost int) {
	w.t.Helper()
	if err := w.store.write(f); err != nil {
		w.t.Fatal(err)
	}
	w.store.finish(f)
	w.store.busy.Store(false)
	page, err := w.store.Read(w.channels["c"], 1, 2*n, 1<<20)
	defer page.Batch.Release()
	if len(page.Seqs) != n-lost || page.Lost != lost || (err != nil) != (lost > 0) {
		w.t.Errorf("%d messages are there, %d lost, %v; want %d and %d", len(page.Seqs), page.Lost, err, n-lost, lost)
	}
	if got := w.store.Stats().Lost.Load(); got != int64(lost) {
		w.t.Errorf("%d messages are counted as lost, want %d", got, lost)
	}
}

// What the log cannot read for a while is not lost: the checkpoint asks again, then it
// fails and is made later.
func TestReadsOfTheLogThatPassLoseNothing(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.EMFILE, syscall.ENOMEM} {
		w := newWorld(t)
		for range 50 {
			w.say("c", []byte("text"))
		}
		if !w.roll() {
			t.Fatal("the store takes no checkpoint")
		}
		f := <-w.store.work
		w.store.o.patience = time.Microsecond
		w.failing(w.log.groups[20].at.Offset, errno)
		if err := w.store.write(f); !errors.Is(err, errno) || !strings.Contains(err.Error(), "cannot read messages of channel \"c\"") {
			t.Fatalf("a checkpoint of which not all could be read: %v", err)
		}
		w.store.o.ReadLog = w.log.read
		if _, err := w.store.reopen(); err != nil {
			t.Fatal(err)
		}
		// Now it passes while the checkpoint asks.
		w.store.o.patience = time.Hour
		calls := 0
		w.store.o.ReadLog = func(p []byte, generation uint64, offset int64) error {
			if calls++; calls <= 3 {
				return errno
			}
			return w.log.read(p, generation, offset)
		}
		w.written(f, 50, 0)
		w.kill()
	}
}

// Close ends a checkpoint that asks again for what it cannot read.
func TestCloseEndsACheckpointThatCannotReadTheLog(t *testing.T) {
	w := newWorld(t)
	w.say("c", []byte("text"))
	asked := make(chan struct{}, 1)
	w.store.o.patience = time.Hour
	w.store.o.ReadLog = func([]byte, uint64, int64) error {
		select {
		case asked <- struct{}{}:
		default:
		}
		return syscall.EIO
	}
	end := w.run()
	w.roll()
	<-asked
	end()
	w.open()
	defer w.kill()
	if page, err := w.store.Read(w.channels["c"], 1, 10, 1<<20); err != nil || len(page.Seqs) != 1 {
		t.Errorf("after a restart %d messages are there, %v", len(page.Seqs), err)
	}
}

// A message of which a byte is wrong in the log is not written as if it were whole: it
// is counted, said with both checksums, and the file that held it is kept.
func TestACheckpointKeepsTheLogThatIsDamaged(t *testing.T) {
	w := newWorld(t)
	w.kill()
	var said []string
	w.change = func(o *Options) {
		o.Quarantine = func(generation uint64, reason string) { said = append(said, fmt.Sprint(generation, " ", reason)) }
		o.Retire = func(below uint64) error {
			said = append(said, fmt.Sprint("retired below ", below))
			return w.log.retire(below)
		}
	}
	w.open()
	defer func() { w.kill() }()
	for range 50 {
		w.say("c", []byte("text"))
	}
	if !w.roll() {
		t.Fatal("the store takes no checkpoint")
	}
	harmed := w.log.groups[20].at
	w.log.bytes[1][harmed.Offset+50] ^= 1
	w.written(<-w.store.work, 50, 1)
	if len(said) != 2 || !strings.HasPrefix(said[0], "1 message 21 of channel \"c\"") || !strings.HasPrefix(said[1], "retired") {
		t.Fatalf("the log was told %q", said)
	}
	for _, want := range []string{fmt.Sprintf("written with %08x", harmed.Sum), fmt.Sprint("offset ", harmed.Offset), "log generation 0000000000000001", "has checksum"} {
		if !strings.Contains(said[0], want) {
			t.Errorf("the reason %q does not say %q", said[0], want)
		}
	}
}

// Messages of a channel that is deleted wait for no checkpoint, whether one was
// under way or not.
func TestDeletedMessagesAreNotUnsaved(t *testing.T) {
	w := newWorld(t)
	defer func() { w.kill() }()
	unsaved := func(want int64) {
		t.Helper()
		if n := w.store.Stats().Unsaved.Load(); n != want {
			t.Errorf("%d messages are unsaved, want %d", n, want)
		}
	}
	fill := func(channel string, n int) {
		for range n {
			w.say(channel, []byte("x"))
		}
	}
	fill("a", 10)
	w.drop("a")
	unsaved(0)
	fill("b", 10)
	if !w.roll() { // ten of b are under way
		t.Fatal("the store takes no checkpoint")
	}
	fill("b", 5)
	w.drop("b")
	unsaved(10)
	w.write()
	unsaved(0)
}

// While checkpoints fail the log must not outgrow the budget, however large its
// messages are.
func TestTheBudgetHoldsWhileCheckpointsFail(t *testing.T) {
	w := newWorld(t)
	w.change = func(o *Options) { o.Budget = 100_000 }
	w.kill()
	w.open()
	defer func() { w.kill() }()
	w.store.stats.Behind.Store(true)
	for i := range 4 {
		if err := w.store.Ahead(); err != nil {
			t.Fatalf("refused after %d messages: %v", i, err)
		}
		w.say("c", make([]byte, 25_000))
	}
	if err := w.store.Ahead(); err == nil || !strings.Contains(err.Error(), "store.budget") {
		t.Errorf("with more than the budget in the log: %v", err)
	}
	w.store.stats.Behind.Store(false)
	if err := w.store.Ahead(); err != nil {
		t.Errorf("while all is well: %v", err)
	}
}

// Without metadata, and with a log that goes back to the beginning, everything is
// replayed; the block files are not deleted, in case the log is damaged.
func TestBlocksThatAreNotNeededAreSetAside(t *testing.T) {
	for what, harm := range map[string]func(meta string) error{
		"the directory is gone": os.RemoveAll,
		"CURRENT is rubbish and nothing else is there": func(meta string) error {
			if err := os.RemoveAll(meta); err != nil {
				return err
			}
			if err := os.Mkdir(meta, 0o700); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(meta, currentName), []byte("rubbish"), 0o600)
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			for range 50 {
				w.say("c", []byte("text"))
			}
			w.checkpoint()
			w.kill()
			if err := harm(filepath.Join(w.dir, "meta")); err != nil {
				t.Fatal(err)
			}
			w.open()
			defer func() { w.kill() }()
			page, err := w.store.Read(w.channels["c"], 1, 100, 1<<20)
			if err != nil || len(page.Seqs) != 50 {
				t.Errorf("%d messages are there, %v", len(page.Seqs), err)
			}
			page.Batch.Release()
			if aside, _ := filepath.Glob(filepath.Join(w.dir, "quarantine", "blocks-*", "*")); len(aside) == 0 || !strings.Contains(strings.Join(w.report.Trouble, "\n"), "set aside") {
				t.Errorf("in the quarantine: %q, said: %q", aside, w.report.Trouble)
			}
		})
	}
}

// The metadata could not be opened for a while between two checkpoints. When the next
// one comes they can be opened again: the one before, which they tell of, is not taken
// for the one that is to be made.
func TestTheCheckpointBeforeIsNotTakenForOneThatWaitsForTheMetadata(t *testing.T) {
	w := newWorld(t)
	defer func() { w.kill() }()
	for range 10 {
		w.say("a", []byte("old"))
	}
	w.checkpoint()
	away := filepath.Join(w.dir, "away")
	if err := os.Rename(filepath.Join(w.dir, "meta"), away); err != nil {
		t.Fatal(err)
	}
	w.store.again()
	if w.store.meta != nil {
		t.Fatal("metadata that are away were opened")
	}
	if err := errors.Join(os.RemoveAll(filepath.Join(w.dir, "meta")), os.Rename(away, filepath.Join(w.dir, "meta"))); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		w.say("b", []byte("new"))
	}
	if !w.roll() {
		t.Fatal("the store takes no checkpoint")
	}
	w.store.o.retry = time.Microsecond
	if !w.store.persist(<-w.store.work) {
		t.Fatal("no checkpoint was made")
	}
	w.store.busy.Store(false)
	if w.store.newest.number != 2 {
		t.Errorf("checkpoint %d is the newest, want 2", w.store.newest.number)
	}
	page, err := w.store.Read(w.channels["b"], 1, 10, 1<<20)
	defer page.Batch.Release()
	if err != nil || len(page.Seqs) != 5 || page.Lost != 0 {
		t.Errorf("%d of 5 messages are there, %d lost, %v", len(page.Seqs), page.Lost, err)
	}
}
