package api

import (
	"fmt"
	"net"
	"net/http"
)

// Routes are the addresses that clients are told to connect to. An empty host is
// the one under which HTTP was asked.
type Routes struct{ TCP, WS, WSS string }

type route struct {
	TCP  string   `json:"tcp_addr"`
	WS   string   `json:"ws_addr"`
	WSS  string   `json:"wss_addr"`
	UIDs []string `json:"uids,omitempty"`
}

func (s *Server) addresses(r *http.Request) route {
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	full := func(scheme, address string) string {
		if address == "" {
			return ""
		}
		h, port, err := net.SplitHostPort(address)
		if ip := net.ParseIP(h); err == nil && (h == "" || ip != nil && ip.IsUnspecified()) {
			address = net.JoinHostPort(host, port)
		}
		return scheme + address
	}
	return route{TCP: full("", s.o.Routes.TCP), WS: full("ws://", s.o.Routes.WS), WSS: full("wss://", s.o.Routes.WSS)}
}

// route answers GET /route: where a user's client is to connect to.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusOK, s.addresses(r))
}

// routeMany answers POST /route/batch.
func (s *Server) routeMany(w http.ResponseWriter, r *http.Request) {
	var uids []string
	err := decode(w, r, maxBody, &uids)
	if err == nil && len(uids) > maxUIDs {
		err = fmt.Errorf("%d users are asked for, the limit is %d", len(uids), maxUIDs)
	}
	if err != nil {
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot tell where to connect: %w", err))
		return
	}
	all := s.addresses(r)
	all.UIDs = uids
	reply(w, http.StatusOK, []route{all})
}
