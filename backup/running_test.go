package backup

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"

	"gatepost/message"
	"gatepost/store"
	"gatepost/wal"
)

// slowReader is a reader of the archive during whose reads the log goes on.
type slowReader struct {
	bytes.Buffer
	between func()
}

func (s *slowReader) Write(p []byte) (int, error) {
	s.between()
	return s.Buffer.Write(p)
}

// A backup that is read more slowly than the log grows has everything that was
// acknowledged before it began, whole and without a gap, not even a torn end: files
// are copied up to where they were durable, whichever engine writes them, also into
// a file that is used again.
func TestBackupOfALogThatGrowsMeanwhile(t *testing.T) {
	for _, recycle := range []bool{false, true} {
		t.Run(fmt.Sprintf("recycled %t", recycle), func(t *testing.T) {
			dir := t.TempDir()
			var l *wal.Log
			s, _, _, err := store.Open(store.Options{Dir: dir, NoSync: true,
				ReadLog: func(p []byte, generation uint64, offset int64) error { return l.ReadAt(p, generation, offset) },
				Retire:  func(uint64) error { return nil }})
			if err != nil {
				t.Fatal(err)
			}
			go s.Run()
			defer s.Close()
			done := make(chan message.Committed, 1)
			open := func() *wal.Committer {
				l, _, err = wal.Open(wal.Options{Dir: dir, NoSync: true, Recycle: recycle, RollSize: 256 << 10},
					func(c message.Committed) error { c.Batch.Release(); return nil })
				if err != nil {
					t.Fatal(err)
				}
				c := wal.NewCommitter(l, wal.CommitterOptions{}, func(m message.Committed) error { done <- m; return nil })
				go c.Run()
				return c
			}
			groups := int64(0)
			c := open()
			commit := func(n int) {
				for range n {
					b := message.NewBatch(false)
					for i := range 40 {
						b.Add(&message.Record{Kind: message.KindMessage, MessageID: int64(i + 1), ChannelType: 1, ChannelID: []byte("a@b"),
							FromUID: []byte("a"), Payload: bytes.Repeat([]byte{'x'}, 200)}, message.Origin{})
					}
					if err := c.Propose(b); err != nil {
						t.Fatal(err)
					}
					m := <-done
					if m.Err != nil {
						t.Fatal(m.Err)
					}
					m.Batch.Release()
					groups++
					if keep := m.Generation; keep > 2 { // files have their full size before they are used again
						if err := l.Retire(keep - 1); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			commit(100)
			for stop := 1; ; stop++ { // the reader stands still once, at each place of the archive
				acknowledged, w := groups, &slowReader{}
				w.between = func() {
					if stop--; stop == 0 {
						commit(15)
					}
				}
				at := stop
				if err := Write(w, s, l); err != nil {
					t.Fatal(err)
				}
				if stop > 0 {
					t.Logf("%d places", at-stop)
					break
				}
				err := Restore(bytes.NewReader(w.Bytes()), filepath.Join(t.TempDir(), "restored"), func(dir string) error {
					oldest, err := wal.Oldest(dir)
					if err != nil {
						return err
					}
					r, err := wal.Check(dir, oldest, 0)
					if err != nil {
						return err
					}
					if len(r.Gaps) > 0 || int64(r.LastIndex) < acknowledged {
						t.Errorf("stopped at write %d: %d groups were acknowledged before the backup began, it has: %v", at, acknowledged, r)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
				stop = at
				commit(3) // so that it ends elsewhere in its file
			}
			c.Close()
			l.Close()
		})
	}
}
