package wal

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"gatepost/message"
	"gatepost/metrics"
	"gatepost/queue"
)

// probeEvery is how often a full disk is looked at again.
const probeEvery = time.Second

// CommitterOptions bound what waits and what is written together.
type CommitterOptions struct {
	QueueItems int // batches waiting at most
	QueueBytes int // bytes waiting at most
	GroupItems int // batches in a group at most; 0: no such bound
	// Linger is how long a group of few batches waits for more, before it is
	// written: lone senders then cost fewer writes of the flash. 0: not at all.
	Linger     time.Duration
	GroupBytes int // bytes in a group at most, unless one batch alone has more
}

// Committer makes batches durable, many with one write and one sync.
type Committer struct {
	log   *Log
	o     CommitterOptions
	sink  func(message.Committed) error
	inbox *queue.Queue[*message.Batch] // nil in it: look at the disk again
	done  chan struct{}                // closed when Run returns
	state atomic.Pointer[trouble]      // nil: none
	stats counters
	pulse queue.Pulse

	// Run's goroutine owns these.
	group []*message.Batch
	frame []byte
	probe *time.Timer
	every time.Duration // probeEvery, but for tests
}

// trouble is why batches are refused.
type trouble struct {
	kind error // ErrDiskFull, ErrBehind or ErrPoisoned
	err  error // wraps kind and says why
}

// counters are written by Run and read by anybody.
type counters struct {
	groups, records, bytes, volatile, refused metrics.Counter
	groupRecords, syncTime                    metrics.Histogram
}

// Stats is what a committer has done since it was made. The histograms are the
// committer's own and go on counting.
type Stats struct {
	Groups   int64 // frames written and synced
	Syncs    int64 // of files, those of new generations included
	Records  int64
	Bytes    int64 // of records
	Volatile int64 // batches that passed through unwritten
	Refused  int64 // batches that the sink got with an error
	State    string

	GroupRecords *metrics.Histogram // records per group
	SyncTime     *metrics.Histogram // nanoseconds
}

// NewCommitter returns a committer over l. Run calls sink once for each batch,
// in the order of Propose, when the batch is durable or refused. The sink takes
// over the reference; it may block, and then nothing is committed meanwhile. If
// it fails (it is closed) the batch stays with the committer, which ends.
func NewCommitter(l *Log, o CommitterOptions, sink func(message.Committed) error) *Committer {
	if o.GroupBytes <= 0 || o.GroupBytes > maxBody {
		o.GroupBytes = maxBody
	}
	c := &Committer{log: l, o: o, sink: sink, every: probeEvery, done: make(chan struct{})}
	c.inbox = queue.New(o.QueueItems, o.QueueBytes, func(b **message.Batch) int {
		if *b == nil {
			return 0
		}
		return max((*b).Size(), 1)
	})
	c.probe = time.AfterFunc(time.Hour, func() { c.inbox.Push(nil) }) // closed: then nobody waits for it
	c.probe.Stop()
	l.syncs = func(took time.Duration) { c.stats.syncTime.Observe(int64(took)) }
	if l.engine == nil {
		c.state.Store(&trouble{passing(l.waits), fmt.Errorf("%w, since the start", l.waits)})
	}
	return c
}

// Waiting is what is to be made durable and not yet begun.
func (c *Committer) Waiting() queue.Fill { return c.inbox.Fill() }

// Propose hands b over to be made durable. It never blocks. On an error, which
// is queue.ErrFull, queue.ErrClosed, ErrDiskFull, ErrBehind or ErrPoisoned or says that
// the batch or a record in it is too large, b stays with the caller. Volatile batches pass while
// the disk is full.
func (c *Committer) Propose(b *message.Batch) error {
	if t := c.state.Load(); t != nil && (t.kind == ErrPoisoned || !b.Volatile()) {
		return t.kind
	}
	if b.Size() > maxBody {
		return fmt.Errorf("cannot commit a batch of %d bytes: the limit is %d", b.Size(), maxBody)
	}
	// What is committed must be understood again at the next start.
	if n := b.Largest(); n > message.MaxRecord {
		return fmt.Errorf("cannot commit a record of %d bytes: the limit is %d", n, message.MaxRecord)
	}
	err := c.inbox.Push(b)
	if err == queue.ErrClosed && c.state.Load() != nil {
		return ErrPoisoned
	}
	return err
}

// fewBatches is how many batches make a group that does not wait for more: a
// linger is for few senders. Measured on 2026-11-28, see docs/benchmarks.md,
// "Sizes and waiting".
const fewBatches = 8

// Run commits until Close, or until the log or the sink fails, and then returns
// why. When it returns, every batch that Propose took has gone to the sink, if
// that has not failed.
func (c *Committer) Run() error {
	defer close(c.done)
	defer c.probe.Stop()
	if c.state.Load() != nil {
		c.probe.Reset(c.every)
	}
	var failed error // of the log
	defer c.pulse.Say(queue.Rests)
	for {
		c.pulse.Say(queue.Rests)
		batches, more := c.inbox.PopBatch(c.group[:0], c.o.GroupItems, c.o.GroupBytes)
		if !more {
			return failed
		}
		c.pulse.Say(queue.Works)
		if c.o.Linger > 0 && len(batches) < fewBatches {
			time.Sleep(c.o.Linger)
			batches = c.inbox.PopMore(batches, c.o.GroupItems, c.o.GroupBytes)
		}
		c.group = batches
		if err := c.commit(batches); err != nil {
			c.release(batches)
			return fmt.Errorf("cannot hand over what was committed: %w", err)
		}
		clear(batches)
		if t := c.state.Load(); failed == nil && t != nil && t.kind == ErrPoisoned {
			failed = t.err
			c.inbox.Close()
		}
	}
}

// Pulse says how Run is: it rests while it waits for batches and for the sink,
// and is with the disk from the beginning of a write to the end of its sync.
func (c *Committer) Pulse() *queue.Pulse { return &c.pulse }

// Close takes in nothing more and waits until everything taken before is
// durable, or refused, and Run has returned. Run must have been started, or be
// about to.
func (c *Committer) Close() {
	c.inbox.Close()
	<-c.done
}

// Stats returns what was counted up to now. Any goroutine may call it.
func (c *Committer) Stats() Stats {
	s := Stats{
		Groups: c.stats.groups.Load(), Records: c.stats.records.Load(), Bytes: c.stats.bytes.Load(),
		Volatile: c.stats.volatile.Load(), Refused: c.stats.refused.Load(),
		State:        "ok",
		GroupRecords: &c.stats.groupRecords, SyncTime: &c.stats.syncTime,
	}
	s.Syncs = int64(c.stats.syncTime.Snapshot().Count)
	if t := c.state.Load(); t != nil {
		s.State = t.err.Error()
	}
	return s
}

// Full reports whether messages are refused because the disk is full. Any goroutine
// may call it.
func (c *Committer) Full() bool {
	t := c.state.Load()
	return t != nil && t.kind == ErrDiskFull
}

// commit writes one group and hands on its batches. It clears from batches
// those that the sink has taken. The error is the sink's.
func (c *Committer) commit(batches []*message.Batch) error {
	if cap(c.frame) < headerSize {
		c.frame = make([]byte, headerSize, 64<<10)
	}
	frame, records := c.frame[:headerSize], 0
	for _, b := range batches {
		if b == nil {
			c.pulse.Say(queue.Disk)
			c.lookAgain()
		} else if !b.Volatile() {
			frame = append(frame, b.Bytes()...)
			records += b.Len()
		}
	}
	c.frame = frame
	var index uint64
	var at int64
	var refusal error
	if t := c.state.Load(); t != nil {
		refusal = t.err
	} else if records > 0 {
		c.pulse.Say(queue.Disk)
		if index, at, refusal = c.log.append(frame, records); refusal == nil {
			c.stats.groups.Inc()
			c.stats.records.Add(int64(records))
			c.stats.bytes.Add(int64(len(frame) - headerSize))
			c.stats.groupRecords.Observe(int64(records))
		} else if !errors.Is(refusal, errTooLarge) { // of which nothing was written
			var left *uncut
			if unknown := errors.As(refusal, &left); unknown { // of this group, not of those that follow
				refusal = fmt.Errorf("%w: %w", message.ErrUnknown, c.fail(left.error))
			} else {
				refusal = c.fail(refusal)
			}
		}
	}
	c.pulse.Say(queue.Rests) // the sink may wait, and says how it is
	for i, b := range batches {
		if b == nil {
			continue
		}
		out := message.Committed{Batch: b}
		switch {
		case b.Volatile() || b.Size() == 0:
			c.stats.volatile.Inc()
		case refusal != nil:
			out.Err = refusal
			c.stats.refused.Inc()
		default:
			out.Index, out.Term, out.Generation, out.Offset = index, term, c.log.at.generation, at
			at += int64(b.Size())
		}
		if err := c.sink(out); err != nil {
			return err
		}
		batches[i] = nil
	}
	return nil
}

// fail takes note of an error of the log and returns it for the sink.
func (c *Committer) fail(err error) error {
	t := &trouble{passing(err), err}
	if t.kind != nil {
		c.probe.Reset(c.every)
		c.log.logger.Warn(t.kind.Error()+", messages are refused", "err", err)
	} else {
		t = &trouble{ErrPoisoned, fmt.Errorf("%w: %w", ErrPoisoned, err)}
		c.log.logger.Error("log has failed", "err", err)
	}
	c.state.Store(t)
	return t.err
}

// lookAgain is called some time after the disk was found full. Messages are
// taken again when a quarter more than the headroom is free, so that senders are
// not refused and let in by turns.
func (c *Committer) lookAgain() {
	t := c.state.Load()
	if t == nil || t.kind == ErrPoisoned {
		return
	}
	switch err := c.log.ready(max(int64(min(c.o.GroupBytes, 1<<20)), c.log.headroom/4)); {
	case err == nil:
		c.state.Store(nil)
		c.log.logger.Info("messages are taken again, that is over: " + t.kind.Error())
	case passing(err) != nil:
		c.state.Store(&trouble{passing(err), err})
		c.probe.Reset(c.every)
	default:
		c.fail(err)
	}
}

// release gives up everything that the sink cannot take any more.
func (c *Committer) release(batches []*message.Batch) {
	c.inbox.Close()
	for more := true; more; batches, more = c.inbox.PopBatch(c.group[:0], 0, 0) {
		for _, b := range batches {
			if b != nil {
				b.Release()
			}
		}
	}
}
