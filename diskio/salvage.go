package diskio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// Sector is the least that is given up of a file, in bytes.
const Sector = 4096

// LostFill stands, repeated, where bytes were that the disk could not read, in the log
// with the salt of the file behind it. It is neither zeros nor the beginning of anything
// that Gatepost writes, so that nobody takes the place for an end.
const LostFill = "unreadable-bytes"

// salvageWindow is how many bytes are read at a time while all is well.
const salvageWindow = 256 << 10

// Unreadable is a stretch of a file that the disk cannot read.
type Unreadable struct {
	File   string // where the readable rest is now
	Offset int64
	Bytes  int64
	Reason string // of the operating system
	Kept   string // where the file is that has it, in the quarantine
}

// String is one line for a person.
func (u Unreadable) String() string {
	return fmt.Sprintf("%d bytes at offset %d of %s: %s; the file is kept as %s", u.Bytes, u.Offset, u.File, u.Reason, u.Kept)
}

// IsMedium reports whether err is about the very bytes on the disk, and not about
// the way to them: descriptors, memory, permissions, a cable. Only such bytes can be
// given up, and only by an operator.
func IsMedium(err error) bool {
	for _, errno := range []error{syscall.EIO, syscall.EBADMSG, syscall.EUCLEAN, syscall.ENODATA, syscall.EREMOTEIO, syscall.EILSEQ} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// FindUnreadable returns the sectors of the file called name, which has size bytes,
// that fail with a medium error. patient reads until the first of them and tries again
// for a while; read, which tries once, does from then on: it is the same disk. Another
// error ends it.
func FindUnreadable(name string, size int64, patient, read func(p []byte, off int64) error) (lost []Unreadable, err error) {
	buf := make([]byte, salvageWindow)
	waited := false
	try := func(off int64, n int) error {
		if waited {
			return read(buf[:n], off)
		}
		err := patient(buf[:n], off)
		waited = IsMedium(err)
		return err
	}
	for off := int64(0); off < size; off += salvageWindow {
		n := int(min(salvageWindow, size-off))
		if err := try(off, n); err == nil || errors.Is(err, io.EOF) {
			continue
		}
		for at := 0; at < n; at += Sector {
			part := min(Sector, n-at)
			switch err := try(off+int64(at), part); {
			case err == nil || errors.Is(err, io.EOF):
			case !IsMedium(err):
				return nil, err
			default:
				start := off + int64(at)
				if last := len(lost) - 1; last >= 0 && lost[last].Offset+lost[last].Bytes == start {
					lost[last].Bytes += int64(part)
				} else {
					lost = append(lost, Unreadable{File: name, Offset: start, Bytes: int64(part), Reason: bare(err).Error()})
				}
			}
		}
	}
	return lost, nil
}

// WriteReadable writes a file of size bytes as it can be read, with fill, repeated, in
// the place of what cannot.
func WriteReadable(to io.Writer, size int64, lost []Unreadable, fill []byte, read func(p []byte, off int64) error) error {
	buf := make([]byte, salvageWindow)
	off := int64(0)
	upTo := func(end int64) error {
		for off < end {
			p := buf[:min(salvageWindow, end-off)]
			if err := read(p, off); err != nil {
				return err
			}
			if _, err := to.Write(p); err != nil {
				return err
			}
			off += int64(len(p))
		}
		return nil
	}
	for _, u := range lost {
		if err := upTo(u.Offset); err != nil {
			return err
		}
		if _, err := to.Write(bytes.Repeat(fill, int(u.Bytes)/len(fill)+1)[:u.Bytes]); err != nil {
			return err
		}
		off += u.Bytes
	}
	return upTo(size)
}

// bare is the reason in err without the call and the path.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
