package broker

import (
	"log/slog"

	"gatepost/message"
	"gatepost/queue"
)

// Fetch asks for messages of a channel to be read back for a connection:
// retry, catch-up and offline push are all this one request.
type Fetch struct {
	Loop    uint16
	Retry   bool // copied into the answer
	Limit   uint16
	Conn    uint64
	From    uint64 // sequence
	Channel *message.Channel
}

// pageBytes bounds one page: a few socket buffers, so that a slow receiver
// pins little.
const pageBytes = 128 << 10

// Reader is the fetch reader: one goroutine that reads pages and posts them to
// the loops that asked.
type Reader struct {
	store Store
	log   *slog.Logger
	inbox *queue.Queue[Fetch]
}

// NewReader returns a reader over a store.
func NewReader(s Store, log *slog.Logger) *Reader {
	return &Reader{store: s, log: log, inbox: queue.New(0, 0, func(*Fetch) int { return 0 })}
}

// Fetch queues a request. It never blocks and refuses only after Close. The
// asker bounds the number of its requests.
func (r *Reader) Fetch(f Fetch) error { return r.inbox.Push(f) }

// Close lets Run return when the requests so far are answered.
func (r *Reader) Close() { r.inbox.Close() }

// Run answers requests until Close. Every request gets exactly one answer.
func (r *Reader) Run(out []Outbox) {
	var work []Fetch
	one := make([]Delivery, 1)
	for {
		var ok bool
		if work, ok = r.inbox.PopBatch(work[:0], 64, 0); !ok {
			return
		}
		for _, f := range work {
			page, err := r.store.Read(f.Channel, f.From, int(f.Limit), pageBytes)
			if err != nil {
				r.log.Error("messages lost", "channel", f.Channel.ID, "from", f.From, "lost", page.Lost, "err", err)
			}
			one[0] = Delivery{Kind: Fetched, Conn: f.Conn, Channel: f.Channel, Seq: f.From, Retry: f.Retry, Page: page}
			out[f.Loop].Post(one)
		}
	}
}
