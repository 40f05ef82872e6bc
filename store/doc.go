// Package store answers where the messages of a channel lie, and reads them.
//
// Memory is the materialised state of a box that keeps it in RAM: 24 bytes per
// message, the payloads stay in the log and are read from there. It owns its
// index; apply adds to it, the fetch reader reads it, and a lock is held only
// while an index page is copied, never across file I/O.
//
// After a crash: nothing of it is stored. Replaying the log builds it again,
// with the same sequences.
package store
