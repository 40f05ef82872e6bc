package wukong

// Setting bits of a SEND and its RECV. The bits not named here are 0.
const (
	SettingReceipt   = 0x80 // the sender asks for a receipt
	SettingSignal    = 0x20 // end-to-end encryption; the server does not look at it
	SettingNoEncrypt = 0x10 // not honoured by the public servers
	SettingTopic     = 0x08 // the topic field is there
	// SettingStream adds the stream fields in versions 2 to 4. In version 5 it is
	// a mark on a RECV and adds nothing; a client must not set it on a SEND: the
	// public library would then give the frame a length that is too large.
	SettingStream = 0x02
	// settingOldStream marked a stream, with other fields, before SettingStream
	// did. The mobile clients still read it so.
	settingOldStream = 0x04
)

// RecvSetting returns what a RECV says of the setting of a SEND to a client of
// that version. No client of versions 1 to 4 in use reads the stream fields: those
// that met them took the message id out of their middle and dropped the message.
// They get it without.
func RecvSetting(setting, version uint8) uint8 {
	setting &^= settingOldStream
	if version < 5 {
		setting &^= SettingStream
	}
	return setting
}

// hasStream reports whether the stream fields are there.
func hasStream(setting, version uint8) bool {
	return setting&SettingStream != 0 && version >= 2 && version < 5
}

// Send is a message from a client.
//
//	u8 setting | u32 client seq | str client msg no |
//	str stream no (versions 2 to 4, setting stream) |
//	str channel id | u8 channel type | u32 expire (version >= 3) |
//	str msg key | str topic (setting topic) | rest payload
type Send struct {
	Flags       uint8
	Setting     uint8
	ClientSeq   uint32 // chosen by the client, echoed in the SENDACK
	ClientMsgNo []byte // the idempotency key
	StreamNo    []byte
	ChannelID   []byte // of a person channel: the other's uid
	ChannelType uint8
	Expire      uint32 // seconds, 0 = never
	MsgKey      []byte // see Cipher.AppendSendKey; empty without encryption
	Topic       []byte // written only with SettingTopic
	Payload     []byte // as it travels: see Cipher.AppendEncrypt
}

// Decode reads f, which came on a connection of that version. The error wraps
// ErrType or ErrBody.
func (s *Send) Decode(f Frame, version uint8) error {
	r := read(f, TypeSend)
	*s = Send{Flags: f.Flags, Setting: r.u8(), ClientSeq: r.u32(), ClientMsgNo: r.str()}
	if hasStream(s.Setting, version) {
		s.StreamNo = r.str()
	}
	s.ChannelID = r.str()
	s.ChannelType = r.u8()
	if version >= 3 {
		s.Expire = r.u32()
	}
	s.MsgKey = r.str()
	if s.Setting&SettingTopic != 0 {
		s.Topic = r.str()
	}
	s.Payload = r.rest()
	return r.done()
}

// Append appends the frame as that version lays it out.
func (s *Send) Append(dst []byte, version uint8) []byte {
	dst = appendHeader(dst, TypeSend, s.Flags, s.body(version))
	dst = append(dst, s.Setting)
	dst = appendU32(dst, s.ClientSeq)
	dst = appendStr(dst, s.ClientMsgNo)
	if hasStream(s.Setting, version) {
		dst = appendStr(dst, s.StreamNo)
	}
	dst = appendStr(dst, s.ChannelID)
	dst = append(dst, s.ChannelType)
	if version >= 3 {
		dst = appendU32(dst, s.Expire)
	}
	dst = appendStr(dst, s.MsgKey)
	if s.Setting&SettingTopic != 0 {
		dst = appendStr(dst, s.Topic)
	}
	return append(dst, s.Payload...)
}

// Size returns how many bytes Append adds.
func (s *Send) Size(version uint8) int { return frameSize(s.body(version)) }

func (s *Send) body(version uint8) int {
	n := 6 + strSize(s.ClientMsgNo) + strSize(s.ChannelID) + strSize(s.MsgKey) + len(s.Payload)
	if hasStream(s.Setting, version) {
		n += strSize(s.StreamNo)
	}
	if version >= 3 {
		n += 4
	}
	if s.Setting&SettingTopic != 0 {
		n += strSize(s.Topic)
	}
	return n
}

// SendackSize is the size of every SENDACK in bytes.
const SendackSize = 2 + sendackBody

const sendackBody = 8 + 4 + 4 + 1

// Sendack answers a Send.
//
//	i64 message id | u32 client seq | u32 message seq | u8 reason
type Sendack struct {
	Flags      uint8 // those of the SEND
	MessageID  int64
	ClientSeq  uint32
	MessageSeq uint32 // in its channel, from 1; 0: not stored, or refused
	Reason     Reason
}

// Decode reads f. The error wraps ErrType or ErrBody.
func (a *Sendack) Decode(f Frame) error {
	r := read(f, TypeSendack)
	*a = Sendack{
		Flags:      f.Flags,
		MessageID:  int64(r.u64()),
		ClientSeq:  r.u32(),
		MessageSeq: r.u32(),
		Reason:     Reason(r.u8()),
	}
	return r.done()
}

// Append appends the frame, SendackSize bytes, to dst.
func (a *Sendack) Append(dst []byte) []byte {
	dst = appendHeader(dst, TypeSendack, a.Flags, sendackBody)
	dst = appendU64(dst, uint64(a.MessageID))
	dst = appendU32(dst, a.ClientSeq)
	dst = appendU32(dst, a.MessageSeq)
	return append(dst, byte(a.Reason))
}
