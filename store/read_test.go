package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"gatepost/diskio"
	"gatepost/message"
)

// failing answers reads of the log that touch an offset with an error.
func (w *world) failing(at int64, err error) {
	read := w.log.read
	w.store.o.ReadLog = func(p []byte, generation uint64, offset int64) error {
		if offset <= at && at < offset+int64(len(p)) {
			return fmt.Errorf("cannot read the log: %w", err)
		}
		return read(p, generation, offset)
	}
}

// What cannot be read now may be readable later: the page ends in front of it, counts
// nothing as lost, and says why.
func TestAPageEndsWhereAReadFailsThatMayPass(t *testing.T) {
	w := newWorld(t)
	defer func() { w.kill() }()
	for i := range 60 {
		w.say("c", fmt.Append(nil, "message ", i+1))
		if i == 29 {
			w.checkpoint()
		}
	}
	ch := w.channels["c"]
	read := func(from, next uint64, want error) {
		t.Helper()
		page, err := w.store.Read(ch, from, 100, 1<<20)
		defer page.Batch.Release()
		if page.Next != next || page.Lost != 0 || len(page.Seqs) != int(next-from) || !errors.Is(err, want) {
			t.Errorf("from %d: %d messages, next %d, %d lost, %v; want next %d, %v", from, len(page.Seqs), page.Next, page.Lost, err, next, want)
		}
		if want != nil && diskio.Classify(err) != diskio.Passing {
			t.Errorf("%v is called %v", err, diskio.Classify(err))
		}
		var r message.Record
		for i, seq := range page.Seqs {
			if err := page.Batch.Record(i, &r); err != nil || seq != from+uint64(i) || string(r.Payload) != fmt.Sprint("message ", seq) {
				t.Fatalf("sequence %d is %q, %v", seq, r.Payload, err)
			}
		}
	}
	for _, errno := range []error{syscall.EIO, syscall.EMFILE, syscall.ENOMEM} {
		w.failing(w.log.groups[40].at.Offset, errno)
		read(1, 41, errno)  // with what lies in front of it
		read(41, 41, errno) // and again
		w.store.o.ReadLog = w.log.read
		read(41, 61, nil)
	}
	// The same of a block: a loop of links cannot be opened, and it may pass.
	path := w.only("blocks/*.blk")
	if err := errors.Join(os.Rename(path, path+".away"), os.Symlink(path, path)); err != nil {
		t.Fatal(err)
	}
	old := w.store.blocks
	w.store.blocks.mu.Lock()
	for len(old.open) > 0 {
		old.drop(0)
	}
	w.store.blocks.mu.Unlock()
	read(1, 1, syscall.ELOOP)
	if err := errors.Join(os.Remove(path), os.Rename(path+".away", path)); err != nil {
		t.Fatal(err)
	}
	read(1, 61, nil)
	if n := w.store.Stats().BadBlocks.Load(); n != 0 {
		t.Errorf("%d blocks are called bad", n)
	}
}

// A message in the log of which a byte is wrong, or that is gone, is lost; its
// neighbours are not, and both checksums are said.
func TestOneDamagedMessageOfTheLogIsLost(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(w *world, at int64)
		says string
	}{
		"flipped payload": {func(w *world, at int64) { w.log.bytes[1][at+60] ^= 4 }, "was written with"},
		"flipped length":  {func(w *world, at int64) { w.log.bytes[1][at] ^= 4 }, "was written with"},
		"another message": {func(w *world, at int64) { copy(w.log.bytes[1][at:], w.log.bytes[1][:w.log.groups[0].at.Size]) }, "was written with"},
		"gone":            {func(w *world, at int64) { w.failing(at, fs.ErrNotExist) }, fs.ErrNotExist.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			defer func() { w.kill() }()
			for range 20 {
				w.say("c", []byte("all of these have one size"))
			}
			c.harm(w, w.log.groups[9].at.Offset)
			page, err := w.store.Read(w.channels["c"], 1, 100, 1<<20)
			defer page.Batch.Release()
			if page.Next != 21 || page.Lost != 1 || len(page.Seqs) != 19 || page.Seqs[9] != 11 {
				t.Errorf("%d messages, %d lost, next %d; want 19, 1, 21", len(page.Seqs), page.Lost, page.Next)
			}
			if err == nil || !strings.Contains(err.Error(), "message") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the reason is %v, want %q in it", err, c.says)
			}
		})
	}
}

// A file of the log that is used again holds other messages, maybe of another channel,
// where a reader looked for those of a checkpoint ago. Nobody gets them.
func TestALogFileThatIsUsedAgainShowsNobodyOthersMessages(t *testing.T) {
	w := newWorld(t)
	defer func() { w.kill() }()
	for range 20 {
		w.say("mine", []byte("for me"))
	}
	first := w.store.o.ReadLog
	used := false
	w.store.o.ReadLog = func(p []byte, generation uint64, offset int64) error {
		if !used {
			used = true // between the look and the read
			w.store.o.ReadLog = first
			w.checkpoint()
			other := newWorld(t)
			defer other.kill()
			for range 20 {
				other.say("your", []byte("secret"))
			}
			copy(p, other.log.bytes[1][offset:])
			return nil
		}
		return first(p, generation, offset)
	}
	page, err := w.store.Read(w.channels["mine"], 1, 100, 1<<20)
	defer page.Batch.Release()
	if err != nil || page.Lost != 0 || len(page.Seqs) != 20 {
		t.Errorf("%d messages, %d lost, %v; want all 20", len(page.Seqs), page.Lost, err)
	}
	var r message.Record
	for i := range page.Seqs {
		if err := page.Batch.Record(i, &r); err != nil || string(r.ChannelID) != "mine" || string(r.Payload) != "for me" {
			t.Fatalf("sequence %d is %q of channel %q, %v", page.Seqs[i], r.Payload, r.ChannelID, err)
		}
	}
}
