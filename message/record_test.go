package message

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

func randomRecord(r *rand.Rand) Record {
	bytesOf := func(n int) []byte {
		b := make([]byte, r.IntN(n))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	return Record{
		Kind: Kind(r.UintN(4)), Flags: uint8(r.Uint32()), Setting: uint8(r.Uint32()), ChannelType: uint8(r.Uint32()),
		Device: uint8(r.Uint32()), Tag: r.Uint32() >> 8, MessageID: int64(r.Uint64()), Timestamp: int64(r.Uint64()), Expire: r.Uint32(),
		ChannelID: bytesOf(70), FromUID: bytesOf(40), ClientMsgNo: bytesOf(40), Topic: bytesOf(10), Payload: bytesOf(300),
	}
}

func TestARecordComesBack(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 2000 {
		want := randomRecord(rnd)
		src := AppendRecord([]byte("before"), &want)[6:]
		if len(src) != want.Size() {
			t.Fatalf("%d bytes were written, Size says %d", len(src), want.Size())
		}
		var got Record
		n, err := got.Decode(append(src, "behind"...))
		if err != nil || n != len(src) || !reflect.DeepEqual(got, want) {
			t.Fatalf("wrote %+v, read %+v, %d of %d bytes, %v", want, got, n, len(src), err)
		}
		for cut := range src {
			if _, err := got.Decode(src[:cut]); !errors.Is(err, ErrRecord) {
				t.Fatalf("%d of %d bytes were taken for a record: %v", cut, len(src), err)
			}
		}
	}
}

func TestAChangeComesBack(t *testing.T) {
	for _, members := range [][]string{{}, {"a"}, {"a", "", "a long name of somebody"}} {
		src := AppendChange(nil, OpReset, members)
		op, got, err := DecodeChange(src)
		if err != nil || op != OpReset || !reflect.DeepEqual(got, members) {
			t.Errorf("wrote %q, read %v %q %v", members, op, got, err)
		}
		for cut := range src {
			if _, _, err := DecodeChange(src[:cut]); !errors.Is(err, ErrRecord) {
				t.Errorf("%d of %d bytes were taken for a change: %v", cut, len(src), err)
			}
		}
	}
}

func TestARuleComesBack(t *testing.T) {
	for _, k := range []*Keep{nil, {}, {Age: time.Hour, Count: 5, Bytes: 1 << 40}} {
		src := AppendKeep(nil, k)
		got, err := DecodeKeep(src)
		if err != nil || !reflect.DeepEqual(got, k) {
			t.Errorf("wrote %+v, read %+v %v", k, got, err)
		}
		for cut := range src {
			if _, err := DecodeKeep(src[:cut]); !errors.Is(err, ErrRecord) {
				t.Errorf("%d of %d bytes were taken for a rule: %v", cut, len(src), err)
			}
		}
	}
	for _, bad := range []*Keep{{Age: -time.Hour}, {Count: -1}, {Bytes: -1}} {
		if _, err := DecodeKeep(AppendKeep(nil, bad)); !errors.Is(err, ErrRecord) {
			t.Errorf("%+v was taken: %v", bad, err)
		}
	}
	huge := AppendKeep(nil, &Keep{})
	huge[8] = 0x7f // milliseconds that are more than a time.Duration holds
	if _, err := DecodeKeep(huge); !errors.Is(err, ErrRecord) {
		t.Errorf("a huge age was taken: %v", err)
	}
}

func TestABatchIsWhatWasAdded(t *testing.T) {
	b := NewBatch(false)
	for i := range 10 {
		b.Add(&Record{Kind: KindMessage, MessageID: int64(i), Payload: []byte{byte(i)}}, Origin{Conn: uint64(i)})
	}
	copied, err := Parse(b.Bytes())
	if err != nil || copied.Len() != b.Len() {
		t.Fatalf("parsed %d of %d records: %v", copied.Len(), b.Len(), err)
	}
	var r Record
	for i := range b.Len() {
		if err := copied.Record(i, &r); err != nil || r.MessageID != int64(i) || !bytes.Equal(r.Payload, []byte{byte(i)}) {
			t.Errorf("record %d: %+v %v", i, r, err)
		}
		if b.Origin(i).Conn != uint64(i) || copied.Origin(i) != (Origin{}) {
			t.Errorf("origin %d: %+v, after parsing %+v", i, b.Origin(i), copied.Origin(i))
		}
	}
	// A read that fails leaves the batch as it was.
	size := copied.Size()
	if err := copied.AddStored(100, func([]byte) error { return errors.New("bad disk") }); err == nil || copied.Size() != size || copied.Len() != 10 {
		t.Errorf("after a failed read: %v, %d bytes, %d records", err, copied.Size(), copied.Len())
	}
	if err := copied.AddStored(100, func([]byte) error { return nil }); !errors.Is(err, ErrRecord) || copied.Size() != size {
		t.Errorf("after reading zeros: %v, %d bytes", err, copied.Size())
	}
	b.Retain()
	b.Release()
	b.Release()
	copied.Release()
	defer func() {
		if recover() == nil {
			t.Error("a release too many is not noticed")
		}
	}()
	copied.Release()
}

// A record whose payload is made where it stays is the same record, and one that
// is given up leaves nothing behind.
func TestARecordIsBegunAndFinished(t *testing.T) {
	whole, parts := NewBatch(false), NewBatch(false)
	defer whole.Release()
	defer parts.Release()
	for i := range 20 {
		payload := bytes.Repeat([]byte{byte(i)}, i*100)
		r := Record{Kind: KindMessage, Device: 3, Tag: 0x123456, MessageID: int64(i), ChannelID: []byte("g"), Topic: []byte("t"), Payload: payload}
		whole.Add(&r, Origin{Conn: uint64(i)})
		_ = append(parts.Begin(&r), "given up"...)
		parts.Finish(append(parts.Begin(&r), payload...), Origin{Conn: uint64(i)})
	}
	if !bytes.Equal(whole.Bytes(), parts.Bytes()) || !reflect.DeepEqual(whole.offsets, parts.offsets) || !reflect.DeepEqual(whole.origins, parts.origins) {
		t.Error("it is another batch")
	}
}

func TestAStreamNumberTravelsWithTheTopic(t *testing.T) {
	for _, c := range [][2]string{{"s-1", "topic"}, {"s", ""}, {"", "topic"}} {
		r := Record{Flags: FlagStream, Topic: AppendStream(nil, []byte(c[0]), []byte(c[1]))}
		if no, topic := r.Stream(); string(no) != c[0] || string(topic) != c[1] {
			t.Errorf("%q came back as %q %q", c, no, topic)
		}
	}
	for _, topic := range []string{"", "a", "\xff\xffabc"} { // whatever the bytes
		r := Record{Topic: []byte(topic)}
		if no, same := r.Stream(); no != nil || string(same) != topic {
			t.Errorf("%q without a stream is %q %q", topic, no, same)
		}
		r.Flags = FlagStream
		r.Stream()
	}
}

func TestAllocsOfABatch(t *testing.T) {
	r := Record{Kind: KindMessage, ChannelID: []byte("a@b"), FromUID: []byte("a"), Payload: make([]byte, 200)}
	var got Record
	fill := func() {
		b := NewBatch(false)
		for range 16 {
			b.Add(&r, Origin{})
		}
		if err := b.Record(15, &got); err != nil {
			t.Fatal(err)
		}
		b.Release()
	}
	fill()
	// Pools are emptied by collections, which may come in between.
	if n := testing.AllocsPerRun(1000, fill); n >= 1 {
		t.Errorf("a batch of 16 records makes %v allocations, want 0", n)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(AppendRecord(nil, &Record{Kind: KindMessage, ChannelID: []byte("a@b"), FromUID: []byte("a"), Payload: []byte("x")}))
	f.Add(make([]byte, headerSize))
	f.Fuzz(func(t *testing.T, src []byte) {
		var r Record
		n, err := r.Decode(src)
		if err != nil {
			return
		}
		if again := AppendRecord(nil, &r); !bytes.Equal(again, src[:n]) {
			t.Fatalf("%x was read and written as %x", src[:n], again)
		}
	})
}

func FuzzChange(f *testing.F) {
	f.Add(AppendChange(nil, OpAdd, []string{"a", "b"}))
	f.Fuzz(func(t *testing.T, src []byte) {
		op, members, err := DecodeChange(src)
		if err != nil {
			return
		}
		if again := AppendChange(nil, op, members); !bytes.Equal(again, src[:min(len(again), len(src))]) {
			t.Fatalf("%x was read and written as %x", src, again)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	src := AppendRecord(nil, &Record{Kind: KindMessage, ChannelID: []byte("alice@bob"), FromUID: []byte("alice"), Payload: make([]byte, 100)})
	b.SetBytes(int64(len(src)))
	var r Record
	for b.Loop() {
		if _, err := r.Decode(src); err != nil {
			b.Fatal(err)
		}
	}
}
