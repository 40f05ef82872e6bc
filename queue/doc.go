// Package queue is the one structure by which goroutines hand work over: many
// producers, one consumer, first in first out, bounded by the number of items
// and by their weight.
//
// It knows nothing of what it carries. Whoever makes a queue says what an item
// weighs (for example its bytes) and chooses, per call, what happens at the
// bound: Push refuses, PushWait waits. Items of weight zero are control traffic
// (acknowledgements, wake-ups): they pass even when the queue is full and take
// nobody's place, so that a flood of data can never hold back the news that
// would end it. Their number is bounded by whoever sends them.
//
// # Ownership
//
// An item belongs to the queue from the moment a push takes it, and to the
// consumer from the moment a pop returns it. A refused item stays with the
// producer. The queue keeps no copy: a popped slot is zeroed at once, so what
// the item pointed to can be collected.
//
// All methods may be called from any goroutine. Only one goroutine at a time
// may pop; that is what makes "first in, first out" mean something.
//
// # Order
//
// Items leave in the order in which the pushes took them, weightless ones
// included. Between producers that wait in PushWait there is no order of
// arrival: the one whose item fits first goes first.
//
// # Memory
//
// In the steady state nothing is allocated. The ring doubles when it must and
// shrinks again when it has been emptied many times without being needed at
// that size.
//
// # After a crash
//
// Nothing is kept: a queue is memory. Nothing may be acknowledged to a client
// because it was put into one.
package queue
