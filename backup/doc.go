// Package backup writes everything that a running box keeps into one file, and
// makes a data directory of such a file again.
//
// A backup is a tar archive, so that it can be looked into with what is at hand:
//
//	blocks/…            the block files, up to the newest checkpoint
//	log/<number>/…      the generations of the log behind the checkpoint before
//	metadata            the metadata, see store.Image
//	MANIFEST            last: JSON, names, sizes and SHA-256 of all the others
//
// # What it holds
//
// Everything that was acknowledged before Write was called, and perhaps some of
// what came while it ran: it is the state at one index of the log, that of the
// last group that was durable when its files were listed. They are copied up to there,
// however much more is written to them meanwhile. Checkpoints go on meanwhile; the
// log is not retired until Write returns.
//
// # Ownership
//
// Nothing is kept between calls. Write may be called from any goroutine.
//
// # After a crash
//
// Restore builds the directory beside its place and renames it at the end: it
// is there whole or not at all. A file without MANIFEST, or with another
// checksum, is refused.
package backup
