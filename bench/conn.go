package main

import (
	"fmt"
	"io"
	"net"
	"time"
)

// conn is one client of a server. It belongs to one goroutine.
type conn interface {
	// publish queues message number n, counted from 0.
	publish(n uint32, payload []byte)
	// confirm queues the acknowledgement of a delivery, before the next call of next.
	confirm(d *event)
	// flush writes what is queued, with one system call if the kernel takes it.
	flush() error
	// read waits for bytes.
	read() error
	// next takes one event of what was read, false: read more.
	next() (event, bool, error)
	readDeadline(t time.Time)
	close()
}

// event is what a server said.
type event struct {
	delivery bool
	n        uint32 // acknowledged: the number of the message
	seq      uint64 // the position in its channel that the server gave it, 0: it gives none
	alone    bool   // and in that channel are the messages of this publisher alone
	payload  []byte // of a delivery; valid until read
	subject  []byte // what confirm needs, for those to whom it is text
	id       uint16 // what confirm needs, for those to whom it is a number
}

// stream is the part of a conn that all have in common: bytes in, bytes out.
type stream struct {
	net.Conn
	in   []byte
	r, w int  // in[r:w] was read and not taken
	full bool // the last read filled the buffer
	out  []byte
}

// A buffer grows to readMost, which is also what Gatepost's client reads at a time,
// as it is filled: most of 10,000 idle connections' never are.
const readFirst, readMost = 512, 64 << 10

func dial(addr string) (*stream, error) {
	c, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &stream{Conn: c, in: make([]byte, readFirst)}, nil
}

func (s *stream) flush() error {
	if len(s.out) == 0 {
		return nil
	}
	_, err := s.Write(s.out)
	s.out = s.out[:0]
	return err
}

func (s *stream) read() error {
	if s.r > 0 {
		s.w = copy(s.in, s.in[s.r:s.w])
		s.r = 0
	}
	if s.w == len(s.in) || s.full && len(s.in) < readMost {
		s.in = append(s.in, make([]byte, len(s.in))...)
	}
	n, err := s.Read(s.in[s.w:])
	s.w += n
	s.full = s.w == len(s.in)
	if n > 0 {
		return nil
	}
	if err == io.EOF {
		return fmt.Errorf("the server closed the connection")
	}
	return err
}

// rest is what was read and not taken.
func (s *stream) rest() []byte { return s.in[s.r:s.w] }

func (s *stream) take(n int) { s.r += n }

func (s *stream) readDeadline(t time.Time) { s.SetReadDeadline(t) }

func (s *stream) close() { s.Close() }
