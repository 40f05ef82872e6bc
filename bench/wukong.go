package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"gatepost/cli"
	"gatepost/wukong"
)

// wukongConn speaks to Gatepost, encrypted if the broker wants it.
type wukongConn struct {
	*cli.Client
	send   wukong.Send
	recv   wukong.Recv
	no     []byte
	prefix int
}

func dialWukong(addr, id, to string, group bool) (conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := cli.Dial(ctx, addr, cli.Login{UID: id, DeviceID: "bench"})
	if err != nil {
		return nil, err
	}
	w := &wukongConn{Client: c, no: []byte(id + "-"), prefix: len(id) + 1}
	w.send.ChannelID, w.send.ChannelType = []byte(to), wukong.ChannelPerson
	if group {
		w.send.ChannelType = wukong.ChannelGroup
	}
	return w, nil
}

// idleWukong logs in and no more, with a key pair that all share: what is measured
// is the server.
func idleWukong(addr, id string, key []byte) (conn, error) {
	s, err := dial(addr)
	if err != nil {
		return nil, err
	}
	hello := wukong.Connect{Version: wukong.LatestVersion, DeviceID: []byte(id), UID: []byte(id), ClientTimestamp: time.Now().UnixMilli(), ClientKey: key}
	s.out = hello.Append(s.out)
	s.SetDeadline(time.Now().Add(silence))
	defer s.SetDeadline(time.Time{})
	if err := s.flush(); err != nil {
		s.Close()
		return nil, err
	}
	for {
		f, n, err := wukong.Split(s.rest())
		var ack wukong.Connack
		switch {
		case err == nil && n == 0:
			if err = s.read(); err == nil {
				continue
			}
		case err == nil:
			if err = ack.Decode(f, wukong.LatestVersion); err == nil && ack.Reason != wukong.ReasonSuccess {
				err = fmt.Errorf("refused: %v", ack.Reason)
			}
		}
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("cannot log in: %w", err)
		}
		return &floorConn{s}, nil // whose protocol is never spoken
	}
}

// publish gives each message a client_msg_no, as applications do.
func (w *wukongConn) publish(n uint32, payload []byte) {
	w.no = strconv.AppendUint(w.no[:w.prefix], uint64(n), 10)
	w.send.ClientSeq, w.send.ClientMsgNo, w.send.Payload, w.send.MsgKey = n, w.no, payload, nil
	w.AppendSend(&w.send)
}

func (w *wukongConn) next() (event, bool, error) {
	for {
		f, ok, err := w.Take()
		if err != nil || !ok {
			return event{}, false, err
		}
		switch f.Type {
		case wukong.TypeSendack:
			var a wukong.Sendack
			if err := a.Decode(f); err != nil {
				return event{}, false, err
			}
			if a.Reason != wukong.ReasonSuccess {
				return event{}, false, fmt.Errorf("message %d was refused: %v", a.ClientSeq, a.Reason)
			}
			return event{n: a.ClientSeq, seq: uint64(a.MessageSeq), alone: true}, true, nil
		case wukong.TypeRecv:
			if err := w.Open(f, &w.recv); err != nil {
				return event{}, false, err
			}
			return event{delivery: true, seq: uint64(w.recv.MessageSeq), alone: true, payload: w.recv.Payload}, true, nil
		case wukong.TypeDisconnect:
			return event{}, false, errors.New("the broker said DISCONNECT")
		}
	}
}

func (w *wukongConn) confirm(*event)           { w.AppendRecvack(&w.recv) }
func (w *wukongConn) flush() error             { return w.Flush() }
func (w *wukongConn) read() error              { return w.Read() }
func (w *wukongConn) readDeadline(t time.Time) { w.SetReadDeadline(t) }
func (w *wukongConn) close()                   { w.Close() }
