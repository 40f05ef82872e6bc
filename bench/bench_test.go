package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
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

// The floor over a real socket, with each kind of file.
func TestFloor(t *testing.T) {
	for _, way := range []string{"append", "echo"} {
		addr := make(chan string, 1)
		go serveFloor(way, t.TempDir(), "127.0.0.1:0", func(a string) { addr <- a })
		c, err := dialFloor(<-addr)
		if err != nil {
			t.Fatal(err)
		}
		l := &load{size: 64, window: 8, limit: 1000, publishers: 1, start: time.Now()}
		if err := l.publish(c, 0); err != nil || l.acked.Load() != 1000 {
			t.Errorf("%s: %d of 1000, %v", way, l.acked.Load(), err)
		}
		c.close()
	}
}

// parrot is a server in memory that answers and delivers everything that is sent to
// it, unless it cheats.
type parrot struct {
	events []event
	cheat  func(n uint32, events []event) []event
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
		return io.EOF
	}
	return nil
}

func (p *parrot) confirm(*event)         {}
func (p *parrot) flush() error           { return nil }
func (p *parrot) readDeadline(time.Time) {}
func (p *parrot) close()                 {}

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

// So does one in which a delivery is missing, comes twice or in another order.
func TestTheGeneratorSeesWrongDeliveries(t *testing.T) {
	for name, c := range map[string]struct {
		numbers []uint32
		cheat   func(e *event) // of message 2
		want    string
	}{
		"all":              {[]uint32{0, 1, 2, 3}, nil, ""},
		"twice":            {[]uint32{0, 1, 1, 2}, nil, "got message 1 of publisher 0, expected 2"},
		"missing":          {[]uint32{0, 1, 3}, nil, "got message 3 of publisher 0, expected 2"},
		"out of order":     {[]uint32{1, 0}, nil, "got message 1 of publisher 0, expected 0"},
		"too few":          {[]uint32{0, 1, 2}, nil, "EOF"},
		"another content":  {[]uint32{0, 1, 2, 3}, func(e *event) { e.payload[20]++ }, "message 2 of publisher 0 with another content"},
		"another position": {[]uint32{0, 1, 2, 3}, func(e *event) { e.seq++ }, "message 2 of publisher 0 at position 4, expected 3"},
	} {
		l := &load{size: 32, publishers: 1, start: time.Now()}
		p := &parrot{}
		for _, n := range c.numbers {
			e := event{delivery: true, alone: true, seq: uint64(n) + 1, payload: append(make([]byte, stamp), l.fill(0, n)...)}
			binary.LittleEndian.PutUint32(e.payload[12:], n)
			if n == 2 && c.cheat != nil {
				c.cheat(&e)
			}
			p.events = append(p.events, e)
		}
		err := l.receive(p, 4)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestReport(t *testing.T) {
	all := kinds(options{})
	var records []record
	for i, v := range []float64{300_000, 100_000, 200_000} {
		records = append(records, record{"W1b", "gatepost", i, row{"acked/s": v, "p50 ms": 1.5}})
	}
	records = append(records, record{"W1b", "nats", 1, row{"acked/s": 50_000}})
	var out bytes.Buffer
	report(&out, options{runs: 3}, all, records)
	for _, want := range []string{"| gatepost | synced | 200,000 [100,000-300,000] | 1.50 |", "| nats, 1 of 3 runs, the others failed | in the page cache | 50,000 | - |", "| 4 x |"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report has no %q:\n%s", want, out.String())
		}
	}
	if svg := picture(all, records); !bytes.Contains(svg, []byte(">200,000<")) || !bytes.HasPrefix(svg, []byte("<svg")) {
		t.Errorf("the picture is %s", svg)
	}
}

func TestTheFloorSaysWhatItCannotDo(t *testing.T) {
	if err := serveFloor("sideways", t.TempDir(), "127.0.0.1:0", nil); err == nil {
		t.Error("there is no such floor")
	}
	if err := serveFloor("append", t.TempDir()+"/nowhere", "127.0.0.1:0", nil); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
