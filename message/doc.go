// Package message holds the durable record, its bytes, and the batch that
// crosses rooms.
//
// A Record is a view: its byte fields point into whatever it was decoded from.
// A Batch owns the encoded records of one epoll round in one pooled buffer,
// and beside them, in memory only, the Origin of each: which loop and
// connection is waiting for the acknowledgement. Origins are never stored, so
// a replayed batch acknowledges nobody without any special case.
//
// Ownership: whoever holds a reference may read a sealed batch; the last
// Release gives the buffer back to the pool, and every view on it dies then.
// Until it is proposed a batch belongs to the loop that fills it.
//
// After a crash: records are self-delimiting and carry no checksum of their
// own; the log's frame around them does. Record bytes are versioned by the
// log's frame version and never change their meaning.
package message
