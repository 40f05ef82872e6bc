package broker

import (
	"crypto/rand"
	"encoding/binary"
	"iter"

	"github.com/dchest/siphash"

	"gatepost/message"
)

// answer is what a message got the first time.
type answer struct {
	messageID int64
	seq       uint64
}

// window remembers the answers of the newest messages by (sender,
// client_msg_no), oldest out first. Keys are 128-bit SipHashes under a secret
// of the box: nobody can make two messages look the same, and by chance it
// happens with a probability of about n^2/2^129.
type window struct {
	secret [16]byte
	size   int
	seen   map[[2]uint64]answer
	order  [][2]uint64 // ring: order[next] is the oldest once full
	next   int
	fresh  int // how many of the newest no checkpoint has
	text   []byte
}

func newWindow(size int) *window {
	w := &window{size: size, seen: make(map[[2]uint64]answer)}
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

func (w *window) key(uid, no []byte) [2]uint64 {
	w.text = append(w.text[:0], byte(len(uid)), byte(len(uid)>>8))
	w.text = append(w.text, uid...)
	w.text = append(w.text, no...)
	a, b := siphash.Hash128(binary.LittleEndian.Uint64(w.secret[:]), binary.LittleEndian.Uint64(w.secret[8:]), w.text)
	return [2]uint64{a, b}
}

// first returns the answer that a message got before, if it is in the window.
func (w *window) first(k [2]uint64) (answer, bool) {
	a, ok := w.seen[k]
	return a, ok
}

func (w *window) add(k [2]uint64, a answer) {
	if w.size <= 0 {
		return
	}
	if len(w.order) < w.size {
		w.order = append(w.order, k)
	} else {
		delete(w.seen, w.order[w.next])
		w.order[w.next] = k
		w.next = (w.next + 1) % w.size
	}
	w.seen[k] = a
	w.fresh = min(w.fresh+1, w.size)
}

// unsaved yields the answers that no checkpoint has, oldest first.
func (w *window) unsaved(yield func(message.Answer) bool) {
	n := len(w.order)
	for i := n - w.fresh; i < n; i++ {
		k := w.order[(w.next+i)%n]
		a := w.seen[k]
		if !yield(message.Answer{Key: k, MessageID: a.messageID, Seq: a.seq}) {
			return
		}
	}
}
