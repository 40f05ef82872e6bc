package broker

import (
	"log/slog"
	"testing"

	"gatepost/message"
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
