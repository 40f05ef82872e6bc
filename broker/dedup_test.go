package broker

import (
	"math/rand/v2"
	"slices"
	"testing"

	"gatepost/message"
)

// remembered is what a window holds, oldest first.
func remembered(w *window) []message.Answer {
	all := *w
	all.fresh = w.count
	return all.unsaved(nil)
}

// TestWindowIsAListOfTheNewest: beside a naive list that is searched, with keys
// that crowd together at the end and the beginning of the table.
func TestWindowIsAListOfTheNewest(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	for _, size := range []int{1, 2, 3, 7, 64, answerPage, answerPage + 3} {
		w := newWindow(size)
		var model []message.Answer
		for i := range 4*size + 300 {
			k := [2]uint64{^uint64(0) - uint64(r.IntN(size+2)/2), uint64(r.IntN(3 * size))}
			at := slices.IndexFunc(model, func(a message.Answer) bool { return a.Key == k })
			got, found := w.first(k)
			if found != (at >= 0) || found && (got != answer{model[at].MessageID, model[at].Seq}) {
				t.Fatalf("size %d, step %d: key %x: %v %v, the list has it at %d", size, i, k, got, found, at)
			}
			if found {
				continue
			}
			a := message.Answer{Key: k, MessageID: int64(i), Seq: uint64(i) * 3}
			w.add(k, answer{a.MessageID, a.Seq})
			if model = append(model, a); len(model) > size {
				model = model[1:]
			}
		}
		if got := remembered(w); !slices.Equal(got, model) {
			t.Fatalf("size %d: the window holds %d, the list %d", size, len(got), len(model))
		}
	}
}

// TestWindowOfNothingRemembersNothing: dedup can be off.
func TestWindowOfNothingRemembersNothing(t *testing.T) {
	w := newWindow(0)
	k := w.key(1, []byte("c"), 0, []byte("a"), []byte("1"))
	w.add(k, answer{1, 1})
	if _, found := w.first(k); found {
		t.Error("remembered")
	}
}

func BenchmarkWindow(b *testing.B) {
	w := newWindow(500_000)
	var no [8]byte
	for i := 0; b.Loop(); i++ {
		no[0], no[1], no[2], no[3] = byte(i), byte(i>>8), byte(i>>16), byte(i>>24)
		k := w.key(1, []byte("c"), 0, []byte("sender"), no[:])
		if _, found := w.first(k); !found {
			w.add(k, answer{int64(i), uint64(i)})
		}
	}
}

// What a store gave back it need not be given again.
func TestRestoredAnswersAreSaved(t *testing.T) {
	before := newWindow(10)
	for i := range 5 {
		before.add([2]uint64{uint64(i), 1}, answer{int64(i), 1})
	}
	w := newWindow(10)
	w.restore(before.secret, slices.Values(remembered(before)))
	w.add([2]uint64{9, 9}, answer{9, 9})
	if all := w.unsaved(nil); len(all) != 1 || all[0].MessageID != 9 {
		t.Errorf("a checkpoint would be given %v, want the new one", all)
	}
	if n := len(remembered(w)); n != 6 {
		t.Errorf("%d answers are remembered, want 6", n)
	}
}
