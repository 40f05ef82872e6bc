// Package ack remembers which pushes were not acknowledged yet and says when
// one is due again.
//
// A Table holds identities, never message bytes: which connection, which
// message, and where it can be read again. What is due is fetched from the
// store by whoever owns the table. It sits on a hashed timing wheel: sending,
// acknowledging and removing one entry cost the same however many there are,
// and dropping a connection costs only its own entries.
//
//	Sent ──first──▶ due, try 1 ──2·first──▶ due, try 2 ── … ──▶ due, try n ──max──▶ last: given up
//	  └────────────────┴── Acked or Drop: gone ──┴─────────────────────┘
//
// # Ownership
//
// A Table belongs to one goroutine, the loop that owns the connections in it.
// It has no lock, no goroutine and no clock: time comes in as an argument.
//
// # Memory
//
// An entry takes 48 bytes, and 16 to 32 more when the table is full in the index
// that finds it. Nothing is allocated in the steady state; an empty table that
// once was large gives its memory back.
//
// # After a crash
//
// Nothing is kept and nothing is lost: an unacknowledged message is behind its
// reader's stored position, and is pushed again when the reader connects.
package ack
