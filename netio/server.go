package netio

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
)

// Server is the loops and their listeners.
type Server struct {
	opt     Options
	loops   []*Loop
	active  atomic.Int64 // connections, counted from accept to close
	shaking atomic.Int64 // handshakes of TLS that run
	sealed  atomic.Int64 // of them, those of TLS
	most    atomic.Int64 // Options.MaxConns, or as set since
	mostTLS atomic.Int64 // Options.MaxTLS, likewise
	lobby   lobby
	tcp     []netip.AddrPort
	ws      []netip.AddrPort
	tls     []netip.AddrPort
	wss     []netip.AddrPort
	// inherited are listening sockets of the process before that wait for Listen.
	inherited []Handed
}

// New makes the loops of a server. It listens nowhere yet, and nothing runs
// until each loop's Run is called.
func New(o Options) (*Server, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Server{opt: o}
	s.SetMaxConns(o.MaxConns, o.MaxTLS)
	for i := range o.Loops {
		l, err := newLoop(s, i)
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("cannot make loop %d of %d: %w", i, o.Loops, err)
		}
		s.loops = append(s.loops, l)
	}
	return s, nil
}

// Listen opens listeners for plain TCP and for WebSocket, given as host:port;
// port 0 takes a free one, an empty host means all addresses of both families.
// It must be called before the loops run. On an error all listeners of this
// call stay closed.
func (s *Server) Listen(tcp, ws []string) error {
	opened, err := s.listen(tcp, ws, false)
	if err != nil {
		return err
	}
	for _, ln := range opened {
		if ln.ws {
			s.ws = append(s.ws, ln.addr)
		} else {
			s.tcp = append(s.tcp, ln.addr)
		}
	}
	return s.loops[0].addListeners(opened)
}

// ListenTLS is Listen for TCP and WebSocket inside TLS, for which Options.TLS must
// be set.
func (s *Server) ListenTLS(tcp, ws []string) error {
	if s.opt.TLS == nil && len(tcp)+len(ws) > 0 {
		return errors.New("cannot listen for TLS without a certificate")
	}
	opened, err := s.listen(tcp, ws, true)
	if err != nil {
		return err
	}
	for _, ln := range opened {
		if ln.ws {
			s.wss = append(s.wss, ln.addr)
		} else {
			s.tls = append(s.tls, ln.addr)
		}
	}
	return s.loops[0].addListeners(opened)
}

// listen opens listeners, all or none.
func (s *Server) listen(tcp, ws []string, tls bool) (opened []listener, err error) {
	for i, address := range append(append([]string(nil), tcp...), ws...) {
		ln, ok := s.inherit(address, i >= len(tcp), tls)
		if !ok {
			ln, err = listen(address, i >= len(tcp), s.opt.Sockets)
		}
		if err == nil {
			ln.tls, ln.asked = tls, address
			opened = append(opened, ln)
			continue
		}
		for _, ln := range opened {
			ln.close()
		}
		return nil, fmt.Errorf("cannot listen on %q: %w", address, err)
	}
	return opened, nil
}

// Loops returns the loops; index i is the loop with Index i.
func (s *Server) Loops() []*Loop { return s.loops }

// TCPAddr returns the address of the first plain listener, or nil.
func (s *Server) TCPAddr() net.Addr { return first(s.tcp) }

// WSAddr returns the address of the first WebSocket listener, or nil.
func (s *Server) WSAddr() net.Addr { return first(s.ws) }

// TLSAddr returns the address of the first listener for TCP inside TLS, or nil.
func (s *Server) TLSAddr() net.Addr { return first(s.tls) }

// WSSAddr returns the address of the first listener for WebSocket inside TLS, or
// nil.
func (s *Server) WSSAddr() net.Addr { return first(s.wss) }

func first(a []netip.AddrPort) net.Addr {
	if len(a) == 0 {
		return nil
	}
	return net.TCPAddrFromAddrPort(a[0])
}

// SetMaxConns changes Options.MaxConns and Options.MaxTLS for connections to
// come; those that are open stay. Any goroutine may call it.
func (s *Server) SetMaxConns(all, tls int) {
	s.most.Store(int64(all))
	s.mostTLS.Store(int64(tls))
}

// Conns returns the number of open connections.
func (s *Server) Conns() int { return int(s.active.Load()) }

// Close stops all loops, waits until each Run has returned and frees what they
// hold. It must not be called from a callback.
func (s *Server) Close() {
	for _, l := range s.loops {
		l.Stop()
	}
	for _, l := range s.loops {
		l.release()
	}
}
