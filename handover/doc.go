// Package handover is how connections go from a process to the next one of the
// same box: a blob of records in sealed memory, and the descriptors, in the same
// order, in the queue of a socket pair. Two descriptors are then all that a
// service manager has to keep, however many connections there are: one kept
// descriptor per connection takes seconds at a thousand and a minute at ten.
//
// It knows nothing of what is in a record: what is received and unsent is
// netio's, who is logged in session's.
//
// # Ownership
//
// The functions own nothing between calls. Who parks descriptors keeps its own
// copies; who unparks them owns what comes.
//
// # After a crash
//
// A blob is believed only by a process of the same boot, on the same data
// directory, whose log ends where that of its writer ended, and only if as many
// descriptors came as it tells of. In all other cases the connections are closed
// and clients come back as after any crash.
package handover
