package broker

import (
	"errors"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"gatepost/diskio"
	"gatepost/message"
	"gatepost/queue"
)

// heavy gives pages of the largest size.
type heavy struct{ Store }

func (heavy) Read(*message.Channel, uint64, int, int) (*message.Page, error) {
	b := message.NewBatch(false)
	b.Add(&message.Record{Kind: message.KindMessage, Payload: make([]byte, pageBytes)}, message.Origin{})
	return &message.Page{Batch: b, Seqs: []uint64{1}}, nil
}

// shelfOfPages is a loop that takes pages and does not look at them.
type shelfOfPages chan *message.Page

func (s shelfOfPages) Post(ds []Delivery) {
	for i := range ds {
		s <- ds[i].Page
	}
}

// A loop that holds many pages gets no more until it gives some back, however
// many it has asked for. Close does not wait for that.
func TestPagesAreBounded(t *testing.T) {
	r := NewReader(heavy{}, 2, slog.New(slog.DiscardHandler))
	const asked = 200
	pages := make(shelfOfPages, asked)
	for range asked {
		if err := r.Fetch(Fetch{Loop: 1}); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan struct{})
	go func() { r.Run([]Outbox{nil, pages}); close(ended) }()
	held, most, size := 0, 0, 0
	take := func(p *message.Page) {
		size = p.Batch.Size()
		held += size
		most = max(most, held)
	}
	for got := 0; got < asked/2; got++ {
		select {
		case p := <-pages:
			take(p)
		default:
			if held < heldBytes {
				take(<-pages)
				continue
			}
			held -= size
			r.Return(1, size)
			got--
		}
	}
	if most > heldBytes+size {
		t.Errorf("%d bytes were held, %d are enough", most, heldBytes)
	}
	r.Close()
	<-ended
	if r.Fetch(Fetch{}) == nil {
		t.Error("a request after Close is taken")
	}
}

// slowShelf is a store whose disk answers when the test lets it.
type slowShelf struct {
	Store
	asked, answer chan struct{}
}

func (s slowShelf) Read(*message.Channel, uint64, int, int) (*message.Page, error) {
	s.asked <- struct{}{}
	<-s.answer
	return &message.Page{Batch: message.NewBatch(false)}, nil
}

// A reader that waits for requests rests, also for a watchdog; one that the disk does
// not answer can be seen.
func TestReaderSaysWhatItWaitsFor(t *testing.T) {
	s := slowShelf{asked: make(chan struct{}), answer: make(chan struct{})}
	r := NewReader(s, 1, slog.New(slog.DiscardHandler))
	pages, ended := make(shelfOfPages, 1), make(chan struct{})
	go func() { r.Run([]Outbox{pages}); close(ended) }()
	says := func(want queue.Doing) (count uint64) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			count, got := r.Pulse().Look()
			if got == want && count > 0 {
				return count
			}
			if time.Now().After(deadline) {
				t.Fatalf("it says %d, want %d", got, want)
			}
		}
	}
	before := says(queue.Rests)
	if err := r.Fetch(Fetch{}); err != nil {
		t.Fatal(err)
	}
	<-s.asked
	if says(queue.Disk) <= before {
		t.Error("it has said nothing since")
	}
	s.answer <- struct{}{}
	(<-pages).Batch.Release()
	says(queue.Rests)
	r.Close()
	<-ended
}

// brokenShelf is a store whose disk gives an error.
type brokenShelf struct {
	Store
	err error
}

func (s *brokenShelf) Read(*message.Channel, uint64, int, int) (*message.Page, error) {
	return &message.Page{Batch: message.NewBatch(false)}, s.err
}

// A reader whose disk does not answer says so, and damage is no such trouble.
func TestReaderSaysWhatItCannotRead(t *testing.T) {
	for _, c := range []struct {
		err     error
		trouble bool
	}{{nil, false}, {diskio.ErrDamaged, false}, {syscall.EIO, true}} {
		r := NewReader(&brokenShelf{err: c.err}, 1, slog.New(slog.DiscardHandler))
		pages, ended := make(shelfOfPages, 1), make(chan struct{})
		go func() { r.Run([]Outbox{pages}); close(ended) }()
		if err := r.Fetch(Fetch{Channel: &message.Channel{}}); err != nil {
			t.Fatal(err)
		}
		(<-pages).Batch.Release()
		if err := r.Trouble(); (err != nil) != c.trouble || c.trouble && !errors.Is(err, c.err) {
			t.Errorf("with %v it says %v", c.err, err)
		}
		r.Close()
		<-ended
	}
}
