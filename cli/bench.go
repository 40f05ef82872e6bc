package cli

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
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
	receivers  int // of each sender's messages
	window     int // SENDs of a connection that wait for their answer
	size       int // bytes of a payload, at least benchStamp
	messages   int // of each sender
	pid        int // of the broker, 0: not measured
}

// benchStamp is the head of a payload: the time of sending and the number of
// the message, 8 bytes each, big-endian.
const benchStamp = 16

// benchRun is what the goroutines of one measurement share.
type benchRun struct {
	o       benchOptions
	id      string // part of all names, so that runs do not meet
	start   time.Time
	acks    metrics.Histogram // ns from SEND to SENDACK
	pushes  metrics.Histogram // ns from SEND to RECV
	acked   atomic.Int64
	got     atomic.Int64
	resends atomic.Int64
}

// bench measures a broker and checks everything that it answers.
func bench(ctx context.Context, env Env, args []string) error {
	f := newFlags("bench", "[flags]", `Measures a running broker in a closed loop: every sender keeps a window of
messages unanswered. Every acknowledgement, sequence and delivery is checked;
one that is wrong fails the command. 60 % of a payload is text that packs, the rest
is random.

  publish  nobody is online to receive
  deliver  each sender has one receiver, who acknowledges
  fanout   all senders send to one group of receivers`)
	var o benchOptions
	f.StringVar(&o.addr, "addr", DefaultAddr, "`HOST:PORT` of the broker")
	f.StringVar(&o.http, "http", DefaultHTTP, "`HOST:PORT` of the broker's HTTP")
	f.StringVar(&o.mode, "mode", "deliver", "publish, deliver or fanout")
	f.IntVar(&o.senders, "senders", 4, "sending connections")
	f.IntVar(&o.receivers, "receivers", 8, "receiving connections, with fanout")
	f.IntVar(&o.window, "window", 128, "unanswered messages of a sender")
	f.IntVar(&o.size, "size", 128, "`BYTES` of a payload")
	f.IntVar(&o.messages, "messages", 100_000, "messages of a sender")
	f.IntVar(&o.pid, "pid", 0, "process id of the broker on this machine, to measure what it uses")
	asJSON := f.Bool("json", false, "print JSON")
	if err := f.none(env, args); err != nil {
		return err
	}
	switch {
	case o.mode != "publish" && o.mode != "deliver" && o.mode != "fanout":
		return f.wrong("--mode is %q: publish, deliver, fanout are possible", o.mode)
	case o.senders < 1 || o.window < 1 || o.messages < 1 || o.receivers < 1:
		return f.wrong("--senders, --receivers, --window and --messages must be above 0")
	case o.size < benchStamp || o.size > wukong.MaxPayload:
		return f.wrong("--size is %d, %d to %d are possible", o.size, benchStamp, wukong.MaxPayload)
	}
	result, err := measure(ctx, o)
	if err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(env.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(result)
	}
	for _, name := range []string{"acked_per_second", "delivered_per_second", "ack_p50_us", "ack_p99_us", "ack_p99_9_us",
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

func (r *benchRun) name(kind string, i int) string {
	return fmt.Sprintf("bench-%s-%s%d", r.id, kind, i)
}

// fillReadings writes into the front of body what a device would: 60 % of it
// is text of the kind that can be compressed. It returns how much.
func fillReadings(body []byte) int {
	const reading = `{"sensor":"boiler-7","temperature":71.25,"pressure":1.84,"valve":"open","alarm":false},`
	n := len(body) * 6 / 10
	for rest := body[:n]; len(rest) > 0; {
		rest = rest[copy(rest, reading):]
	}
	return n
}

// send sends one sender's messages and checks the answers. seqs gets the
// sequences.
func (r *benchRun) send(c *Client, sender int, seqs []uint64) error {
	o := r.o
	m := wukong.Send{ChannelID: []byte(r.name("r", sender)), ChannelType: wukong.ChannelPerson}
	if o.mode == "fanout" {
		m.ChannelID, m.ChannelType = []byte(r.name("g", 0)), wukong.ChannelGroup
	}
	payload := make([]byte, o.size)
	body := payload[benchStamp:]
	random := body[fillReadings(body):]
	var noise [4096]byte
	rand.Read(noise[:])
	no := []byte(r.name("s", sender) + "-")
	prefix := len(no)
	sentAt := make([]time.Duration, o.window)
	var last uint64
	for sent, acked := 0, 0; acked < o.messages; {
		for ; sent < o.messages && sent-acked < o.window; sent++ {
			now := time.Since(r.start)
			sentAt[sent%o.window] = now
			binary.BigEndian.PutUint64(payload, uint64(now))
			binary.BigEndian.PutUint64(payload[8:], uint64(sender)<<32|uint64(sent))
			for rest := random; len(rest) > 0; {
				rest = rest[copy(rest, noise[(sent*37)%len(noise):]):]
			}
			no = strconv.AppendInt(no[:prefix], int64(sent), 10)
			m.ClientSeq, m.ClientMsgNo, m.Payload, m.MsgKey = uint32(sent), no, payload, nil
			c.AppendSend(&m)
		}
		c.SetDeadline(time.Now().Add(answerTime))
		if err := c.Flush(); err != nil {
			return fmt.Errorf("sender %d cannot send: %w", sender, err)
		}
		if err := c.Read(); err != nil {
			return fmt.Errorf("sender %d has %d of %d answers: %w", sender, acked, sent, err)
		}
		for {
			f, ok, err := c.Take()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if f.Type != wukong.TypeSendack {
				continue
			}
			var a wukong.Sendack
			if err := a.Decode(f); err != nil {
				return err
			}
			switch {
			case acked >= sent || a.ClientSeq != uint32(acked):
				return fmt.Errorf("sender %d got the answer to message %d, expected %d", sender, a.ClientSeq, acked)
			case a.Reason != wukong.ReasonSuccess:
				return fmt.Errorf("message %d of sender %d was refused with reason %d (%v)%s", acked, sender, a.Reason, a.Reason, hint(a.Reason))
			case uint64(a.MessageSeq) <= last || o.mode != "fanout" && uint64(a.MessageSeq) != last+1:
				return fmt.Errorf("message %d of sender %d got sequence %d behind %d", acked, sender, a.MessageSeq, last)
			}
			last = uint64(a.MessageSeq)
			seqs[acked] = last
			r.acks.Observe(int64(time.Since(r.start) - sentAt[acked%o.window]))
			acked++
			r.acked.Add(1)
		}
	}
	return nil
}

// receive takes a receiver's messages, checks them and acknowledges.
func (r *benchRun) receive(c *Client, receiver int) error {
	o := r.o
	want := o.messages
	if o.mode == "fanout" {
		want *= o.senders
	}
	next := make([]uint32, o.senders) // by sender: number of the next message
	var last uint32
	var m wukong.Recv
	for got := 0; got < want; {
		c.SetReadDeadline(time.Now().Add(answerTime))
		if err := c.Read(); err != nil {
			return fmt.Errorf("receiver %d has %d of %d messages: %w", receiver, got, want, err)
		}
		for {
			f, ok, err := c.Take()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if f.Type != wukong.TypeRecv {
				continue
			}
			if err := c.Open(f, &m); err != nil {
				return err
			}
			if len(m.Payload) != o.size {
				return fmt.Errorf("receiver %d got %d bytes, expected %d", receiver, len(m.Payload), o.size)
			}
			sent := binary.BigEndian.Uint64(m.Payload)
			id := binary.BigEndian.Uint64(m.Payload[8:])
			sender, number := int(id>>32), uint32(id)
			if sender >= o.senders || string(m.FromUID) != r.name("s", sender) {
				return fmt.Errorf("receiver %d got a message of sender %d from %s", receiver, sender, m.FromUID)
			}
			if f.Flags&wukong.FlagDUP != 0 && m.MessageSeq <= last {
				r.resends.Add(1)
				c.AppendRecvack(&m)
				continue
			}
			if number != next[sender] || m.MessageSeq != last+1 {
				return fmt.Errorf("receiver %d got message %d of sender %d with sequence %d, expected message %d and sequence %d",
					receiver, number, sender, m.MessageSeq, next[sender], last+1)
			}
			next[sender]++
			last = m.MessageSeq
			r.pushes.Observe(int64(time.Since(r.start)) - int64(sent))
			c.AppendRecvack(&m)
			got++
			r.got.Add(1)
		}
		if err := c.Flush(); err != nil {
			return fmt.Errorf("receiver %d cannot acknowledge: %w", receiver, err)
		}
	}
	return nil
}

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
