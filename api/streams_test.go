package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// What is gathered is bounded: of one stream, of all, and in their number; the
// quietest goes first.
func TestStreamsAreBounded(t *testing.T) {
	s := newStreams()
	at := time.Unix(0, 0)
	add := func(no, text string) bool {
		at = at.Add(time.Second)
		piece, err := json.Marshal(map[string]string{"kind": "text", "delta": text})
		if err != nil {
			t.Fatal(err)
		}
		return s.add(streamKey{2, "g", no, keyMain}, piece, at)
	}
	come := func(no string) (textSnapshot, bool) {
		var got textSnapshot
		snapshot, open := s.peek(streamKey{2, "g", no, keyMain})
		if snapshot != nil {
			if err := json.Unmarshal(snapshot, &got); err != nil {
				t.Fatal(err)
			}
		}
		return got, open
	}
	add("long", strings.Repeat("a", maxStreamBytes-1))
	add("long", "bcd")
	if got, open := come("long"); len(got.Text) != maxStreamBytes || !got.Cut || !open || !strings.HasSuffix(got.Text, "ab") {
		t.Errorf("%d bytes of a long one, cut: %t, open: %t", len(got.Text), got.Cut, open)
	}
	s.end(streamKey{2, "g", "long", keyMain}, at)
	if s.bytes != 0 || add("long", "x") {
		t.Errorf("%d bytes are held of what has ended, or it goes on", s.bytes)
	}
	for i := range maxAllStreams/maxStreamBytes + 10 {
		add(fmt.Sprint("big", i), strings.Repeat("a", maxStreamBytes))
		add("kept", "x") // it is the youngest each time
	}
	if s.bytes > maxAllStreams {
		t.Errorf("%d bytes are held, at most %d are possible", s.bytes, maxAllStreams)
	}
	if _, open := come("big0"); open {
		t.Error("the quietest is still there")
	}
	if _, open := come("kept"); !open {
		t.Error("one that goes on is gone")
	}
	for i := range 3 * maxStreams {
		add(fmt.Sprint("small", i), "x")
	}
	if n := len(s.all); n > maxStreams {
		t.Errorf("%d streams are held", n)
	}
	sum := 0
	for _, f := range s.all {
		sum += f.size()
	}
	if sum != s.bytes {
		t.Errorf("%d bytes are counted, %d are held", s.bytes, sum)
	}
}

// Whatever the payload of the end is, the snapshot gets into it.
func TestSnapshotIsMerged(t *testing.T) {
	for payload, want := range map[string]string{
		``:          `{"snapshot":"s"}`,
		`null`:      `{"snapshot":"s"}`,
		`{}`:        `{"snapshot":"s"}`,
		`{"a":[1]}`: `{"a":[1],"snapshot":"s"}`,
		`[1]`:       `{"raw_payload":[1],"snapshot":"s"}`,
		`"x"`:       `{"raw_payload":"x","snapshot":"s"}`,
	} {
		if got := merged(json.RawMessage(payload), json.RawMessage(`"s"`)); string(got) != want {
			t.Errorf("%s becomes %s, want %s", payload, got, want)
		}
	}
}
