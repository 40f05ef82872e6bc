package broker

import (
	"context"
	"testing"

	"gatepost/message"
)

// Whoever asks for work next gets what the one before had taken and not given
// back, each channel once; and while nobody asks, nothing piles up.
func TestWorkIsOfferedToTheNextWhoAsks(t *testing.T) {
	b := newBox(t, Options{Hooks: true})
	b.commit(message.Record{Kind: message.KindHooks, Payload: []byte{1}}, false, nil)
	b.commit(group(message.OpCreate, "g", "alice", "bob"), false, nil)
	b.commit(group(message.OpCreate, "h", "alice", "bob"), false, nil)
	for _, id := range []string{"g", "h"} {
		r := say("alice", id, id)
		r.ChannelType = message.ChannelGroup
		b.commit(r, false, nil)
	}
	done := make(chan error)
	go func() { done <- b.Run([]Outbox{new(posts), new(posts)}) }()
	defer func() {
		b.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	ctx := context.Background()
	work := func(want int) []Work {
		t.Helper()
		all, err := b.Work(ctx, 10)
		if err != nil || len(all) != want {
			t.Fatalf("%d channels, %v, want %d", len(all), err, want)
		}
		return all
	}
	ask := func(on, want bool) {
		t.Helper()
		if was, err := b.AskHooks(ctx, on); err != nil || was != want {
			t.Fatalf("hooks were %v, %v", was, err)
		}
	}
	all, err := b.Work(ctx, 1) // the other one waits
	if err != nil || len(all) != 1 {
		t.Fatalf("%v, %v", all, err)
	}
	ask(true, true)
	all = work(2)
	for _, w := range all {
		if w.From != 1 || w.Last != 1 {
			t.Errorf("%+v", w)
		}
		if err := b.Told(ctx, w.Channel, w.Last); err != nil {
			t.Fatal(err)
		}
	}
	work(0)
	ask(false, true)
	if err := b.Attach(Attach{UID: "bob", Conn: 1}); err != nil {
		t.Fatal(err)
	}
	if all, err := b.Statuses(ctx, 10); err != nil || len(all) != 0 {
		t.Errorf("nobody asks, and there are %v, %v", all, err)
	}
	ask(true, true)
	work(0)
}
