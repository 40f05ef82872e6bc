package main

import (
	"io"
	"testing"
)

// A backup goes before messages only where it is not what fills the disk.
func TestBackupMakesRoomForMessages(t *testing.T) {
	full := false
	w := &spacious{io.Discard, func() bool { return full }, full}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Errorf("with room: %v", err)
	}
	full = true
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("the disk has become full and the log is still kept")
	}
	w = &spacious{io.Discard, func() bool { return full }, full}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Errorf("the disk was full before: %v", err)
	}
}
