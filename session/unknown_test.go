package session

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"gatepost/message"
	"gatepost/wukong"
)

// A SEND of which nobody knows whether it is stored gets no answer: its connection
// ends, and others go on. The device sends it again and gets the
// first answer, if there was one.
func TestUnknownOutcomeEndsTheConnectionWithoutAnAnswer(t *testing.T) {
	r := newRig(t, nil)
	alice, bob := r.login("alice", "a"), r.login("bob", "b")
	if a := alice.send("carol", message.ChannelPerson, "known"); a.Reason != wukong.ReasonSuccess {
		t.Fatalf("SENDACK %+v", a)
	}
	r.mu.Lock()
	r.fails = func(*message.Batch) error { return fmt.Errorf("%w: %w", message.ErrUnknown, syscall.EIO) }
	r.mu.Unlock()
	alice.write((&wukong.Send{ClientSeq: 2, ChannelID: []byte("carol"), ChannelType: message.ChannelPerson, Payload: []byte("unknown")}).Append(nil, 5))
	if f, ok := alice.frame(20 * time.Second); ok {
		t.Fatalf("alice gets a frame of type %v, want the end of the connection", f.Type)
	}
	until(t, "alice's connection has ended", func() bool { return r.gate.Stats().Live.Load() == 1 })
	r.mu.Lock()
	r.fails = nil
	r.mu.Unlock()
	if a := bob.send("carol", message.ChannelPerson, "known"); a.Reason != wukong.ReasonSuccess {
		t.Errorf("SENDACK of bob %+v", a)
	}
}
