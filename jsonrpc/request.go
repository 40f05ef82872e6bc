package jsonrpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"gatepost/wukong"
)

// The methods of a client.
const (
	MethodConnect     = "connect"
	MethodSend        = "send"
	MethodRecvack     = "recvack"
	MethodPing        = "ping"
	MethodSubscribe   = "subscribe"
	MethodUnsubscribe = "unsubscribe"
	MethodDisconnect  = "disconnect"
)

// MaxID is the largest id of a request in bytes, as it travels and with its
// quotes. Ids of unanswered requests are kept in memory.
const MaxID = 128

// Codes of errors as JSON-RPC 2.0 defines them. A refused login has its reason
// of the WuKong protocol as the code.
const (
	CodeInvalidRequest = -32600
	CodeUnknownMethod  = -32601
	CodeInvalidParams  = -32602
)

// Error is what is wrong with one request. The client is told, and the
// connection can stay.
type Error struct {
	Code    int
	Message string
}

func (e *Error) Error() string {
	return fmt.Sprintf("cannot serve a request: %s (%d)", e.Message, e.Code)
}

// Request is one request of a client, with params that are not decoded yet.
type Request struct {
	Method string
	ID     []byte // a string in JSON, quotes included, or a number; empty: no answer is wanted

	params  json.RawMessage
	snake   bool    // they have names like message_id; known when they are read
	payload payload // likewise
}

// envelope is what every request has.
type envelope struct {
	Version *string         `json:"jsonrpc"`
	Method  string          `json:"method"`
	ID      json.RawMessage `json:"id"`
	Params  json.RawMessage `json:"params"`
}

// Parse reads an object that Split returned. The error wraps ErrSyntax, or is an
// *Error: then ID is what the answer has.
func (r *Request) Parse(object []byte) error {
	var e envelope
	err := json.Unmarshal(object, &e)
	*r = Request{Method: e.Method, ID: e.ID, params: e.Params}
	var wrong *json.UnmarshalTypeError
	if err != nil && !errors.As(err, &wrong) {
		return fmt.Errorf("cannot read a request: %w: %w", ErrSyntax, err)
	}
	if string(r.ID) == "null" {
		r.ID = nil
	}
	switch {
	case len(r.ID) > 0 && (!isID(r.ID[0]) || len(r.ID) > MaxID || !utf8.Valid(r.ID)):
		r.ID = []byte("null") // JSON-RPC 2.0: an id that cannot be told
		return &Error{CodeInvalidRequest, fmt.Sprintf("id must be a string or a number of at most %d bytes", MaxID)}
	case wrong != nil:
		return &Error{CodeInvalidRequest, wrong.Field + " cannot be a " + wrong.Value}
	case e.Version != nil && *e.Version != "2.0":
		return &Error{CodeInvalidRequest, "jsonrpc must be 2.0 or left out"}
	case r.Method == "":
		return &Error{CodeInvalidRequest, "the method is missing"}
	}
	return nil
}

// isID reports whether a string or a number begins with c.
func isID(c byte) bool { return c == '"' || c == '-' || c >= '0' && c <= '9' }

// Unknown returns the error for a method that is not served.
func (r *Request) Unknown() *Error {
	const most = 32
	name := r.Method
	if len(name) > most {
		name = name[:most]
	}
	return &Error{CodeUnknownMethod, fmt.Sprintf("there is no method %q", name)}
}

// decode reads the params into p.
func (r *Request) decode(p any) error {
	if len(r.params) == 0 || string(r.params) == "null" {
		return &Error{CodeInvalidParams, r.Method + " needs params"}
	}
	err := json.Unmarshal(r.params, p)
	var wrong *json.UnmarshalTypeError
	var own *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &own):
		return own
	case errors.As(err, &wrong):
		return &Error{CodeInvalidParams, wrong.Field + " cannot be a " + wrong.Value}
	}
	return &Error{CodeInvalidParams, "the params cannot be read"}
}

// text is a string field of a frame.
type text []byte

// UnmarshalText refuses what a frame cannot hold.
func (t *text) UnmarshalText(p []byte) error {
	if len(p) > wukong.MaxString {
		return &Error{CodeInvalidParams, fmt.Sprintf("a string has %d bytes, the limit is %d", len(p), wukong.MaxString)}
	}
	*t = bytes.Clone(p)
	return nil
}

// messageID is a number, or a string that is one.
type messageID int64

// UnmarshalJSON takes both.
func (m *messageID) UnmarshalJSON(p []byte) error {
	if len(p) > 2 && p[0] == '"' {
		p = p[1 : len(p)-1]
	}
	id, err := strconv.ParseInt(string(p), 10, 64)
	if err != nil {
		return &Error{CodeInvalidParams, "messageId is not a number in a string"}
	}
	*m = messageID(id)
	return nil
}

type header struct {
	NoPersist bool `json:"noPersist"`
	RedDot    bool `json:"redDot"`
	SyncOnce  bool `json:"syncOnce"`
	Dup       bool `json:"dup"`

	SnakeNoPersist bool `json:"no_persist"`
	SnakeRedDot    bool `json:"red_dot"`
	SnakeSyncOnce  bool `json:"sync_once"`
}

func (h header) flags() uint8 {
	return bit(h.NoPersist || h.SnakeNoPersist, wukong.FlagNoPersist) | bit(h.RedDot || h.SnakeRedDot, wukong.FlagRedDot) |
		bit(h.SyncOnce || h.SnakeSyncOnce, wukong.FlagSyncOnce) | bit(h.Dup, wukong.FlagDUP)
}

type setting struct {
	Receipt bool `json:"receipt"`
	Signal  bool `json:"signal"`
	Stream  bool `json:"stream"`
	Topic   bool `json:"topic"`
}

func (s setting) bits() uint8 {
	return bit(s.Receipt, wukong.SettingReceipt) | bit(s.Signal, wukong.SettingSignal) |
		bit(s.Stream, wukong.SettingStream) | bit(s.Topic, wukong.SettingTopic)
}

func bit(on bool, b uint8) uint8 {
	if on {
		return b
	}
	return 0
}

// Connect reads the params of MethodConnect. A client that names no version
// speaks the latest. The error is an *Error.
func (r *Request) Connect(c *wukong.Connect) error {
	p := struct {
		Version         *uint8 `json:"version"`
		DeviceFlag      uint8  `json:"deviceFlag"`
		DeviceID        text   `json:"deviceId"`
		UID             text   `json:"uid"`
		Token           text   `json:"token"`
		ClientTimestamp int64  `json:"clientTimestamp"`
		ClientKey       text   `json:"clientKey"`

		SnakeDeviceFlag      uint8 `json:"device_flag"`
		SnakeDeviceID        text  `json:"device_id"`
		SnakeClientTimestamp int64 `json:"client_timestamp"`
		SnakeClientKey       text  `json:"client_key"`
	}{}
	if err := r.decode(&p); err != nil {
		return err
	}
	r.snake = len(p.SnakeDeviceID) > 0 || p.SnakeDeviceFlag > 0 || p.SnakeClientTimestamp > 0
	*c = wukong.Connect{
		Version:         wukong.LatestVersion,
		DeviceFlag:      max(p.DeviceFlag, p.SnakeDeviceFlag),
		DeviceID:        either(p.DeviceID, p.SnakeDeviceID),
		UID:             p.UID,
		Token:           p.Token,
		ClientTimestamp: max(p.ClientTimestamp, p.SnakeClientTimestamp),
		ClientKey:       either(p.ClientKey, p.SnakeClientKey),
	}
	if p.Version != nil {
		c.Version = *p.Version
	}
	return nil
}

// Send reads the params of MethodSend. There is no ClientSeq, and the Payload is
// plain. As in a frame, topic and streamNo count only if the setting says so. The
// error is an *Error.
func (r *Request) Send(s *wukong.Send) error {
	p := struct {
		Header      header          `json:"header"`
		Setting     setting         `json:"setting"`
		MsgKey      text            `json:"msgKey"`
		Expire      uint32          `json:"expire"`
		ClientMsgNo text            `json:"clientMsgNo"`
		StreamNo    text            `json:"streamNo"`
		ChannelID   text            `json:"channelId"`
		ChannelType uint8           `json:"channelType"`
		Topic       text            `json:"topic"`
		Payload     json.RawMessage `json:"payload"`

		SnakeMsgKey      text  `json:"msg_key"`
		SnakeClientMsgNo text  `json:"client_msg_no"`
		SnakeStreamNo    text  `json:"stream_no"`
		SnakeChannelID   text  `json:"channel_id"`
		SnakeChannelType uint8 `json:"channel_type"`
	}{}
	if err := r.decode(&p); err != nil {
		return err
	}
	r.snake = len(p.SnakeChannelID) > 0
	payload, form, err := readPayload(p.Payload, r.snake)
	if err != nil {
		return err
	}
	r.payload = form
	*s = wukong.Send{
		Flags:       p.Header.flags(),
		Setting:     p.Setting.bits(),
		ClientMsgNo: either(p.ClientMsgNo, p.SnakeClientMsgNo),
		ChannelID:   either(p.ChannelID, p.SnakeChannelID),
		ChannelType: max(p.ChannelType, p.SnakeChannelType),
		Expire:      p.Expire,
		MsgKey:      either(p.MsgKey, p.SnakeMsgKey),
		Payload:     payload,
	}
	if p.Setting.Topic {
		s.Topic = p.Topic
	}
	if p.Setting.Stream {
		s.StreamNo = either(p.StreamNo, p.SnakeStreamNo)
	}
	return nil
}

// Recvack reads the params of MethodRecvack. The message id may be a number too.
// The error is an *Error.
func (r *Request) Recvack(a *wukong.Recvack) error {
	p := struct {
		Header     header    `json:"header"`
		MessageID  messageID `json:"messageId"`
		MessageSeq uint32    `json:"messageSeq"`

		SnakeMessageID  messageID `json:"message_id"`
		SnakeMessageSeq uint32    `json:"message_seq"`
	}{}
	if err := r.decode(&p); err != nil {
		return err
	}
	r.snake = p.SnakeMessageID != 0
	*a = wukong.Recvack{Flags: p.Header.flags(), MessageID: int64(p.MessageID), MessageSeq: max(p.MessageSeq, p.SnakeMessageSeq)}
	if a.MessageID == 0 {
		a.MessageID = int64(p.SnakeMessageID)
	}
	return nil
}

// maxEcho bounds what an answer repeats of a request, in bytes.
const maxEcho = 1024

// Sub reads the params of MethodSubscribe or MethodUnsubscribe. The error is an
// *Error.
func (r *Request) Sub(s *wukong.Sub) error {
	p := struct {
		Header      header  `json:"header"`
		Setting     setting `json:"setting"`
		SubNo       text    `json:"subNo"`
		ChannelID   text    `json:"channelId"`
		ChannelType uint8   `json:"channelType"`
		Param       text    `json:"param"`

		SnakeSubNo       text  `json:"sub_no"`
		SnakeChannelID   text  `json:"channel_id"`
		SnakeChannelType uint8 `json:"channel_type"`
	}{}
	if err := r.decode(&p); err != nil {
		return err
	}
	p.SubNo, p.ChannelID = either(p.SubNo, p.SnakeSubNo), either(p.ChannelID, p.SnakeChannelID)
	p.ChannelType = max(p.ChannelType, p.SnakeChannelType)
	if n := len(p.SubNo) + len(p.ChannelID); n > maxEcho {
		return &Error{CodeInvalidParams, fmt.Sprintf("subNo and channelId have %d bytes, the limit is %d", n, maxEcho)}
	}
	*s = wukong.Sub{
		Flags:       p.Header.flags(),
		Setting:     p.Setting.bits(),
		SubNo:       p.SubNo,
		ChannelID:   p.ChannelID,
		ChannelType: p.ChannelType,
		Action:      bit(r.Method == MethodUnsubscribe, wukong.ActionUnsubscribe),
		Param:       p.Param,
	}
	return nil
}

// Disconnect reads the params of MethodDisconnect, which may be left out. The
// error is an *Error.
func (r *Request) Disconnect(d *wukong.Disconnect) error {
	p := struct {
		ReasonCode uint8 `json:"reasonCode"`
		Reason     text  `json:"reason"`

		SnakeReasonCode uint8 `json:"reason_code"`
	}{}
	if len(r.params) > 0 {
		if err := r.decode(&p); err != nil {
			return err
		}
	}
	*d = wukong.Disconnect{Reason: wukong.Reason(max(p.ReasonCode, p.SnakeReasonCode)), Text: p.Reason}
	return nil
}
