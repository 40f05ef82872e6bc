package store

import (
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"gatepost/message"
)

// The values of the metadata byte by byte, so that a change of a format is seen.
func TestStateBytes(t *testing.T) {
	cp := checkpoint{number: 1, index: 2, generation: 3, keep: 4, file: 5, end: 6, maxMessageID: 7, nextChannel: 8, oldest: 11, secret: [16]byte{9, 10}}
	if got, want := hex.EncodeToString(cp.append(nil)), "0100000000000000"+"0100000000000000"+"0200000000000000"+"0300000000000000"+
		"0400000000000000"+"0500000000000000"+"0600000000000000"+"0700000000000000"+"08000000"+"0b000000"+"090a0000000000000000000000000000"; got != want {
		t.Errorf("a checkpoint is\n%s, want\n%s", got, want)
	}
	var again checkpoint
	if err := again.decode(cp.append(nil)); err != nil || again != cp {
		t.Errorf("decoded: %+v (%v), want %+v", again, err, cp)
	}

	st := message.ChannelState{Channel: message.NewChannel(2, []byte("team"), 150), Last: 300, Expires: 299, Members: []message.Member{
		{UID: "bob", Joined: 5, Talk: &message.Conversation{Read: 7, Deleted: 6, Changed: 9}, Read: []message.ReadPosition{{Device: 1, Tag: 300, Seq: 200}}},
		{UID: "eve", Guest: true}}, Newest: 12, Info: message.InfoBan, Told: 300, Deny: []string{"mallory"}, Allow: []string{"x", "y"}, Keep: &message.Keep{Age: 2 * time.Millisecond, Count: 3, Bytes: 4}}
	value := appendState(nil, &st, 0x0a0b0c0d)
	if got, want := hex.EncodeToString(value), "03"+"0d0c0b0a"+"ac02"+"02"+"03626f62"+"05"+"02"+"07"+"06"+"12"+"01"+"01"+"ac02"+"c801"+"03657665"+"00"+"01"+"00"+
		"01"+"0200000000000000"+"0300000000000000"+"0400000000000000"+"18"+"01"+"ac02"+"01"+"076d616c6c6f7279"+"02"+"0178"+"0179"+"ac02"+"ab02"; got != want {
		t.Errorf("a state is\n%s, want\n%s", got, want)
	}
	key := appendChannelKey(nil, st.Channel)
	if string(key) != "\x02team" {
		t.Errorf("its key is %q", key)
	}
	back, number, err := decodeState(key, value)
	if err != nil || number != 0x0a0b0c0d || !reflect.DeepEqual(back, st) {
		t.Errorf("decoded: %+v, %x (%v)", back, number, err)
	}

	first, _ := hex.DecodeString("01" + "0d0c0b0a" + "ac02" + "02" + "03626f62" + "05" + "01" + "01" + "c801" + "03657665" + "00" + "00" +
		"01" + "0200000000000000" + "0300000000000000" + "0400000000000000")
	st.Newest, st.Info, st.Told, st.Deny, st.Allow, st.Channel.Born, st.Expires = 0, 0, 0, nil, nil, 0, 0
	st.Members[0].Talk, st.Members[0].Read[0].Tag, st.Members[1].Guest = nil, 0, false
	if back, _, err := decodeState(key, first); err != nil || !reflect.DeepEqual(back, st) {
		t.Errorf("a state of version 1: %+v (%v)", back, err)
	}

	account := message.Account{System: true, Silent: []uint8{7}, Tokens: []message.Token{{Device: 1, Level: 1, Salt: [16]byte{2}, Hash: [16]byte{3}}}}
	text := appendAccount(nil, &account)
	if got, want := hex.EncodeToString(text), "0201"+"01"+"0101"+"02000000000000000000000000000000"+"03000000000000000000000000000000"+"01"+"07"; got != want {
		t.Errorf("an account is\n%s, want\n%s", got, want)
	}
	if again, err := decodeAccount(text); err != nil || !reflect.DeepEqual(*again, account) {
		t.Errorf("decoded: %+v (%v)", again, err)
	}
	for n := range text {
		if again, err := decodeAccount(text[:n]); err == nil {
			t.Errorf("%d of %d bytes are the account %+v", n, len(text), again)
		}
	}

	ref := blockRef{first: 1, lived: 2, count: 3, place: place{file: 4, offset: 5, stored: 6}}
	page := appendPageEntry(appendPage(nil, &cp), 7, &ref)
	if got, want := hex.EncodeToString(page), "0400000000000000"+"0100000000000000"+"0200000000000000"+"0300000000000000"+"0700000000000000"+
		"07000000"+"03000000"+"0200000000000000"+"0100000000000000"+"04000000"+"05000000"+"06000000"; got != want {
		t.Errorf("a page is\n%s, want\n%s", got, want)
	}
	head, blocks, err := decodePage(page)
	if err != nil || head != (checkpoint{number: 1, index: 2, generation: 3, maxMessageID: 7}) {
		t.Errorf("decoded: %+v (%v)", head, err)
	}
	for number, r := range blocks {
		if number != 7 || r != ref {
			t.Errorf("decoded: %+v of channel %d", r, number)
		}
	}
	page[0] = 1 // then it was a stamp, of which nothing follows
	if _, blocks, err = decodePage(page); err != nil {
		t.Fatal(err)
	}
	for _, r := range blocks {
		if r.lived != 0 {
			t.Errorf("a block of version 1 was stored after %d ms", r.lived)
		}
	}

	var packed packedAnswers
	given := []message.Answer{{Key: [2]uint64{1, 2}, MessageID: 3, Seq: 4}, {Key: [2]uint64{5, 6}, MessageID: 2, Seq: 300}}
	for _, a := range given {
		packed.add(a)
	}
	if got, want := hex.EncodeToString(packed.bytes), "01"+
		"0100000000000000"+"0200000000000000"+"06"+"04"+
		"0500000000000000"+"0600000000000000"+"01"+"ac02"; got != want {
		t.Errorf("two answers are\n%s, want\n%s", got, want)
	}
	n, answers, err := decodeAnswers(packed.bytes)
	if err != nil || n != 2 || !slices.Equal(slices.Collect(answers), given) {
		t.Errorf("%d answers: %v", n, err)
	}
	for n := 2; n < len(packed.bytes); n++ {
		if _, _, err := decodeAnswers(packed.bytes[:n]); n != 19 && !errors.Is(err, errFormat) {
			t.Errorf("%d of %d bytes of answers: %v", n, len(packed.bytes), err)
		}
	}
}

// Whatever the bytes, a decoder says what is wrong and takes no memory for
// lengths that cannot be.
func TestValuesAreNotBelieved(t *testing.T) {
	r := random(t)
	st := message.ChannelState{Channel: &message.Channel{ID: "team", Type: 2}, Last: 300}
	for i := range 50 {
		st.Members = append(st.Members, message.Member{UID: string(rune('a' + i)), Read: []message.ReadPosition{{Seq: uint64(i)}}})
	}
	key, value := appendChannelKey(nil, st.Channel), appendState(nil, &st, 1)
	for n := range value {
		if _, _, err := decodeState(key, value[:n]); !errors.Is(err, errFormat) {
			t.Fatalf("%d of %d bytes of a state: %v", n, len(value), err)
		}
	}
	if _, _, err := decodeState(key, append(slices.Clone(value), 0)); !errors.Is(err, errFormat) {
		t.Errorf("a byte too many: %v", err)
	}
	for range 5000 {
		p := mutate(r, value)
		decodeState(key, p)
		decodePage(p)
		decodeAnswers(p)
		new(checkpoint).decode(p)
	}
	newer := slices.Clone(value)
	newer[0] = stateVersion + 1
	if _, _, err := decodeState(key, newer); !errors.Is(err, errFormat) || err == nil {
		t.Errorf("a state of a later version: %v", err)
	}
	if n := testing.AllocsPerRun(10, func() { decodeState(key, append([]byte{1, 0, 0, 0, 0, 0}, 0xff, 0xff, 0xff, 0xff, 0x0f)) }); n > 10 {
		t.Errorf("a huge number of members makes %v allocations", n)
	}
}

func mutate(r *rand.Rand, p []byte) []byte {
	p = slices.Clone(p)
	for range 1 + r.IntN(4) {
		p[r.IntN(len(p))] = byte(r.Uint32())
	}
	return p[:r.IntN(len(p)+1)]
}

func FuzzState(f *testing.F) {
	st := message.ChannelState{Channel: &message.Channel{ID: "team", Type: 2}, Last: 300, Members: []message.Member{{UID: "bob", Joined: 5}}}
	f.Add(appendChannelKey(nil, st.Channel), appendState(nil, &st, 5))
	f.Fuzz(func(t *testing.T, key, value []byte) {
		st, number, err := decodeState(key, value)
		if err != nil {
			return
		}
		again, n, err := decodeState(key, appendState(nil, &st, number))
		if err != nil || n != number || len(again.Members) != len(st.Members) || again.Last != st.Last {
			t.Fatalf("%+v came back as %+v: %v", st, again, err)
		}
	})
}
