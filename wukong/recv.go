package wukong

// Stream flags of Recv.
const (
	StreamStart      = 0
	StreamContinuing = 1
	StreamEnd        = 2
)

// Recv is a message to a client.
//
//	u8 setting | str msg key | str from uid | str channel id | u8 channel type |
//	u32 expire (version >= 3) | str client msg no |
//	u8 stream flag | str stream no | u64 stream id (versions 2 to 4, setting stream) |
//	i64 message id | u32 message seq | i32 timestamp |
//	str topic (setting topic) | rest payload
type Recv struct {
	Flags       uint8
	Setting     uint8  // of the SEND, see RecvSetting
	MsgKey      []byte // see Cipher.AppendRecvKey; empty without encryption
	FromUID     []byte // empty: the system account
	ChannelID   []byte // of a person channel: the other party's uid
	ChannelType uint8
	Expire      uint32 // seconds, 0 = never
	ClientMsgNo []byte
	StreamFlag  uint8
	StreamNo    []byte
	StreamID    uint64
	MessageID   int64
	MessageSeq  uint32
	Timestamp   int32  // unix seconds
	Topic       []byte // written only with SettingTopic
	Payload     []byte // as it travels: see Cipher.AppendEncrypt
}

// Decode reads f, which came on a connection of that version. The error wraps
// ErrType or ErrBody.
func (v *Recv) Decode(f Frame, version uint8) error {
	r := read(f, TypeRecv)
	*v = Recv{
		Flags:       f.Flags,
		Setting:     r.u8(),
		MsgKey:      r.str(),
		FromUID:     r.str(),
		ChannelID:   r.str(),
		ChannelType: r.u8(),
	}
	if version >= 3 {
		v.Expire = r.u32()
	}
	v.ClientMsgNo = r.str()
	if hasStream(v.Setting, version) {
		v.StreamFlag = r.u8()
		v.StreamNo = r.str()
		v.StreamID = r.u64()
	}
	v.MessageID = int64(r.u64())
	v.MessageSeq = r.u32()
	v.Timestamp = int32(r.u32())
	if v.Setting&SettingTopic != 0 {
		v.Topic = r.str()
	}
	v.Payload = r.rest()
	return r.done()
}

// Append appends the frame as that version lays it out. For an encrypted
// connection see Cipher.AppendRecv.
func (v *Recv) Append(dst []byte, version uint8) []byte {
	dst = appendHeader(dst, TypeRecv, v.Flags, v.body(version))
	return append(v.appendHead(dst, version), v.Payload...)
}

// appendHead appends the fields in front of the payload.
func (v *Recv) appendHead(dst []byte, version uint8) []byte {
	dst = append(dst, v.Setting)
	dst = appendStr(dst, v.MsgKey)
	dst = appendStr(dst, v.FromUID)
	dst = appendStr(dst, v.ChannelID)
	dst = append(dst, v.ChannelType)
	if version >= 3 {
		dst = appendU32(dst, v.Expire)
	}
	dst = appendStr(dst, v.ClientMsgNo)
	if hasStream(v.Setting, version) {
		dst = append(dst, v.StreamFlag)
		dst = appendStr(dst, v.StreamNo)
		dst = appendU64(dst, v.StreamID)
	}
	dst = appendU64(dst, uint64(v.MessageID))
	dst = appendU32(dst, v.MessageSeq)
	dst = appendU32(dst, uint32(v.Timestamp))
	if v.Setting&SettingTopic != 0 {
		dst = appendStr(dst, v.Topic)
	}
	return dst
}

// Size returns how many bytes Append adds.
func (v *Recv) Size(version uint8) int { return frameSize(v.body(version)) }

func (v *Recv) body(version uint8) int {
	n := 18 + strSize(v.MsgKey) + strSize(v.FromUID) + strSize(v.ChannelID) + strSize(v.ClientMsgNo) + len(v.Payload)
	if version >= 3 {
		n += 4
	}
	if hasStream(v.Setting, version) {
		n += 9 + strSize(v.StreamNo)
	}
	if v.Setting&SettingTopic != 0 {
		n += strSize(v.Topic)
	}
	return n
}

// RecvackSize is the size of every RECVACK in bytes.
const RecvackSize = 2 + recvackBody

const recvackBody = 8 + 4

// Recvack acknowledges a Recv.
//
//	i64 message id | u32 message seq
type Recvack struct {
	Flags      uint8 // NoPersist, RedDot and SyncOnce of the RECV; some clients send 0
	MessageID  int64
	MessageSeq uint32
}

// Decode reads f. The error wraps ErrType or ErrBody.
func (a *Recvack) Decode(f Frame) error {
	r := read(f, TypeRecvack)
	*a = Recvack{Flags: f.Flags, MessageID: int64(r.u64()), MessageSeq: r.u32()}
	return r.done()
}

// Append appends the frame, RecvackSize bytes, to dst.
func (a *Recvack) Append(dst []byte) []byte {
	dst = appendHeader(dst, TypeRecvack, a.Flags, recvackBody)
	dst = appendU64(dst, uint64(a.MessageID))
	return appendU32(dst, a.MessageSeq)
}
