package wal

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"gatepost/message"
)

// Dump writes what is in the log of the data directory dir for a person:
// generations, groups, records and gaps, without what the records carry. It
// changes and locks nothing.
func Dump(out io.Writer, dir string) error {
	b := bufio.NewWriter(out)
	stamp := func(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }
	w := walk{dir: dir, read: newReading(0, nil)}
	if w.first, _ = Oldest(dir); w.first == 1 { // else what is older was retired
		w.first = 0
	}
	w.generation = func(g *generation) {
		fmt.Fprintf(b, "generation %x: %s, %d bytes", g.number, g.path, g.size)
		if g.whole {
			fmt.Fprintf(b, ", begun %s, from index %d, behind generation %x that ends at %d",
				stamp(g.mark.begun), g.first.index, g.mark.previous, g.mark.end)
		}
		fmt.Fprintln(b)
	}
	w.gap = func(_ uint64, g Gap) { fmt.Fprintf(b, "  %v\n", g) }
	w.group = func(g *generation, e *entry, batch *message.Batch) error {
		defer batch.Release()
		fmt.Fprintf(b, "  group %d: offset %d, term %d, %d records, %d bytes\n", e.index, e.start, e.term, e.records, e.length)
		var r message.Record
		for i := range batch.Len() {
			if err := batch.Record(i, &r); err != nil {
				return err
			}
			switch r.Kind {
			case message.KindMessage:
				fmt.Fprintf(b, "    message %d: %s, channel %q type %d, from %q, client_msg_no %q, topic %q, expire %d, %d bytes\n",
					r.MessageID, stamp(r.Timestamp), r.ChannelID, r.ChannelType, r.FromUID, r.ClientMsgNo, r.Topic, r.Expire, len(r.Payload))
			case message.KindChannel:
				fmt.Fprintf(b, "    channel: %s, channel %q type %d, %d bytes\n", stamp(r.Timestamp), r.ChannelID, r.ChannelType, len(r.Payload))
			case message.KindCursor:
				fmt.Fprintf(b, "    cursor: %s, channel %q type %d, of %q device %d, at %d\n",
					stamp(r.Timestamp), r.ChannelID, r.ChannelType, r.FromUID, r.Device, r.MessageID)
			default:
				fmt.Fprintf(b, "    record of kind %d\n", r.Kind)
			}
		}
		return nil
	}
	err := w.run()
	if err == nil {
		_, err = fmt.Fprintln(b, w.report)
	}
	if flushed := b.Flush(); err == nil && flushed != nil {
		err = fmt.Errorf("cannot write the listing: %w", flushed)
	}
	return err
}
