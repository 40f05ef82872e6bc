package main

import (
	"bytes"
	"encoding/json"
	"fmt"
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

// dialNATS logs in. The client gets acknowledgements, and what is sent to subscribe.
func dialNATS(addr, id, to, subscribe string) (*natsConn, error) {
	s, err := dial(addr)
	if err != nil {
		return nil, err
	}
	c := &natsConn{stream: s, subject: to, inbox: "_INBOX." + id}
	c.out = append(c.out, `CONNECT {"verbose":false,"pedantic":false,"name":"`+id+`"}`+"\r\n"...)
	c.out = append(c.out, "SUB "+c.inbox+".* 1\r\n"...)
	if subscribe != "" {
		c.out = append(c.out, "SUB "+subscribe+" 2\r\n"...)
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
			fields := bytes.Fields(line[4:])
			if len(fields) < 3 {
				return event{}, false, fmt.Errorf("found %q", line)
			}
			length, err := strconv.Atoi(string(fields[len(fields)-1]))
			if err != nil {
				return event{}, false, fmt.Errorf("found %q", line)
			}
			if len(c.rest()) < size+length+2 {
				return event{}, false, nil
			}
			body := c.rest()[size : size+length]
			c.take(size + length + 2)
			if string(fields[1]) == "2" {
				if len(fields) < 4 {
					return event{}, false, fmt.Errorf("found a delivery that cannot be acknowledged: %q", line)
				}
				return event{delivery: true, payload: body, subject: fields[2]}, true, nil
			}
			// {"stream":"S","seq":12}, or {"error":{...}}.
			if bytes.Contains(body, []byte(`"error":`)) {
				return event{}, false, fmt.Errorf("refused: %s", body)
			}
			n, err := strconv.ParseUint(string(fields[0][len(c.inbox)+1:]), 10, 32)
			if err != nil {
				return event{}, false, fmt.Errorf("found %q", line)
			}
			_, digits, _ := bytes.Cut(body, []byte(`"seq":`))
			seq := uint64(0)
			for _, d := range digits {
				if d < '0' || d > '9' {
					break
				}
				seq = 10*seq + uint64(d-'0')
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
