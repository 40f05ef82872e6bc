package netio

import (
	"errors"
	"io"
	"sync/atomic"
)

// Stats counts what one loop did since the start. Any goroutine may read it.
type Stats struct {
	Accepted      atomic.Int64 // connections this loop got
	Refused       atomic.Int64 // closed at once: MaxConns reached, and all are logged in (loop 0)
	AcceptPauses  atomic.Int64 // accept failed for want of descriptors or memory (loop 0)
	ClosedPeer    atomic.Int64 // closed by the peer
	ClosedError   atomic.Int64 // closed by a system error, mostly resets
	ClosedHandler atomic.Int64 // closed by the handler
	ClosedIdle    atomic.Int64 // ErrIdle
	ClosedLogin   atomic.Int64 // ErrLogin and ErrLoginSize
	ClosedCrowded atomic.Int64 // ErrCrowded
	ClosedPartial atomic.Int64 // ErrPartial
	ClosedBuffer  atomic.Int64 // ErrTooLarge, ErrNoBuffer and ErrStuck
	ClosedProxy   atomic.Int64 // ErrProxy
	ClosedWS      atomic.Int64 // ErrWebSocket
	ClosedTLS     atomic.Int64 // ErrTLS
	ClosedStop    atomic.Int64 // ErrStopped
	Stale         atomic.Int64 // events for a connection that is gone
	Reads         atomic.Int64 // read calls that returned bytes
	Writes        atomic.Int64 // write calls that took bytes
	BytesIn       atomic.Int64
	BytesOut      atomic.Int64
	Rounds        atomic.Int64 // epoll rounds
	Waits         atomic.Int64 // calls of epoll_wait, those that find nothing included
	Starved       atomic.Int64 // times a connection had to wait for a ring
	RingsLent     atomic.Int64 // rings out now, without the loop's own
	RingsMapped   atomic.Int64 // bytes of rings that exist
	RingsFallback atomic.Int64 // rings that are plain slices because mapping failed
}

// breach reports whether a connection ends for bytes that no client should send.
func breach(reason error) bool {
	return errors.Is(reason, ErrProxy) || errors.Is(reason, ErrWebSocket) || errors.Is(reason, ErrTLS) || errors.Is(reason, ErrLoginSize) || errors.Is(reason, ErrTooLarge)
}

// closed counts a close by its reason.
func (s *Stats) closed(reason error, byHandler bool) {
	switch {
	case byHandler:
		s.ClosedHandler.Add(1)
	case errors.Is(reason, io.EOF):
		s.ClosedPeer.Add(1)
	case errors.Is(reason, ErrIdle):
		s.ClosedIdle.Add(1)
	case errors.Is(reason, ErrLogin), errors.Is(reason, ErrLoginSize):
		s.ClosedLogin.Add(1)
	case errors.Is(reason, ErrCrowded):
		s.ClosedCrowded.Add(1)
	case errors.Is(reason, ErrPartial):
		s.ClosedPartial.Add(1)
	case errors.Is(reason, ErrTooLarge), errors.Is(reason, ErrNoBuffer), errors.Is(reason, ErrStuck):
		s.ClosedBuffer.Add(1)
	case errors.Is(reason, ErrProxy):
		s.ClosedProxy.Add(1)
	case errors.Is(reason, ErrWebSocket):
		s.ClosedWS.Add(1)
	case errors.Is(reason, ErrTLS):
		s.ClosedTLS.Add(1)
	case errors.Is(reason, ErrStopped):
		s.ClosedStop.Add(1)
	default:
		s.ClosedError.Add(1)
	}
}
