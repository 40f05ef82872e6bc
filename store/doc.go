// Package store keeps the messages of channels and the state of the core, and
// reads them back.
//
// The log has everything first. At a roll of the log apply hands the store a
// snapshot (Checkpoint), and the checkpoint's goroutine (Run) moves what it
// speaks of out of the log:
//
//	log generations ──read──▶ blocks of one channel each ─┐
//	                                                       ├─▶ block files, one sync
//	                          page: where they lie ────────┘
//	states, answers, page, checkpoint record ──────────────▶ metadata, one transaction
//	                                                       └─▶ the log is retired, one
//	                                                           checkpoint later
//
// A message is in the log, in a block, or in both for a while. Readers find it
// through an index in memory: 24 bytes for each that is only in the log, 32
// bytes for each block of up to 64 KiB.
//
// # Ownership
//
// Put, Drop and Checkpoint belong to apply, Run to the checkpoint's goroutine.
// Read is anybody's. A lock guards the index; it is held while an entry is
// looked up or changed and never while a file is used. Block files are written
// by the checkpoint's goroutine only, and the metadata belong to it.
//
// # After a crash
//
// The newest checkpoint whose transaction is whole holds; the core begins with
// its state and replays the log behind it. What an unfinished checkpoint left
// in block files is cut off. The log is kept one checkpoint longer than it is
// needed, so that damage to the newest transaction costs a longer replay and
// nothing else. If more of the metadata is lost, pages and blocks bring back
// messages and sequences, but not members of groups, read positions and recent
// answers that are older than the log; Report says so. A damaged block costs
// its messages, which readers are told, and no other.
//
// # Full disk
//
// A checkpoint that fails is tried again until it works, after one second and
// then ever later, a minute at most; the log is kept, reads go on, and in between
// backups are taken and what is too much by the rules or the budget goes. After an error everything is opened again at once,
// which cuts off what was not completed and gives back its space. Open needs no
// space unless it has damage to repair.
package store
