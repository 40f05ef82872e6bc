package netio

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
)

// PROXY protocol, as load balancers send it before the client's bytes.
//
// Version 1 is one line of at most 107 bytes:
//
//	PROXY TCP4 192.0.2.1 198.51.100.2 51234 5100\r\n
//	PROXY UNKNOWN ...\r\n
//
// Version 2:
//
//	+--------------+-----------+-----------+--------+----------------------------+
//	| signature 12 | 2 | cmd 4b| family 8b | len 16b| src, dst, ports, TLVs      |
//	+--------------+-----------+-----------+--------+----------------------------+
const (
	proxyLine   = 107
	proxySig    = "\r\n\r\n\x00\r\nQUIT\n"
	proxyHeader = 16
	proxyBody   = 4096 // more TLVs than that nobody sends
)

// readProxy consumes the header; it returns false when more bytes are needed.
func (c *Conn) readProxy() (bool, error) {
	from, n, err := parseProxy(c.in.Peek())
	if n == 0 || err != nil {
		return false, err
	}
	c.in.Discard(n)
	c.progress = true
	if from.IsValid() {
		c.setRemote(from)
	}
	c.loop.move(c)
	c.stage = c.next
	if c.stage == stagePlain {
		c.enter(stagePlain)
	}
	return true, nil
}

// parseProxy reads a header off the front of src and returns the client's
// address and the header's length. The length is 0 when bytes are missing; the
// address is not valid when the proxy speaks for itself or does not know.
func parseProxy(src []byte) (netip.AddrPort, int, error) {
	if k := min(len(src), len(proxySig)); string(src[:k]) == proxySig[:k] {
		return parseProxy2(src)
	}
	if k := min(len(src), 6); string(src[:k]) == "PROXY "[:k] {
		return parseProxy1(src)
	}
	return netip.AddrPort{}, 0, fmt.Errorf("%w: the connection does not begin with one (is it from the proxy?)", ErrProxy)
}

func parseProxy1(src []byte) (from netip.AddrPort, n int, err error) {
	end := bytes.Index(src[:min(len(src), proxyLine)], []byte("\r\n"))
	if end < 0 {
		if len(src) >= proxyLine {
			return from, 0, fmt.Errorf("%w: no line end in %d bytes", ErrProxy, proxyLine)
		}
		return from, 0, nil
	}
	n = end + 2
	f := bytes.Split(src[:end], []byte(" "))
	if len(f) >= 2 && string(f[1]) == "UNKNOWN" {
		return from, n, nil
	}
	if len(f) != 6 || string(f[1]) != "TCP4" && string(f[1]) != "TCP6" {
		return from, 0, fmt.Errorf("%w: version 1 with %d fields", ErrProxy, len(f))
	}
	ip, err := netip.ParseAddr(string(f[2]))
	if err != nil || ip.Zone() != "" || ip.Is4() != (string(f[1]) == "TCP4") {
		return from, 0, fmt.Errorf("%w: bad source address in version 1", ErrProxy)
	}
	port, err := strconv.ParseUint(string(f[4]), 10, 16)
	if err != nil {
		return from, 0, fmt.Errorf("%w: bad source port in version 1", ErrProxy)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), n, nil
}

func parseProxy2(src []byte) (from netip.AddrPort, n int, err error) {
	if len(src) < proxyHeader {
		return from, 0, nil
	}
	version, command, family := src[12]>>4, src[12]&15, src[13]
	size := int(binary.BigEndian.Uint16(src[14:]))
	if version != 2 || command > 1 {
		return from, 0, fmt.Errorf("%w: version %d, command %d", ErrProxy, version, command)
	}
	if size > proxyBody {
		return from, 0, fmt.Errorf("%w: %d bytes of addresses, at most %d are read", ErrProxy, size, proxyBody)
	}
	n = proxyHeader + size
	if len(src) < n {
		return from, 0, nil
	}
	body := src[proxyHeader:n]
	switch {
	case command == 0: // LOCAL: the proxy's own health check
	case family == 0x11 && size >= 12:
		from = netip.AddrPortFrom(netip.AddrFrom4([4]byte(body)), binary.BigEndian.Uint16(body[8:]))
	case family == 0x21 && size >= 36:
		from = netip.AddrPortFrom(netip.AddrFrom16([16]byte(body)).Unmap(), binary.BigEndian.Uint16(body[32:]))
	case family == 0x11 || family == 0x21:
		return from, 0, fmt.Errorf("%w: %d bytes are too few for family 0x%02x", ErrProxy, size, family)
	}
	return from, n, nil
}
