package netio

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
)

// Server is the loops and their listeners.
type Server struct {
	opt    Options
	loops  []*Loop
	active atomic.Int64 // connections, counted from accept to close
	tcp    []netip.AddrPort
	ws     []netip.AddrPort
}

// New makes the loops of a server. It listens nowhere yet, and nothing runs
// until each loop's Run is called.
func New(o Options) (*Server, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, err
	}
	s := &Server{opt: o}
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
	var opened []listener
	for i, address := range append(append([]string(nil), tcp...), ws...) {
		ln, err := listen(address, i >= len(tcp))
		if err == nil {
			opened = append(opened, ln)
			continue
		}
		for _, ln := range opened {
			ln.close()
		}
		return fmt.Errorf("cannot listen on %q: %w", address, err)
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

// Loops returns the loops; index i is the loop with Index i.
func (s *Server) Loops() []*Loop { return s.loops }

// TCPAddr returns the address of the first plain listener, or nil.
func (s *Server) TCPAddr() net.Addr { return first(s.tcp) }

// WSAddr returns the address of the first WebSocket listener, or nil.
func (s *Server) WSAddr() net.Addr { return first(s.ws) }

func first(a []netip.AddrPort) net.Addr {
	if len(a) == 0 {
		return nil
	}
	return net.TCPAddrFromAddrPort(a[0])
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
