package netio

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// listener is one listening socket, owned by loop 0.
type listener struct {
	fd   int
	ws   bool
	tls  bool
	addr netip.AddrPort // as bound
	// asked is the address that was configured.
	asked string
}

func (ln listener) close() { unix.Close(ln.fd) }

// listen opens one listening socket. An empty host takes IPv6 and IPv4 on one
// socket, or IPv4 alone on a kernel without IPv6.
func listen(address string, ws bool, o Sockets) (listener, error) {
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return listener{}, err
	}
	ip, _ := netip.AddrFromSlice(a.IP)
	ip = ip.Unmap().WithZone(a.Zone)
	if ip.IsValid() {
		return listenOn(netip.AddrPortFrom(ip, uint16(a.Port)), ws, o)
	}
	ln, err := listenOn(netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(a.Port)), ws, o)
	if err != nil {
		if ln4, err4 := listenOn(netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(a.Port)), ws, o); err4 == nil {
			return ln4, nil
		}
	}
	return ln, err
}

func listenOn(at netip.AddrPort, ws bool, o Sockets) (listener, error) {
	family, sa := unix.AF_INET, unix.Sockaddr(nil)
	if at.Addr().Is4() {
		sa = &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}
	} else {
		six := &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
		if zone := at.Addr().Zone(); zone != "" {
			ifi, err := net.InterfaceByName(zone)
			if err != nil {
				return listener{}, err
			}
			six.ZoneId = uint32(ifi.Index)
		}
		family, sa = unix.AF_INET6, six
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return listener{}, os.NewSyscallError("socket", err)
	}
	ln := listener{fd: fd, ws: ws}
	if err := ln.open(family, sa, o); err != nil {
		ln.close()
		return listener{}, err
	}
	return ln, nil
}

// socketOption is one call of setsockopt.
type socketOption struct {
	name              string
	level, key, value int
}

// options are set on the listener; accepted sockets inherit them, which saves a
// system call each per accept.
func (o Sockets) options() []socketOption {
	return []socketOption{
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, int(o.KeepAliveIdle / time.Second)},
		{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, int(o.KeepAliveInterval / time.Second)},
		{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, o.KeepAliveCount},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(o.UserTimeout / time.Millisecond)},
		{"TCP_NOTSENT_LOWAT", unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, o.Unsent},
	}
}

func (ln *listener) open(family int, sa unix.Sockaddr, sockets Sockets) error {
	if err := unix.SetsockoptInt(ln.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt SO_REUSEADDR", err)
	}
	if family == unix.AF_INET6 {
		v6only := 1
		if six := sa.(*unix.SockaddrInet6); six.Addr == [16]byte{} {
			v6only = 0
		}
		if err := unix.SetsockoptInt(ln.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v6only); err != nil {
			return os.NewSyscallError("setsockopt IPV6_V6ONLY", err)
		}
	}
	if err := tune(ln.fd, sockets); err != nil {
		return err
	}
	if err := unix.Bind(ln.fd, sa); err != nil {
		return os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(ln.fd, sockets.Backlog); err != nil {
		return os.NewSyscallError("listen", err)
	}
	bound, err := unix.Getsockname(ln.fd)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	ln.addr = addrPort(bound)
	return nil
}

// tune sets the options of a listener, which its connections inherit, or of a
// connection.
func tune(fd int, sockets Sockets) error {
	for _, o := range sockets.options() {
		err := unix.SetsockoptInt(fd, o.level, o.key, o.value)
		if err != nil && err != unix.ENOPROTOOPT { // an old kernel or an emulator may lack one
			return fmt.Errorf("setsockopt %s to %d: %w", o.name, o.value, err)
		}
	}
	return nil
}

// addrPort converts a socket address; 4-in-6 becomes 4. The zone is dropped.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
