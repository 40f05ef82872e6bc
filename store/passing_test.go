package store

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// What the log does not give back for want of a descriptor is not lost: the
// checkpoint fails and is made later.
func TestAnErrorThatPassesLosesNothing(t *testing.T) {
	w := newWorld(t)
	defer func() { w.kill() }()
	for range 50 {
		w.say("c", []byte("text"))
	}
	if !w.roll() {
		t.Fatal("the store takes no checkpoint")
	}
	f := <-w.store.work
	read := w.store.o.ReadLog
	w.store.o.ReadLog = func([]byte, uint64, int64) error { return syscall.EMFILE }
	if err := w.store.write(f); err == nil || !strings.Contains(err.Error(), "cannot read messages of channel \"c\"") {
		t.Fatalf("a checkpoint of which nothing could be read: %v", err)
	}
	w.store.o.ReadLog = read
	if _, err := w.store.reopen(); err != nil {
		t.Fatal(err)
	}
	if err := w.store.write(f); err != nil {
		t.Fatal(err)
	}
	w.store.finish(f)
	w.store.busy.Store(false)
	page, err := w.store.Read(w.channels["c"], 1, 100, 1<<20)
	if err != nil || len(page.Seqs) != 50 || page.Lost > 0 {
		t.Errorf("%d messages are there, %d lost, %v", len(page.Seqs), page.Lost, err)
	}
	page.Batch.Release()
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
