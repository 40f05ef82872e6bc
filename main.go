// Gatepost is a message broker for edge gateways. This file only wires: it
// builds the parts, runs them, and stops them in reverse.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"gatepost/ack"
	"gatepost/api"
	"gatepost/backup"
	"gatepost/broker"
	"gatepost/cli"
	"gatepost/config"
	"gatepost/handover"
	"gatepost/hwprofile"
	"gatepost/message"
	"gatepost/metrics"
	"gatepost/netio"
	"gatepost/session"
	"gatepost/store"
	"gatepost/systemd"
	"gatepost/wal"
)

// version is set by the linker.
var version = "development"

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.Env{
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Version: version, Run: run,
	}))
}

// run is a box from start to stop. It returns when ctx is cancelled and all is
// on disk, or with the reason why a part could not go on.
func run(ctx context.Context, cfg *config.Config, out io.Writer) error {
	started := time.Now()
	logger := newLogger(cfg.Log)
	if cfg.Net.Loops > message.MaxLoops {
		return fmt.Errorf("cannot run %d loops: message ids have room for %d (net.loops)", cfg.Net.Loops, message.MaxLoops)
	}
	debug.SetMemoryLimit(cfg.HeapLimit())
	debug.SetGCPercent(cfg.Memory.GCPercent)
	manager, err := systemd.New(os.Getenv, os.Getpid())
	if err != nil {
		logger.Warn("service manager is not told everything", "err", err)
	}

	passed, err := systemd.Passed(os.Getenv, os.Getpid())
	if err != nil {
		logger.Warn("what the service manager passed is not all used", "err", err)
	}
	before := inherit(passed, manager, cfg, logger)
	b, err := build(cfg, logger, before)
	if err != nil {
		before.close()
		return err
	}
	b.announce(out, cfg, time.Since(started))
	debug.FreeOSMemory() // what opening and replaying left behind
	notify(logger, manager, systemd.Ready)
	err = b.run(ctx, cfg, manager)
	if err == nil {
		logger.Info("stopped")
	}
	return err
}

func newLogger(o config.Log) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.Level)); err != nil {
		panic("BUG: config lets through log.level " + o.Level)
	}
	options := &slog.HandlerOptions{Level: level}
	if o.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// box is the parts of a running broker, in the order they are built.
type box struct {
	logger    *slog.Logger
	core      *broker.Broker
	store     *store.Store
	log       *wal.Log
	report    wal.Report
	found     store.Report
	committer *wal.Committer
	reader    *broker.Reader
	server    *netio.Server
	gates     []*session.Gate
	http      net.Listener     // nil: off
	plainHTTP *net.TCPListener // http without TLS around it
	httpFD    int              // a copy of it for the next process; -1: none
	// certificates are those of TLS; nil: there is none.
	certificates *netio.Certificates
	api          *api.Server
	webhook      *api.Webhook
	outboxes     []broker.Outbox // of the gates, then of the api
}

// build opens the sockets, then the data directory, and replays it.
func build(cfg *config.Config, logger *slog.Logger, before *inheritance) (_ *box, err error) {
	b := &box{logger: logger, httpFD: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.closeSockets(), b.closeData())
		}
	}()
	if cfg.TLS.On() {
		clients := cfg.TLS.ClientCAFile
		if clients == "off" {
			clients = ""
		}
		if b.certificates, err = netio.LoadCertificates(cfg.TLS.CertFile, cfg.TLS.KeyFile, clients); err != nil {
			return nil, fmt.Errorf("%w (tls.cert_file, tls.key_file, tls.client_ca_file)", err)
		}
	}
	// Addresses first: if another process has them, the log stays as it is.
	// Whoever connects meanwhile waits until the loops run.
	if b.server, err = netio.New(netio.Options{
		Loops:          cfg.Net.Loops,
		Scratch:        int(cfg.Net.Scratch),
		ReadBudget:     int(cfg.Net.ReadBudget),
		OutLimit:       int(cfg.Net.OutLimit),
		PoolBytes:      int(cfg.Net.RingPool),
		MaxConns:       cfg.Net.MaxConnections,
		IdleTimeout:    cfg.Net.IdleTimeout,
		LoginTimeout:   cfg.Net.LoginTimeout,
		LoginBytes:     session.LoginBytes,
		PartialTimeout: cfg.Net.PartialTimeout,
		WaitYield:      cfg.Net.Yield(),
		ProxyProtocol:  cfg.Net.ProxyProtocol,
		TLS:            b.tlsConfig(),
		MaxTLS:         cfg.TLS.MaxConnections,
		Logger:         logger,
	}); err != nil {
		return nil, err
	}
	if before != nil {
		b.server.Inherit(before.listeners)
		defer b.server.Disinherit()
	}
	if err = b.server.ListenTLS(addresses(cfg.TLS.TCP), addresses(cfg.TLS.WS)); err != nil {
		return nil, err
	}
	if err = b.server.Listen(addresses(cfg.TCP), addresses(cfg.WS)); err != nil {
		return nil, err
	}
	if cfg.HTTP != "" {
		if b.plainHTTP, err = before.listenHTTP(cfg.HTTP); err != nil {
			return nil, fmt.Errorf("cannot serve HTTP: %w; is another gatepost running? (http, --http)", err)
		}
		b.http = b.plainHTTP
		if cfg.TLS.HTTP {
			b.http = tls.NewListener(b.http, b.tlsConfig())
		}
	}
	lock, err := wal.Lock(cfg.Data)
	if err != nil {
		return nil, err
	}
	oldest, err := wal.Oldest(cfg.Data)
	if err != nil {
		lock.Close()
		return nil, err
	}
	noSync := os.Getenv("GATEPOST_TEST_NOSYNC") == "1"
	var restored message.Restored
	b.store, restored, b.found, err = store.Open(store.Options{
		Dir:          cfg.Data,
		NoSync:       noSync,
		RetireAtOnce: os.Getenv("GATEPOST_TEST_RETIRE") == "1",
		Logger:       logger,
		Oldest:       oldest,
		ReadLog:      func(p []byte, generation uint64, offset int64) error { return b.log.ReadAt(p, generation, offset) },
		Retire:       func(below uint64) error { return b.log.Retire(below) },
		Keep:         keep(&cfg.Store),
		Budget:       cfg.Store.Budget,
		// Until retention looks again a checkpoint writes two rolls at most,
		// the log grows by two more before the core waits, and by the rest of
		// a file.
		Reserve:   5 * cfg.Wal.RollSize,
		BlockFile: blockFile(cfg.Store.Budget),
		// Far more than the core lets gather while checkpoints work.
		MaxUnsaved: 16 * cfg.Wal.RollSize / 128,
		LogSize: func() int64 {
			n, err := b.log.Size()
			if err != nil {
				logger.Warn("cannot tell how large the log is", "err", err)
			}
			return n
		},
	})
	if err != nil {
		lock.Close()
		return nil, err
	}
	b.core = broker.New(broker.Options{
		InboxItems:      cfg.Queue.ApplyItems,
		InboxBytes:      int(cfg.Queue.ApplyBytes),
		DedupWindow:     cfg.Broker.DedupWindow,
		MaxChannels:     cfg.Broker.MaxChannels,
		CheckpointBytes: cfg.Wal.RollSize / 2,
		Strict:          cfg.Broker.PersonAllowList,
		Hooks:           cfg.Webhook.On(),
		Logger:          logger,
	}, b.store)
	b.core.Restore(&restored)
	b.log, b.report, err = wal.Open(wal.Options{
		Dir:      cfg.Data,
		Lock:     lock,
		RollSize: cfg.Wal.RollSize,
		Recycle:  cfg.Wal.Recycle(),
		Headroom: cfg.Wal.Headroom,
		First:    b.store.Generation(),
		After:    b.store.Index(),
		Behind:   b.store.Ahead,
		NoSync:   noSync,
		Logger:   logger,
	}, b.core.Replay)
	if err != nil {
		return nil, err
	}
	b.core.Ready()
	b.committer = wal.NewCommitter(b.log, wal.CommitterOptions{
		QueueItems: cfg.Queue.LogItems,
		QueueBytes: int(cfg.Queue.LogBytes),
		GroupItems: cfg.Wal.GroupItems,
		GroupBytes: int(cfg.Wal.GroupBytes),
		Linger:     cfg.Wal.Linger,
	}, b.core.Commit)
	b.reader = broker.NewReader(b.store, cfg.Net.Loops, logger)
	for _, loop := range b.server.Loops() {
		g := session.New(session.Options{
			Encryption:     cfg.Encryption,
			Tokens:         cfg.Session.TokenAuth,
			Master:         cfg.Session.DeviceLevel == "master",
			MaxPayload:     int(cfg.Net.MaxPayload),
			Rate:           cfg.Net.Rate,
			GroupBytes:     int(cfg.Wal.GroupBytes),
			InflightMax:    cfg.Session.InflightMax,
			InflightTotal:  max(cfg.Session.InflightTotal/cfg.Net.Loops, 1),
			CursorInterval: cfg.Session.CursorInterval,
			MailboxItems:   cfg.Queue.MailboxItems,
			MailboxBytes:   int(cfg.Queue.MailboxBytes),
			Retry:          ack.Options{Tick: cfg.Retry.Tick, First: cfg.Retry.First, Max: cfg.Retry.Max, Tries: cfg.Retry.Tries},
			NodeID:         1,
			MessageIDFloor: b.core.MaxMessageID(),
			Logger:         logger,
		}, loop, b.core, b.committer, b.reader)
		b.gates = append(b.gates, g)
		b.outboxes = append(b.outboxes, g)
	}
	token := ""
	if path := cfg.API.Token(); path != "" {
		if token, err = api.ReadToken(path); err != nil {
			return nil, err
		}
	}
	if b.webhook, err = newWebhook(cfg, logger, b); err != nil {
		return nil, err
	}
	values := metrics.NewRegistry()
	b.register(values, cfg)
	b.api = api.New(api.Options{
		Outbox:      len(b.outboxes),
		Token:       token,
		MaxMembers:  cfg.Broker.MaxGroupMembers,
		MaxPayload:  int(cfg.Net.MaxPayload),
		IDFloor:     b.core.MaxMessageID(),
		MaxChannels: cfg.Broker.MaxChannels,
		Routes:      api.Routes{TCP: routed(cfg.API.RouteTCP, b.server.TCPAddr()), WS: routed(cfg.API.RouteWS, b.server.WSAddr()), WSS: routed("auto", b.server.WSSAddr())},
		Health:      b.health,
		Damage:      b.damage(),
		Backup:      func(w io.Writer) error { return backup.Write(w, b.store, b.log) },
		Logger:      logger,
	}, b.core, b.committer, b.store, values)
	b.outboxes = append(b.outboxes, b.api)
	b.takeOver(before)
	return b, nil
}

// newWebhook returns what tells the application; without webhook.url it only
// sees to it that the log says so.
func newWebhook(cfg *config.Config, logger *slog.Logger, b *box) (*api.Webhook, error) {
	o := api.WebhookOptions{
		Offline: cfg.Webhook.Has(api.EventOffline),
		Notify:  cfg.Webhook.Has(api.EventNotify),
		Status:  cfg.Webhook.Has(api.EventStatus),
		Timeout: cfg.Webhook.Timeout,
		WasOn:   b.core.HooksOn(),
		Logger:  logger,
	}
	if cfg.Webhook.On() {
		o.URL = cfg.Webhook.URL
	}
	if cfg.Webhook.SecretFile != "off" {
		secret, err := api.ReadToken(cfg.Webhook.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("%w (webhook.secret_file)", err)
		}
		o.Secret = []byte(secret)
	}
	return api.NewWebhook(o, b.core, b.committer, b.store), nil
}

// tlsConfig is nil without certificates.
func (b *box) tlsConfig() *tls.Config {
	if b.certificates == nil {
		return nil
	}
	return b.certificates.Config()
}

// reload reads again what can be read again, whenever SIGHUP comes.
func (b *box) reload(ctx context.Context) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
		}
		switch {
		case b.certificates == nil:
			b.logger.Info("there is nothing to be read again: TLS is off")
		default:
			if err := b.certificates.Reload(); err != nil {
				b.logger.Error("certificates not read again, those before stay", "err", err)
			} else {
				b.logger.Info("certificates read again")
			}
		}
	}
}

// routed is the address that clients are told: the configured one, or that of the
// listener, nil if there is none.
func routed(configured string, at net.Addr) string {
	switch {
	case configured != "auto":
		return configured
	case at == nil:
		return ""
	}
	return at.String()
}

// keep translates what is kept of each type of channel.
func keep(c *config.Store) map[uint8]message.Keep {
	rules := make(map[uint8]message.Keep)
	for typ, k := range map[uint8]config.Keep{message.ChannelPerson: c.Person, message.ChannelGroup: c.Group} {
		if k != (config.Keep{}) {
			rules[typ] = message.Keep{Age: k.MaxAge, Count: int64(k.MaxMessages), Bytes: k.MaxBytes}
		}
	}
	return rules
}

// blockFile is how large block files are: the budget is kept by dropping whole
// ones, so that they are a small part of it.
func blockFile(budget int64) int64 {
	const most, least = 64 << 20, 1 << 20
	if budget == 0 {
		return most
	}
	return min(max(budget/32, least), most)
}

func addresses(a string) []string {
	if a == "" {
		return nil
	}
	return []string{a}
}

// closeSockets undoes a build that failed later.
func (b *box) closeSockets() error {
	if b.server != nil {
		b.server.Close()
	}
	if b.http != nil {
		return b.http.Close()
	}
	return nil
}

// closeData undoes a build that failed later.
func (b *box) closeData() (err error) {
	if b.store != nil {
		b.store.Close()
		err = b.store.Run() // gives back its files
	}
	if b.log != nil {
		err = errors.Join(err, b.log.Close())
	}
	return err
}

// damage is what the start found, one line each, at most 100.
func (b *box) damage() (lines []string) {
	lines = append(lines, b.found.Trouble...)
	for _, g := range b.report.Gaps {
		lines = append(lines, g.String())
	}
	return lines[:min(len(lines), 100)]
}

// health says what is wrong with log or store, if anything is.
func (b *box) health() error {
	if state := b.committer.Stats().State; state != "ok" {
		return errors.New(state)
	}
	if b.store.Stats().Behind.Load() {
		return errors.New("the last checkpoint failed and is tried again; the log is kept and grows meanwhile")
	}
	return nil
}

// run runs the parts until ctx is cancelled or one of them fails.
func (b *box) run(ctx context.Context, cfg *config.Config, manager systemd.Manager) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	part := func(wg *sync.WaitGroup, f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				cancel(err)
			}
		})
	}
	var apply, reader, loops, rest, checkpoints sync.WaitGroup
	part(&checkpoints, b.store.Run)
	part(&apply, func() error { return b.core.Run(b.outboxes) })
	part(&reader, func() error { b.reader.Run(b.outboxes); return nil })
	part(&rest, b.committer.Run)
	for i, loop := range b.server.Loops() {
		part(&loops, func() error {
			defer b.gates[i].Close()
			return loop.Run(b.gates[i])
		})
	}
	if b.http != nil {
		part(&rest, func() error { return b.api.Serve(b.http) })
	}
	part(&rest, func() error { b.webhook.Run(ctx); return nil })
	part(&rest, func() error { b.reload(ctx); return nil })
	if manager.Interval() > 0 {
		part(&rest, func() error { b.watch(ctx, manager); return nil })
	}

	<-ctx.Done()
	notify(b.logger, manager, systemd.Stopping)
	b.logger.Info("stopping")
	var left *legacy // of a hot restart
	if cfg.Net.HotRestart && manager.Present() && errors.Is(context.Cause(ctx), context.Canceled) {
		left = &legacy{started: time.Now()}
		if b.plainHTTP != nil {
			b.httpFD = handover.DupListener(b.plainHTTP)
		}
		if !b.freeze() {
			left = nil
		}
	}
	errHTTP := b.api.Close()
	if left == nil {
		b.server.Close()
		loops.Wait() // the last read positions are proposed
	}
	b.committer.Close()
	rest.Wait()
	b.core.Close()
	apply.Wait()
	b.reader.Close()
	reader.Wait()
	if left != nil {
		b.leave(left, cfg.HTTP)
		b.server.Close()
		loops.Wait()
	}
	b.store.Close()
	checkpoints.Wait()
	err := errors.Join(errHTTP, b.log.Close())
	if left != nil {
		left.hand(manager, cfg, b.log.Last(), b.logger)
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

// watch tells the service manager that the process lives, as long as every
// loop still makes rounds.
func (b *box) watch(ctx context.Context, manager systemd.Manager) {
	ticker := time.NewTicker(manager.Interval() / 3)
	defer ticker.Stop()
	rounds := make([]int64, len(b.gates))
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		alive := true
		for i, loop := range b.server.Loops() {
			n := loop.Stats().Rounds.Load()
			alive = alive && n != rounds[i]
			rounds[i] = n
			loop.Wake() // an idle loop makes its round now, to be seen next time
		}
		if alive {
			notify(b.logger, manager, systemd.Watchdog)
		}
	}
}

func notify(logger *slog.Logger, manager systemd.Manager, state string) {
	if err := manager.Notify(state); err != nil {
		logger.Warn("service manager was not told", "state", state, "err", err)
	}
}

// announce prints what a person needs to know after a start.
func (b *box) announce(out io.Writer, cfg *config.Config, took time.Duration) {
	line := func(name, value string) { fmt.Fprintf(out, "  %-10s %s\n", name, value) }
	off := func(a net.Addr) string {
		if a == nil {
			return "off"
		}
		return a.String()
	}
	facts := hwprofile.Read()
	fmt.Fprintf(out, "gatepost %s\n", version)
	line("tcp", off(b.server.TCPAddr()))
	line("websocket", off(b.server.WSAddr()))
	if cfg.TLS.On() {
		line("tls", fmt.Sprintf("tcp %s, websocket %s, http %t", off(b.server.TLSAddr()), off(b.server.WSSAddr()), cfg.TLS.HTTP))
	}
	if b.http != nil {
		line("http", b.http.Addr().String())
	} else {
		line("http", "off")
	}
	line("data", fmt.Sprintf("%s (%d records, %d gaps)", cfg.Data, b.report.Records, len(b.report.Gaps)))
	line("profile", fmt.Sprintf("%s (%d processors, %d MiB memory, budget %d MiB)",
		hwprofile.For(facts).Class, facts.CPUs, facts.Usable()>>20, cfg.Memory.Limit>>20))
	encryption := "off"
	if cfg.Encryption {
		encryption = "on"
	}
	line("encryption", encryption)
	line("try", "gatepost listen --uid bob")
	line("", `gatepost send --uid alice --to bob "hello"`)
	fmt.Fprintf(out, "ready after %d ms\n", took.Milliseconds())
}

// The parts fit together.
var (
	_ session.Proposer = (*wal.Committer)(nil)
	_ broker.Store     = (*store.Store)(nil)
	_ api.Archive      = (*store.Store)(nil)
	_ broker.Outbox    = (*session.Gate)(nil)
	_ broker.Outbox    = (*api.Server)(nil)
	_ netio.Handler    = (*session.Gate)(nil)
)
