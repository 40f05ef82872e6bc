package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// pair is a client's stream and the server's end of it.
func pair(t *testing.T) (*stream, net.Conn) {
	t.Helper()
	c, s := net.Pipe()
	t.Cleanup(func() { c.Close(); s.Close() })
	return &stream{Conn: c, in: make([]byte, 256)}, s
}

// says lets the server's end say something and reads it, at most 256 bytes, as events.
func says(t *testing.T, c conn, server net.Conn, text string) (events []event, err error) {
	t.Helper()
	go server.Write([]byte(text))
	if err := c.read(); err != nil { // the pipe gives all that fits at once
		t.Fatal(err)
	}
	for {
		e, ok, err := c.next()
		if err != nil || !ok {
			return events, err
		}
		e.payload, e.subject = bytes.Clone(e.payload), bytes.Clone(e.subject)
		events = append(events, e)
	}
}

// hears flushes and returns what the server's end got.
func hears(t *testing.T, c conn, server net.Conn) string {
	t.Helper()
	got := make(chan string, 1)
	go func() {
		p := make([]byte, 4096)
		n, _ := server.Read(p)
		got <- string(p[:n])
	}()
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	return <-got
}

func TestMQTTDialogue(t *testing.T) {
	s, server := pair(t)
	c := &mqttConn{stream: s, topic: "d/r1"}
	c.publish(65535, []byte("hi")) // the first id again
	if got, want := hears(t, c, server), "\x32\x0a\x00\x04d/r1\x00\x01hi"; got != want {
		t.Errorf("PUBLISH is %q, want %q", got, want)
	}
	c.first = 65535
	events, err := says(t, c, server, "\x40\x02\x00\x01"+"\x32\x08\x00\x03d/r\x12\x34x")
	if err != nil || len(events) != 2 || events[0].delivery || events[0].n != 65535 || !events[1].delivery || string(events[1].payload) != "x" {
		t.Fatalf("found %+v, %v", events, err)
	}
	c.confirm(&events[1])
	if got, want := hears(t, c, server), "\x40\x02\x12\x34"; got != want {
		t.Errorf("PUBACK is %q, want %q", got, want)
	}
	if _, err := says(t, c, server, "\xd0\x00"); err == nil {
		t.Error("a packet that nobody asked for was taken")
	}
}

func TestMQTTLengths(t *testing.T) {
	for _, n := range []int{0, 127, 128, 16383, 16384} {
		p := append(packet(nil, 0x30, n), make([]byte, n)...)
		c := &mqttConn{stream: &stream{in: p, w: len(p)}}
		if _, body, size, err := c.frame(); err != nil || len(body) != n || size != len(p) {
			t.Errorf("%d: found %d of %d, %v", n, len(body), size, err)
		}
		if n > 0 {
			c.w--
			if _, _, size, err := c.frame(); size != 0 || err != nil {
				t.Errorf("%d: an incomplete packet was taken: %d, %v", n, size, err)
			}
		}
	}
}

func TestNATSDialogue(t *testing.T) {
	s, server := pair(t)
	c := &natsConn{stream: s, subject: "d.r1", inbox: "_INBOX.p1"}
	c.publish(7, []byte("hi"))
	if got, want := hears(t, c, server), "PUB d.r1 _INBOX.p1.7 2\r\nhi\r\n"; got != want {
		t.Errorf("PUB is %q, want %q", got, want)
	}
	events, err := says(t, c, server, "MSG _INBOX.p1.7 1 23\r\n{\"stream\":\"S\",\"seq\":12}\r\nMSG d.r1 2 $JS.ACK.S 1\r\nx\r\n")
	if err != nil || len(events) != 2 || events[0].n != 7 || events[0].seq != 12 || !events[1].delivery || string(events[1].payload) != "x" {
		t.Fatalf("found %+v, %v", events, err)
	}
	c.confirm(&events[1])
	if got, want := hears(t, c, server), "PUB $JS.ACK.S 4\r\n+ACK\r\n"; got != want {
		t.Errorf("the acknowledgement is %q, want %q", got, want)
	}
	if _, err := says(t, c, server, "MSG _INBOX.p1.8 1 12\r\n{\"error\":{}}\r\n"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a refusal: %v", err)
	}
}

func TestNATSSaysWhatItCannotRead(t *testing.T) {
	for _, text := range []string{
		"MSG _INBOX.p1.7 1\r\n", "MSG \r\n", "MSG _INBOX.p1.7 1 \r\n", "MSG _INBOX.p1.7 1 2x\r\n{}\r\n",
		"MSG _INBOX.p1.x 1 23\r\n{\"stream\":\"S\",\"seq\":12}\r\n", "MSG _INB 1 23\r\n{\"stream\":\"S\",\"seq\":12}\r\n",
		"MSG _INBOX.p1.4294967296 1 23\r\n{\"stream\":\"S\",\"seq\":12}\r\n", "MSG d.r1 2 1\r\nx\r\n",
		"MSG _INBOX.p1.7 1 22\r\n{\"stream\":\"S\",\"seq\":0}\r\n", "MSG _INBOX.p1.7 1 0\r\n\r\n", "-ERR 'no'\r\n",
		"MSG _INBOX.p1.0 1 25\r\n{\"type\":\"io\",\"error\":{}} \r\n",
	} {
		c := &natsConn{stream: &stream{in: []byte(text), w: len(text)}, inbox: "_INBOX.p1"}
		if e, ok, err := c.next(); err == nil {
			t.Errorf("%q is %+v, %v", text, e, ok)
		}
	}
}

// The generator shares the processors with the server that it measures.
func TestNATSAnswersAllocateNothing(t *testing.T) {
	text := strings.Repeat("MSG _INBOX.p1.123456 1 28\r\n{\"stream\":\"S\", \"seq\":123456}\r\nMSG d.r1 2 $JS.ACK.S 1\r\nx\r\n", 10)
	c := &natsConn{stream: &stream{in: []byte(text), w: len(text)}, inbox: "_INBOX.p1"}
	if n := testing.AllocsPerRun(100, func() {
		c.r = 0
		for range 10 {
			if e, ok, err := c.next(); !ok || err != nil || e.n != 123456 || e.seq != 123456 {
				t.Fatalf("found %+v, %v, %v", e, ok, err)
			}
			if e, ok, err := c.next(); !ok || err != nil || !e.delivery {
				t.Fatalf("found %+v, %v, %v", e, ok, err)
			}
		}
	}); n != 0 {
		t.Errorf("10 acknowledgements and deliveries allocate %v times", n)
	}
}

// Who is idle has subscribed to nothing.
func TestIdleNATS(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	heard := make(chan []string, 1)
	go func() {
		var lines []string
		defer func() { heard <- lines }()
		s, err := l.Accept()
		if err != nil {
			return
		}
		defer s.Close()
		io.WriteString(s, "INFO {"+strings.Repeat(" ", readFirst)+"}\r\n")
		for in := bufio.NewScanner(s); in.Scan(); {
			if lines = append(lines, in.Text()); in.Text() == "PING" {
				io.WriteString(s, "PONG\r\n")
			}
		}
	}()
	c, err := logInNATS(l.Addr().String(), "idle1")
	if err != nil {
		t.Fatal(err)
	}
	c.close()
	if lines := <-heard; len(lines) != 2 || !strings.HasPrefix(lines[0], "CONNECT {") || lines[1] != "PING" {
		t.Errorf("the server heard %q", lines)
	}
}

// The floor over a real socket, with each kind of file; the one that is recycled is
// written nearly twice.
func TestFloor(t *testing.T) {
	const size, messages, file = 2048, 1000, 1 << 20
	for _, way := range []string{"append", "recycled", "echo"} {
		dir, addr := t.TempDir(), make(chan string, 1)
		go serveFloor(way, dir, "127.0.0.1:0", file, func(a string) { addr <- a })
		c, err := dialFloor(<-addr)
		if err != nil {
			t.Fatal(err)
		}
		l := &load{size: size, window: 8, limit: messages, publishers: 1, start: time.Now()}
		if err := l.publish(c, 0); err != nil || l.acked.Load() != messages {
			t.Errorf("%s: %d of %d, %v", way, l.acked.Load(), messages, err)
		}
		c.close()
		want := map[string]int64{"append": messages * (floorHead + size), "recycled": file}[way]
		if info, err := os.Stat(filepath.Join(dir, "floor")); want > 0 && (err != nil || info.Size() != want) {
			t.Errorf("%s: %v, %v, want %d bytes", way, info, err, want)
		}
	}
}

// parrot is a server in memory that answers and delivers everything that is sent to
// it, unless it cheats.
type parrot struct {
	events   []event
	cheat    func(n uint32, events []event) []event
	again    []event // what comes when it has said everything
	stays    bool    // and then it keeps the connection
	deadline time.Time
}

func (p *parrot) publish(n uint32, payload []byte) {
	events := []event{{n: n, seq: uint64(n) + 1}}
	if p.cheat != nil {
		events = p.cheat(n, events)
	}
	p.events = append(p.events, events...)
}

func (p *parrot) next() (e event, ok bool, err error) {
	if len(p.events) == 0 {
		return e, false, nil
	}
	e, p.events = p.events[0], p.events[1:]
	return e, true, nil
}

func (p *parrot) read() error {
	if len(p.events) == 0 {
		p.events, p.again = p.again, nil
	}
	switch {
	case len(p.events) > 0:
		return nil
	case p.stays:
		time.Sleep(time.Until(p.deadline))
		return os.ErrDeadlineExceeded
	}
	return io.EOF
}

func (p *parrot) confirm(*event)           {}
func (p *parrot) flush() error             { return nil }
func (p *parrot) readDeadline(t time.Time) { p.deadline = t }
func (p *parrot) close()                   {}

// A run in which the server answers wrongly fails.
func TestTheGeneratorSeesWrongAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		cheat func(n uint32, e []event) []event
		want  string
	}{
		"honest": {nil, ""},
		"twice": {func(n uint32, e []event) []event {
			if n == 5 {
				e = append(e, e[0])
			}
			return e
		}, "does not wait"},
		"never": {func(n uint32, e []event) []event {
			if n >= 5 {
				return nil
			}
			return e
		}, "5 of "},
		"of another": {func(n uint32, e []event) []event {
			if n == 5 {
				e[0].n = 100_000
			}
			return e
		}, "does not wait"},
		"a position that goes back": {func(n uint32, e []event) []event {
			if n == 5 {
				e[0].seq = 2
			}
			return e
		}, "position 2 behind 5"},
		"a position that is another's": {func(n uint32, e []event) []event {
			e[0].alone = true
			if n == 5 {
				e[0].seq = 7
			}
			return e
		}, "got position 7, expected 6"},
		"no position": {func(n uint32, e []event) []event { return []event{{n: n, alone: true}} }, "got position 0, expected 1"},
	} {
		l := &load{size: 32, window: 4, limit: 50, publishers: 1, start: time.Now()}
		err := l.publish(&parrot{cheat: c.cheat}, 0)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// late is a server whose answers come so many deadlines after they are due.
type late struct {
	parrot
	reads int
}

func (p *late) read() error {
	if p.reads++; p.reads%20 != 0 {
		return os.ErrDeadlineExceeded
	}
	return nil
}

func (p *late) next() (event, bool, error) {
	if p.reads%20 != 0 {
		return event{}, false, nil
	}
	return p.parrot.next()
}

// A run by the clock goes on when a server falls behind by more than a window.
func TestAServerThatFallsBehindIsMeasured(t *testing.T) {
	l := &load{size: 32, window: 4, rate: 1_000_000, limit: 50, publishers: 1, start: time.Now()}
	if err := l.publish(&late{}, 0); err != nil || l.total.Load() != 50 {
		t.Errorf("%d of 50 answers, %v", l.total.Load(), err)
	}
}

// A buffer grows while it is filled, and not beyond what is needed.
func TestBuffersGrow(t *testing.T) {
	c, server := net.Pipe()
	t.Cleanup(func() { c.Close(); server.Close() })
	s := &stream{Conn: c, in: make([]byte, readFirst)}
	go server.Write(make([]byte, 3*readMost))
	for got := 0; got < 3*readMost; {
		if err := s.read(); err != nil {
			t.Fatal(err)
		}
		got += len(s.rest())
		s.take(len(s.rest()))
	}
	if len(s.in) != readMost {
		t.Errorf("the buffer has %d bytes, want %d", len(s.in), readMost)
	}
}

// So does one in which a delivery is missing, comes twice or in another order, even when
// all are there.
func TestTheGeneratorSeesWrongDeliveries(t *testing.T) {
	for name, c := range map[string]struct {
		numbers, again []uint32
		cheat          func(e *event) // of message 2
		want           string
	}{
		"all":                {numbers: []uint32{0, 1, 2, 3}},
		"twice":              {numbers: []uint32{0, 1, 1, 2}, want: "got message 1 of publisher 0, expected 2"},
		"missing":            {numbers: []uint32{0, 1, 3}, want: "got message 3 of publisher 0, expected 2"},
		"out of order":       {numbers: []uint32{1, 0}, want: "got message 1 of publisher 0, expected 0"},
		"too few":            {numbers: []uint32{0, 1, 2}, want: "EOF"},
		"the tail again":     {numbers: []uint32{0, 1, 2, 3}, again: []uint32{2, 3}, want: "got message 2 of publisher 0, expected 4"},
		"one of nobody":      {numbers: []uint32{0, 1, 2, 3}, again: []uint32{4}, want: "got 5 deliveries, expected 4"},
		"one of nobody soon": {numbers: []uint32{0, 1, 2, 3, 4}, want: "got 5 deliveries, expected 4"},
		"another content":    {numbers: []uint32{0, 1, 2, 3}, cheat: func(e *event) { e.payload[20]++ }, want: "message 2 of publisher 0 with another content"},
		"another position":   {numbers: []uint32{0, 1, 2, 3}, cheat: func(e *event) { e.seq++ }, want: "message 2 of publisher 0 at position 4, expected 3"},
	} {
		l := &load{size: 32, publishers: 1, start: time.Now()}
		p := &parrot{stays: c.want != "EOF"}
		for i, n := range slices.Concat(c.numbers, c.again) {
			e := event{delivery: true, alone: true, seq: uint64(n) + 1, payload: append(make([]byte, stamp), l.fill(0, n)...)}
			binary.LittleEndian.PutUint32(e.payload[12:], n)
			if n == 2 && c.cheat != nil {
				c.cheat(&e)
			}
			if i < len(c.numbers) {
				p.events = append(p.events, e)
			} else {
				p.again = append(p.again, e)
			}
		}
		err := l.receive(p, 4)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	chosen := []string{"gatepost", "floor-echo", "floor-memcpy", "nats", "nats-always"}
	all := slices.DeleteFunc(kinds(options{}), func(k *kind) bool { return !slices.Contains(chosen, k.name) })
	which := slices.DeleteFunc(workloads(), func(w workload) bool { return w.name != "W1b" && w.name != "idle" })
	var records []record
	for i, v := range []float64{300_000, 100_000, 200_000} {
		records = append(records, record{"W1b", "gatepost", i, row{"acked/s": v, "p50 ms": 1.5}})
	}
	records = append(records, record{"W1b", "nats", 1, row{"acked/s": 50_000}})
	var out bytes.Buffer
	report(&out, options{runs: 3, version: "gatepost 1.2"}, which, all, records)
	for _, want := range []string{": gatepost 1.2, by", "| gatepost | synced | 200,000 [100,000-300,000] | 1.50 |", "| nats, 1 of 3 runs, the others failed | in the page cache | 50,000 | - |", "| 4 x |",
		"| nats-always, 0 of 3 runs, all failed | synced | - | - |", "| floor-echo, 0 of 3 runs, all failed |", "### idle", "| gatepost, 0 of 3 runs, all failed | synced | - |"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, out.String())
		}
	}
	if n := strings.Count(out.String(), "floor-"); n != 2 || strings.Contains(out.String(), "mosquitto") {
		t.Errorf("the report has %d rows of floors, or a server that was not chosen:\n%s", n, out.String())
	}
	if svg := picture(all, records); !bytes.Contains(svg, []byte(">200,000<")) || !bytes.HasPrefix(svg, []byte("<svg")) {
		t.Errorf("the picture is %s", svg)
	}
}

func TestTheFloorSaysWhatItCannotDo(t *testing.T) {
	if err := serveFloor("sideways", t.TempDir(), "127.0.0.1:0", 0, nil); err == nil {
		t.Error("there is no such floor")
	}
	if err := serveFloor("append", t.TempDir()+"/nowhere", "127.0.0.1:0", 0, nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// A signal ends the server that runs, and who waits for it hears of that.
func TestASignalEndsTheServer(t *testing.T) {
	ctx, signal := context.WithCancel(t.Context())
	k := &kind{name: "sleeper", program: "/bin/sh"}
	var l net.Listener
	k.args = func(_, addr, _ string) (_ []string, err error) {
		l, err = net.Listen("tcp", addr) // in its place: sh cannot
		return []string{"-c", "exec sleep 60"}, err
	}
	s, err := k.start(options{ctx: ctx, work: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	signal()
	if err := s.rest(30 * time.Second); err == nil || !strings.Contains(err.Error(), "sleeper ended") {
		t.Errorf("at rest: %v", err)
	}
	s.stop()
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
}
