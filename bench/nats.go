package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
)

// natsConn speaks the text protocol of NATS and, over it, JetStream: a message is
// published with a subject to answer to, whose last part is its number, and what
// comes there is the acknowledgement. A delivery is acknowledged by publishing to the
// subject that it came with.
type natsConn struct {
	*stream
	subject string
	inbox   string // acknowledgements come to inbox.NUMBER
}

// dialNATS connects a client that gets acknowledgements, and what is sent to subscribe.
func dialNATS(addr, id, to, subscribe string) (*natsConn, error) {
	inbox := "_INBOX." + id
	subjects := []string{inbox + ".*"}
	if subscribe != "" {
		subjects = append(subjects, subscribe)
	}
	c, err := logInNATS(addr, id, subjects...)
	if err != nil {
		return nil, err
	}
	c.subject, c.inbox = to, inbox
	return c, nil
}

// logInNATS logs in and subscribes to subjects, as 1, 2 and so on. Without any, the
// connection is as lean as one can be.
func logInNATS(addr, id string, subjects ...string) (*natsConn, error) {
	s, err := dial(addr)
	if err != nil {
		return nil, err
	}
	c := &natsConn{stream: s}
	c.out = append(c.out, `CONNECT {"verbose":false,"pedantic":false,"name":"`+id+`"}`+"\r\n"...)
	for i, subject := range subjects {
		c.out = fmt.Appendf(c.out, "SUB %s %d\r\n", subject, i+1)
	}
	c.out = append(c.out, "PING\r\n"...)
	s.SetDeadline(time.Now().Add(30 * time.Second))
	defer s.SetDeadline(time.Time{})
	if err := c.flush(); err != nil {
		s.Close()
		return nil, err
	}
	for {
		line, size := c.line()
		if size == 0 {
			if err := c.read(); err != nil {
				s.Close()
				return nil, err
			}
			continue
		}
		c.take(size)
		switch {
		case bytes.HasPrefix(line, []byte("PONG")):
			return c, nil
		case bytes.HasPrefix(line, []byte("-ERR")):
			s.Close()
			return nil, fmt.Errorf("cannot log in: %s", line)
		}
	}
}

// line is the first line of what was read, without its end; size 0: it is not complete.
func (c *natsConn) line() (line []byte, size int) {
	p := c.rest()
	if i := bytes.Index(p, []byte("\r\n")); i >= 0 {
		return p[:i], i + 2
	}
	return nil, 0
}

func (c *natsConn) publish(n uint32, payload []byte) {
	c.out = append(c.out, "PUB "...)
	c.out = append(c.out, c.subject...)
	c.out = append(c.out, ' ')
	c.out = append(c.out, c.inbox...)
	c.out = append(c.out, '.')
	c.out = strconv.AppendUint(c.out, uint64(n), 10)
	c.out = append(c.out, ' ')
	c.out = strconv.AppendInt(c.out, int64(len(payload)), 10)
	c.out = append(c.out, "\r\n"...)
	c.out = append(c.out, payload...)
	c.out = append(c.out, "\r\n"...)
}

func (c *natsConn) next() (event, bool, error) {
	for {
		line, size := c.line()
		if size == 0 {
			return event{}, false, nil
		}
		switch {
		case bytes.HasPrefix(line, []byte("MSG ")):
			// MSG subject sid [reply] length
			subject, rest := word(line[4:])
			sid, rest := word(rest)
			reply, last := word(rest)
			if len(last) == 0 {
				reply, last = nil, rest
			}
			length, digits := decimal(last)
			if digits == 0 || digits < len(last) {
				return event{}, false, fmt.Errorf("found %q", line)
			}
			if len(c.rest()) < size+int(length)+2 {
				return event{}, false, nil
			}
			body := c.rest()[size : size+int(length)]
			c.take(size + int(length) + 2)
			if string(sid) == "2" {
				if len(reply) == 0 {
					return event{}, false, fmt.Errorf("found a delivery that cannot be acknowledged: %q", line)
				}
				return event{delivery: true, payload: body, subject: reply}, true, nil
			}
			// {"stream":"S", "seq":12}. What has no position is a refusal,
			// {"error":{...},"stream":"S","seq":0}, or an answer of the API, {"type":...},
			// which may be one.
			_, rest, _ = bytes.Cut(body, []byte(`"seq":`))
			seq, _ := decimal(rest)
			if seq == 0 && (!bytes.HasPrefix(body, []byte(`{"type":`)) || bytes.Contains(body, []byte(`"error":`))) {
				return event{}, false, fmt.Errorf("refused: %s", body)
			}
			last = subject[min(len(c.inbox)+1, len(subject)):]
			n, digits := decimal(last)
			if digits == 0 || digits < len(last) || n > math.MaxUint32 {
				return event{}, false, fmt.Errorf("found %q", line)
			}
			return event{n: uint32(n), seq: seq}, true, nil
		case bytes.HasPrefix(line, []byte("PING")):
			c.out = append(c.out, "PONG\r\n"...)
			c.take(size)
		case bytes.HasPrefix(line, []byte("-ERR")):
			return event{}, false, fmt.Errorf("found %s", line)
		default:
			c.take(size)
		}
	}
}

// word is the first word of a line, and what is behind the space after it.
func word(line []byte) (first, rest []byte) {
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		return line[:i], line[i+1:]
	}
	return line, nil
}

// decimal is the number that p begins with, and how many digits it has, of which 18
// are looked at: more are none of ours.
func decimal(p []byte) (n uint64, digits int) {
	for digits < min(len(p), 18) && '0' <= p[digits] && p[digits] <= '9' {
		n = 10*n + uint64(p[digits]-'0')
		digits++
	}
	return n, digits
}

func (c *natsConn) confirm(d *event) {
	c.out = append(c.out, "PUB "...)
	c.out = append(c.out, d.subject...)
	c.out = append(c.out, " 4\r\n+ACK\r\n"...)
}

// askNATS has the server do something: v, as JSON, goes to a subject of its own, by a
// connection that gets nothing but the answer, which must be without an error.
func askNATS(addr, subject string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c, err := dialNATS(addr, "setup", subject, "")
	if err != nil {
		return err
	}
	defer c.close()
	c.publish(0, body)
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if err := c.flush(); err != nil {
		return err
	}
	for {
		_, ok, err := c.next()
		if err != nil {
			return fmt.Errorf("%s: %w", subject, err)
		}
		if ok {
			return nil
		}
		if err := c.read(); err != nil {
			return err
		}
	}
}

// natsStream makes the stream that everything is published to.
func natsStream(addr string) error {
	return askNATS(addr, "$JS.API.STREAM.CREATE.S", map[string]any{"name": "S", "subjects": []string{"d.>"}, "storage": "file", "retention": "limits", "num_replicas": 1})
}

// natsConsumer makes a durable consumer that pushes to a subject of its own, and
// returns a client that receives there. A consumer that is there is used again.
func natsConsumer(addr, id, filter string) (conn, error) {
	policy := map[string]any{"durable_name": id, "deliver_subject": "deliver." + id, "deliver_policy": "all", "ack_policy": "explicit",
		"max_ack_pending": 10000, "filter_subject": filter, "ack_wait": int64(30 * time.Second)}
	if err := askNATS(addr, "$JS.API.CONSUMER.DURABLE.CREATE.S."+id, map[string]any{"stream_name": "S", "config": policy}); err != nil {
		return nil, err
	}
	return dialNATS(addr, id, "", "deliver."+id)
}
