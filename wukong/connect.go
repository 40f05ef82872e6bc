package wukong

// Device flags of Connect.
const (
	DeviceApp    = 0
	DeviceWeb    = 1
	DevicePC     = 2
	DeviceSystem = 99
)

// Connect is the first frame of a connection. Its layout is the same in all
// versions.
//
//	u8 version | u8 device flag | str device id | str uid | str token |
//	i64 client timestamp | str client key
type Connect struct {
	Version         uint8 // the newest the client speaks
	DeviceFlag      uint8
	DeviceID        []byte
	UID             []byte
	Token           []byte
	ClientTimestamp int64  // unix milliseconds; some clients send seconds
	ClientKey       []byte // base64 of the client's X25519 public key, may be empty
}

// Decode reads f. The error wraps ErrType or ErrBody.
func (c *Connect) Decode(f Frame) error {
	r := read(f, TypeConnect)
	*c = Connect{
		Version:         r.u8(),
		DeviceFlag:      r.u8(),
		DeviceID:        r.str(),
		UID:             r.str(),
		Token:           r.str(),
		ClientTimestamp: int64(r.u64()),
		ClientKey:       r.str(),
	}
	return r.done()
}

// Append appends the frame to dst.
func (c *Connect) Append(dst []byte) []byte {
	body := 2 + strSize(c.DeviceID) + strSize(c.UID) + strSize(c.Token) + 8 + strSize(c.ClientKey)
	dst = appendHeader(dst, TypeConnect, 0, body)
	dst = append(dst, c.Version, c.DeviceFlag)
	dst = appendStr(dst, c.DeviceID)
	dst = appendStr(dst, c.UID)
	dst = appendStr(dst, c.Token)
	dst = appendU64(dst, uint64(c.ClientTimestamp))
	return appendStr(dst, c.ClientKey)
}

// Connack answers a Connect.
//
//	u8 server version (flag HasServerVersion) | i64 time diff | u8 reason |
//	str server key | str salt | u64 node id (version >= 4)
type Connack struct {
	// ServerVersion is what both sides speak from now on; 0 leaves it out and
	// the flag off, as is right for clients up to version 3. Clients from
	// version 4 on must get it.
	ServerVersion uint8
	TimeDiff      int64 // server's time less the client's, milliseconds
	Reason        Reason
	ServerKey     []byte // base64 of the server's X25519 public key; empty: no encryption
	Salt          []byte // 16 ASCII characters; empty: no encryption
	NodeID        uint64 // from version 4 on
}

// Decode reads f, which came on a connection of that version. The error wraps
// ErrType or ErrBody.
func (c *Connack) Decode(f Frame, version uint8) error {
	r := read(f, TypeConnack)
	*c = Connack{}
	if f.Flags&FlagHasServerVersion != 0 {
		c.ServerVersion = r.u8()
	}
	c.TimeDiff = int64(r.u64())
	c.Reason = Reason(r.u8())
	c.ServerKey = r.str()
	c.Salt = r.str()
	if version >= 4 {
		c.NodeID = r.u64()
	}
	return r.done()
}

// Append appends the frame as a client of that version reads it.
func (c *Connack) Append(dst []byte, version uint8) []byte {
	body := 9 + strSize(c.ServerKey) + strSize(c.Salt)
	var flags uint8
	if c.ServerVersion != 0 {
		flags = FlagHasServerVersion
		body++
	}
	if version >= 4 {
		body += 8
	}
	dst = appendHeader(dst, TypeConnack, flags, body)
	if c.ServerVersion != 0 {
		dst = append(dst, c.ServerVersion)
	}
	dst = appendU64(dst, uint64(c.TimeDiff))
	dst = append(dst, byte(c.Reason))
	dst = appendStr(dst, c.ServerKey)
	dst = appendStr(dst, c.Salt)
	if version >= 4 {
		dst = appendU64(dst, c.NodeID)
	}
	return dst
}

// Disconnect says why the connection ends.
//
//	u8 reason | str text
type Disconnect struct {
	Flags  uint8
	Reason Reason
	Text   []byte
}

// Decode reads f. The error wraps ErrType or ErrBody.
func (d *Disconnect) Decode(f Frame) error {
	r := read(f, TypeDisconnect)
	*d = Disconnect{Flags: f.Flags, Reason: Reason(r.u8()), Text: r.str()}
	return r.done()
}

// Append appends the frame to dst.
func (d *Disconnect) Append(dst []byte) []byte {
	dst = appendHeader(dst, TypeDisconnect, d.Flags, 1+strSize(d.Text))
	dst = append(dst, byte(d.Reason))
	return appendStr(dst, d.Text)
}
