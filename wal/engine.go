package wal

import (
	"math"

	tidwall "github.com/tidwall/wal"
)

// engine writes the file of one generation, one frame behind the other: the
// library, which appends, or recycled, which overwrites.
type engine interface {
	Append(frame []byte) error // one write
	Sync() error
	Close() error
}

// library is the engine over tidwall/wal. After an error only Close may be
// called.
type library struct {
	log     *tidwall.Log
	entries uint64
}

// openLibrary begins a log in dir, which must be empty. The library shall
// neither sync by itself, so that the sync can be measured, nor cycle.
func openLibrary(dir string) (engine, error) {
	l, err := tidwall.Open(dir, &tidwall.Options{
		NoSync: true, SegmentSize: math.MaxInt, SegmentCacheSize: 1, DirPerms: 0o700, FilePerms: 0o600,
	})
	if err != nil {
		return nil, err
	}
	return &library{log: l}, nil
}

func (l *library) Append(frame []byte) error {
	l.entries++
	return l.log.Write(l.entries, frame)
}

func (l *library) Sync() error  { return l.log.Sync() }
func (l *library) Close() error { return l.log.Close() }
