package broker

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gatepost/diskio"
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
	held  []atomic.Int64 // bytes of pages that a loop has not given back
	room  chan struct{}  // held may have become less
	done  chan struct{}
	stop  sync.Once

	pulse  queue.Pulse
	failed atomic.Pointer[failure] // the last page that could not be read; nil: none
	saidAt time.Time               // when it was last said that the disk does not answer; of Run's goroutine
}

// failure is a page that could not be read now.
type failure struct {
	at  time.Time
	err error
}

// failsFor is how long a failure counts. Who waits for a page asks again four times
// a second.
const failsFor = 2 * time.Second

// Trouble returns why pages cannot be read, or nil. They are asked for again and
// delivered when they can. Any goroutine may call it.
func (r *Reader) Trouble() error {
	if f := r.failed.Load(); f != nil && time.Since(f.at) < failsFor {
		return f.err
	}
	return nil
}

// saidEvery is how often is said that pages cannot be read: who asks for them asks
// again and again.
const saidEvery = 10 * time.Second

// heldBytes is how much a loop may hold of pages before it gets another: many
// who come back at a time must not have all that they missed in memory.
const heldBytes = 2 << 20

// NewReader returns a reader over a store for a number of loops.
func NewReader(s Store, loops int, log *slog.Logger) *Reader {
	return &Reader{store: s, log: log, inbox: queue.New(0, 0, func(*Fetch) int { return 0 }),
		held: make([]atomic.Int64, loops), room: make(chan struct{}, 1), done: make(chan struct{})}
}

// Fetch queues a request. It never blocks and refuses only after Close. The
// asker bounds the number of its requests.
func (r *Reader) Fetch(f Fetch) error { return r.inbox.Push(f) }

// Return says that a loop has released a page of so many bytes. Any goroutine
// may call it.
func (r *Reader) Return(loop uint16, bytes int) {
	r.held[loop].Add(-int64(bytes))
	select {
	case r.room <- struct{}{}:
	default:
	}
}

// Pulse says how Run is: it rests while it waits for requests and for loops to give
// pages back, and is with the disk while it reads one.
func (r *Reader) Pulse() *queue.Pulse { return &r.pulse }

// Close lets Run return when the requests so far are answered, whether pages
// are returned or not.
func (r *Reader) Close() { r.stop.Do(func() { close(r.done) }); r.inbox.Close() }

// Run answers requests until Close. Every request gets exactly one answer. A page
// that ends early because of a disk error that may pass says so: nothing of it is
// lost, and who asked asks again.
func (r *Reader) Run(out []Outbox) {
	var work []Fetch
	one := make([]Delivery, 1)
	for {
		var ok bool
		r.pulse.Say(queue.Rests)
		if work, ok = r.inbox.PopBatch(work[:0], 64, 0); !ok {
			return
		}
		for _, f := range work {
			r.pulse.Say(queue.Rests)
			r.wait(f.Loop)
			r.pulse.Say(queue.Disk)
			page, err := r.store.Read(f.Channel, f.From, int(f.Limit), pageBytes)
			r.pulse.Say(queue.Works)
			partial := diskio.Classify(err) == diskio.Passing
			r.complain(&f, page, err, partial)
			r.held[f.Loop].Add(int64(page.Batch.Size()))
			one[0] = Delivery{Kind: Fetched, Conn: f.Conn, Channel: f.Channel, Seq: f.From, Retry: f.Retry, Partial: partial, Page: page}
			out[f.Loop].Post(one)
		}
	}
}

// complain logs why a page is not whole.
func (r *Reader) complain(f *Fetch, page *message.Page, err error, partial bool) {
	now := time.Now()
	if partial {
		r.failed.Store(&failure{now, err})
	}
	switch {
	case err == nil:
	case !partial:
		r.log.Error("messages lost", "channel", f.Channel.ID, "from", f.From, "lost", page.Lost, "err", err)
	case now.Sub(r.saidAt) >= saidEvery:
		r.saidAt = now
		r.log.Warn("cannot read messages now; they are read again and delivered later", "channel", f.Channel.ID, "from", page.Next, "err", err)
	}
}

// wait returns when a loop may get another page.
func (r *Reader) wait(loop uint16) {
	for r.held[loop].Load() >= heldBytes {
		select {
		case <-r.room:
		case <-r.done:
			return
		}
	}
}
