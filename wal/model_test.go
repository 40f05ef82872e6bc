package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gatepost/message"
)

// The model of a log is a list of the groups that were made durable. Random
// writes, rolls, restarts, crashes that leave half a write, full disks and
// broken disks must not make a difference.
func TestLogAgainstModel(t *testing.T) {
	rounds := 25
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		seed := rand.Uint64()
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { model(t, seed) })
		if t.Failed() {
			return
		}
	}
}

func model(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	d, dir := &disk{}, t.TempDir()
	var want []string
	places := map[string]message.Committed{}
	var l *Log
	reopen := func() {
		if l != nil {
			l.Close()
		}
		l = d.log(Options{Dir: dir, RollSize: 2000, NoSync: true})
		got := &replayed{t: t}
		report, err := l.start(got.take)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.groups, want) {
			t.Fatalf("%d groups, want %d\n%.2000q\n%.2000q\n%v", len(got.groups), len(want), got.groups, want, report)
		}
		for i, c := range got.places {
			if was := places[got.groups[i]]; was.Index != c.Index || was.Generation != c.Generation || was.Offset != c.Offset {
				t.Fatalf("%q is at %+v, was at %+v", got.groups[i], c, was)
			}
		}
	}
	reopen()
	for step := range 200 {
		text := fmt.Sprint(step, strings.Repeat("x", r.IntN(300)))
		b := batch(text)
		frame := append(make([]byte, headerSize), b.Bytes()...)
		b.Release()
		broken := error(nil)
		switch r.IntN(12) {
		case 0:
			broken = unix.ENOSPC
		case 1:
			broken = unix.EIO
		}
		d.write, d.left, d.failed = broken, r.IntN(len(frame)+2)-1, ""
		index, off, err := l.append(frame, 1)
		d.write = nil
		switch {
		case broken == nil && err != nil:
			t.Fatal(err)
		case broken == nil:
			want = append(want, text)
			places[text] = message.Committed{Index: index, Generation: l.at.generation, Offset: off}
		case !errors.Is(err, broken):
			t.Fatalf("append on a disk that fails with %v: %v", broken, err)
		case broken == unix.ENOSPC && r.IntN(4) > 0: // recovers in the process
			refused, file, generation := d.written, d.failed, l.at.generation
			if err := l.ready(0); err != nil {
				t.Fatal(err)
			}
			if file == generationFile(dir, generation) && r.IntN(2) == 0 {
				put(t, file, refused) // it was not cut off, as it were
			}
		default:
			reopen()
		}
		switch r.IntN(20) {
		case 0:
			reopen()
		case 1: // a crash in the middle of a write
			file := generationFile(dir, l.at.generation)
			l.Close()
			torn := append([]byte{0xff}, frame...)
			put(t, file, torn[:r.IntN(len(torn))])
			reopen()
		}
	}
	reopen()
	l.Close()
}
