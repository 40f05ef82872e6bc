package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatepost/metrics"
	"gatepost/wukong"
)

// benchOptions is one measurement.
type benchOptions struct {
	addr, http string
	mode       string // publish, deliver, fanout
	senders    int
	receivers  int    // of each sender's messages
	window     int    // SENDs of a connection that wait for their answer
	rate       int    // messages a second of all senders, 0: no limit
	size       int    // bytes of a payload, at least benchStamp
	messages   int    // of each sender
	pid        int    // of the broker, 0: not measured
	run        string // history: the run that published
	pages      int    // history: how many to read
}

// benchStamp is the head of a payload: the time of sending and the number of
// the message, 8 bytes each, big-endian.
const benchStamp = 16

// benchRun is what the goroutines of one measurement share.
type benchRun struct {
	o     benchOptions
	id    string // part of all names, so that runs do not meet
	start time.Time
	acks  metrics.Histogram // ns from SEND to SENDACK
	// The same, apart for those that came during a checkpoint and others.
	checkpoint, between metrics.Histogram
	checkpointing       atomic.Bool
	pushes              metrics.Histogram // ns from SEND to RECV
	pages               metrics.Histogram // ns of a page of history, over HTTP
	acked               atomic.Int64
	got                 atomic.Int64
	resends             atomic.Int64
}

// bench measures a broker and checks everything that it answers.
func bench(ctx context.Context, env Env, args []string) error {
	f := newFlags("bench", "[flags]", `Measures a running broker in a closed loop: every sender keeps a window of
messages unanswered. Every acknowledgement, sequence and delivery is checked;
one that is wrong fails the command. With --rate the times are those since a
message was due, so that waiting for the window counts. 60 % of a payload is text that packs, the rest
is random.

  publish  nobody is online to receive
  deliver  each sender has one receiver, who acknowledges
  fanout   all senders send to one group of receivers
  history  nothing is sent: reads pages of 100 from random places of what the
           run of --run has published, with the same --senders, --messages, --size`)
	var o benchOptions
	f.StringVar(&o.addr, "addr", DefaultAddr, "`HOST:PORT` of the broker")
	f.StringVar(&o.http, "http", DefaultHTTP, "`HOST:PORT` of the broker's HTTP")
	f.StringVar(&o.mode, "mode", "deliver", "`publish|deliver|fanout|history`")
	f.StringVar(&o.run, "run", "", "`RUN` whose messages are read, with history")
	f.IntVar(&o.pages, "pages", 2000, "pages to read, with history")
	f.IntVar(&o.senders, "senders", 4, "sending connections")
	f.IntVar(&o.receivers, "receivers", 8, "receiving connections, with fanout")
	f.IntVar(&o.window, "window", 128, "unanswered messages of a sender")
	f.IntVar(&o.rate, "rate", 0, "messages a second of all senders together, 0: as many as the window allows")
	f.IntVar(&o.size, "size", 128, "`BYTES` of a payload")
	f.IntVar(&o.messages, "messages", 100_000, "messages of a sender")
	f.IntVar(&o.pid, "pid", 0, "process id of the broker on this machine, to measure what it uses")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.none(env, args); err != nil {
		return err
	}
	switch {
	case o.mode != "publish" && o.mode != "deliver" && o.mode != "fanout" && o.mode != "history":
		return f.wrong("--mode is %q: publish, deliver, fanout, history are possible", o.mode)
	case (o.mode == "history") != (o.run != ""):
		return f.wrong("--run goes with --mode history: it says whose messages are read")
	case o.pages < 1 || o.senders < 1 || o.window < 1 || o.messages < 1 || o.receivers < 1 || o.rate < 0:
		return f.wrong("--senders, --receivers, --window, --messages and --pages must be above 0, --rate not below")
	case o.size < benchStamp || o.size > wukong.MaxPayload:
		return f.wrong("--size is %d, %d to %d are possible", o.size, benchStamp, wukong.MaxPayload)
	}
	run := measure
	if o.mode == "history" {
		run = measureHistory
	}
	result, err := run(ctx, o)
	if err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(env.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(result)
	}
	for _, name := range []string{"acked_per_second", "delivered_per_second", "ack_p50_us", "ack_p99_us", "ack_p99_9_us",
		"checkpoint_share", "ack_checkpoint_p99_us", "ack_between_p99_us", "pages_per_second", "page_p50_us", "page_p99_us", "page_p99_9_us",
		"delivery_p50_us", "delivery_p99_us", "delivery_p99_9_us", "resends", "syncs", "server_cpu_seconds_per_million", "server_rss_bytes"} {
		if v, ok := result[name]; ok {
			fmt.Fprintf(env.Stdout, "%-32s %v\n", name, v)
		}
	}
	return nil
}

func measure(ctx context.Context, o benchOptions) (map[string]any, error) {
	r := &benchRun{o: o, id: randomHex(6), start: time.Now()}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if o.mode == "fanout" {
		members := []string{}
		for i := range o.senders {
			members = append(members, r.name("s", i))
		}
		for i := range o.receivers {
			members = append(members, r.name("r", i))
		}
		body := map[string]any{"channel_id": r.name("g", 0), "channel_type": 2, "subscribers": members}
		switch status, text, err := call(ctx, "POST", o.http, "/channel", body); {
		case err != nil:
			return nil, err
		case status != http.StatusOK:
			return nil, fmt.Errorf("cannot create the group of the measurement: HTTP %d %s", status, text)
		}
	}
	var senders, receivers []*Client
	dial := func(kind string, i int) (*Client, error) {
		c, err := Dial(ctx, o.addr, Login{UID: r.name(kind, i)})
		if err == nil {
			context.AfterFunc(ctx, func() { c.Close() })
		}
		return c, err
	}
	listening := map[string]int{"publish": 0, "deliver": o.senders, "fanout": o.receivers}[o.mode]
	for i := range listening {
		c, err := dial("r", i)
		if err != nil {
			return nil, err
		}
		receivers = append(receivers, c)
	}
	for i := range o.senders {
		c, err := dial("s", i)
		if err != nil {
			return nil, err
		}
		senders = append(senders, c)
	}
	stopWatch := r.watch(ctx)
	defer stopWatch()
	syncs := r.counter(ctx, "gatepost_wal_syncs_total")
	cpu, _ := r.process()
	began := time.Now()
	var wg, sending sync.WaitGroup
	part := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				cancel(err)
			}
		})
	}
	seqs := make([]uint64, o.senders*o.messages) // with fanout: who got which
	for i, c := range senders {
		sending.Add(1)
		part(func() error {
			defer sending.Done()
			return r.send(c, i, seqs[i*o.messages:(i+1)*o.messages])
		})
	}
	var took time.Duration
	part(func() error { sending.Wait(); took = time.Since(began); return nil })
	for i, c := range receivers {
		part(func() error { return r.receive(c, i) })
	}
	wg.Wait()
	all := time.Since(began)
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("cannot vouch for the broker: %w (run %s)", err, r.id)
	}
	if o.mode == "fanout" { // the senders share one channel
		if err := gapless(seqs); err != nil {
			return nil, fmt.Errorf("cannot vouch for the broker: %w (run %s)", err, r.id)
		}
	}
	n := float64(r.acked.Load())
	result := map[string]any{
		"mode": o.mode, "senders": o.senders, "receivers": listening, "window": o.window, "size": o.size,
		"messages": r.acked.Load(), "delivered": r.got.Load(), "encrypted": senders[0].Encrypted(), "run": r.id,
		"seconds": all.Seconds(), "acked_per_second": int64(n / took.Seconds()), "resends": r.resends.Load(),
	}
	quantiles(result, "ack", &r.acks)
	if during := r.checkpoint.Snapshot(); during.Count > 0 && during.Count < uint64(r.acked.Load()) {
		result["checkpoint_share"] = math.Round(float64(during.Count)/n*1000) / 1000
		quantiles(result, "ack_checkpoint", &r.checkpoint)
		quantiles(result, "ack_between", &r.between)
	}
	if listening > 0 {
		result["delivered_per_second"] = int64(float64(r.got.Load()) / all.Seconds())
		quantiles(result, "delivery", &r.pushes)
	}
	if after := r.counter(ctx, "gatepost_wal_syncs_total"); syncs >= 0 && after >= 0 {
		result["syncs"] = after - syncs
	}
	if after, rss := r.process(); cpu >= 0 && after >= 0 {
		result["server_cpu_seconds_per_million"] = (after - cpu) / n * 1e6
		result["server_rss_bytes"] = rss
	}
	return result, nil
}

func quantiles(result map[string]any, name string, h *metrics.Histogram) {
	s := h.Snapshot()
	result[name+"_p50_us"] = s.Quantile(0.5) / 1000
	result[name+"_p99_us"] = s.Quantile(0.99) / 1000
	result[name+"_p99_9_us"] = s.Quantile(0.999) / 1000
}

// gapless checks that seqs are the numbers from 1 on, each once.
func gapless(seqs []uint64) error {
	seen := make([]bool, len(seqs))
	for _, s := range seqs {
		if s < 1 || s > uint64(len(seqs)) || seen[s-1] {
			return fmt.Errorf("sequence %d of the group was given twice or is not in 1 to %d", s, len(seqs))
		}
		seen[s-1] = true
	}
	return nil
}

// watch asks the broker again and again whether a checkpoint is under way.
func (r *benchRun) watch(ctx context.Context) (stop func()) {
	ctx, stop = context.WithCancel(ctx)
	go func() {
		for ctx.Err() == nil {
			r.checkpointing.Store(r.counter(ctx, "gatepost_checkpointing") == 1)
			select {
			case <-ctx.Done():
			case <-time.After(watchEvery):
			}
		}
	}()
	return stop
}

// watchEvery is about a tenth of what the shortest checkpoint takes that
// matters, and costs a broker at full load less than a percent.
const watchEvery = 5 * time.Millisecond

// counter reads one counter of the broker, -1 if it cannot.
func (r *benchRun) counter(ctx context.Context, name string) int64 {
	status, text, err := call(ctx, "GET", r.o.http, "/varz", nil)
	var values map[string]json.RawMessage
	if err != nil || status != http.StatusOK || json.Unmarshal(text, &values) != nil {
		return -1
	}
	n, err := strconv.ParseInt(string(values[name]), 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// process returns the processor seconds and the resident bytes of the broker,
// -1 if they are not known. A tick of /proc is 1/100 s on every Linux.
func (r *benchRun) process() (cpu float64, rss int64) {
	if r.o.pid == 0 {
		return -1, -1
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.o.pid))
	_, rest, ok := strings.Cut(string(text), ") ") // behind the name, which may hold anything
	fields := strings.Fields(rest)
	if err != nil || !ok || len(fields) < 22 {
		return -1, -1
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	pages, err3 := strconv.ParseInt(fields[21], 10, 64)
	if errors.Join(err1, err2, err3) != nil {
		return -1, -1
	}
	return float64(user+system) / 100, pages * int64(os.Getpagesize())
}
