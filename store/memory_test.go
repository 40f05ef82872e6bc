package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"gatepost/message"
)

// files is a log in memory: generations of records, some of them unreadable.
type files struct {
	bytes map[uint64][]byte
	bad   map[int64]bool // offsets of records in any generation
}

func (f *files) readAt(p []byte, generation uint64, offset int64) error {
	for at := range f.bad {
		if at >= offset && at < offset+int64(len(p)) {
			return errors.New("bad sector")
		}
	}
	if copy(p, f.bytes[generation][offset:]) < len(p) {
		return errors.New("short file")
	}
	return nil
}

func (f *files) write(generation uint64, text string) message.Location {
	b := f.bytes[generation]
	r := message.Record{Kind: message.KindMessage, Payload: []byte(text)}
	f.bytes[generation] = message.AppendRecord(b, &r)
	return message.Location{Generation: generation, Offset: int64(len(b)), Size: uint32(r.Size())}
}

// Against a model: a page holds what was put, in order, up to its limits, and
// counts what cannot be read.
func TestPagesAreWhatWasPut(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 3))
	f := &files{bytes: make(map[uint64][]byte), bad: make(map[int64]bool)}
	m := NewMemory(f.readAt)
	chs := []*message.Channel{{ID: "a"}, {ID: "b"}, {ID: "c"}}
	want := make(map[*message.Channel][]string)
	damaged := make(map[*message.Channel]map[uint64]bool)
	generation := uint64(1)
	for range 5000 {
		if rnd.IntN(500) == 0 {
			generation++
		}
		ch := chs[rnd.IntN(len(chs))]
		text := fmt.Sprint(ch.ID, len(want[ch]), string(make([]byte, rnd.IntN(50))))
		at := f.write(generation, text)
		want[ch] = append(want[ch], text)
		seq := uint64(len(want[ch]))
		m.Put(ch, seq, at)
		if rnd.IntN(200) == 0 && generation == 1 {
			f.bad[at.Offset] = true
			if damaged[ch] == nil {
				damaged[ch] = make(map[uint64]bool)
			}
			damaged[ch][seq] = true
		}
	}
	// Only the first generation has bad sectors.
	read := m.read
	m.read = func(p []byte, g uint64, offset int64) error {
		if g != 1 {
			return (&files{bytes: f.bytes}).readAt(p, g, offset)
		}
		return read(p, g, offset)
	}
	var r message.Record
	for range 3000 {
		ch := chs[rnd.IntN(len(chs))]
		from, limit, size := uint64(rnd.IntN(len(want[ch])+10)), 1+rnd.IntN(300), 1+rnd.IntN(8000)
		page, err := m.Read(ch, from, limit, size)
		next := max(from, 1)
		for i, seq := range page.Seqs {
			for ; next < seq; next++ {
				if !damaged[ch][next] {
					t.Fatalf("seq %d of %s is left out", next, ch.ID)
				}
			}
			if err := page.Batch.Record(i, &r); err != nil || string(r.Payload) != want[ch][seq-1] {
				t.Fatalf("seq %d of %s is %q, want %q (%v)", seq, ch.ID, r.Payload, want[ch][seq-1], err)
			}
			next++
		}
		for ; next < page.Next; next++ {
			if !damaged[ch][next] {
				t.Fatalf("seq %d of %s is left out at the end", next, ch.ID)
			}
		}
		if got := len(page.Seqs) + page.Lost; got > limit || page.Last != uint64(len(want[ch])) ||
			(page.Lost > 0) != (err != nil) || got == 0 && from <= page.Last {
			t.Fatalf("from %d, limit %d of %d: %d messages, %d lost, last %d, %v", from, limit, len(want[ch]), len(page.Seqs), page.Lost, page.Last, err)
		}
		page.Batch.Release()
	}
	m.Drop(chs[0])
	if page, err := m.Read(chs[0], 1, 10, 1000); page.Last != 0 || len(page.Seqs) != 0 || err != nil {
		t.Errorf("a dropped channel still has %d messages, %v", page.Last, err)
	}
}
