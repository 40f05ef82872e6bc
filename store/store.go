package store

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"gatepost/message"
)

// Options say where a store is and how it grows.
type Options struct {
	Dir string // data directory; the store is in its subdirectories blocks and meta
	// NoSync leaves out every sync, for tests that show that their rig sees
	// the loss.
	NoSync bool
	// RetireAtOnce gives up the log as soon as one checkpoint holds what is in
	// it, instead of one checkpoint later, for tests that show that their rig
	// sees what damage to that checkpoint costs then.
	RetireAtOnce bool
	Logger       *slog.Logger // nil: silent

	// Oldest is the oldest generation that the log has, 0: it has none. It
	// decides whether what damage took from the metadata can be replayed.
	Oldest uint64
	// ReadLog reads len(p) bytes of a log generation; any goroutine calls it.
	// It fails with fs.ErrNotExist when the generation was retired.
	ReadLog func(p []byte, generation uint64, offset int64) error
	// Keep bounds what is kept of the channels of a type that have no rule of
	// their own. Budget bounds what
	// store and log take on the disk together, bytes, 0: nothing does; the
	// oldest block files go first. Reserve is what is left free inside it for
	// the log and the checkpoint to come, LogSize what the log takes.
	Rules
	Reserve int64
	LogSize func() int64
	// MaxUnsaved is how many messages may be in the log only while checkpoints
	// fail: each takes 24 bytes of memory. 0: no bound.
	MaxUnsaved int64

	segment  int64                         // size of the metadata's data file, for tests; 0: metaSegment
	part     int                           // answers that are written at a time, for tests; 0: answersPart
	retry    time.Duration                 // first wait after a failed checkpoint, for tests; 0: retryFirst
	patience time.Duration                 // with what cannot be read, for tests; 0: readPatience
	faulty   func(io.ReaderAt) io.ReaderAt // what scans read through, for tests; nil: the file

	// Progress is called by Open for each thing that it has read; nil: nobody
	// wants to know.
	Progress func()
	// Retire gives up the generations of the log below one.
	Retire func(below uint64) error
	// Quarantine says that a generation of the log has a message that is damaged or
	// gone, and why: Retire is to keep it. It is called before the checkpoint is
	// completed that does without that message. nil: nobody wants to know.
	Quarantine func(generation uint64, reason string)
}

// Rules are how much is kept, as said in Options. They may change while the
// store is open, see SetRules.
type Rules struct {
	Keep      map[uint8]message.Keep
	Budget    int64
	BlockFile int64 // bytes of a block file from now on; 0: 64 MiB
}

// Stats counts what a store did; readable on any goroutine.
type Stats struct {
	Checkpoints atomic.Int64 // that were completed
	Failures    atomic.Int64 // attempts that were not
	Blocks      atomic.Int64 // blocks known now
	BlockBytes  atomic.Int64 // bytes of block files
	MetaBytes   atomic.Int64 // bytes of metadata on disk
	RawBytes    atomic.Int64 // bytes of records put into blocks since the start
	StoredBytes atomic.Int64 // and what they took there
	BadBlocks   atomic.Int64 // blocks that could not be read
	Unsaved     atomic.Int64 // messages that are only in the log
	Dropped     atomic.Int64 // messages dropped by retention
	Lost        atomic.Int64 // messages that a checkpoint found damaged or gone in the log
	Took        atomic.Int64 // nanoseconds of the last checkpoint
	Behind      atomic.Bool  // the last attempt at a checkpoint failed
	Unretired   atomic.Bool  // the last attempt to give up what the log need not keep failed
}

// Store is the open store. Put, Drop and Checkpoint belong to apply, Run to the
// checkpoint's goroutine; Read and Stats are anybody's.
type Store struct {
	o      Options
	health health
	rules  atomic.Pointer[Rules] // as set since; nil: those of o. What it points to does not change
	stats  Stats

	began time.Time // when it was opened

	mu     sync.RWMutex // guards what follows; never held while a file is used
	series map[*message.Channel]*series
	names  map[string]*series // by type and id, see appendChannelKey
	blocks *blocks            // replaced after an error

	// Apply owns these.
	late    bool      // a checkpoint was due before the one before it had ended
	touched []*series // have messages that no checkpoint was handed
	dropped [][]byte  // keys of channels to be deleted from the metadata
	numbers []uint32  // and their numbers
	next    uint32    // number of the next channel

	put     atomic.Int64  // bytes of all messages that were put
	saved   atomic.Int64  // and of those that a checkpoint has
	busy    atomic.Bool   // a checkpoint is under way: apply sets it, Run clears it
	work    chan *frozen  // at most one
	pressed atomic.Bool   // the next one is due, or this one was before it could begin
	free    chan struct{} // busy or Behind may have changed
	done    chan struct{}
	images  chan chan imageReply
	ruling  chan struct{} // rules has changed
	stop    sync.Once

	// The checkpoint's goroutine owns these.
	meta    *meta
	newest  checkpoint
	try     attempt
	answers []answerPage // oldest first
	pages   []pageOf     // likewise
	void    [][]byte     // keys of answers that belong to no checkpoint, see loadAnswers
	// incomplete says that keyIncomplete is there.
	incomplete bool
	buf        []byte // raw bytes of a block
	page       []byte
	refs       []blockRef
	rested     time.Time
	lived      int64 // ms that the store had lived when it was opened
	noted      int64 // ms that it had lived when the metadata were told last
	aging      bool  // a rule of age was met at the last look
	// dropping is set when channels were deleted since block files were looked
	// at for such with nothing in them.
	dropping bool
}

// answerPage is how many answers a part of what a checkpoint brought has.
type answerPage struct {
	number uint64
	part   uint32
	count  int
}

func (p *answerPage) key() []byte { return binary.BigEndian.AppendUint32(numberKey(p.number), p.part) }

// frozen is what one checkpoint takes in.
type frozen struct {
	checkpoint // what apply knows of it
	at         time.Time
	parts      []part
	deletes    [][]byte
	numbers    []uint32 // of the channels that are deleted
	states     []state
	users      []state          // an empty value: there is no account any more
	bytes      []byte           // that states and users lie in
	answers    []message.Answer // given since the checkpoint before
	portion    int              // answers in a part; the same at each attempt, so that one writes over what another left
	window     int
	hooks      bool
	put        int64 // Store.put when it was taken
}

// part is the messages of one channel up to a sequence.
type part struct {
	*series
	to uint64
}

// state is a key and a value in frozen.bytes.
type state struct{ start, value, end int }

// Stats returns the counters, safe on any goroutine.
func (s *Store) Stats() *Stats { return &s.stats }

// Checkpointing reports whether a checkpoint is under way. Any goroutine.
func (s *Store) Checkpointing() bool { return s.busy.Load() }

// Ahead says why the log must not grow any more, nil: it may. Any goroutine.
func (s *Store) Ahead() error {
	if !s.stats.Behind.Load() {
		return nil
	}
	if n := s.stats.Unsaved.Load(); s.o.MaxUnsaved > 0 && n >= s.o.MaxUnsaved {
		return fmt.Errorf("checkpoints fail, see the lines \"checkpoint failed\", and %d messages are in the log only, the limit is %d", n, s.o.MaxUnsaved)
	}
	logged := s.put.Load() - s.saved.Load()
	if n, budget := logged+s.stats.BlockBytes.Load()+s.stats.MetaBytes.Load(), s.current().Budget; budget > 0 && n >= budget {
		return fmt.Errorf("checkpoints fail, see the lines \"checkpoint failed\", and %d bytes are taken, %d of them in the log only; the budget is %d (store.budget)", n, logged, budget)
	}
	return nil
}

// Put notes where the message with sequence seq lies. Sequences of a channel
// come in order without gaps; anything else is a bug and panics.
func (s *Store) Put(ch *message.Channel, seq uint64, at message.Location) {
	s.mu.Lock()
	c := s.channel(ch)
	if seq != c.last+1 {
		panic("BUG: a sequence of channel " + ch.ID + " was put out of order")
	}
	c.put(at)
	s.mu.Unlock()
	if !c.touched {
		c.touched = true
		s.touched = append(s.touched, c)
	}
	s.stats.Unsaved.Add(1)
	s.put.Add(int64(at.Size))
}

// channel returns the series of a channel, new if needed. Apply only, with the
// lock held.
func (s *Store) channel(ch *message.Channel) *series {
	c := s.series[ch]
	if c == nil {
		c = &series{channel: ch, number: s.next, first: 1, logged: 1, base: 1}
		s.next++
		s.series[ch] = c
		s.names[ch.Key()] = c
	}
	return c
}

// Drop forgets a channel and its messages. What they take in block files is
// given back with those files.
func (s *Store) Drop(ch *message.Channel) {
	key := appendChannelKey(nil, ch)
	s.mu.Lock()
	c := s.series[ch]
	delete(s.series, ch)
	delete(s.names, string(key))
	if c != nil {
		s.stats.Blocks.Add(-int64(len(c.blocks)))
		if rest := int64(c.last+1) - int64(max(c.logged, c.handed+1)); rest > 0 { // what finish does not count
			s.stats.Unsaved.Add(-rest)
		}
		s.numbers = append(s.numbers, c.number)
	}
	s.mu.Unlock()
	s.dropped = append(s.dropped, key)
}

// Checkpoint takes the state of the core and all messages up to now, to be
// written by Run. While the one before is being written it takes nothing and
// reports false: what is changed then goes into a later one. With wait it waits
// for that one, unless it has failed and is tried again.
func (s *Store) Checkpoint(snap *message.Snapshot, wait bool) bool {
	for !s.busy.CompareAndSwap(false, true) {
		s.pressed.Store(true)
		s.late = true
		if !wait || s.stats.Behind.Load() {
			return false
		}
		select {
		case <-s.free:
		case <-s.done:
			return false
		}
	}
	s.pressed.Store(s.late)
	s.late = false
	f := &frozen{at: time.Now(), window: snap.Window, hooks: snap.Hooks}
	s.mu.Lock()
	for st := range snap.Changed {
		start := len(f.bytes)
		f.bytes = appendChannelKey(f.bytes, st.Channel)
		value := len(f.bytes)
		c := s.channel(st.Channel)
		c.keep = st.Keep
		f.bytes = appendState(f.bytes, st, c.number)
		f.states = append(f.states, state{start, value, len(f.bytes)})
	}
	for _, c := range s.touched {
		c.touched = false
		if s.series[c.channel] == c { // not dropped since
			f.parts = append(f.parts, part{c, c.last})
			c.handed = c.last
		}
	}
	s.mu.Unlock()
	if snap.Users != nil {
		for u := range snap.Users {
			start := len(f.bytes)
			f.bytes = append(f.bytes, u.UID...)
			value := len(f.bytes)
			if !u.Account.Empty() {
				f.bytes = appendAccount(f.bytes, u.Account)
			}
			f.users = append(f.users, state{start, value, len(f.bytes)})
		}
	}
	clear(s.touched)
	s.touched = s.touched[:0]
	f.deletes, s.dropped = s.dropped, nil
	f.numbers, s.numbers = s.numbers, nil
	f.answers = snap.Answers(nil)
	f.put = s.put.Load()
	f.checkpoint = checkpoint{index: snap.Index, generation: snap.Generation,
		maxMessageID: snap.MaxMessageID, nextChannel: s.next, secret: snap.Secret}
	s.work <- f
	return true
}

// current returns the rules that hold now.
func (s *Store) current() *Rules {
	if r := s.rules.Load(); r != nil {
		return r
	}
	return &s.o.Rules
}

// SetRules changes how much is kept. What is too much by the new rules goes at
// once. The map is taken over. Any goroutine.
func (s *Store) SetRules(r Rules) {
	s.rules.Store(&r)
	select {
	case s.ruling <- struct{}{}:
	default: // it will be looked at anyway
	}
}

// Index is the log index up to which a checkpoint holds everything, and
// Generation the generation of the log in which the next group lies. Before Run.
func (s *Store) Index() uint64      { return s.newest.index }
func (s *Store) Generation() uint64 { return s.newest.generation }

// Close lets Run return after the checkpoint that is under way.
func (s *Store) Close() { s.stop.Do(func() { s.pressed.Store(true); close(s.done) }) }
