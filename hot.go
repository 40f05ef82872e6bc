package main

import (
	"fmt"
	"log/slog"
	"math/bits"
	"net"
	"os"
	"time"

	"gatepost/broker"
	"gatepost/config"
	"gatepost/handover"
	"gatepost/netio"
	"gatepost/systemd"
)

// Names of what the service manager keeps between two processes.
const (
	keptPark = "gatepost-park" // a socket with descriptors in its queue
	keptBlob = "gatepost-blob" // sealed memory
)

// settleTime is how long a hot restart waits for the log to take what was
// received. If it does not (a disk that stands still), connections are closed.
const settleTime = 10 * time.Second

// managerTime is how long it waits for the service manager.
const managerTime = 5 * time.Second

// inheritance is what the process before left. nil is none.
type inheritance struct {
	blob      *handover.Blob
	listeners []netio.Handed
	http      int   // descriptor, -1: none
	conns     []int // as many as in the blob
}

// demandNames are the bits of handover.Blob.Demands: what a configuration can ask
// for that those who came before did not have to show. With one more of them
// nobody is taken over. New ones go behind.
var demandNames = [...]string{
	"session.token_auth is on",
	"encryption is on",
	"net.proxy_protocol is on",
	"tcp is off",
	"ws is off",
}

// demands returns those bits for a configuration and the sockets that came with it.
func demands(cfg *config.Config, passed map[string][]int) (all byte) {
	for i, on := range [len(demandNames)]bool{
		cfg.Session.TokenAuth,
		cfg.Encryption,
		cfg.Net.ProxyProtocol,
		cfg.TCP == "" && len(passed["tcp"]) == 0,
		cfg.WS == "" && len(passed["ws"]) == 0,
	} {
		if on {
			all |= 1 << i
		}
	}
	return all
}

// inherit takes what the service manager kept, if it is for this box. Either way
// the manager keeps it no longer: a process that starts after a crash of this one
// must not find it.
func inherit(parks, blobs []int, demands byte, manager systemd.Manager, cfg *config.Config, logger *slog.Logger) *inheritance {
	if len(parks)+len(blobs) == 0 {
		return nil
	}
	for _, name := range []string{keptPark, keptBlob} {
		if err := manager.Forget(name); err != nil {
			logger.Warn("service manager keeps connections that were taken over: they do not see an end when they are closed", "err", err)
		}
	}
	var fds []int
	var trouble error
	for _, end := range parks {
		more, err := handover.Unpark(end)
		fds = append(fds, more...)
		if err != nil {
			trouble = err
		}
	}
	in, err := believe(blobs, fds, trouble, demands, cfg)
	if err != nil {
		logger.Warn("connections of the process before are closed", "sockets", len(fds), "reason", err)
		handover.Close(fds)
		return nil
	}
	return in
}

// believe reads the blob and looks whether it and the descriptors fit this box.
func believe(blobs, fds []int, trouble error, demands byte, cfg *config.Config) (*inheritance, error) {
	var p []byte
	for i, fd := range blobs {
		q, err := handover.Unseal(fd)
		if i == 0 {
			p = q
		}
		if err != nil && trouble == nil {
			trouble = err
		}
	}
	switch {
	case trouble != nil:
		return nil, trouble
	case !cfg.Net.HotRestart:
		return nil, fmt.Errorf("net.hot_restart is off")
	case len(blobs) != 1:
		return nil, fmt.Errorf("there are %d descriptions of them, want 1", len(blobs))
	}
	blob, err := handover.Decode(p)
	if err != nil {
		return nil, err
	}
	box, err := handover.ThisBox(cfg.Data)
	if err != nil {
		return nil, err
	}
	if err := blob.Of(box); err != nil {
		return nil, err
	}
	if want := len(blob.Listeners) + len(blob.Conns); want != len(fds) {
		return nil, fmt.Errorf("%w: it tells of %d sockets, %d are there", handover.ErrDamaged, want, len(fds))
	}
	if more := demands &^ blob.Demands; more != 0 {
		return nil, fmt.Errorf("%s now, it was not when they came", demandNames[bits.TrailingZeros8(more)])
	}
	in := &inheritance{blob: blob, http: -1, conns: fds[len(blob.Listeners):]}
	for i, l := range blob.Listeners {
		if l.Kind == handover.HTTP {
			in.http = fds[i]
			continue
		}
		in.listeners = append(in.listeners, netio.Handed{FD: fds[i], Asked: l.Asked,
			WS: l.Kind == handover.WS || l.Kind == handover.WSS, TLS: l.Kind == handover.TLS || l.Kind == handover.WSS})
	}
	return in, nil
}

// close ends what nobody took. It may be called twice, and on nil.
func (in *inheritance) close() {
	if in == nil {
		return
	}
	if in.http >= 0 {
		handover.Close([]int{in.http})
	}
	handover.Close(in.conns)
	in.conns, in.http = nil, -1
}

// keep closes the listeners but those of kind and address that asked reports.
// The others are in the way of what is asked for: the same port may be wanted for
// another address or kind.
func (in *inheritance) keep(asked func(kind handover.Kind, address string) bool) {
	var rest []netio.Handed
	i := 0
	for _, l := range in.blob.Listeners {
		fd, keep := in.http, asked(l.Kind, l.Asked)
		if l.Kind != handover.HTTP {
			fd = in.listeners[i].FD
			if keep {
				rest = append(rest, in.listeners[i])
			}
			i++
		} else if !keep {
			in.http = -1
		}
		if !keep {
			handover.Close([]int{fd})
		}
	}
	in.listeners = rest
}

// listenHTTP opens the listener for HTTP, or takes that of the process before.
func (in *inheritance) listenHTTP(address string) (*net.TCPListener, error) {
	if in != nil && in.http >= 0 {
		f := os.NewFile(uintptr(in.http), "http") // which closes it; ln has a copy
		in.http = -1
		ln, err := net.FileListener(f)
		f.Close()
		if tcp, ok := ln.(*net.TCPListener); ok && err == nil {
			return tcp, nil
		}
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

// takeOver gives the connections of the process before to loops and gates. It is
// the last step of a start in front of the loops' runs.
func (b *box) takeOver(in *inheritance) {
	if in == nil {
		return
	}
	started := time.Now()
	if last := b.log.Last(); last != in.blob.Index {
		b.logger.Warn("connections of the process before are closed", "sockets", len(in.conns),
			"reason", fmt.Sprintf("their log ended at index %d, this one at %d", in.blob.Index, last))
		in.close()
		return
	}
	b.core.TakeOver(in.blob.Secret)
	conns, taken := in.conns, 0
	in.conns = nil
	var why error // of the first that is not taken
	loops := b.server.Loops()
	for i, fd := range conns {
		to := loops[0]
		for _, l := range loops {
			if l.Conns() < to.Conns() {
				to = l
			}
		}
		c, err := to.Restore(fd, in.blob.Conns[i].Net)
		if err == nil {
			err = b.gates[to.Index()].Resume(c, in.blob.Conns[i].Session)
		}
		if err == nil {
			taken++
		} else if why == nil {
			why = err
		}
	}
	in.close()
	if why != nil {
		b.logger.Warn("connections of the process before are closed", "sockets", len(conns)-taken, "reason", why)
	}
	b.logger.Info("connections taken over", "connections", taken, "of", len(conns), "ms", time.Since(started).Milliseconds())
}

// legacy is what goes to the next process.
type legacy struct {
	started time.Time
	blob    handover.Blob
	fds     []int // of the listeners, then of the connections
}

// freeze stops reading and waits until the log has everything that was read. It
// reports whether it has.
func (b *box) freeze() bool {
	for _, l := range b.server.Loops() { // the one with the listeners is the first
		if !l.Call(l.Freeze) {
			return false
		}
	}
	for i, l := range b.server.Loops() {
		for end := time.Now().Add(settleTime); ; time.Sleep(time.Millisecond) {
			settled := false
			if !l.Call(func() { settled = b.gates[i].Settled() }) {
				return false
			}
			if settled {
				break
			}
			if time.Now().After(end) {
				b.logger.Warn("connections are closed, not handed over: the log does not take what was received", "waited", settleTime)
				return false
			}
		}
	}
	return true
}

// leave takes the connections from the loops, when core and reader have ended.
func (b *box) leave(h *legacy, httpAsked string) {
	listener := func(fd int, l handover.Listener) {
		if fd, err := handover.Dup(fd); err == nil { // the loops close theirs
			h.fds = append(h.fds, fd)
			h.blob.Listeners = append(h.blob.Listeners, l)
		}
	}
	kinds := map[[2]bool]handover.Kind{{false, false}: handover.TCP, {true, false}: handover.WS, {false, true}: handover.TLS, {true, true}: handover.WSS}
	first := b.server.Loops()[0]
	first.Call(func() {
		for _, l := range first.Listeners() {
			listener(l.FD, handover.Listener{Kind: kinds[[2]bool{l.WS, l.TLS}], Asked: l.Asked})
		}
	})
	if b.httpFD >= 0 {
		h.fds = append(h.fds, b.httpFD)
		h.blob.Listeners = append(h.blob.Listeners, handover.Listener{Kind: handover.HTTP, Asked: httpAsked})
		b.httpFD = -1
	}
	h.blob.Secret = b.core.DeviceSecret()
	seats := b.core.Seats()
	for i, l := range b.server.Loops() {
		gate := b.gates[i]
		l.Call(gate.Settle)
		l.Call(func() {
			l.GiveUp(gate.Portable, func(c *netio.Conn, fd int, state []byte) {
				s, err := gate.Export(c, seats[broker.At{Loop: uint16(i), Conn: c.ID()}])
				if err != nil {
					b.logger.Warn("connection is closed, not handed over", "remote", c.RemoteAddr(), "err", err)
					handover.Close([]int{fd})
					return
				}
				h.fds = append(h.fds, fd)
				h.blob.Conns = append(h.blob.Conns, handover.Conn{Net: state, Session: s})
			})
		})
	}
}

// hand gives everything to the service manager, when the log is closed.
func (h *legacy) hand(manager systemd.Manager, cfg *config.Config, index uint64, logger *slog.Logger) {
	defer func() { handover.Release(h.fds) }()
	fail := func(err error) {
		logger.Warn("connections are closed, not handed over", "connections", len(h.blob.Conns), "err", err)
		handover.Close(h.fds[len(h.blob.Listeners):])
		h.fds = h.fds[:len(h.blob.Listeners)]
	}
	box, err := handover.ThisBox(cfg.Data)
	if err != nil {
		fail(err)
		return
	}
	h.blob.Box = box
	h.blob.Index = index
	end, parked, err := handover.Park(h.fds)
	if end < 0 {
		fail(err)
		return
	}
	defer handover.Release([]int{end})
	if err != nil {
		logger.Warn("some connections are closed, not handed over", "err", err)
		if parked < len(h.blob.Listeners) {
			fail(err)
			return
		}
		h.blob.Conns = h.blob.Conns[:parked-len(h.blob.Listeners)]
		handover.Close(h.fds[parked:])
		h.fds = h.fds[:parked]
	}
	p := h.blob.Encode()
	memory, err := handover.Seal(p)
	if err != nil {
		fail(err)
		return
	}
	defer handover.Release([]int{memory})
	err = manager.Store(keptPark, end)
	if err == nil {
		err = manager.Store(keptBlob, memory)
	}
	if err != nil {
		fail(err)
		return
	}
	if err := manager.Barrier(managerTime); err != nil {
		logger.Warn("service manager may not have the connections", "err", err)
	}
	logger.Info("connections handed over", "connections", len(h.blob.Conns), "bytes", len(p), "ms", time.Since(h.started).Milliseconds())
}
