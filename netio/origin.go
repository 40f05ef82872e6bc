package netio

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// Origins says which web pages may open a WebSocket. A browser names the site of
// the page in the header Origin; a program that is no browser sends none and may
// connect.
type Origins struct {
	Any  bool
	List []string // sites as a browser names them: "https://app.example.org", "null"
	// Names are what this machine is called. A page may also come from the host
	// that it connects to, if that is an address, localhost or one of these: any
	// other name may be one that somebody else has made lead here.
	Names []string
}

// allow reports whether a page of the site origin may connect to host, the header
// Host.
func (o *Origins) allow(origin, host string) bool {
	if origin == "" || o.Any || slices.ContainsFunc(o.List, func(s string) bool { return strings.EqualFold(s, origin) }) {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	own := net.ParseIP(host) != nil || strings.EqualFold(host, "localhost") ||
		slices.ContainsFunc(o.Names, func(s string) bool { return strings.EqualFold(s, host) })
	return own && strings.EqualFold(u.Hostname(), host)
}
