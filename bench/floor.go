package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The floor's frames are
//
//	4 bytes length of the rest, little-endian | 4 bytes number | payload
//
// and an answer is the 4 bytes of the number.
const floorHead = 8

type floorConn struct{ *stream }

func dialFloor(addr string) (conn, error) {
	s, err := dial(addr)
	if err != nil {
		return nil, err
	}
	return &floorConn{s}, nil
}

func (c *floorConn) publish(n uint32, payload []byte) {
	c.out = binary.LittleEndian.AppendUint32(c.out, uint32(4+len(payload)))
	c.out = binary.LittleEndian.AppendUint32(c.out, n)
	c.out = append(c.out, payload...)
}

func (c *floorConn) next() (event, bool, error) {
	p := c.rest()
	if len(p) < 4 {
		return event{}, false, nil
	}
	c.take(4)
	return event{n: binary.LittleEndian.Uint32(p)}, true, nil
}

func (c *floorConn) confirm(*event) {}

// floorFile is where groups go, and how.
type floorFile struct {
	f    *os.File
	size int64 // of a file that is written again and again; 0: it grows
	at   int64
	sync bool
}

// recycledSize is the size of the file that a floor writes again and again.
const recycledSize = 256 << 20

// openFloor opens a file for a kind of floor: "append" grows and is synced,
// "recycled" was filled with zeros up to size and is overwritten and synced, "echo"
// has none.
func openFloor(kind, dir string, size int64) (*floorFile, error) {
	f := &floorFile{sync: true}
	switch kind {
	case "echo":
		return nil, nil
	case "append":
	case "recycled":
		f.size = size
	default:
		return nil, fmt.Errorf("there is no floor %q: append, recycled, echo", kind)
	}
	var err error
	if f.f, err = os.Create(filepath.Join(dir, "floor")); err != nil {
		return nil, err
	}
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < f.size; at += int64(len(zeros)) {
		if _, err := f.f.WriteAt(zeros, at); err != nil {
			return nil, err
		}
	}
	return f, f.f.Sync()
}

func (f *floorFile) commit(group []byte) error {
	if f.size > 0 && f.at+int64(len(group)) > f.size {
		f.at = 0
	}
	if _, err := f.f.WriteAt(group, f.at); err != nil {
		return err
	}
	f.at += int64(len(group))
	return unix.Fdatasync(int(f.f.Fd()))
}

// copying copies the frames of 50 publishers by turns into a group, as any server
// that keeps them must at least once, by one processor and without a kernel. A
// group ends at 1 MiB, as Gatepost's do.
func copying(o options) row {
	const publishers, window, end = 50, 64, 1 << 20
	frame := make([]byte, floorHead+o.size)
	var from [publishers][]byte
	for i := range from {
		from[i] = bytes.Repeat(frame, window)
	}
	group := make([]byte, 0, end+len(frame))
	var began time.Time
	var usage unix.Rusage
	copied, cpu := 0, time.Duration(0)
	spent := func() time.Duration {
		unix.Getrusage(unix.RUSAGE_SELF, &usage)
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	for start := time.Now(); ; {
		if began.IsZero() && time.Since(start) > o.warm {
			began, copied, cpu = time.Now(), 0, spent()
		}
		if !began.IsZero() && time.Since(began) > o.measure || o.ctx.Err() != nil {
			break
		}
		for _, in := range &from {
			for ; len(in) > 0; in = in[len(frame):] {
				if len(group) > end {
					group = group[:0]
				}
				group = append(group, in[:len(frame)]...)
				copied++
			}
		}
	}
	return row{
		"acked/s":        float64(copied) / time.Since(began).Seconds(),
		"server CPU s/M": (spent() - cpu).Seconds() / float64(copied) * 1e6,
	}
}

// floor serves until the listener fails: a goroutine for each connection, one that
// writes whatever has come as one group and syncs it, and one that answers each
// connection with one write while the next group is synced. Echo has the first kind
// only.
type floor struct {
	mu      sync.Mutex
	wake    sync.Cond
	group   []byte
	answers answers      // to what is in group
	free    chan answers // not in use
	synced  chan answers // to be written
}

// answers are what connections are to be told.
type answers map[net.Conn][]byte

func serveFloor(kind, dir, addr string, size int64, ready func(string)) error {
	file, err := openFloor(kind, dir, size)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	defer l.Close()
	s := &floor{answers: answers{}, free: make(chan answers, 2), synced: make(chan answers, 1)}
	s.wake.L = &s.mu
	s.free <- answers{}
	s.free <- answers{}
	failed := make(chan error, 1)
	serve := echo
	if file != nil {
		serve = s.serve
		go func() { failed <- s.commit(file); l.Close() }()
		go s.answer()
	}
	ready(l.Addr().String())
	for {
		c, err := l.Accept()
		if err != nil {
			select {
			case err = <-failed:
			default:
			}
			return err
		}
		go serve(c)
	}
}

// frames reads until the connection ends, and calls f with all whole frames of each
// read.
func frames(c net.Conn, f func(whole []byte)) {
	defer c.Close()
	in, w := make([]byte, readMost), 0
	for {
		n, err := c.Read(in[w:])
		if err != nil {
			return
		}
		w += n
		r := 0
		for w-r >= floorHead {
			size := 4 + int(binary.LittleEndian.Uint32(in[r:]))
			if size < floorHead || size > len(in) {
				return
			}
			if w-r < size {
				break
			}
			r += size
		}
		if r > 0 {
			f(in[:r])
		}
		w = copy(in, in[r:w])
	}
}

// appendNumbers appends the numbers of frames.
func appendNumbers(dst, frames []byte) []byte {
	for len(frames) > 0 {
		dst = append(dst, frames[4:floorHead]...)
		frames = frames[4+binary.LittleEndian.Uint32(frames):]
	}
	return dst
}

func echo(c net.Conn) {
	var out []byte
	frames(c, func(whole []byte) {
		out = appendNumbers(out[:0], whole)
		c.Write(out) // an error is one of the next read too
	})
}

func (s *floor) serve(c net.Conn) {
	frames(c, func(whole []byte) {
		s.mu.Lock()
		s.group = append(s.group, whole...)
		s.answers[c] = appendNumbers(s.answers[c], whole)
		s.mu.Unlock()
		s.wake.Signal()
	})
}

func (s *floor) commit(file *floorFile) error {
	defer close(s.synced)
	var group []byte
	for next := range s.free {
		s.mu.Lock()
		for len(s.group) == 0 {
			s.wake.Wait()
		}
		group, s.group = s.group, group[:0]
		next, s.answers = s.answers, next
		s.mu.Unlock()
		if err := file.commit(group); err != nil {
			return fmt.Errorf("cannot commit: %w", err)
		}
		s.synced <- next
	}
	return nil
}

func (s *floor) answer() {
	for all := range s.synced {
		for c, text := range all {
			if len(text) == 0 {
				delete(all, c) // not heard of for a whole group
				continue
			}
			if _, err := c.Write(text); err != nil {
				delete(all, c)
				continue
			}
			all[c] = text[:0]
		}
		s.free <- all
	}
}
