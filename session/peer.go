package session

import (
	"gatepost/message"
	"gatepost/netio"
	"gatepost/wukong"
)

// peer is one connection. It holds what an idle connection must cost and no
// more: no buffer, no cipher, no map. 64 bytes.
type peer struct {
	conn     *netio.Conn
	uid      string
	keys     *wukong.Keys // nil: payloads are not encrypted
	bucket   *bucket      // nil until the first SEND under a rate limit
	streams  int32        // head of the list of its streams, -1 if none
	behind   int32        // number of its streams that are behind
	owed     int16        // SENDs that wait for the log; at most maxUnanswered
	frozen   int16        // number of its streams in which a push was given up
	tag      uint32       // of its device, see message.DeviceTag; and nameless
	fetching uint8        // pages asked for and not here yet
	version  uint8        // of the protocol; versionJSON, or 0 before the first request
	device   uint8
	state    peerState
	paused   pause // why it is not read; see Gate.pause
	asked    bool  // the application has been asked for the channel of the next SEND
	dry      bool  // a push found no room: OnWritable comes
	scan     scanState
}

// pause is a set of reasons why a connection is not read. It is read again when the
// last of them is over.
type pause uint8

const (
	pauseLog  pause = 1 << iota // the log does not take the round's batch
	pauseAsk                    // the application is asked for the channel of a SEND
	pauseDeaf                   // the client does not read its answers
	pauseOwed                   // too many SENDs are not answered
)

// nameless in peer.tag says that the device has no id: the tag is only this
// connection's.
const nameless = 1 << 24

// positionTag is under which tag the read positions of its device are kept.
func (p *peer) positionTag() uint32 {
	if p.tag&nameless != 0 {
		return 0
	}
	return p.tag
}

// bucket is what a connection may send now: it fills at a rate per second up
// to that rate.
type bucket struct {
	tokens float64
	ms     int64 // unix ms of the last refill
}

type peerState uint8

const (
	stateNew     peerState = iota // nothing but CONNECT is accepted
	stateLive                     // logged in
	stateClosing                  // told to go; its frames are dropped
)

// stream is what a connection has been pushed of one channel. It exists from
// the first push until everything is acknowledged and said to the log.
type stream struct {
	channel *message.Channel
	peer    *peer
	id      uint64 // of the connection; 0 marks a free slot
	member  uint64 // number of the membership by which it is pushed
	next    int32  // next stream of the same connection, or next free slot

	// sent is what is pushed and not acknowledged, in order; head is its
	// first live element.
	sent []sentSeq
	head int
	last uint64 // newest sequence pushed

	// cursor is the newest sequence below which everything pushed is
	// acknowledged; proposed is what the log knows of it. Invariant:
	// proposed <= cursor <= last. frozen: a message ran out of tries, so the
	// cursor stays before it until the next connect.
	cursor   uint64
	proposed uint64
	frozen   bool
	dirty    bool // in Gate.dirty

	// behind: pushes stopped. from is the first sequence not pushed, seen the
	// newest that apply has announced to this connection. Invariant while behind:
	// last < from <= seen. Nothing beyond seen is written, although it may be
	// readable: apply announces it later, and would then bring it once more.
	behind   bool
	fetching bool
	resting  bool   // its page could not be read: in Gate.resting until it is asked for again
	before   uint64 // newest sequence when the connection came, if its device had no read position
	from     uint64
	seen     uint64
}

type sentSeq struct {
	seq   uint64
	acked bool
}

// pushed notes that seq left for the connection.
func (s *stream) pushed(seq uint64) {
	s.last = max(s.last, seq)
	if !s.frozen {
		s.sent = append(s.sent, sentSeq{seq: seq})
	}
}

// passed notes that seq needs no push: the device sent it, or it expired.
func (s *stream) passed(seq uint64) {
	s.last = max(s.last, seq)
	if s.frozen {
		return
	}
	s.sent = append(s.sent, sentSeq{seq: seq, acked: true})
	s.settle()
}

// acked notes an acknowledgement and moves the cursor over what is settled.
func (s *stream) acked(seq uint64) {
	for i := s.head; i < len(s.sent); i++ {
		if s.sent[i].seq == seq {
			s.sent[i].acked = true
			break
		}
		if s.sent[i].seq > seq {
			break
		}
	}
	s.settle()
}

func (s *stream) settle() {
	for s.head < len(s.sent) && s.sent[s.head].acked {
		s.cursor = max(s.cursor, s.sent[s.head].seq)
		s.head++
	}
	switch {
	case s.head == len(s.sent):
		s.sent, s.head = s.sent[:0], 0
	case s.head > 64 && s.head > len(s.sent)/2:
		s.sent = s.sent[:copy(s.sent, s.sent[s.head:])]
		s.head = 0
	}
}

// giveUp freezes the cursor: what is not acknowledged now is pushed again
// after the next connect.
func (s *stream) giveUp() {
	s.frozen = true
	s.sent, s.head = s.sent[:0], 0
}

// fallBack stops pushing before seq.
func (s *stream) fallBack(seq uint64) {
	if !s.behind {
		s.behind, s.from, s.seen = true, seq, seq
		return
	}
	s.from = min(s.from, seq)
	s.seen = max(s.seen, seq)
}
