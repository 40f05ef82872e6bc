package main

import (
	"encoding/binary"
	"fmt"
	"time"
)

// mqttConn speaks MQTT 3.1.1 with QoS 1. A packet is
//
//	1 byte type and flags | 1-4 bytes length of the rest, 7 bits each | rest
//
// and a PUBLISH has as its rest
//
//	2 bytes length | topic | 2 bytes packet id | payload
type mqttConn struct {
	*stream
	topic string
	first uint32 // the lowest unanswered number; its packet id is first % ids + 1
}

// ids is how many packet ids there are without 0.
const ids = 65535

const (
	mqttConnack = 2
	mqttPublish = 3
	mqttPuback  = 4
	mqttSuback  = 9
)

// dialMQTT logs in; clean is whether the server forgets the client at the end.
// With subscribe the client receives what is published to that filter.
func dialMQTT(addr, id, to, subscribe string, clean bool) (conn, error) {
	s, err := dial(addr)
	if err != nil {
		return nil, err
	}
	c := &mqttConn{stream: s, topic: to}
	s.SetDeadline(time.Now().Add(30 * time.Second))
	flags := byte(0)
	if clean {
		flags = 2
	}
	rest := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 4, flags, 0, 0}, text(id)...)
	known, err := c.ask(0x10, rest, mqttConnack, 1)
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("cannot log in: %w", err)
	}
	if subscribe != "" && known[0]&1 == 0 { // else it has subscribed before, and deliveries come at once
		rest := append([]byte{0, 1}, text(subscribe)...)
		if _, err := c.ask(0x82, append(rest, 1), mqttSuback, 2); err != nil {
			s.Close()
			return nil, fmt.Errorf("cannot subscribe to %s: %w", subscribe, err)
		}
	}
	s.SetDeadline(time.Time{})
	return c, nil
}

// text is how MQTT writes a string.
func text(s string) []byte { return append([]byte{byte(len(s) >> 8), byte(len(s))}, s...) }

// packet appends a packet's head.
func packet(dst []byte, kind byte, length int) []byte {
	dst = append(dst, kind)
	for ; length >= 128; length >>= 7 {
		dst = append(dst, byte(length)|128)
	}
	return append(dst, byte(length))
}

// ask sends a packet and waits for its answer, whose byte at code must say success:
// 0, or the QoS that was asked for. It returns the answer, which is valid until read.
func (c *mqttConn) ask(kind byte, rest []byte, answer byte, code int) ([]byte, error) {
	c.out = append(packet(c.out, kind, len(rest)), rest...)
	if err := c.flush(); err != nil {
		return nil, err
	}
	for {
		kind, body, size, err := c.frame()
		if err != nil {
			return nil, err
		}
		if size == 0 {
			if err := c.read(); err != nil {
				return nil, err
			}
			continue
		}
		if kind>>4 != answer {
			return nil, fmt.Errorf("found packet type %d, expected %d", kind>>4, answer)
		}
		if len(body) <= code || body[code] > 1 {
			return nil, fmt.Errorf("refused: % x", body)
		}
		c.take(size)
		return body, nil
	}
}

// frame looks at the first packet of what was read; size 0: it is not complete.
func (c *mqttConn) frame() (kind byte, body []byte, size int, err error) {
	p := c.rest()
	length := 0
	for i := 1; i < len(p); i++ {
		length |= int(p[i]&127) << (7 * (i - 1))
		if p[i] < 128 {
			if len(p) < i+1+length {
				return 0, nil, 0, nil
			}
			return p[0], p[i+1 : i+1+length], i + 1 + length, nil
		}
		if i == 4 {
			return 0, nil, 0, fmt.Errorf("found the length % x", p[1:5])
		}
	}
	return 0, nil, 0, nil
}

func (c *mqttConn) publish(n uint32, payload []byte) {
	c.out = packet(c.out, mqttPublish<<4|1<<1, 2+len(c.topic)+2+len(payload))
	c.out = append(c.out, byte(len(c.topic)>>8), byte(len(c.topic)))
	c.out = append(c.out, c.topic...)
	c.out = binary.BigEndian.AppendUint16(c.out, uint16(n%ids)+1)
	c.out = append(c.out, payload...)
}

func (c *mqttConn) next() (event, bool, error) {
	kind, body, size, err := c.frame()
	if err != nil || size == 0 {
		return event{}, false, err
	}
	c.take(size)
	switch kind >> 4 {
	case mqttPuback:
		if len(body) < 2 {
			return event{}, false, fmt.Errorf("found a PUBACK of %d bytes", len(body))
		}
		// The number that is not before the first unanswered one and has this id.
		id := uint32(binary.BigEndian.Uint16(body)) - 1
		n := c.first + (id+ids-c.first%ids)%ids
		if n == c.first {
			c.first++
		}
		return event{n: n}, true, nil
	case mqttPublish:
		if len(body) < 2 || len(body) < 4+int(binary.BigEndian.Uint16(body)) {
			return event{}, false, fmt.Errorf("found a PUBLISH of %d bytes", len(body))
		}
		at := 2 + int(binary.BigEndian.Uint16(body))
		if kind>>1&3 == 0 { // QoS 0 has no id
			return event{delivery: true, payload: body[at:]}, true, nil
		}
		return event{delivery: true, id: binary.BigEndian.Uint16(body[at:]), payload: body[at+2:]}, true, nil
	}
	return event{}, false, fmt.Errorf("found packet type %d", kind>>4)
}

func (c *mqttConn) confirm(d *event) {
	if d.id != 0 {
		c.out = append(c.out, mqttPuback<<4, 2, byte(d.id>>8), byte(d.id))
	}
}
