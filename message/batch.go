package message

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/valyala/bytebufferpool"
)

// Origin says who is waiting for the answer to a record. It travels beside
// the record in memory and is never stored. For read positions nobody waits: Conn
// is 0, Loop the one that proposed them and MessageID the number of their batch.
type Origin struct {
	Conn      uint64 // connection on that loop; 0: nobody waits
	MessageID int64
	ClientSeq uint32
	Loop      uint16
	Flags     uint8 // wire flags of the SEND, copied into its SENDACK
	Claimed   bool  // admission made a claim on a channel for the record, see broker.Access
}

// originSize is the size of an Origin in memory, in bytes.
const originSize = int(unsafe.Sizeof(Origin{}))

// Batch is the records of one epoll round (or one HTTP request), encoded one
// behind the other, with their origins. It is filled by one goroutine; from
// Propose on it is immutable and shared by reference.
type Batch struct {
	buf      *bytebufferpool.ByteBuffer
	offsets  []uint32 // offsets[i] is where record i starts
	origins  []Origin // parallel to offsets; empty on replay
	refs     atomic.Int32
	volatile bool
}

// batches keeps Batch structs with their slices; the bytes have their own pool.
var batches = sync.Pool{New: func() any { return new(Batch) }}

// NewBatch returns an empty batch with one reference. A volatile batch
// (NoPersist traffic) passes through the log in order but is not written.
func NewBatch(volatile bool) *Batch {
	b := batches.Get().(*Batch)
	b.buf = bytebufferpool.Get()
	b.offsets, b.origins = b.offsets[:0], b.origins[:0]
	b.volatile = volatile
	b.refs.Store(1)
	return b
}

// Parse copies src, the records of a stored frame, into a new batch without
// origins. It fails, wrapping ErrRecord, when src is not a whole number of
// records.
func Parse(src []byte) (*Batch, error) {
	b := NewBatch(false)
	b.buf.B = append(b.buf.B, src...)
	var r Record
	for off := 0; off < len(b.buf.B); {
		n, err := r.Decode(b.buf.B[off:])
		if err != nil {
			b.Release()
			return nil, fmt.Errorf("cannot read record %d at byte %d of %d: %w", len(b.offsets), off, len(src), err)
		}
		b.offsets = append(b.offsets, uint32(off))
		off += n
	}
	return b, nil
}

// Add appends a record: this is the one inbound copy of a message.
func (b *Batch) Add(r *Record, o Origin) {
	b.offsets = append(b.offsets, uint32(len(b.buf.B)))
	b.origins = append(b.origins, o)
	b.buf.B = AppendRecord(b.buf.B, r)
}

// Begin returns the batch's bytes with r behind them, but for its payload. The
// caller appends that and calls Finish, or does nothing: then the batch is as
// before. This is how a payload is decrypted where it stays.
func (b *Batch) Begin(r *Record) []byte {
	r.Payload = nil
	return AppendRecord(b.buf.B, r)
}

// Finish takes in the record that Begin began. buf is what Begin returned with
// the payload appended.
func (b *Batch) Finish(buf []byte, o Origin) {
	start := len(b.buf.B)
	setPayload(buf[start:])
	b.offsets = append(b.offsets, uint32(start))
	b.origins = append(b.origins, o)
	b.buf.B = buf
}

// AddStored extends the batch by n bytes, lets read fill them, and takes them
// in as records. On an error, read's or one that wraps ErrRecord, the batch is
// as before.
func (b *Batch) AddStored(n int, read func(p []byte) error) error {
	start, count := len(b.buf.B), len(b.offsets)
	b.buf.B = slices.Grow(b.buf.B, n)[:start+n]
	err := read(b.buf.B[start:])
	var r Record
	for off := start; err == nil && off < len(b.buf.B); {
		var size int
		if size, err = r.Decode(b.buf.B[off:]); err == nil {
			b.offsets = append(b.offsets, uint32(off))
			off += size
		}
	}
	if err != nil {
		b.buf.B, b.offsets = b.buf.B[:start], b.offsets[:count]
	}
	return err
}

// Largest returns the size of the largest record in bytes.
func (b *Batch) Largest() int {
	largest, end := 0, len(b.buf.B)
	for i := len(b.offsets) - 1; i >= 0; i-- {
		largest = max(largest, end-int(b.offsets[i]))
		end = int(b.offsets[i])
	}
	return largest
}

// Len returns the number of records.
func (b *Batch) Len() int { return len(b.offsets) }

// Size returns the number of encoded bytes.
func (b *Batch) Size() int { return len(b.buf.B) }

// Pinned returns how many bytes of memory are kept as long as there is a reference.
func (b *Batch) Pinned() int { return cap(b.buf.B) + 4*cap(b.offsets) + originSize*cap(b.origins) }

// Bytes returns the encoded records, valid until the last Release.
func (b *Batch) Bytes() []byte { return b.buf.B }

// Volatile reports whether the batch is not to be written.
func (b *Batch) Volatile() bool { return b.volatile }

// Offset returns where record i starts in Bytes.
func (b *Batch) Offset(i int) int { return int(b.offsets[i]) }

// Origin returns who waits for record i; the zero Origin on replay.
func (b *Batch) Origin(i int) Origin {
	if i >= len(b.origins) {
		return Origin{}
	}
	return b.origins[i]
}

// Record decodes record i into r; its fields are valid until the last Release.
func (b *Batch) Record(i int, r *Record) error { return b.RecordAt(b.Offset(i), r) }

// RecordAt decodes the record that starts at offset off of Bytes.
func (b *Batch) RecordAt(off int, r *Record) error {
	_, err := r.Decode(b.buf.B[off:])
	return err
}

// Retain adds a reference; each needs its own Release.
func (b *Batch) Retain() { b.refs.Add(1) }

// Release drops a reference. The last one returns the buffer to the pool:
// every view on it is invalid from then on.
func (b *Batch) Release() {
	switch n := b.refs.Add(-1); {
	case n == 0:
		bytebufferpool.Put(b.buf)
		b.buf = nil
		batches.Put(b)
	case n < 0:
		panic(fmt.Sprintf("BUG: batch released %d times too often", -n))
	}
}

// ErrUnknown is wrapped by the Err of a batch of which the log does not know whether
// it is durable: a write or a sync has failed, and what it left could not be taken back.
// It may come back with the next start, or not.
var ErrUnknown = errors.New("the outcome is unknown")

// Committed is what the log hands on, in order: a batch and where it lies.
type Committed struct {
	Index      uint64 // log index of the frame that holds the batch
	Term       uint64
	Generation uint64 // of the log
	Offset     int64  // of Batch.Bytes()[0] in the generation's file
	Batch      *Batch // the receiver takes over the reference
	// Err is why the batch was NOT made durable: each origin is refused. With ErrUnknown
	// nobody knows that, and nobody may be told one or the other.
	Err error
}

// Location is where record i of the batch lies in the log; size is its size in bytes.
func (c *Committed) Location(i, size int) Location {
	at := c.Batch.Offset(i)
	return Location{Generation: c.Generation, Offset: c.Offset + int64(at), Size: uint32(size), Sum: Checksum(c.Batch.buf.B[at : at+size])}
}
