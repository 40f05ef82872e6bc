package broker

import (
	"crypto/rand"
	"encoding/binary"
	"iter"
	"math/bits"
	"slices"

	"github.com/dchest/siphash"

	"gatepost/message"
)

// answer is what a message got the first time.
type answer struct {
	messageID int64
	seq       uint64
}

// answerPage answers are allocated at a time.
const answerPage = 4096

// window remembers the answers of the newest messages by channel, sender and
// client_msg_no, oldest out first. A channel that was deleted and made again is
// another one. Keys are 128-bit SipHashes under a secret
// of the box: nobody can make two messages look the same, and by chance it
// happens with a probability of about n^2/2^129.
//
// An answer takes 32 bytes in a ring of pages and 16 to 32 in a table of open
// addressing, none of which the garbage collector looks into; a map of the same
// took 80. The table has a part of each key, so that looking for one that is not
// there, which is nearly always, and closing a gap do not touch the ring: these
// misses of the cache were a fifth of what a message cost.
type window struct {
	secret [16]byte
	size   int
	pages  [][]message.Answer // a ring of size answers, made as it fills
	count  int                // answers in it
	next   int                // where the next goes; once it is full, where the oldest is
	table  []slot             // by key; linear probing
	fresh  int                // how many of the newest no checkpoint has
	text   []byte
	seen   slot // nobody reads it: without it, warm would read nothing
}

// slot is 1 + the place in the ring, and in its upper half what is left of the key;
// 0: free.
type slot uint64

func (s slot) place() int   { return int(uint32(s)) - 1 }
func (s slot) hash() uint32 { return uint32(s >> 32) }

func hash(k [2]uint64) uint32 { return uint32(k[0]) }

func newWindow(size int) *window {
	w := &window{size: size, table: make([]slot, 1<<bits.Len(uint(2*max(size, 1))-1))}
	rand.Read(w.secret[:])
	return w
}

// restore takes over what a store has kept. Before any other call.
func (w *window) restore(secret [16]byte, answers iter.Seq[message.Answer]) {
	if secret == [16]byte{} {
		return
	}
	w.secret = secret
	for a := range answers {
		w.add(a.Key, answer{a.MessageID, a.Seq})
	}
	w.fresh = 0
}

// key is that of a message: what a sender says twice to one channel is one message,
// what they say to two is two. born is that of the channel.
func (w *window) key(typ uint8, channelID []byte, born int64, uid, no []byte) [2]uint64 {
	w.text = append(w.text[:0], typ, byte(len(channelID)), byte(len(channelID)>>8), byte(len(uid)), byte(len(uid)>>8))
	w.text = binary.LittleEndian.AppendUint64(w.text, uint64(born))
	w.text = append(w.text, channelID...)
	w.text = append(w.text, uid...)
	w.text = append(w.text, no...)
	a, b := siphash.Hash128(binary.LittleEndian.Uint64(w.secret[:]), binary.LittleEndian.Uint64(w.secret[8:]), w.text)
	return [2]uint64{a, b}
}

// at is a place of the ring.
func (w *window) at(i int) *message.Answer { return &w.pages[i/answerPage][i%answerPage] }

// home is where the table looks for a key first.
func (w *window) home(hash uint32) uint32 { return hash & uint32(len(w.table)-1) }

// find returns the slot of the table that has a key, or the free one where it
// would be.
func (w *window) find(k [2]uint64) (i uint32, found bool) {
	mask := uint32(len(w.table) - 1)
	for i = w.home(hash(k)); w.table[i] != 0; i = (i + 1) & mask {
		if s := w.table[i]; s.hash() == hash(k) && w.at(s.place()).Key == k {
			return i, true
		}
	}
	return i, false
}

// warm brings the parts of the table that the next messages need into the cache:
// what is there for their keys, and for as many of the oldest, which they push out.
// Each alone is a miss for which everything waits; together they are one.
func (w *window) warm(keys [][2]uint64) {
	if w.size <= 0 {
		return
	}
	sum, oldest := slot(0), w.next
	for i := range keys {
		sum |= w.table[w.home(hash(keys[i]))]
		if w.count == w.size {
			sum |= w.table[w.home(hash(w.at(oldest).Key))]
			oldest = (oldest + 1) % w.size
		}
	}
	w.seen = sum
}

// first returns the answer that a message got before, if it is in the window.
func (w *window) first(k [2]uint64) (answer, bool) {
	i, found := w.find(k)
	if !found {
		return answer{}, false
	}
	a := w.at(w.table[i].place())
	return answer{a.MessageID, a.Seq}, true
}

// add remembers the answer of a message that is not in the window.
func (w *window) add(k [2]uint64, a answer) {
	if w.size <= 0 {
		return
	}
	if w.count == w.size {
		w.forget(w.at(w.next).Key)
	} else {
		w.count++
		if w.next/answerPage == len(w.pages) {
			w.pages = append(w.pages, make([]message.Answer, min(answerPage, w.size-w.next)))
		}
	}
	i, _ := w.find(k)
	w.table[i] = slot(hash(k))<<32 | slot(w.next+1)
	*w.at(w.next) = message.Answer{Key: k, MessageID: a.messageID, Seq: a.seq}
	w.next = (w.next + 1) % w.size
	w.fresh = min(w.fresh+1, w.size)
}

// forget frees the slot of a key and closes the gap: whatever behind it would
// not be found across a free slot moves up.
func (w *window) forget(k [2]uint64) {
	gap, found := w.find(k)
	if !found {
		return
	}
	mask := uint32(len(w.table) - 1)
	for i := (gap + 1) & mask; w.table[i] != 0; i = (i + 1) & mask {
		home := w.home(w.table[i].hash())
		if (i-home)&mask >= (i-gap)&mask {
			w.table[gap] = w.table[i]
			gap = i
		}
	}
	w.table[gap] = 0
}

// unsaved appends the answers that no checkpoint has, oldest first.
func (w *window) unsaved(dst []message.Answer) []message.Answer {
	dst = slices.Grow(dst, w.fresh)
	for left := w.fresh; left > 0; {
		at := (w.next - left + w.size) % w.size
		page := w.pages[at/answerPage][at%answerPage:]
		page = page[:min(left, len(page))]
		dst = append(dst, page...)
		left -= len(page)
	}
	return dst
}
