package wal

import (
	"fmt"
	"strings"
)

// Report says what a replay found.
type Report struct {
	Generations int
	Frames      int64  // groups
	Records     int64  // in them
	Bytes       int64  // of the records
	LastIndex   uint64 // of the newest group; 0: none
	Gaps        []Gap  // in the order of the log
}

// Gap is a stretch of the log in which no frame was found. Bytes 0 means that
// the file was not there or too short.
type Gap struct {
	File       string
	Offset     int64
	Bytes      int64
	FirstIndex uint64 // groups that are gone; 0: not known, or none
	LastIndex  uint64
	Records    int64 // in them; 0: not known
	Reason     string
	// Torn says that it is the end of the newest generation, such as a crash
	// leaves of a group that was never acknowledged. Nothing behind it tells
	// that it was more.
	Torn bool
}

// String is one line for a person.
func (g Gap) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "gap in %s at offset %d, %d bytes", g.File, g.Offset, g.Bytes)
	switch {
	case g.FirstIndex == 0:
		b.WriteString(", no group known to be lost")
	case g.Records > 0:
		fmt.Fprintf(&b, ", group %d with %d records is gone", g.FirstIndex, g.Records)
	default:
		fmt.Fprintf(&b, ", groups %d to %d are gone", g.FirstIndex, g.LastIndex)
	}
	return b.String() + ": " + g.Reason
}

// String is a line for the log of the process, and one for each gap.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d generations, %d groups up to index %d, %d records, %d bytes, %d gaps",
		r.Generations, r.Frames, r.LastIndex, r.Records, r.Bytes, len(r.Gaps))
	for _, g := range r.Gaps {
		b.WriteString("\n" + g.String())
	}
	return b.String()
}
