package api

import (
	"encoding/json"
	"slices"
	"strings"

	"gatepost/message"
	"gatepost/wukong"
)

// How many events are read, at most, to find those of a message among those of its
// channel. A page of history is looked up in one pass: from each of its streams on
// eventWindow events, pageEvents and pageBytes for the whole request. What lies
// behind that is not in the page; /message/eventsync looks further.
const (
	eventWindow  = 1024
	pageEvents   = 4096
	pageBytes    = 4 << 20
	seekEvents   = 16    // what it costs to look for a place
	recallEvents = 128   // the newest, before the first event of a message
	syncEvents   = 65536 // of /message/eventsync: the newest, or those behind a sequence
)

// recall returns what is stored of the events of one message among the newest of
// its channel, or those behind a sequence.
func (rd *reader) recall(typ uint8, id []byte, no string, from, most uint64) lanes {
	ls := make(lanes)
	ch, first, last := rd.s.archive.Find(typ, message.EventsOf(nil, id))
	if ch == nil {
		return ls
	}
	switch {
	case from > 0 && from <= last:
		first = max(first, from+1)
		last = min(last, first+most-1)
	case last >= first && last-first >= most:
		first = last - most + 1
	}
	for next, bytes := first, 0; next <= last && bytes < historyBytes; {
		page := rd.page(ch, next, int(min(last-next+1, maxHistory)))
		if page == nil {
			break
		}
		var r message.Record
		for i, seq := range page.Seqs {
			if page.Batch.Record(i, &r) == nil && seq <= last && string(r.ClientMsgNo) == no {
				ls.take(&r, seq)
				bytes += r.Size()
			}
		}
		page.Batch.Release()
		if page.Next <= next {
			break // the channel is gone
		}
		next = page.Next
	}
	return ls
}

// replay returns what is stored of the events of some messages, which ascend by id,
// by client_msg_no.
func (rd *reader) replay(typ uint8, id []byte, wanted []*stored) map[string]lanes {
	found := make(map[string]lanes, len(wanted))
	for _, m := range wanted {
		found[m.ClientMsgNo] = make(lanes)
	}
	ch, next, last := rd.s.archive.Find(typ, message.EventsOf(nil, id))
	var r message.Record
	for i, end := 0, uint64(0); ch != nil && next <= last && rd.events > 0 && rd.bytes > 0; {
		if next >= end { // what follows is of messages further on
			if i == len(wanted) {
				break
			}
			next = max(next, rd.seek(ch, wanted[i].ID-idSlack, past{First: next, Last: last}))
			end = next + eventWindow
			i++
			rd.events -= seekEvents
			continue
		}
		page := rd.page(ch, next, int(min(end-next, uint64(rd.events), historyStep)))
		if page == nil {
			break
		}
		for j, seq := range page.Seqs {
			if page.Batch.Record(j, &r) != nil {
				continue
			}
			for i < len(wanted) && r.MessageID >= wanted[i].ID-idSlack {
				end = seq + eventWindow
				i++
			}
			rd.bytes -= r.Size()
			if ls := found[string(r.ClientMsgNo)]; ls != nil {
				ls.take(&r, seq)
			}
		}
		rd.events -= int(page.Next - next)
		page.Batch.Release()
		if page.Next <= next {
			break
		}
		next = page.Next
	}
	return found
}

// eventMeta is what a message of an answer says of its streams.
type eventMeta struct {
	Has     bool      `json:"has_events"`
	Done    bool      `json:"completed"` // by stream.finish
	Version uint64    `json:"event_version,omitempty"`
	Last    uint64    `json:"last_msg_event_seq,omitempty"`
	Count   int       `json:"event_count,omitempty"`
	Open    int       `json:"open_event_count,omitempty"`
	Events  []keyMeta `json:"events,omitempty"`
}

type keyMeta struct {
	Key       string          `json:"event_key"`
	Status    string          `json:"status"`
	Last      uint64          `json:"last_msg_event_seq,omitempty"`
	Snapshot  json.RawMessage `json:"snapshot,omitempty"`
	EndReason uint8           `json:"end_reason,omitempty"`
	Error     string          `json:"error,omitempty"`
}

type eventHint struct {
	No   string `json:"client_msg_no"`
	From uint64 `json:"from_msg_event_seq"`
}

// show is as that of a place, with what is known of streams.
func (rd *reader) show(p *place, entries []entry, basic bool) []stored {
	all := p.show(entries)
	var wanted []*stored
	for i := range all {
		if all[i].Setting&wukong.SettingStream != 0 && all[i].ClientMsgNo != "" {
			wanted = append(wanted, &all[i])
		}
	}
	if len(wanted) == 0 {
		return all
	}
	slices.SortFunc(wanted, func(a, b *stored) int { return int(min(1, max(-1, a.ID-b.ID))) })
	id := storageID(p.Type, p.UID, p.ID)
	found := rd.replay(uint8(p.Type), id, wanted)
	for _, m := range wanted {
		ls := found[m.ClientMsgNo]
		rd.s.streams.open(streamOf{uint8(p.Type), string(id), m.ClientMsgNo}, ls)
		m.stream(ls, basic)
	}
	return all
}

// stream adds what the events of a message make together; without snapshots for an
// answer that is basic.
func (m *stored) stream(ls lanes, basic bool) {
	if len(ls) == 0 {
		return
	}
	meta := &eventMeta{Has: true}
	for key, l := range ls {
		if key == keyFinish {
			meta.Done = true
			continue
		}
		k := keyMeta{Key: key, Status: l.Status, Last: l.Seq, EndReason: l.EndReason, Error: l.Error}
		if !basic {
			k.Snapshot = l.content()
		}
		if !l.ended() {
			meta.Open++
		}
		meta.Last = max(meta.Last, l.Seq)
		meta.Events = append(meta.Events, k)
	}
	slices.SortFunc(meta.Events, func(a, b keyMeta) int { return strings.Compare(a.Key, b.Key) })
	meta.Count, meta.Version = len(meta.Events), meta.Last
	m.Meta, m.Hint = meta, &eventHint{No: m.ClientMsgNo}
	if l := ls[keyMain]; l != nil {
		m.StreamData = dataOf(l.content())
		m.EndReason, m.Error = l.EndReason, l.Error
		if l.ended() {
			m.End = 1
		}
	}
}

// dataOf is what clients of before know of a stream: its text, or data that is
// binary, else the JSON.
func dataOf(snapshot json.RawMessage) []byte {
	var c struct {
		Kind string  `json:"kind"`
		Text string  `json:"text"`
		Data *string `json:"data"`
	}
	switch err := json.Unmarshal(snapshot, &c); {
	case err == nil && c.Kind == "text":
		return []byte(c.Text)
	case err == nil && c.Kind == "binary" && c.Data != nil:
		return []byte(*c.Data)
	}
	return snapshot
}
