package netio

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ListenOn serves a socket that somebody else has opened, as Listen and
// ListenTLS do those of their own. It must listen already, for TCP. It is taken
// over in any case. It must be called before the loops run.
func (s *Server) ListenOn(fd int, ws, tls bool) error {
	ln := listener{fd: fd, ws: ws, tls: tls}
	if err := s.listenOn(&ln); err != nil {
		ln.close()
		return fmt.Errorf("cannot listen on descriptor %d: %w", fd, err)
	}
	switch {
	case tls && ws:
		s.wss = append(s.wss, ln.addr)
	case tls:
		s.tls = append(s.tls, ln.addr)
	case ws:
		s.ws = append(s.ws, ln.addr)
	default:
		s.tcp = append(s.tcp, ln.addr)
	}
	return nil
}

func (s *Server) listenOn(ln *listener) error {
	if ln.tls && s.opt.TLS == nil {
		return fmt.Errorf("there is no certificate for TLS")
	}
	bound, err := checkListener(ln.fd)
	if err != nil {
		return err
	}
	ln.addr = addrPort(bound)
	if err := unix.SetNonblock(ln.fd, true); err != nil {
		return os.NewSyscallError("set nonblock", err)
	}
	unix.CloseOnExec(ln.fd)
	if err := tune(ln.fd, s.opt.Sockets); err != nil {
		return err
	}
	return s.loops[0].addListeners([]listener{*ln})
}

// checkListener returns the address of a socket that listens for TCP, or says
// what else a descriptor is.
func checkListener(fd int) (unix.Sockaddr, error) {
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return nil, fmt.Errorf("it is no socket: %w", err)
	}
	if kind != unix.SOCK_STREAM {
		return nil, fmt.Errorf("it is no stream socket but of type %d; is it ListenStream= in the socket unit?", kind)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return nil, os.NewSyscallError("getsockname", err)
	}
	switch bound.(type) {
	case *unix.SockaddrInet4, *unix.SockaddrInet6:
	default:
		return nil, fmt.Errorf("it is a socket but not for TCP")
	}
	if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || on == 0 {
		return nil, fmt.Errorf("it does not listen but is one connection; is it Accept=yes in the socket unit?")
	}
	return bound, nil
}

// PassedListener is ListenOn for a server of package net/http. It takes the
// descriptor over in any case.
func PassedListener(fd int) (*net.TCPListener, error) {
	f := os.NewFile(uintptr(fd), "passed") // owns fd until FileListener has a copy
	defer f.Close()
	if _, err := checkListener(fd); err != nil {
		return nil, fmt.Errorf("cannot listen on descriptor %d: %w", fd, err)
	}
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	tcp, ok := ln.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("descriptor %d is no TCP listener but a %T", fd, ln), ln.Close())
	}
	return tcp, nil
}
