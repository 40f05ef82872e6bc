package cli

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strconv"
	"sync"
	"time"
)

// benchPage is how many messages a page of history has.
const benchPage = 100

// measureHistory reads pages from random places of what a run published, on
// two connections, and checks every message.
func measureHistory(ctx context.Context, o benchOptions) (map[string]any, error) {
	if o.messages < benchPage {
		return nil, fmt.Errorf("cannot read pages of %d from channels of %d messages: say --messages as the run did", benchPage, o.messages)
	}
	r := &benchRun{o: o, id: o.run, start: time.Now()}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cpu, _ := r.process()
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			for i := half; i < o.pages && ctx.Err() == nil; i += 2 {
				if err := r.readPage(ctx, rand.IntN(o.senders), 1+rand.IntN(o.messages-benchPage+1)); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("cannot vouch for the broker: %w (run %s)", err, r.id)
	}
	result := map[string]any{"mode": o.mode, "run": r.id, "pages": o.pages, "page_messages": benchPage,
		"senders": o.senders, "messages": o.messages, "size": o.size,
		"pages_per_second": int64(float64(o.pages) / time.Since(r.start).Seconds())}
	quantiles(result, "page", &r.pages)
	if after, rss := r.process(); cpu >= 0 && after >= 0 {
		result["server_cpu_seconds"] = after - cpu
		result["server_rss_bytes"] = rss
	}
	return result, nil
}

// readPage reads and checks one page of the channel of a sender.
func (r *benchRun) readPage(ctx context.Context, sender, from int) error {
	q := url.Values{"uid": {r.name("s", sender)}, "to": {r.name("r", sender)}, "from": {strconv.Itoa(from)}, "limit": {strconv.Itoa(benchPage)}}
	began := time.Now()
	page, err := fetchHistory(ctx, r.o.http, q)
	if err != nil {
		return err
	}
	r.pages.Observe(int64(time.Since(began)))
	if len(page.Messages) != benchPage {
		return fmt.Errorf("the page of sender %d from %d on has %d messages, expected %d", sender, from, len(page.Messages), benchPage)
	}
	for i, m := range page.Messages {
		seq := from + i
		if int(m.Seq) != seq || len(m.Payload) != r.o.size || binary.BigEndian.Uint64(m.Payload[8:]) != uint64(sender)<<32|uint64(seq-1) {
			return fmt.Errorf("sequence %d of sender %d is not what was sent: sequence %d, %d bytes", seq, sender, m.Seq, len(m.Payload))
		}
	}
	return nil
}
