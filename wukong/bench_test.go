package wukong

import (
	"bytes"
	"fmt"
	"testing"
)

// benchSend and benchRecv are a chat message of 64 bytes as most clients send it.
func benchSend() *Send {
	return &Send{
		Flags: FlagRedDot, ClientSeq: 1234, ClientMsgNo: []byte("0d2f6f0c4c8b4d5a9f1e3b7a6c5d4e3f"),
		ChannelID: []byte("bob"), ChannelType: ChannelPerson, Payload: bytes.Repeat([]byte("x"), 64),
	}
}

func benchRecv() *Recv {
	return &Recv{
		Flags: FlagRedDot, FromUID: []byte("alice"), ChannelID: []byte("alice"), ChannelType: ChannelPerson,
		ClientMsgNo: []byte("0d2f6f0c4c8b4d5a9f1e3b7a6c5d4e3f"), MessageID: 1234567890123456789, MessageSeq: 7,
		Timestamp: 1700000000, Payload: bytes.Repeat([]byte("x"), 64),
	}
}

func BenchmarkSplitAndDecodeSend(b *testing.B) {
	wire := benchSend().Append(nil, LatestVersion)
	b.SetBytes(int64(len(wire)))
	b.ReportAllocs()
	var s Send
	for b.Loop() {
		f, _, err := Split(wire)
		if err == nil {
			err = s.Decode(f, LatestVersion)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendRecv(b *testing.B) {
	v := benchRecv()
	dst := v.Append(nil, LatestVersion)
	b.SetBytes(int64(len(dst)))
	b.ReportAllocs()
	for b.Loop() {
		dst = v.Append(dst[:0], LatestVersion)
	}
}

func BenchmarkAppendSendack(b *testing.B) {
	a := Sendack{MessageID: 1234567890123456789, ClientSeq: 1234, MessageSeq: 7, Reason: ReasonSuccess}
	dst := a.Append(nil)
	b.ReportAllocs()
	for b.Loop() {
		dst = a.Append(dst[:0])
	}
}

func BenchmarkCipher(b *testing.B) {
	for _, size := range []int{64, 1024} {
		plain := bytes.Repeat([]byte("x"), size)
		c := NewCipher(Keys{})
		wire := c.AppendEncrypt(nil, plain)
		dst := make([]byte, 0, 2*len(wire)+256)
		run := func(name string, f func()) {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
			})
		}
		run("encrypt", func() { c.AppendEncrypt(dst, plain) })
		run("decrypt", func() {
			if _, err := c.AppendDecrypt(dst, wire); err != nil {
				b.Fatal(err)
			}
		})
		s := benchSend()
		s.Payload = wire
		s.MsgKey = c.AppendSendKey(nil, s)
		run("check", func() {
			if !c.CheckSendKey(s) {
				b.Fatal("wrong key")
			}
		})
		v := benchRecv()
		v.Payload = plain
		run("recv", func() { c.AppendRecv(dst, v, LatestVersion) })
	}
}

func BenchmarkNewCipher(b *testing.B) {
	var s Scratch
	b.ReportAllocs()
	for b.Loop() {
		s.NewCipher(Keys{})
	}
}

func BenchmarkDeriveKeys(b *testing.B) {
	_, v := vectorKeys(b)
	private := privateKey(b, v.ServerPrivate)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DeriveKeys(private, []byte(v.ClientPublic), []byte(v.IV)); err != nil {
			b.Fatal(err)
		}
	}
}
