package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"

	"gatepost/message"
)

// Buckets of the metadata. All values begin with a version byte; all fixed
// numbers are little-endian, those in keys big-endian so that they sort.
const (
	bucketBox     = "box"     // "checkpoint" -> the newest checkpoint
	bucketChannel = "channel" // channel type, id -> state of a channel
	bucketPage    = "page"    // checkpoint number, u64 -> its page
	bucketAnswers = "answers" // checkpoint number, u64, and part, u32 -> answers given since the one before
	bucketUser    = "user"    // uid -> account of a user
	bucketFirst   = "first"   // channel number, u32 -> oldest sequence kept by its own retention
)

const keyCheckpoint = "checkpoint"

// keyIncomplete holds a version byte, 2, from the moment metadata were made again
// from block files until the next checkpoint is completed: the log may speak of
// channels and members that are gone.
const keyIncomplete = "incomplete"

// keyLived holds a version byte, 4, and in 8 bytes how long the store has lived, ms,
// see Store.life.
const keyLived = "lived"

// keyHooks holds a version byte, 2, and 1 when the application is told of
// messages, else 0.
const keyHooks = "hooks"

// stateVersion is that of the newest values in the metadata. All kinds count
// together: what one version changed is said there, what it did not is written
// as before.
const stateVersion = 4

// errFormat is wrapped when a value is not what this program writes.
var errFormat = errors.New("bad value")

// checkpoint is the record of the newest one:
//
//	 0         1      8        16      24           32     40     48     56
//	+---------+------+--------+-------+------------+------+------+------+
//	| version | zero | number | index | generation | keep | file | end  |
//	+---------+------+--------+-------+------------+------+------+------+
//	 56               64             68       72       88
//	+----------------+--------------+--------+--------+
//	| max message id | next channel | oldest | secret |
//	+----------------+--------------+--------+--------+
//
// The blocks hold what the groups of the log up to index say; the next group
// is in generation. The log is kept from keep on, one checkpoint more than is
// needed: damage to the newest metadata is then repaired by replaying. Block
// files end at byte end of file; those below oldest were dropped.
type checkpoint struct {
	number       uint64
	index        uint64
	generation   uint64
	keep         uint64
	file         uint32
	end          uint32
	maxMessageID int64
	nextChannel  uint32
	oldest       uint32
	secret       [16]byte
}

const checkpointSize = 88

func (c *checkpoint) append(dst []byte) []byte {
	le := binary.LittleEndian
	dst = append(dst, 1, 0, 0, 0, 0, 0, 0, 0)
	for _, v := range []uint64{c.number, c.index, c.generation, c.keep, uint64(c.file), uint64(c.end), uint64(c.maxMessageID)} {
		dst = le.AppendUint64(dst, v)
	}
	dst = le.AppendUint32(dst, c.nextChannel)
	dst = le.AppendUint32(dst, c.oldest)
	return append(dst, c.secret[:]...)
}

func (c *checkpoint) decode(src []byte) error {
	if err := checkVersion(src); err != nil {
		return err
	}
	if len(src) != checkpointSize {
		return fmt.Errorf("%w: a checkpoint of %d bytes, expected %d", errFormat, len(src), checkpointSize)
	}
	le := binary.LittleEndian
	u := func(i int) uint64 { return le.Uint64(src[8*i:]) }
	*c = checkpoint{number: u(1), index: u(2), generation: u(3), keep: u(4),
		file: uint32(u(5)), end: uint32(u(6)), maxMessageID: int64(u(7)), nextChannel: le.Uint32(src[64:]), oldest: le.Uint32(src[68:])}
	copy(c.secret[:], src[72:])
	return nil
}

func checkVersion(src []byte) error {
	switch {
	case len(src) == 0:
		return fmt.Errorf("%w: it is empty", errFormat)
	case src[0] > stateVersion:
		return fmt.Errorf("%w: it has version %d and this program knows versions up to %d; it was written by a newer program, use that",
			errFormat, src[0], stateVersion)
	}
	return nil
}

// A channel's state, with numbers as varints but for the first:
//
//	+---------+--------+------+---------+--------------------------------------+
//	| version | number | last | members | each member                          |
//	| 3       | u32    |      |         | uid n, uid, joined, what u8, [talk,] |
//	+---------+--------+------+---------+ reads, each read: device u8,         |
//	                                    | tag, seq                             |
//	+------+--------+---------+---------+--------------------------------------+
//	| keep | newest | info u8 | told | deny n, each: uid n, uid | allow, alike |
//	+------+--------+---------+------+--------------------------+--------------+
//	| born | expires |
//	+------+---------+
//
// What is 1 for a guest and 2 when there is a talk: read, deleted, changed. Keep
// is as in message.AppendKeep. The key is the channel's type in one byte and its
// id. Version 1 had no tags and no what, and ended with keep; version 2 had no born and
// no expires.
func appendState(dst []byte, st *message.ChannelState, number uint32) []byte {
	dst = append(dst, 3)
	dst = binary.LittleEndian.AppendUint32(dst, number)
	dst = binary.AppendUvarint(dst, st.Last)
	dst = binary.AppendUvarint(dst, uint64(len(st.Members)))
	for i := range st.Members {
		m := &st.Members[i]
		dst = appendText(dst, m.UID)
		dst = binary.AppendUvarint(dst, m.Joined)
		dst = append(dst, what(m))
		if m.Talk != nil {
			dst = binary.AppendUvarint(dst, m.Talk.Read)
			dst = binary.AppendUvarint(dst, m.Talk.Deleted)
			dst = binary.AppendVarint(dst, m.Talk.Changed)
		}
		dst = binary.AppendUvarint(dst, uint64(len(m.Read)))
		for _, r := range m.Read {
			dst = append(dst, r.Device)
			dst = binary.AppendUvarint(dst, uint64(r.Tag))
			dst = binary.AppendUvarint(dst, r.Seq)
		}
	}
	dst = message.AppendKeep(dst, st.Keep)
	dst = binary.AppendVarint(dst, st.Newest)
	dst = append(dst, byte(st.Info))
	dst = binary.AppendUvarint(dst, st.Told)
	for _, list := range [][]string{st.Deny, st.Allow} {
		dst = binary.AppendUvarint(dst, uint64(len(list)))
		for _, uid := range list {
			dst = appendText(dst, uid)
		}
	}
	dst = binary.AppendVarint(dst, st.Channel.Born)
	return binary.AppendUvarint(dst, st.Expires)
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// Bits of what a member is.
const (
	whatGuest = 1
	whatTalk  = 2
)

func what(m *message.Member) (bits byte) {
	if m.Guest {
		bits |= whatGuest
	}
	if m.Talk != nil {
		bits |= whatTalk
	}
	return bits
}

// An account, with n as varints:
//
//	+---------+-----------+----------------------------+-----------------+---------------+
//	| version | what u8   | tokens n, each: device u8, | silent n, each: | with whatTold |
//	| 2       |           | level u8, salt 16, hash 16 | device u8       | told n, same  |
//	+---------+-----------+----------------------------+-----------------+---------------+
func appendAccount(dst []byte, a *message.Account) []byte {
	what := byte(0)
	if a.System {
		what |= whatSystem
	}
	if len(a.Told) > 0 {
		what |= whatTold
	}
	dst = binary.AppendUvarint(append(dst, 2, what), uint64(len(a.Tokens)))
	for i := range a.Tokens {
		t := &a.Tokens[i]
		dst = append(dst, t.Device, t.Level)
		dst = append(dst, t.Salt[:]...)
		dst = append(dst, t.Hash[:]...)
	}
	dst = append(binary.AppendUvarint(dst, uint64(len(a.Silent))), a.Silent...)
	if len(a.Told) > 0 {
		dst = append(binary.AppendUvarint(dst, uint64(len(a.Told))), a.Told...)
	}
	return dst
}

// What an account has.
const (
	whatSystem = 1 << iota
	whatTold
)

func appendHooks(on bool) []byte {
	if on {
		return []byte{2, 1}
	}
	return []byte{2, 0}
}

func decodeAccount(src []byte) (*message.Account, error) {
	if err := checkVersion(src); err != nil {
		return nil, err
	}
	d := decoder{rest: src[1:]}
	what := d.byte()
	a := &message.Account{System: what&whatSystem != 0}
	for range d.count(34) {
		t := message.Token{Device: d.byte(), Level: d.byte()}
		copy(t.Salt[:], d.bytes(16))
		copy(t.Hash[:], d.bytes(16))
		a.Tokens = append(a.Tokens, t)
	}
	a.Silent = append(a.Silent, d.bytes(d.count(1))...)
	if what&whatTold != 0 {
		a.Told = append(a.Told, d.bytes(d.count(1))...)
	}
	if d.bad || len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: an account of %d bytes", errFormat, len(src))
	}
	return a, nil
}

func appendChannelKey(dst []byte, ch *message.Channel) []byte {
	return append(append(dst, ch.Type), ch.ID...)
}

// decodeState reads a channel's key and value. Everything in st is copied.
func decodeState(key, src []byte) (st message.ChannelState, number uint32, err error) {
	if err := checkVersion(src); err != nil {
		return st, 0, err
	}
	if len(key) < 2 || len(src) < 5 {
		return st, 0, fmt.Errorf("%w: a key of %d bytes, a state of %d", errFormat, len(key), len(src))
	}
	d := decoder{rest: src[5:]}
	number = binary.LittleEndian.Uint32(src[1:])
	st.Channel = message.NewChannel(key[0], key[1:], 0)
	st.Last = d.uvarint()
	n := d.count(3) // a member is not shorter
	st.Members = make([]message.Member, 0, n)
	for range n {
		m := message.Member{UID: d.text(), Joined: d.uvarint()}
		if src[0] >= 2 {
			bits := d.byte()
			m.Guest = bits&whatGuest != 0
			if bits&whatTalk != 0 {
				m.Talk = &message.Conversation{Read: d.uvarint(), Deleted: d.uvarint(), Changed: d.varint()}
			}
		}
		if reads := d.count(2); reads > 0 {
			m.Read = make([]message.ReadPosition, 0, reads)
			for range reads {
				r := message.ReadPosition{Device: d.byte()}
				if src[0] >= 2 {
					r.Tag = uint32(d.uvarint())
				}
				r.Seq = d.uvarint()
				m.Read = append(m.Read, r)
			}
		}
		st.Members = append(st.Members, m)
	}
	keep := d.rest
	if src[0] >= 2 {
		keep = d.bytes(message.KeepSize)
		st.Newest, st.Info, st.Told = d.varint(), message.Info(d.byte()), d.uvarint()
		for _, list := range []*[]string{&st.Deny, &st.Allow} {
			for range d.count(1) {
				*list = append(*list, d.text())
			}
		}
		if src[0] >= 3 {
			st.Channel.Born, st.Expires = d.varint(), d.uvarint()
		}
		d.bad = d.bad || len(d.rest) > 0
	}
	if d.bad {
		return st, 0, fmt.Errorf("%w: the state of channel %q does not end where it should", errFormat, st.Channel.ID)
	}
	if st.Keep, err = message.DecodeKeep(keep); err != nil {
		return st, 0, fmt.Errorf("%w: the state of channel %q: %w", errFormat, st.Channel.ID, err)
	}
	return st, number, nil
}

// decoder reads varints off the front of a value. Once bad it stays so and
// returns zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad, d.rest = true, nil
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) varint() int64 {
	v := d.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

// count reads how many things of at least size bytes follow.
func (d *decoder) count(size int) int {
	v := d.uvarint()
	if v > uint64(len(d.rest)/size) {
		d.bad, d.rest = true, nil
		return 0
	}
	return int(v)
}

// bytes returns a view.
func (d *decoder) bytes(n int) []byte {
	if n > len(d.rest) {
		d.bad, d.rest = true, nil
		return nil
	}
	p := d.rest[:n]
	d.rest = d.rest[n:]
	return p
}

// text reads what appendText wrote.
func (d *decoder) text() string { return string(d.bytes(d.count(1))) }

func (d *decoder) byte() byte {
	if p := d.bytes(1); len(p) == 1 {
		return p[0]
	}
	return 0
}

// A page lists the blocks of one checkpoint. The same bytes are in the
// metadata and, so that the metadata can be made again, a section of the block
// files behind those blocks:
//
//	 0         1      8        16      24           32               40
//	+---------+------+--------+-------+------------+----------------+
//	| version | zero | number | index | generation | max message id |
//	+---------+------+--------+-------+------------+----------------+
//	 40: each block, 36 bytes
//	+---------+-------+--------+-------+------+--------+--------+
//	| channel | count | lived  | first | file | offset | stored |
//	| u32     | u32   | u64    | u64   | u32  | u32    | u32    |
//	+---------+-------+--------+-------+------+--------+--------+
//
// number, index, generation and max message id are as in the checkpoint. lived is how
// long the store had lived, ms, when the block was stored. Version 1 had the stamp of
// its newest message there, which says nothing once the clock was set: such a block
// counts as stored when the store was born.
const (
	pageHeader = 40
	pageEntry  = 36
)

func appendPage(dst []byte, c *checkpoint) []byte {
	le := binary.LittleEndian
	dst = append(dst, 4, 0, 0, 0, 0, 0, 0, 0)
	dst = le.AppendUint64(dst, c.number)
	dst = le.AppendUint64(dst, c.index)
	dst = le.AppendUint64(dst, c.generation)
	return le.AppendUint64(dst, uint64(c.maxMessageID))
}

func appendPageEntry(dst []byte, channel uint32, r *blockRef) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, channel)
	dst = le.AppendUint32(dst, r.count)
	dst = le.AppendUint64(dst, uint64(r.lived))
	dst = le.AppendUint64(dst, r.first)
	dst = le.AppendUint32(dst, r.file)
	dst = le.AppendUint32(dst, r.offset)
	return le.AppendUint32(dst, r.stored)
}

// decodePage reads a page: what it says of its checkpoint, and its blocks.
func decodePage(src []byte) (c checkpoint, blocks iter.Seq2[uint32, blockRef], err error) {
	if err := checkVersion(src); err != nil {
		return c, nil, err
	}
	if len(src) < pageHeader || (len(src)-pageHeader)%pageEntry != 0 {
		return c, nil, fmt.Errorf("%w: a page of %d bytes", errFormat, len(src))
	}
	le := binary.LittleEndian
	c = checkpoint{number: le.Uint64(src[8:]), index: le.Uint64(src[16:]), generation: le.Uint64(src[24:]),
		maxMessageID: int64(le.Uint64(src[32:]))}
	return c, func(yield func(uint32, blockRef) bool) {
		for p := src[pageHeader:]; len(p) > 0; p = p[pageEntry:] {
			r := blockRef{
				count: le.Uint32(p[4:]), lived: int64(le.Uint64(p[8:])), first: le.Uint64(p[16:]),
				place: place{file: le.Uint32(p[24:]), offset: le.Uint32(p[28:]), stored: le.Uint32(p[32:])},
			}
			if src[0] < 4 {
				r.lived = 0
			}
			if !yield(le.Uint32(p), r) {
				return
			}
		}
	}, nil
}

// packedAnswers are a version byte and, for each answer, its key in two fixed
// numbers, the message id as the signed varint by which it is above that of the
// answer before, and the sequence as a varint: some 22 bytes.
type packedAnswers struct {
	bytes []byte
	count int
	last  int64 // message id of the newest
}

func (p *packedAnswers) add(a message.Answer) {
	if p.count == 0 {
		p.bytes = append(p.bytes, 1)
	}
	p.bytes = binary.LittleEndian.AppendUint64(p.bytes, a.Key[0])
	p.bytes = binary.LittleEndian.AppendUint64(p.bytes, a.Key[1])
	p.bytes = binary.AppendVarint(p.bytes, a.MessageID-p.last)
	p.bytes = binary.AppendUvarint(p.bytes, a.Seq)
	p.count, p.last = p.count+1, a.MessageID
}

// decodeAnswers returns how many answers src holds, and them. src must stay.
func decodeAnswers(src []byte) (count int, answers iter.Seq[message.Answer], err error) {
	if err := checkVersion(src); err != nil {
		return 0, nil, err
	}
	var bad bool
	answers = func(yield func(message.Answer) bool) {
		d := decoder{rest: src[1:]}
		last := int64(0)
		for len(d.rest) > 0 {
			var a message.Answer
			if key := d.bytes(16); len(key) == 16 {
				a.Key = [2]uint64{binary.LittleEndian.Uint64(key), binary.LittleEndian.Uint64(key[8:])}
			}
			last += d.varint()
			a.MessageID, a.Seq = last, d.uvarint()
			if bad = d.bad; bad || !yield(a) {
				return
			}
		}
	}
	for range answers {
		count++
	}
	if bad {
		return 0, nil, fmt.Errorf("%w: %d answers in %d bytes and then something else", errFormat, count, len(src))
	}
	return count, answers, nil
}
