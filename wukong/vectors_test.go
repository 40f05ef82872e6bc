package wukong

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// vectorFile is testdata/wukong-vectors.json: frames made by the protocol's
// public library.
type vectorFile struct {
	Crypto  cryptoVector
	Source  string
	Vectors []vector
}

type vector struct {
	Name, Hex, Note string
	Version         uint8
	Fields          fields
}

// fields are the union of all packets'; a name that is not here fails the test.
type fields struct {
	FrameType        string `json:"frame_type"`
	NoPersist        bool   `json:"no_persist"`
	RedDot           bool   `json:"red_dot"`
	SyncOnce         bool   `json:"sync_once"`
	DUP              bool   `json:"dup"`
	HasServerVersion bool   `json:"has_server_version"`

	Version         uint8  `json:"version"`
	DeviceFlag      uint8  `json:"device_flag"`
	DeviceID        string `json:"device_id"`
	UID             string `json:"uid"`
	Token           string `json:"token"`
	ClientTimestamp int64  `json:"client_timestamp"`
	ClientKey       string `json:"client_key"`

	ServerVersion uint8  `json:"server_version"`
	TimeDiff      int64  `json:"time_diff"`
	ReasonCode    Reason `json:"reason_code"`
	ServerKey     string `json:"server_key"`
	Salt          string `json:"salt"`
	NodeID        uint64 `json:"node_id"`

	Setting     uint8   `json:"setting"`
	ClientSeq   uint32  `json:"client_seq"`
	ClientMsgNo string  `json:"client_msg_no"`
	StreamNo    string  `json:"stream_no"`
	StreamFlag  uint8   `json:"stream_flag"`
	StreamID    uint64  `json:"stream_id"`
	ChannelID   string  `json:"channel_id"`
	ChannelType uint8   `json:"channel_type"`
	Expire      uint32  `json:"expire"`
	MsgKey      string  `json:"msg_key"`
	Topic       string  `json:"topic"`
	FromUID     string  `json:"from_uid"`
	MessageID   int64   `json:"message_id,string"`
	MessageSeq  uint32  `json:"message_seq"`
	Timestamp   int64   `json:"timestamp"`
	PayloadUTF8 *string `json:"payload_utf8"`
	PayloadHex  string  `json:"payload_hex"`
	DataUTF8    string  `json:"data_utf8"`

	Reason string `json:"reason"`
	SubNo  string `json:"sub_no"`
	Action uint8  `json:"action"`
	Param  string `json:"param"`
	ID     string `json:"id"`
	Type   string `json:"type"`
}

func readVectors(t testing.TB) vectorFile {
	t.Helper()
	file, err := os.Open("testdata/wukong-vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var v vectorFile
	d := json.NewDecoder(file)
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v *vector) wire(t testing.TB) []byte {
	t.Helper()
	p, err := hex.DecodeString(v.Hex)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (f *fields) flags() (flags uint8) {
	for bit, on := range []bool{f.NoPersist, f.RedDot, f.SyncOnce, f.DUP} {
		if on {
			flags |= 1 << bit
		}
	}
	return flags
}

func (f *fields) payload(t testing.TB) []byte {
	if f.PayloadUTF8 != nil {
		return []byte(*f.PayloadUTF8)
	}
	p, err := hex.DecodeString(f.PayloadHex)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// packet builds what the vector describes; nil for PING and PONG.
func (f *fields) packet(t testing.TB) any {
	b := func(s string) []byte { return []byte(s) }
	flags := f.flags()
	switch f.FrameType {
	case "CONNECT":
		return &Connect{f.Version, f.DeviceFlag, b(f.DeviceID), b(f.UID), b(f.Token), f.ClientTimestamp, b(f.ClientKey)}
	case "CONNACK":
		return &Connack{f.ServerVersion, f.TimeDiff, f.ReasonCode, b(f.ServerKey), b(f.Salt), f.NodeID}
	case "SEND":
		return &Send{flags, f.Setting, f.ClientSeq, b(f.ClientMsgNo), b(f.StreamNo), b(f.ChannelID), f.ChannelType, f.Expire, b(f.MsgKey), b(f.Topic), f.payload(t)}
	case "SENDACK":
		return &Sendack{flags, f.MessageID, f.ClientSeq, f.MessageSeq, f.ReasonCode}
	case "RECV":
		return &Recv{
			flags, f.Setting, b(f.MsgKey), b(f.FromUID), b(f.ChannelID), f.ChannelType, f.Expire, b(f.ClientMsgNo),
			f.StreamFlag, b(f.StreamNo), f.StreamID, f.MessageID, f.MessageSeq, int32(f.Timestamp), b(f.Topic), f.payload(t),
		}
	case "RECVACK":
		return &Recvack{flags, f.MessageID, f.MessageSeq}
	case "DISCONNECT":
		return &Disconnect{flags, f.ReasonCode, b(f.Reason)}
	case "SUB":
		return &Sub{flags, f.Setting, b(f.SubNo), b(f.ChannelID), f.ChannelType, f.Action, b(f.Param)}
	case "SUBACK":
		return &Suback{flags, b(f.SubNo), b(f.ChannelID), f.ChannelType, f.Action, f.ReasonCode}
	case "EVENT":
		return &Event{flags, b(f.ID), b(f.Type), f.Timestamp, b(f.DataUTF8)}
	}
	return nil
}

func TestVectorsOfThePublicLibraryBothWays(t *testing.T) {
	file := readVectors(t)
	if len(file.Vectors) != 36 {
		t.Fatalf("%d vectors, want 36", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		t.Run(v.Name, func(t *testing.T) {
			wire := v.wire(t)
			f, n, err := Split(wire)
			if err != nil || n != len(wire) || Need(wire) != n {
				t.Fatalf("Split took %d of %d bytes (Need: %d): %v", n, len(wire), Need(wire), err)
			}
			if f.Type.String() != v.Fields.FrameType {
				t.Errorf("type %s, want %s", f.Type, v.Fields.FrameType)
			}
			switch f.Type {
			case TypePing:
				wantBytes(t, AppendPing(nil), wire)
				return
			case TypePong:
				wantBytes(t, AppendPong(nil), wire)
				return
			}
			if f.Type == TypeConnack && f.Flags&FlagHasServerVersion != 0 != v.Fields.HasServerVersion {
				t.Errorf("flags %#x, has_server_version %v", f.Flags, v.Fields.HasServerVersion)
			}
			want, got := v.Fields.packet(t), newPacket(f.Type)
			if err := decodePacket(got, f, v.Version); err != nil {
				t.Fatal(err)
			}
			if d := different(got, want); d != "" {
				t.Errorf("differs in %s", d)
			}
			wantBytes(t, appendPacket(nil, want, v.Version), wire)
			wantBytes(t, appendPacket(nil, got, v.Version), wire)
		})
	}
}

func TestEveryPrefixOfAVectorAsksForMore(t *testing.T) {
	for _, v := range readVectors(t).Vectors {
		wire := v.wire(t)
		for n := range len(wire) {
			if f, took, err := Split(wire[:n]); took != 0 || err != nil || f.Body != nil {
				t.Fatalf("%s: %d of %d bytes: took %d, %v", v.Name, n, len(wire), took, err)
			}
			if need := Need(wire[:n]); need != 0 && need != len(wire) {
				t.Fatalf("%s: %d bytes: need %d, want %d", v.Name, n, need, len(wire))
			}
		}
	}
}

func wantBytes(t *testing.T, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}
