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
	// leaves of a group that was never acknowledged. Nothing after it tells
	// that it was more: damage to the newest group alone looks the same.
	Torn bool
}

// Damaged returns the gaps that are damage: all but a torn end. The start, check and
// health go by it.
func (r *Report) Damaged() (gaps []Gap) {
	for _, g := range r.Gaps {
		if !g.Torn {
			gaps = append(gaps, g)
		}
	}
	return gaps
}

// String is one line for a person.
func (g Gap) String() string {
	var b strings.Builder
	what := "gap in"
	if g.Torn {
		what = "unfinished end of"
	}
	fmt.Fprintf(&b, "%s %s at offset %d, %d bytes", what, g.File, g.Offset, g.Bytes)
	switch {
	case g.Torn && g.FirstIndex != 0:
		fmt.Fprintf(&b, ", group %d", g.FirstIndex)
	case g.Torn:
	case g.FirstIndex == 0:
		b.WriteString(", no group known to be lost")
	case g.Records > 0:
		fmt.Fprintf(&b, ", group %d with %d records is gone", g.FirstIndex, g.Records)
	default:
		fmt.Fprintf(&b, ", groups %d to %d are gone", g.FirstIndex, g.LastIndex)
	}
	b.WriteString(": " + g.Reason)
	if g.Torn {
		b.WriteString("; a write that was cut off and never acknowledged leaves this, and so does damage to the newest group")
	}
	return b.String()
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
