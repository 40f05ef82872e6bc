package guesses

import (
	"net/netip"
	"testing"
	"time"
)

func TestWhoGuesses(t *testing.T) {
	var table Table
	now := time.Now()
	wrong := func(from string) bool { return table.Wrong(netip.MustParseAddr(from), now) }
	for k := range Free {
		if wrong("192.0.2.1") {
			t.Errorf("wrong token %d of an address is one too many", k+1)
		}
	}
	if !wrong("192.0.2.1") || !wrong("::ffff:192.0.2.1") {
		t.Error("an address guesses on and is not noticed")
	}
	if wrong("192.0.2.2") {
		t.Error("its neighbour is taken for it")
	}
	if now = now.Add(Window); wrong("192.0.2.1") {
		t.Error("it is not forgotten after a while")
	}
	for k := range uint8(Free) {
		wrong(netip.AddrFrom16([16]byte{0x20, 1, 15: k}).String())
	}
	if !wrong("2001::ffff:ffff:ffff:ffff") || wrong("2001:0:0:1::1") {
		t.Error("an address of IPv6 is not its /64")
	}
}

func TestManyAddressesTakeLittle(t *testing.T) {
	var table Table
	now := time.Now()
	for k := range 10 * maxAddresses {
		table.Wrong(netip.AddrFrom4([4]byte{10, 0, byte(k >> 8), byte(k)}), now)
		if len(table.of) > maxAddresses {
			t.Fatalf("%d addresses are remembered, at most %d may be", len(table.of), maxAddresses)
		}
	}
	table.Wrong(netip.MustParseAddr("192.0.2.1"), now.Add(Window))
	if len(table.of) != 1 {
		t.Errorf("%d addresses are remembered after a while", len(table.of))
	}
}
