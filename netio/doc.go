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
// A round: wait for events, accept, read and call OnRead, once per connection
// and up to ReadBudget, call OnWritable, close what timed out, call OnRound,
// write what the round produced with one write per connection, close what is
// to be closed. A round that writes to more connections than there are rings
// writes in between.
//
// The end: a peer that closed its side, or sent a WebSocket close frame, is read
// to the last byte first, gets the answers that the handler made or said it
// Owes, and is closed when they are written. What the handler gives to a peer
// that is gone is dropped. OnClose is called once, with no callback after it.
//
// WebSocket: the payload of data messages is one stream under Peek, so a frame
// of the handler may be split over messages or share one. In the other
// direction each Commit or Write is one message, binary unless SendText was
// called; all of a round leave in one write.
//
// TLS: a handshake runs in a goroutine of its own, which the loop feeds and whose
// bytes it sends; it never touches the connection. From then on the tls.Conn is the
// loop's: it is handed what was read and seals what is written.
//
// Hot restart: Freeze ends accepting and reading, GiveUp takes connections out of a
// loop with descriptor and state, Restore puts them into one of the next process.
// Those inside TLS stay and are closed.
//
// After a crash nothing is left to recover; clients reconnect.
package netio
