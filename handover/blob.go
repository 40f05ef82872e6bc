package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// The blob, big-endian:
//
//	+----------+------------+------------+---------------------------------------+
//	| "gphotfd"| version 8  | CRC-32C 32 | of all that follows                   |
//	+----------+------------+------------+---------------------------------------+
//	| boot id (16) | device 64, inode 64 of the data directory | log index 64    |
//	+--------------+-------------------------------------------+-----------------+
//	| secret (16)  | demands 8 | listeners 32 | connections 32                   |
//	+--------------+-----------+--------------+----------------------------------+
//	| listener:   kind 8, address: length 16 and bytes                           |
//	| connection: network length 32, session length 32, network, session         |
//	+----------------------------------------------------------------------------+
//
// Another version is another format: it is refused, by older and newer ones.
const (
	magic   = "gphotfd"
	version = 3
	sealed  = len(magic) + 1 + 4 // where the CRC begins to count
	head    = sealed + 16 + 16 + 8 + 16 + 1 + 8

	// MaxBlob is the largest blob in bytes.
	MaxBlob = 512 << 20
	// maxRecord bounds one part of a connection.
	maxRecord = 16 << 20
)

// Why a blob is not believed.
var (
	ErrDamaged = errors.New("damaged")
	ErrVersion = errors.New("unknown version")
	ErrForeign = errors.New("not of this box")
)

// Box says whose connections they are.
type Box struct {
	Boot        [16]byte // id of the boot; zeros where the process may not see it
	Device, Ino uint64   // of the data directory
	Index       uint64   // of the newest group of its log
}

// ThisBox describes this box, but for Index.
func ThisBox(dir string) (Box, error) {
	var b Box
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return b, fmt.Errorf("cannot tell the data directory %s from others: %w", dir, err)
	}
	b.Device, b.Ino = uint64(st.Dev), uint64(st.Ino)
	// A unit may hide it. Nothing of a store outlives a boot anyway.
	if text, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		copy(b.Boot[:], fromHex(string(text)))
	}
	return b, nil
}

// fromHex reads the digits of a UUID.
func fromHex(s string) (p []byte) {
	s = strings.ReplaceAll(strings.TrimSpace(s), "-", "")
	for i := 0; i+1 < len(s); i += 2 {
		var b byte
		if _, err := fmt.Sscanf(s[i:i+2], "%02x", &b); err != nil {
			return nil
		}
		p = append(p, b)
	}
	return p
}

// Kind is what a listener is for.
type Kind uint8

const (
	TCP Kind = iota + 1
	WS
	TLS
	WSS
	HTTP
)

// Listener is a listening socket.
type Listener struct {
	Kind  Kind
	Asked string // the address as it was configured
}

// Conn is a connection; what is in it is netio's and session's.
type Conn struct{ Net, Session []byte }

// Blob is all that goes to the next process, but for the descriptors: those of
// the listeners, then those of the connections.
type Blob struct {
	Box
	Secret    [16]byte // of the hashes of device ids
	Demands   byte     // on who connects: bits of the writer's, more of them is stricter
	Listeners []Listener
	Conns     []Conn
}

// Encode returns the bytes of a blob.
func (b *Blob) Encode() []byte {
	size := head
	for i := range b.Conns {
		size += 8 + len(b.Conns[i].Net) + len(b.Conns[i].Session)
	}
	p := append(make([]byte, 0, size+64*len(b.Listeners)), magic...)
	p = append(p, version, 0, 0, 0, 0)
	p = append(p, b.Boot[:]...)
	p = binary.BigEndian.AppendUint64(p, b.Device)
	p = binary.BigEndian.AppendUint64(p, b.Ino)
	p = binary.BigEndian.AppendUint64(p, b.Index)
	p = append(append(p, b.Secret[:]...), b.Demands)
	p = binary.BigEndian.AppendUint32(p, uint32(len(b.Listeners)))
	p = binary.BigEndian.AppendUint32(p, uint32(len(b.Conns)))
	for _, l := range b.Listeners {
		p = append(p, byte(l.Kind))
		p = append(binary.BigEndian.AppendUint16(p, uint16(len(l.Asked))), l.Asked...)
	}
	for i := range b.Conns {
		c := &b.Conns[i]
		p = binary.BigEndian.AppendUint32(p, uint32(len(c.Net)))
		p = binary.BigEndian.AppendUint32(p, uint32(len(c.Session)))
		p = append(append(p, c.Net...), c.Session...)
	}
	binary.BigEndian.PutUint32(p[sealed-4:], crc32.Checksum(p[sealed:], castagnoli))
	return p
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Decode reads a blob. What is in it are views on p. The error wraps ErrVersion
// or ErrDamaged.
func Decode(p []byte) (*Blob, error) {
	damaged := func(why string, a ...any) (*Blob, error) {
		return nil, fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(why, a...))
	}
	if len(p) < sealed || string(p[:len(magic)]) != magic {
		return damaged("%d bytes do not begin like a hand-over", len(p))
	}
	if v := p[len(magic)]; v != version {
		return nil, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, v, version)
	}
	if len(p) < head || len(p) > MaxBlob {
		return damaged("%d bytes, want %d to %d", len(p), head, MaxBlob)
	}
	if want, is := binary.BigEndian.Uint32(p[sealed-4:]), crc32.Checksum(p[sealed:], castagnoli); want != is {
		return damaged("the checksum is %08x, not %08x", is, want)
	}
	b := &Blob{}
	p = p[sealed:]
	next := func(n int) []byte {
		q := p[:n:n]
		p = p[n:]
		return q
	}
	copy(b.Boot[:], next(16))
	b.Device, b.Ino, b.Index = binary.BigEndian.Uint64(next(8)), binary.BigEndian.Uint64(next(8)), binary.BigEndian.Uint64(next(8))
	copy(b.Secret[:], next(16))
	b.Demands = next(1)[0]
	listeners, conns := binary.BigEndian.Uint32(next(4)), binary.BigEndian.Uint32(next(4))
	if uint64(listeners)*3+uint64(conns)*8 > uint64(len(p)) || listeners > maxParked || conns > maxParked {
		return damaged("%d listeners and %d connections in %d bytes", listeners, conns, len(p))
	}
	b.Listeners, b.Conns = make([]Listener, listeners), make([]Conn, conns)
	for i := range b.Listeners {
		if len(p) < 3 {
			return damaged("ends in listener %d", i)
		}
		kind, n := Kind(next(1)[0]), int(binary.BigEndian.Uint16(next(2)))
		if kind < TCP || kind > HTTP || len(p) < n {
			return damaged("listener %d of kind %d", i, kind)
		}
		b.Listeners[i] = Listener{kind, string(next(n))}
	}
	for i := range b.Conns {
		if len(p) < 8 {
			return damaged("ends in connection %d", i)
		}
		m, n := binary.BigEndian.Uint32(next(4)), binary.BigEndian.Uint32(next(4))
		if m > maxRecord || n > maxRecord || int(m)+int(n) > len(p) {
			return damaged("connection %d has %d and %d bytes", i, m, n)
		}
		b.Conns[i] = Conn{next(int(m)), next(int(n))}
	}
	if len(p) > 0 {
		return damaged("%d bytes too many", len(p))
	}
	return b, nil
}

// Of reports whether a blob was made on a box, by a process of this boot. The
// log index is looked at later, when the log was replayed. The error wraps
// ErrForeign.
func (b *Blob) Of(box Box) error {
	switch {
	case b.Boot != box.Boot:
		return fmt.Errorf("%w: from another boot", ErrForeign)
	case b.Device != box.Device || b.Ino != box.Ino:
		return fmt.Errorf("%w: from another data directory", ErrForeign)
	}
	return nil
}
