package broker

import (
	"crypto/rand"

	"gatepost/message"
)

// Seat is what the core alone knows of a connection.
type Seat struct {
	Device uint64 // keyed hash of the device id, 0: none; see DeviceSecret
	Master bool
}

// At names a connection of a box.
type At struct {
	Loop uint16
	Conn uint64
}

// Seats returns the seats of all connections that are online. Only after Run
// has returned.
func (b *Broker) Seats() map[At]Seat {
	seats := make(map[At]Seat)
	for _, u := range b.users {
		for _, c := range u.online {
			seats[At{c.loop, c.conn}] = Seat{c.deviceID, c.master}
		}
	}
	return seats
}

// DeviceSecret is the key of Seat.Device. Any goroutine.
func (b *Broker) DeviceSecret() [16]byte { return b.devices }

// TakeOver makes the hashes of seats those of the process before. Between Ready
// and Run.
func (b *Broker) TakeOver(secret [16]byte) { b.devices = secret }

// Resume puts a connection of the process before online, and reports whether it may
// have missed something: then CatchUp says what. Unlike Attach it ends no other, and
// the application is not told: for it the connection never went. Between Ready and
// Run.
func (b *Broker) Resume(a Attach, s Seat) (more bool) {
	a.Master = s.Master
	u := b.user(a.UID)
	b.enter(u, &a, s.Device)
	if b.accounts[a.UID].IsSilent(a.Device) || u.in.len() == 0 {
		return false
	}
	u.online[len(u.online)-1].scan = scan{upTo: b.numbers}
	return true
}

// Channel returns a channel and the number of a user's membership in it, nil and 0
// if there is none. Between Ready and Run.
func (b *Broker) Channel(typ uint8, id []byte, uid string) (*message.Channel, uint64) {
	if ch, u := b.channels[string(b.channelKey(typ, id))], b.users[uid]; ch != nil && u != nil {
		if m := u.in.get(ch); m != nil {
			return ch.Channel, m.number
		}
	}
	return nil, 0
}

func newSecret() (s [16]byte) {
	rand.Read(s[:])
	return s
}
