// Package session is the protocol state machine of every connection of one
// loop: login, SEND to the log, acknowledgements and pushes back, retries,
// flow control.
//
// A Gate belongs to its loop's goroutine and implements the reactor's handler.
// Two things of it are safe elsewhere: Post, which apply and the fetch reader
// call, and Stats. All else, the connections' state, the
// in-flight table, the round's batch, is touched by the loop only, so there is
// no lock.
//
// Flow: what clients send is checked, copied once into the round's batch and
// proposed at the end of the round. If the log's queue is full the batch is
// kept and the connections that want to send are not read any further; the
// kernel passes the pressure on. What apply posts is written to connections.
// A connection that does not take it, because its output is full or too much
// is unacknowledged, is not pushed to: the gate remembers per channel where it
// stopped and fetches from there when there is room. Retries, messages missed
// while offline and a full mailbox are the same fetch.
//
// A connection speaks the binary protocol or JSON-RPC, which its first byte says.
// Only what decodes and encodes differs: frame and object are the two ways in,
// and connack, writeAck, write and kick choose the way out.
//
// Hot restart: when apply has ended, Export writes down what a connection is, and
// Resume in the next process goes on from there: who is logged in, keys, answers
// without room, and per channel what is pushed and not acknowledged.
//
// After a crash: nothing of a session is stored but read positions, which are
// records in the log, proposed at intervals. Positions that were not proposed
// yet mean that a message is pushed once more, with the same message id.
package session
