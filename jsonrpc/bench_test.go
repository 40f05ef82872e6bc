package jsonrpc

import (
	"bytes"
	"testing"

	"gatepost/wukong"
)

// A chat message of 64 bytes, as in package wukong's benchmarks.
const benchSend = `{"method":"send","params":{"clientMsgNo":"0d2f6f0c-4c8b-4d5a-9f1e-3b7a6c5d4e3f","channelId":"bob","channelType":1,` +
	`"payload":"eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA=="},"id":"7c1f2a54-5d0e-4a43-8a52-2f4f2f6f0c4c"}`

func BenchmarkSplit(b *testing.B) {
	wire := []byte(benchSend)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	for b.Loop() {
		var s Splitter
		if _, n, err := s.Split(wire); n == 0 || err != nil {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkParseAndDecodeSend(b *testing.B) {
	wire := []byte(benchSend)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	var r Request
	var s wukong.Send
	for b.Loop() {
		err := r.Parse(wire)
		if err == nil {
			err = r.Send(&s)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendRecv(b *testing.B) {
	v := wukong.Recv{
		Flags: wukong.FlagRedDot, FromUID: []byte("alice"), ChannelID: []byte("alice"), ChannelType: wukong.ChannelPerson,
		ClientMsgNo: []byte("0d2f6f0c-4c8b-4d5a-9f1e-3b7a6c5d4e3f"), MessageID: 1234567890123456789, MessageSeq: 7,
		Timestamp: 1700000000, Payload: bytes.Repeat([]byte("x"), 64),
	}
	dst := AppendRecv(nil, &v, 0)
	b.SetBytes(int64(len(dst)))
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendRecv(dst[:0], &v, 0)
	}
}
