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

// Resume puts a connection of the process before online, and calls missed for what
// waits for it. Unlike Attach it ends no other, and the application is not told:
// for it the connection never went. Between Ready and Run: what waits must be known
// before the connection says or acknowledges anything, or what it has acknowledged
// meanwhile would be pushed again as if it were new.
func (b *Broker) Resume(a Attach, s Seat, missed func(Delivery)) {
	a.Master = s.Master
	u := b.user(a.UID)
	b.enter(u, &a, s.Device)
	b.missed(u, &a, missed)
}

// Channel returns a channel, nil if there is none. Between Ready and Run.
func (b *Broker) Channel(typ uint8, id []byte) *message.Channel {
	if ch := b.channels[string(b.channelKey(typ, id))]; ch != nil {
		return ch.Channel
	}
	return nil
}

func newSecret() (s [16]byte) {
	rand.Read(s[:])
	return s
}
