// Package jsonrpc is the other encoding of the WuKong protocol: the frames of
// package wukong as JSON-RPC 2.0 objects, one behind the other without a
// delimiter. It knows no socket, no clock and no state but a Splitter's.
//
// A Splitter cuts one object off the front of received bytes, Parse reads what
// every request has, and a method per kind of request its params:
//
//	object, n, err := splitter.Split(in) // n == 0: wait for more bytes
//	err = request.Parse(object)
//	err = request.Send(&s)               // if request.Method is MethodSend
//	out = jsonrpc.AppendSendack(out, request.ID, &ack)
//
// Requests come from clients; results, errors and the notifications recv,
// event and disconnect go to them. Payloads are never encrypted, and base64 unless
// the client's Style is another.
// Message ids are decimal strings: JavaScript's numbers have 53 bits.
//
// Ownership: object is a view on the bytes given to Split. A Request and
// what its methods fill in are copies that stay valid. The Append functions copy, and allocate only when dst
// has to grow. What they append is valid UTF-8 whatever the bytes of a string
// are. A Splitter or a Request belongs to one goroutine.
//
// What is accepted from outside: MaxObject and MaxDepth are checked before
// anything is allocated, every byte of an object is looked at once by Split
// however small the pieces are in which it comes. After an error of Split, or
// one of Parse that wraps ErrSyntax, the stream cannot be trusted any more. An
// *Error is the answer to one request and leaves the stream as it is.
//
// After a crash: nothing is kept, so nothing is lost.
package jsonrpc
