package broker

import "hash/maphash"

// answer is what a message got the first time.
type answer struct {
	messageID int64
	seq       uint64
}

// window remembers the answers of the newest messages by (sender,
// client_msg_no), oldest out first. Keys are 128-bit hashes with random seeds:
// two different messages are taken for one with a probability of about
// n^2/2^129.
type window struct {
	a, b  maphash.Seed
	size  int
	seen  map[[2]uint64]answer
	order [][2]uint64 // ring: order[next] is the oldest once full
	next  int
	text  []byte
}

func newWindow(size int) *window {
	return &window{a: maphash.MakeSeed(), b: maphash.MakeSeed(), size: size, seen: make(map[[2]uint64]answer)}
}

func (w *window) key(uid, no []byte) [2]uint64 {
	w.text = append(w.text[:0], byte(len(uid)), byte(len(uid)>>8))
	w.text = append(w.text, uid...)
	w.text = append(w.text, no...)
	return [2]uint64{maphash.Bytes(w.a, w.text), maphash.Bytes(w.b, w.text)}
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
}
