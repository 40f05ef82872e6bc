package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// rpcConn lets the client of these tests speak JSON-RPC: the frames written to
// it leave as requests, and what the server says in JSON is read from it as
// frames of version 5. It is strict with what comes: a field that the protocol
// description does not have, a second object in a WebSocket message, or an
// answer that nobody asked for is an error.
type rpcConn struct {
	net.Conn
	dec   *json.Decoder
	ends  []int64 // where the WebSocket messages end that are not decoded yet
	ready []byte  // frames not read yet

	mu   sync.Mutex
	part []byte          // a frame not written whole yet
	wait map[string]byte // type of the frame that an id answers
	pong int
}

func newRPC(c net.Conn) *rpcConn {
	r := &rpcConn{Conn: c, dec: json.NewDecoder(c), wait: map[string]byte{}}
	if w, ok := c.(*wsConn); ok {
		w.data = opText
		total := int64(0)
		w.onStart = func(n int) {
			total += int64(n)
			r.ends = append(r.ends, total)
		}
	}
	return r
}

type rpcHeader struct {
	NoPersist bool `json:"noPersist,omitempty"`
	RedDot    bool `json:"redDot,omitempty"`
	SyncOnce  bool `json:"syncOnce,omitempty"`
	Dup       bool `json:"dup,omitempty"`
}

type rpcSetting struct {
	Receipt bool `json:"receipt,omitempty"`
	Signal  bool `json:"signal,omitempty"`
	Stream  bool `json:"stream,omitempty"`
	Topic   bool `json:"topic,omitempty"`
}

func headerOf(flags byte) *rpcHeader {
	if flags == 0 {
		return nil
	}
	return &rpcHeader{flags&flagNoPersist != 0, flags&flagRedDot != 0, flags&flagSyncOnce != 0, flags&flagDUP != 0}
}

func (h *rpcHeader) flags() (f byte) {
	for i, on := range []bool{h.NoPersist, h.RedDot, h.SyncOnce, h.Dup} {
		if on {
			f |= 1 << i
		}
	}
	return f
}

func settingOf(s byte) *rpcSetting {
	if s == 0 {
		return nil
	}
	return &rpcSetting{s&settingReceipt != 0, s&0x20 != 0, s&settingStream != 0, s&settingTopic != 0}
}

func (s *rpcSetting) bits() (b byte) {
	for i, on := range []bool{s.Receipt, s.Signal, s.Topic, s.Stream} {
		if on {
			b |= []byte{settingReceipt, 0x20, settingTopic, settingStream}[i]
		}
	}
	return b
}

type rpcSend struct {
	Header      *rpcHeader  `json:"header,omitempty"`
	Setting     *rpcSetting `json:"setting,omitempty"`
	Expire      uint32      `json:"expire,omitempty"`
	ClientMsgNo string      `json:"clientMsgNo"`
	StreamNo    string      `json:"streamNo,omitempty"`
	ChannelID   string      `json:"channelId"`
	ChannelType byte        `json:"channelType"`
	Topic       string      `json:"topic,omitempty"`
	Payload     []byte      `json:"payload"`
}

// Write turns whole frames into requests, all of a call in one message.
func (r *rpcConn) Write(p []byte) (int, error) {
	r.mu.Lock()
	r.part = append(r.part, p...)
	var out []byte
	for {
		f, n, err := splitFrame(r.part)
		if err != nil {
			r.mu.Unlock()
			return 0, err
		}
		if n == 0 {
			break
		}
		out = append(out, r.request(f)...)
		r.part = r.part[n:]
	}
	r.mu.Unlock()
	if len(out) > 0 {
		if _, err := r.Conn.Write(out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (r *rpcConn) request(f frame) []byte {
	b := fields{b: f.body}
	switch f.kind {
	case typeConnect:
		version, flag := b.u8(), b.u8()
		device, uid, token := b.str(), b.str(), b.str()
		return r.call("connect", "connect", typeConnack, map[string]any{"version": version, "deviceFlag": flag, "deviceId": device,
			"uid": uid, "token": token, "clientTimestamp": int64(b.u64())})
	case typeSend:
		setting, seq := b.u8(), b.u32()
		s := rpcSend{Header: headerOf(f.flags), Setting: settingOf(setting), ClientMsgNo: b.str(), ChannelID: b.str(), ChannelType: b.u8(), Expire: b.u32()}
		b.str() // msg_key
		if setting&settingTopic != 0 {
			s.Topic = b.str()
		}
		s.Payload = b.b
		return r.call("send", strconv.FormatUint(uint64(seq), 10), typeSendack, s)
	case typeRecvack:
		return r.call("recvack", "", 0, map[string]any{"header": headerOf(f.flags), "messageId": strconv.FormatUint(b.u64(), 10), "messageSeq": b.u32()})
	case typePing:
		r.pong++
		return r.call("ping", fmt.Sprint("ping", r.pong), typePong, nil)
	}
	return r.call("disconnect", "", 0, nil)
}

func (r *rpcConn) call(method, id string, answer byte, params any) []byte {
	m := map[string]any{"method": method}
	if id != "" {
		m["id"] = id
		r.wait[id] = answer
	}
	if params != nil {
		m["params"] = params
	}
	p, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return p
}

func (r *rpcConn) Read(p []byte) (int, error) {
	for len(r.ready) == 0 {
		var raw json.RawMessage
		if err := r.dec.Decode(&raw); err != nil {
			return 0, err
		}
		if _, ok := r.Conn.(*wsConn); ok {
			if r.ends[0] != r.dec.InputOffset() {
				return 0, fmt.Errorf("an object ends at byte %d, its message at %d", r.dec.InputOffset(), r.ends[0])
			}
			r.ends = r.ends[1:]
		}
		f, err := r.frame(raw)
		if err != nil {
			return 0, fmt.Errorf("%w: %s", err, raw)
		}
		r.ready = append(r.ready, f...)
	}
	n := copy(p, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

func strict(p json.RawMessage, v any) error {
	d := json.NewDecoder(bytes.NewReader(p))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

// frame turns what the server said into the frame that says the same.
func (r *rpcConn) frame(raw json.RawMessage) ([]byte, error) {
	var m struct {
		Version        string `json:"jsonrpc"`
		ID             *string
		Method         string
		Result, Params json.RawMessage
		Error          *struct {
			Code    int
			Message string
		}
	}
	if err := strict(raw, &m); err != nil {
		return nil, err
	}
	if m.Version != "2.0" || (m.ID == nil) == (m.Method == "") {
		return nil, errors.New("neither an answer nor a notification of JSON-RPC 2.0")
	}
	if m.ID == nil {
		return notification(m.Method, m.Params)
	}
	r.mu.Lock()
	kind, asked := r.wait[*m.ID]
	delete(r.wait, *m.ID)
	r.mu.Unlock()
	switch {
	case !asked:
		return nil, errors.New("an answer that nobody waits for")
	case m.Error != nil && kind == typeConnack:
		b := append([]byte{5}, make([]byte, 8)...)
		b = append(append(b, byte(m.Error.Code)), make([]byte, 4+8)...)
		return appendFrame(nil, typeConnack, 1, b), nil
	case m.Error != nil:
		return nil, errors.New("an error")
	case string(m.Result) == "null" && kind != typePong, m.Result == nil:
		return nil, errors.New("neither a result nor an error")
	case kind == typePong:
		return []byte{typePong << 4}, nil
	case kind == typeConnack:
		var a struct {
			ServerVersion byte   `json:"serverVersion"`
			TimeDiff      int64  `json:"timeDiff"`
			ReasonCode    byte   `json:"reasonCode"`
			NodeID        uint64 `json:"nodeId"`
		}
		if err := strict(m.Result, &a); err != nil {
			return nil, err
		}
		b := []byte{a.ServerVersion}
		b = appendU64(b, uint64(a.TimeDiff))
		b = append(b, a.ReasonCode, 0, 0, 0, 0)
		return appendFrame(nil, typeConnack, 1, appendU64(b, a.NodeID)), nil
	}
	var a struct {
		Header     rpcHeader `json:"header"`
		MessageID  string    `json:"messageId"`
		MessageSeq uint32    `json:"messageSeq"`
		ReasonCode byte      `json:"reasonCode"`
	}
	if err := strict(m.Result, &a); err != nil {
		return nil, err
	}
	id, err := strconv.ParseInt(a.MessageID, 10, 64)
	if err != nil {
		return nil, err
	}
	seq, err := strconv.ParseUint(*m.ID, 10, 32)
	if err != nil {
		return nil, err
	}
	b := appendU64(nil, uint64(id))
	b = appendU32(appendU32(b, uint32(seq)), a.MessageSeq)
	return appendFrame(nil, typeSendack, a.Header.flags(), append(b, a.ReasonCode)), nil
}

var errNoHeader = errors.New("no header")

func notification(method string, params json.RawMessage) ([]byte, error) {
	switch method {
	case "disconnect":
		var d struct {
			Header     *rpcHeader `json:"header"`
			ReasonCode byte       `json:"reasonCode"`
			Reason     string     `json:"reason"`
		}
		err := strict(params, &d)
		if err == nil && d.Header == nil {
			err = errNoHeader
		}
		return appendFrame(nil, typeDisconnect, 0, appendStr([]byte{d.ReasonCode}, d.Reason)), err
	case "recv":
		var m struct {
			Header      *rpcHeader `json:"header"`
			Setting     rpcSetting `json:"setting"`
			Expire      uint32     `json:"expire"`
			MessageID   string     `json:"messageId"`
			MessageSeq  uint32     `json:"messageSeq"`
			ClientMsgNo string     `json:"clientMsgNo"`
			StreamNo    string     `json:"streamNo"`
			StreamID    string     `json:"streamId"`
			StreamFlag  byte       `json:"streamFlag"`
			Timestamp   int32      `json:"timestamp"`
			ChannelID   string     `json:"channelId"`
			ChannelType byte       `json:"channelType"`
			Topic       string     `json:"topic"`
			FromUID     string     `json:"fromUid"`
			Payload     string     `json:"payload"`
		}
		if err := strict(params, &m); err != nil {
			return nil, err
		}
		if m.Header == nil {
			return nil, errNoHeader
		}
		payload, err := base64.StdEncoding.DecodeString(m.Payload)
		if err != nil {
			return nil, err
		}
		id, err := strconv.ParseInt(m.MessageID, 10, 64)
		if err != nil {
			return nil, err
		}
		b := appendStr([]byte{m.Setting.bits()}, "")
		b = append(appendStr(appendStr(b, m.FromUID), m.ChannelID), m.ChannelType)
		b = appendStr(appendU32(b, m.Expire), m.ClientMsgNo)
		b = appendU32(appendU32(appendU64(b, uint64(id)), m.MessageSeq), uint32(m.Timestamp))
		if m.Setting.Topic {
			b = appendStr(b, m.Topic)
		}
		return appendFrame(nil, typeRecv, m.Header.flags(), append(b, payload...)), nil
	}
	return nil, fmt.Errorf("unknown notification %q", method)
}

func appendU32(b []byte, v uint32) []byte {
	return append(b, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}
func appendU64(b []byte, v uint64) []byte { return appendU32(appendU32(b, uint32(v>>32)), uint32(v)) }

// rpcRaw is a connection for JSON that no client sends.
type rpcRaw struct {
	net.Conn
	dec *json.Decoder
}

// put sends one message, or bytes.
func (r *rpcRaw) put(s string) *rpcRaw {
	r.Write([]byte(s))
	return r
}

// next returns what comes next, "" at the end.
func (r *rpcRaw) next() string {
	r.SetReadDeadline(time.Now().Add(never))
	var raw json.RawMessage
	if err := r.dec.Decode(&raw); err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			return "nothing came"
		}
		return ""
	}
	return string(raw)
}
