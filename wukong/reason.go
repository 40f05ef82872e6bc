package wukong

import "fmt"

// Reason says how a request ended, or why a connection does.
type Reason uint8

// The reasons of the protocol. The public servers answer an unknown group with
// ReasonSubscriberNotExist, a message that could not be stored with
// ReasonSystemError, and both a wrong message key and a payload that cannot be
// decrypted with ReasonPayloadDecodeError.
const (
	ReasonUnknown                Reason = 0
	ReasonSuccess                Reason = 1
	ReasonAuthFail               Reason = 2
	ReasonSubscriberNotExist     Reason = 3
	ReasonInBlacklist            Reason = 4
	ReasonChannelNotExist        Reason = 5
	ReasonUserNotOnNode          Reason = 6
	ReasonSenderOffline          Reason = 7
	ReasonMsgKeyError            Reason = 8
	ReasonPayloadDecodeError     Reason = 9
	ReasonForwardSendPacketError Reason = 10
	ReasonNotAllowSend           Reason = 11
	ReasonConnectKick            Reason = 12
	ReasonNotInWhitelist         Reason = 13
	ReasonQueryTokenError        Reason = 14
	ReasonSystemError            Reason = 15
	ReasonChannelIDError         Reason = 16
	ReasonNodeMatchError         Reason = 17
	ReasonNodeNotMatch           Reason = 18
	ReasonBan                    Reason = 19
	ReasonNotSupportHeader       Reason = 20
	ReasonClientKeyIsEmpty       Reason = 21
	ReasonRateLimit              Reason = 22
	ReasonNotSupportChannelType  Reason = 23
	ReasonDisband                Reason = 24
	ReasonSendBan                Reason = 25
)

// String returns the name in the protocol, such as "not allow send".
func (r Reason) String() string {
	switch r {
	case ReasonUnknown:
		return "unknown"
	case ReasonSuccess:
		return "success"
	case ReasonAuthFail:
		return "auth fail"
	case ReasonSubscriberNotExist:
		return "subscriber not exist"
	case ReasonInBlacklist:
		return "in blacklist"
	case ReasonChannelNotExist:
		return "channel not exist"
	case ReasonUserNotOnNode:
		return "user not on node"
	case ReasonSenderOffline:
		return "sender offline"
	case ReasonMsgKeyError:
		return "msg key error"
	case ReasonPayloadDecodeError:
		return "payload decode error"
	case ReasonForwardSendPacketError:
		return "forward send packet error"
	case ReasonNotAllowSend:
		return "not allow send"
	case ReasonConnectKick:
		return "connect kick"
	case ReasonNotInWhitelist:
		return "not in whitelist"
	case ReasonQueryTokenError:
		return "query token error"
	case ReasonSystemError:
		return "system error"
	case ReasonChannelIDError:
		return "channel id error"
	case ReasonNodeMatchError:
		return "node match error"
	case ReasonNodeNotMatch:
		return "node not match"
	case ReasonBan:
		return "ban"
	case ReasonNotSupportHeader:
		return "not support header"
	case ReasonClientKeyIsEmpty:
		return "client key is empty"
	case ReasonRateLimit:
		return "rate limit"
	case ReasonNotSupportChannelType:
		return "not support channel type"
	case ReasonDisband:
		return "disband"
	case ReasonSendBan:
		return "send ban"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}
