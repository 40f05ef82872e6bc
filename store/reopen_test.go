package store

import (
	"sync"
	"testing"
)

// A store that opens its files again after an error loses nothing for who reads
// meanwhile.
func TestReadersDoNotNoticeAReopen(t *testing.T) {
	w := filled(t)
	w.open()
	defer w.kill()
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for _, ch := range w.channels {
		_, first, last := w.store.Find(ch.Type, []byte(ch.ID))
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for next := first; next <= last; {
					page, err := w.store.Read(ch, next, 100, 50_000)
					if err != nil || page.Lost > 0 || page.Next <= next {
						t.Errorf("channel %s from %d: %d lost, next %d, %v", ch.ID, next, page.Lost, page.Next, err)
						page.Batch.Release()
						return
					}
					next = page.Next
					page.Batch.Release()
				}
			}
		})
	}
	for range 30 {
		if landed, err := w.store.reopen(); err != nil || landed {
			t.Errorf("reopened: %t, %v", landed, err)
			break
		}
	}
	close(stop)
	readers.Wait()
}
