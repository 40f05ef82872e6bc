// Package netio runs sockets on a fixed number of epoll loops and calls a
// Handler on the loop's own goroutine. It knows no protocol above TCP, the
// PROXY header and WebSocket framing. Linux only.
//
// Ownership: a connection belongs to one loop from accept to close, and its
// methods may be called only inside that loop's callbacks. The only things
// safe elsewhere are Loop.Wake, Loop.Stop, Loop.Conns, Loop.Index, the counters
// and the Server. Loop 0 also owns the listeners and hands connections out.
//
// Descriptors are registered once, edge-triggered, and never touched with
// epoll_ctl again. The epoll data is slot and generation, so an event that was
// on its way when a connection closed can never hit the next one that gets the
// same descriptor number.
//
// Memory: reads go into the loop's own ring. A connection borrows one only
// while an incomplete frame of it, or bytes that the handler paused on, or
// unsent bytes are there. An idle connection owns no buffer. When the pool is
// used up, what an incomplete frame would need stays in the kernel (TCP
// back-pressure) until buffers come back, and the oldest incomplete frame is
// dropped with its connection after PartialTimeout. A quarter of the pool is
// kept for output.
//
// A round: wait for events, read and call OnRead, call OnWritable, close what
// timed out, call OnRound, write what the round produced with one write per
// connection, close what is to be closed.
//
// After a crash nothing is left to recover; clients reconnect.
package netio
