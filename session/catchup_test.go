package session

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"gatepost/message"
	"gatepost/wukong"
)

// texts returns what messages say.
func texts(rs []*wukong.Recv) (all []string) {
	for _, r := range rs {
		all = append(all, string(r.Payload))
	}
	return all
}

// A device that is behind stays connected while the disk answers with errors that
// pass. It gets every message, in order and once, and its read position never
// passes one that it did not get.
func TestReadErrorsThatPassCostNoMessage(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EIO, syscall.EMFILE, syscall.ENOMEM} {
		t.Run(errno.Error(), func(t *testing.T) {
			r := newRig(t, nil)
			r.change(group(message.OpCreate, "team", "alice", "bob"))
			alice := r.login("alice", "a")
			const n, bad = 300, 50
			for i := 1; i <= n; i++ {
				alice.send("team", message.ChannelGroup, fmt.Sprint(i))
			}
			var broken atomic.Bool
			broken.Store(true)
			r.breaks(func(_ string, seq uint64) error {
				if seq >= bad && broken.Load() {
					return fmt.Errorf("cannot read message %d: %w", seq, errno)
				}
				return nil
			})
			bob := r.login("bob", "b")
			got := bob.recvs(bad - 1)
			bob.ack(got...)
			for i := n + 1; i <= n+10; i++ { // readable or not: they must not overtake
				alice.send("team", message.ChannelGroup, fmt.Sprint(i))
			}
			asked := r.countReads()
			until(t, "the page is asked for again", func() bool { return r.countReads() >= asked+2 })
			if early := bob.recv(50 * time.Millisecond); early != nil {
				t.Fatalf("message %d came before message %d, which cannot be read yet", early.MessageSeq, bad)
			}
			if at, _ := r.cursors("bob", "team"); at > bad-1 {
				t.Fatalf("the read position is %d, message %d was never pushed", at, bad)
			}
			broken.Store(false)
			for len(got) < n+10 {
				more := bob.recvs(1)
				bob.ack(more...)
				got = append(got, more...)
			}
			for i, text := range texts(got) {
				if text != fmt.Sprint(i+1) {
					t.Fatalf("message %d is %q", i+1, text)
				}
			}
			until(t, "the log knows that all is read", func() bool { at, _ := r.cursors("bob", "team"); return at == n+10 })
		})
	}
}

// A message can be read before apply has pushed it. A page that is read then may
// bring it, the push may not bring it again: not after it was acknowledged, and not
// out of order.
func TestAPushBehindAPageIsNotASecondOne(t *testing.T) {
	r := prepareRig(t, func(o *Options) { o.InflightMax = 4 })
	held, free := make(chan struct{}), make(chan struct{})
	r.putting = func(_ string, seq uint64) {
		if seq == 6 {
			close(held)
			<-free
		}
	}
	r.begin()
	r.change(group(message.OpCreate, "team", "alice", "bob"))
	alice, bob := r.login("alice", "a"), r.login("bob", "b")
	for i := 1; i <= 5; i++ {
		alice.send("team", message.ChannelGroup, fmt.Sprint(i))
	}
	got := bob.recvs(4) // the fifth has no room in the window
	until(t, "the fifth waits", func() bool { return r.gate.Stats().Behind.Load() == 1 })
	alice.write((&wukong.Send{ClientSeq: 6, ChannelID: []byte("team"), ChannelType: message.ChannelGroup, Payload: []byte("6")}).Append(nil, 5))
	<-held // apply holds the push of the sixth, which can be read
	bob.ack(got...)
	got = append(got, bob.recvs(1)...)
	bob.ack(got[4])
	if early := bob.recv(50 * time.Millisecond); early != nil {
		bob.ack(early)
		got = append(got, early)
	}
	until(t, "the read position is said to the log", func() bool { at, _ := r.cursors("bob", "team"); return at >= uint64(len(got)) })
	close(free)
	for {
		more := bob.recv(300 * time.Millisecond)
		if more == nil {
			break
		}
		bob.ack(more)
		got = append(got, more)
	}
	if want := []string{"1", "2", "3", "4", "5", "6"}; fmt.Sprint(texts(got)) != fmt.Sprint(want) {
		t.Errorf("bob got %v, want %v", texts(got), want)
	}
}
