package main

import (
	"crypto/tls"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gatepost/config"
	"gatepost/handover"
	"gatepost/netio"
)

// door is one way in: the name of the key that has its address is also the
// FileDescriptorName= of a socket unit for it, but for a dot.
type door struct {
	name    string // of a passed socket
	address string // of the configuration, "" when off
	ws, tls bool
	kind    handover.Kind
}

func doors(cfg *config.Config) []door {
	return []door{
		{name: "tcp", address: cfg.TCP, kind: handover.TCP},
		{name: "ws", address: cfg.WS, ws: true, kind: handover.WS},
		{name: "tls", address: cfg.TLS.TCP, tls: true, kind: handover.TLS},
		{name: "wss", address: cfg.TLS.WS, ws: true, tls: true, kind: handover.WSS},
	}
}

// listen opens every way in: the sockets that the service manager has passed,
// and the addresses of the configuration where it has passed none. After an error
// the process ends, and with it the sockets that were not looked at.
func (b *box) listen(cfg *config.Config) error {
	if b.before != nil {
		b.before.keep(func(kind handover.Kind, address string) bool {
			if kind == handover.HTTP {
				return address == cfg.HTTP && len(b.passed["http"]) == 0
			}
			return slices.ContainsFunc(doors(cfg), func(d door) bool {
				return d.kind == kind && d.address == address && len(b.passed[d.name]) == 0
			})
		})
		b.server.Inherit(b.before.listeners)
		defer b.server.Disinherit()
	}
	for _, d := range doors(cfg) {
		if fds := b.take(d.name); len(fds) > 0 {
			for _, fd := range fds {
				if err := b.server.ListenOn(fd, d.ws, d.tls); err != nil {
					return fmt.Errorf("cannot use the socket %q of the service manager: %w", d.name, err)
				}
			}
			continue
		}
		open := b.server.Listen
		if d.tls {
			open = b.server.ListenTLS
		}
		tcp, ws := addresses(d.address), []string(nil)
		if d.ws {
			tcp, ws = nil, tcp
		}
		if err := open(tcp, ws); err != nil {
			return err
		}
	}
	if err := b.listenHTTP(cfg); err != nil {
		return err
	}
	if len(b.passed) > 0 {
		return fmt.Errorf("cannot use the sockets %s of the service manager: FileDescriptorName= of a socket unit must be tcp, ws, tls, wss or http",
			strings.Join(slices.Sorted(maps.Keys(b.passed)), ", "))
	}
	return nil
}

func (b *box) listenHTTP(cfg *config.Config) (err error) {
	switch fds := b.take("http"); {
	case len(fds) > 1:
		return fmt.Errorf("cannot use %d sockets \"http\" of the service manager: one is possible", len(fds))
	case len(fds) == 1:
		if b.plainHTTP, err = netio.PassedListener(fds[0]); err != nil {
			return fmt.Errorf("cannot use the socket \"http\" of the service manager: %w", err)
		}
		if err := cfg.CheckHTTP(b.plainHTTP.Addr().String()); err != nil {
			return err
		}
	case cfg.HTTP == "":
		return nil
	default:
		if b.plainHTTP, err = b.before.listenHTTP(cfg.HTTP); err != nil {
			return fmt.Errorf("cannot serve HTTP: %w; is another gatepost running? (http, --http)", err)
		}
	}
	b.http = b.plainHTTP
	if cfg.TLS.HTTP {
		b.http = tls.NewListener(b.http, b.tlsConfig())
	}
	return nil
}

// take returns the passed descriptors of a name, which are then the caller's.
func (b *box) take(name string) []int {
	fds := b.passed[name]
	delete(b.passed, name)
	return fds
}
