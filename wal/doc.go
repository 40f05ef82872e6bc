// Package wal is the log: it makes batches of records durable, in order, and
// gives all of them back after a restart.
//
// The log is a row of generations. A generation is a directory with one file,
// `<data>/log/<16 hex digits>/00000000000000000001`, that is written from its
// beginning to its end. A new one begins with every start, when the roll size is
// reached, and after a full disk; old ones are retired when a checkpoint holds
// what is in them. In the file lie frames (see frame.go for the bytes): first a header,
// which says where the generation before it ends, then one frame per commit
// group with the records of all batches that were committed together.
//
// There are two engines. The one of choice (recycled.go) overwrites files of
// their full size that are used again. The other appends through
// github.com/tidwall/wal, one entry per frame; that library has no checksum, no repair and no lasting memory of an error, so
// this package never lets it read, truncate, cycle or reopen a file: reading is
// done here, from the bare bytes.
//
// # Ownership
//
// Open locks the data directory for the process and replays. From then on the
// Committer's goroutine (Run) is the only writer of the Log. Propose, Stats and
// ReadAt may be called from any goroutine, Retire from one, the checkpoint's.
// Spare files are made by a goroutine of their own that Close waits for. A batch belongs to the committer
// from the moment Propose takes it and to the sink when that is called.
//
// # Promises
//
// A batch that the sink gets without an error was written and synced. A batch
// that the sink gets with an error was refused; it does not come back in a
// replay, because the failed file is cut back at once and, should that fail
// too, the header of the next generation says where the valid part ends. One
// case is left open: after a failed write the process dies before either could
// be done, then a frame that reached the disk whole is replayed.
//
// # Trouble
//
// A full disk (ENOSPC, EDQUOT, or less than the headroom left) refuses what is
// proposed and is probed once a second. When space returns a generation whose
// file failed is never touched again: a new one is begun. The log also starts
// on a full disk: it replays and is full. Any other error of a write or a sync
// ends the log for good, because nobody knows what the disk then holds: Run
// returns, and the process is to be started again.
//
// # After a crash
//
// Open gets through damage: bytes that were read and are wrong. A torn tail is left
// out: nothing in it was acknowledged. Behind a damaged frame the scanner searches
// for the next whole one and goes on; what is missing is a Gap in the Report, with
// file, offset and indexes, and the file is kept in the quarantine when it is
// retired. Bytes that look like a frame but were sent by a client are not taken for
// one: frames carry a random number of their generation. These things keep Open from
// starting: a file that cannot be opened or read, frames of another format, a replay
// function that fails. Then nothing is changed. A disk that fails is waited for, 10 s;
// what it never reads again is given up by Salvage only.
package wal
