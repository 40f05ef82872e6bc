package wukong

// Actions of Sub and Suback.
const (
	ActionSubscribe   = 0
	ActionUnsubscribe = 1
)

// Sub subscribes to a channel, or ends that.
//
//	u8 setting | str sub no | str channel id | u8 channel type | u8 action | str param
type Sub struct {
	Flags       uint8
	Setting     uint8
	SubNo       []byte // chosen by the client, echoed in the SUBACK
	ChannelID   []byte
	ChannelType uint8
	Action      uint8
	Param       []byte
}

// Decode reads f. The error wraps ErrType or ErrBody.
func (s *Sub) Decode(f Frame) error {
	r := read(f, TypeSub)
	*s = Sub{
		Flags:       f.Flags,
		Setting:     r.u8(),
		SubNo:       r.str(),
		ChannelID:   r.str(),
		ChannelType: r.u8(),
		Action:      r.u8(),
		Param:       r.str(),
	}
	return r.done()
}

// Append appends the frame to dst.
func (s *Sub) Append(dst []byte) []byte {
	dst = appendHeader(dst, TypeSub, s.Flags, 3+strSize(s.SubNo)+strSize(s.ChannelID)+strSize(s.Param))
	dst = append(dst, s.Setting)
	dst = appendStr(dst, s.SubNo)
	dst = appendStr(dst, s.ChannelID)
	dst = append(dst, s.ChannelType, s.Action)
	return appendStr(dst, s.Param)
}

// Suback answers a Sub.
//
//	str sub no | str channel id | u8 channel type | u8 action | u8 reason
type Suback struct {
	Flags       uint8
	SubNo       []byte
	ChannelID   []byte
	ChannelType uint8
	Action      uint8
	Reason      Reason
}

// Decode reads f. The error wraps ErrType or ErrBody.
func (s *Suback) Decode(f Frame) error {
	r := read(f, TypeSuback)
	*s = Suback{
		Flags:       f.Flags,
		SubNo:       r.str(),
		ChannelID:   r.str(),
		ChannelType: r.u8(),
		Action:      r.u8(),
		Reason:      Reason(r.u8()),
	}
	return r.done()
}

// Append appends the frame to dst.
func (s *Suback) Append(dst []byte) []byte {
	dst = appendHeader(dst, TypeSuback, s.Flags, 3+strSize(s.SubNo)+strSize(s.ChannelID))
	dst = appendStr(dst, s.SubNo)
	dst = appendStr(dst, s.ChannelID)
	return append(dst, s.ChannelType, s.Action, byte(s.Reason))
}

// Event is a notice of the server, such as a piece of a stream in version 5.
// It is never encrypted.
//
//	str id | str type | i64 timestamp | rest data
type Event struct {
	Flags     uint8
	ID        []byte
	Type      []byte // such as "stream.delta"
	Timestamp int64
	Data      []byte // JSON
}

// Decode reads f. The error wraps ErrType or ErrBody.
func (e *Event) Decode(f Frame) error {
	r := read(f, TypeEvent)
	*e = Event{Flags: f.Flags, ID: r.str(), Type: r.str(), Timestamp: int64(r.u64()), Data: r.rest()}
	return r.done()
}

// Size returns how many bytes Append adds.
func (e *Event) Size() int { return frameSize(e.body()) }

func (e *Event) body() int { return 8 + strSize(e.ID) + strSize(e.Type) + len(e.Data) }

// Append appends the frame to dst.
func (e *Event) Append(dst []byte) []byte {
	dst = appendHeader(dst, TypeEvent, e.Flags, e.body())
	dst = appendStr(dst, e.ID)
	dst = appendStr(dst, e.Type)
	dst = appendU64(dst, uint64(e.Timestamp))
	return append(dst, e.Data...)
}
