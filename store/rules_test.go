package store

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// The budget is of everything: blocks, metadata, the log, and what the checkpoint to
// come takes.
func TestTheBudgetIsOfEverything(t *testing.T) {
	w := newWorld(t)
	w.kill()
	const log, reserve = 123_457, 7_000_003
	w.change = func(o *Options) {
		o.LogSize = func() int64 { return log }
		o.Reserve = reserve
	}
	w.open()
	defer func() { w.kill() }()
	for range 100 {
		w.say("c", make([]byte, 500))
	}
	w.checkpoint()
	var blocks int64
	err := filepath.WalkDir(filepath.Join(w.dir, "blocks"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			blocks += info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	meta := w.store.Stats().MetaBytes.Load()
	if blocks == 0 || meta == 0 {
		t.Fatalf("%d bytes of blocks, %d of metadata", blocks, meta)
	}
	if got, want := w.store.size(), blocks+meta+log+reserve; got != want {
		t.Errorf("the store counts %d bytes, want %d", got, want)
	}
}

// What an unfinished checkpoint left in the block files is cut off by the start: no
// later one may take it for its own.
func TestAStartCutsOffWhatIsBehindTheCheckpoint(t *testing.T) {
	w := newWorld(t)
	for range 100 {
		w.say("c", make([]byte, 500))
	}
	w.checkpoint()
	w.kill()
	path := w.only("blocks/*.blk")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(append([]byte(nil), whole...), whole...), 0o600); err != nil {
		t.Fatal(err)
	}
	w.open()
	defer func() { w.kill() }()
	if info, err := os.Stat(path); err != nil || info.Size() != int64(len(whole)) {
		t.Errorf("the file has %d bytes, %v, want %d", info.Size(), err, len(whole))
	}
}

// Messages that a checkpoint finds gone from the log are counted.
func TestMessagesThatTheLogLostAreCounted(t *testing.T) {
	w := newWorld(t)
	defer func() { w.kill() }()
	for range 10 {
		w.say("c", []byte("text"))
	}
	if !w.roll() {
		t.Fatal("the store takes no checkpoint")
	}
	f := <-w.store.work
	read, bad := w.store.o.ReadLog, int64(-1)
	w.store.o.ReadLog = func(p []byte, generation uint64, offset int64) error {
		end := offset + int64(len(p))
		if bad < 0 {
			bad = (offset + end) / 2 // in the middle of all
		}
		if offset <= bad && bad < end {
			return fs.ErrNotExist
		}
		return read(p, generation, offset)
	}
	if err := w.store.write(f); err != nil {
		t.Fatal(err)
	}
	w.store.finish(f)
	w.store.busy.Store(false)
	if n := w.store.Stats().Lost.Load(); n != 1 {
		t.Errorf("%d messages are counted as lost, want 1", n)
	}
	page, _ := w.store.Read(w.channels["c"], 1, 100, 1<<20)
	if len(page.Seqs) != 9 || page.Lost != 1 {
		t.Errorf("%d messages are there, %d lost", len(page.Seqs), page.Lost)
	}
	page.Batch.Release()
}

// What was in a block file that is missing is lost, not dropped by retention: readers
// are told.
func TestAMissingOldestFileIsALoss(t *testing.T) {
	w := newWorld(t)
	w.kill()
	w.change = func(o *Options) { o.BlockFile = 1 << 10 } // each checkpoint has files of its own
	w.open()
	for range 3 {
		for range 20 {
			w.say("c", make([]byte, 300))
		}
		w.checkpoint()
	}
	w.kill()
	paths, err := filepath.Glob(filepath.Join(w.dir, "blocks", "*.blk"))
	if err != nil || len(paths) < 3 {
		t.Fatalf("block files %v, %v", paths, err)
	}
	if err := os.Remove(paths[0]); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the next start says it again
		w.open()
		page, err := w.store.Read(w.channels["c"], 1, 100, 1<<20)
		if page.First != 1 || page.Lost == 0 || len(page.Seqs)+page.Lost != 60 || err == nil {
			t.Errorf("the channel begins with %d, %d messages are there, %d lost, %v", page.First, len(page.Seqs), page.Lost, err)
		}
		page.Batch.Release()
		w.kill()
	}
}
