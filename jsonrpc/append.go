package jsonrpc

import (
	"encoding/base64"
	"strconv"
	"unicode/utf8"

	"gatepost/wukong"
)

// AppendResult appends the answer that says no more than that the request was
// served, as to a ping: a result that is null. There are clients that end a
// connection for an answer that has neither result nor error. Nothing is appended
// when id is empty: no answer is wanted.
func AppendResult(dst, id []byte) []byte {
	if len(id) == 0 {
		return dst
	}
	return append(appendID(dst, id), `,"result":null}`...)
}

// AppendError appends the answer to a request that cannot be served, nothing
// when id is empty.
func AppendError(dst, id []byte, e *Error) []byte {
	if len(id) == 0 {
		return dst
	}
	dst = append(appendID(dst, id), `,"error":{"code":`...)
	dst = strconv.AppendInt(dst, int64(e.Code), 10)
	dst = AppendString(append(dst, `,"message":`...), e.Message)
	return append(dst, "}}"...)
}

// names are what stands before the values of a result.
type names struct {
	serverVersion, timeDiff, nodeID, reasonCode, messageID, messageSeq string
}

var (
	camel = &names{`"serverVersion":`, `,"timeDiff":`, `,"nodeId":`, `,"reasonCode":`, `"messageId":"`, `","messageSeq":`}
	snake = &names{`"server_version":`, `,"time_diff":`, `,"node_id":`, `,"reason_code":`, `"message_id":"`, `","message_seq":`}
)

// AppendConnack appends the answer to a connect, nothing when id is empty. A
// refused one is an error with the reason as its code: the clients look at that
// only.
func AppendConnack(dst, id []byte, a *wukong.Connack, style Style) []byte {
	if len(id) == 0 {
		return dst
	}
	if a.Reason != wukong.ReasonSuccess {
		return AppendError(dst, id, &Error{int(a.Reason), a.Reason.String()})
	}
	name := camel
	if style&StyleSnake != 0 {
		name = snake
	}
	dst = append(append(appendID(dst, id), `,"result":{`...), name.serverVersion...)
	dst = strconv.AppendUint(dst, uint64(a.ServerVersion), 10)
	dst = strconv.AppendInt(append(dst, name.timeDiff...), a.TimeDiff, 10)
	dst = strconv.AppendUint(append(dst, name.reasonCode...), uint64(a.Reason), 10)
	dst = strconv.AppendUint(append(dst, name.nodeID...), a.NodeID, 10)
	return append(dst, "}}"...)
}

// AppendSendack appends the answer to a send, nothing when id is empty.
func AppendSendack(dst, id []byte, a *wukong.Sendack, style Style) []byte {
	if len(id) == 0 {
		return dst
	}
	dst = append(appendID(dst, id), `,"result":{`...)
	dst = appendFlags(dst, a.Flags)
	name := camel
	if style&StyleSnake != 0 {
		name = snake
	}
	dst = strconv.AppendInt(append(dst, name.messageID...), a.MessageID, 10)
	dst = strconv.AppendUint(append(dst, name.messageSeq...), uint64(a.MessageSeq), 10)
	dst = strconv.AppendUint(append(dst, name.reasonCode...), uint64(a.Reason), 10)
	return append(dst, "}}"...)
}

// AppendSuback appends the answer to a subscribe or unsubscribe, nothing when id
// is empty.
func AppendSuback(dst, id []byte, a *wukong.Suback) []byte {
	if len(id) == 0 {
		return dst
	}
	dst = append(appendID(dst, id), `,"result":{`...)
	dst = appendFlags(dst, a.Flags)
	dst = AppendString(append(dst, `"subNo":`...), a.SubNo)
	dst = AppendString(append(dst, `,"channelId":`...), a.ChannelID)
	dst = strconv.AppendUint(append(dst, `,"channelType":`...), uint64(a.ChannelType), 10)
	dst = strconv.AppendUint(append(dst, `,"action":`...), uint64(a.Action), 10)
	dst = strconv.AppendUint(append(dst, `,"reasonCode":`...), uint64(a.Reason), 10)
	return append(dst, "}}"...)
}

// AppendRecv appends the notification of a message. MsgKey is left out: the
// Payload is plain.
func AppendRecv(dst []byte, v *wukong.Recv, style Style) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","method":"recv","params":{`...)
	dst = appendHeader(dst, v.Flags)
	dst = appendSetting(dst, v.Setting)
	if v.Expire != 0 {
		dst = strconv.AppendUint(append(dst, `"expire":`...), uint64(v.Expire), 10)
		dst = append(dst, ',')
	}
	dst = strconv.AppendInt(append(dst, `"messageId":"`...), v.MessageID, 10)
	dst = strconv.AppendUint(append(dst, `","messageSeq":`...), uint64(v.MessageSeq), 10)
	if len(v.ClientMsgNo) > 0 {
		dst = AppendString(append(dst, `,"clientMsgNo":`...), v.ClientMsgNo)
	}
	if v.Setting&wukong.SettingStream != 0 && len(v.StreamNo) > 0 {
		dst = AppendString(append(dst, `,"streamNo":`...), v.StreamNo)
		dst = strconv.AppendUint(append(dst, `,"streamId":"`...), v.StreamID, 10)
		dst = strconv.AppendUint(append(dst, `","streamFlag":`...), uint64(v.StreamFlag), 10)
	}
	dst = strconv.AppendInt(append(dst, `,"timestamp":`...), int64(v.Timestamp), 10)
	dst = AppendString(append(dst, `,"channelId":`...), v.ChannelID)
	dst = strconv.AppendUint(append(dst, `,"channelType":`...), uint64(v.ChannelType), 10)
	if v.Setting&wukong.SettingTopic != 0 {
		dst = AppendString(append(dst, `,"topic":`...), v.Topic)
	}
	dst = AppendString(append(dst, `,"fromUid":`...), v.FromUID)
	if style&StyleObject != 0 && isObject(v.Payload) {
		return append(append(append(dst, `,"payload":`...), v.Payload...), "}}"...)
	}
	dst = base64.StdEncoding.AppendEncode(append(dst, `,"payload":"`...), v.Payload)
	return append(dst, `"}}`...)
}

// AppendEvent appends the notification of an event. Its data, which is JSON, is a
// string.
func AppendEvent(dst []byte, e *wukong.Event) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","method":"event","params":{`...)
	dst = appendHeader(dst, e.Flags)
	dst = AppendString(append(dst, `"id":`...), e.ID)
	dst = AppendString(append(dst, `,"type":`...), e.Type)
	dst = strconv.AppendInt(append(dst, `,"timestamp":`...), e.Timestamp, 10)
	dst = AppendString(append(dst, `,"data":`...), e.Data)
	return append(dst, "}}"...)
}

// AppendDisconnect appends the notification that the connection ends.
func AppendDisconnect(dst []byte, d *wukong.Disconnect) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","method":"disconnect","params":{`...)
	dst = appendHeader(dst, d.Flags)
	dst = strconv.AppendUint(append(dst, `"reasonCode":`...), uint64(d.Reason), 10)
	dst = AppendString(append(dst, `,"reason":`...), d.Text)
	return append(dst, "}}"...)
}

// appendID appends the beginning of an answer.
func appendID(dst, id []byte) []byte {
	return append(append(dst, `{"jsonrpc":"2.0","id":`...), id...)
}

// appendHeader appends the header of a notification, with a comma behind. It is an
// object even if no flag is set: there are clients that drop a recv without one,
// and do not acknowledge it.
func appendHeader(dst []byte, flags uint8) []byte {
	if flags&(wukong.FlagNoPersist|wukong.FlagRedDot|wukong.FlagSyncOnce|wukong.FlagDUP) == 0 {
		return append(dst, `"header":{},`...)
	}
	return appendFlags(dst, flags)
}

// appendFlags appends the header of an answer: the flags that are set, with a
// comma behind, or nothing.
func appendFlags(dst []byte, flags uint8) []byte {
	return appendBits(dst, `"header":{`, flags, [4]flag{
		{wukong.FlagNoPersist, "noPersist"}, {wukong.FlagRedDot, "redDot"}, {wukong.FlagSyncOnce, "syncOnce"}, {wukong.FlagDUP, "dup"},
	})
}

// appendSetting is appendFlags for setting bits.
func appendSetting(dst []byte, bits uint8) []byte {
	return appendBits(dst, `"setting":{`, bits, [4]flag{
		{wukong.SettingReceipt, "receipt"}, {wukong.SettingSignal, "signal"}, {wukong.SettingStream, "stream"}, {wukong.SettingTopic, "topic"},
	})
}

type flag struct {
	bit  uint8
	name string
}

func appendBits(dst []byte, open string, bits uint8, flags [4]flag) []byte {
	before := open
	for _, f := range flags {
		if bits&f.bit != 0 {
			dst = append(append(append(append(dst, before...), '"'), f.name...), `":true`...)
			before = ","
		}
	}
	if before == open {
		return dst
	}
	return append(dst, "},"...)
}

// AppendString appends s in quotes. Bytes that are not UTF-8 become U+FFFD.
func AppendString[T string | []byte](dst []byte, s T) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	from := 0 // s[from:i] is as it travels
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(string(s[i:min(len(s), i+utf8.UTFMax)]))
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, s[from:i]...), string(utf8.RuneError)...)
				from = i + 1
			}
			i += size
			continue
		}
		i++
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[from:i-1]...)
		from = i
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(dst, s[from:]...), '"')
}
