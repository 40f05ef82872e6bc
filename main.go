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
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"gatepost/api"
	"gatepost/backup"
	"gatepost/broker"
	"gatepost/cli"
	"gatepost/config"
	"gatepost/handover"
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

// heapLimit is what the heap may take, in bytes: what the budget leaves for it, or
// GOMEMLIMIT of the environment where that is less.
func heapLimit(cfg *config.Config) int64 { return min(cfg.HeapLimit(), debug.SetMemoryLimit(-1)) }

// run is a box from start to stop. It returns when ctx is cancelled and all is
// on disk, or with the reason why a part could not go on.
func run(ctx context.Context, cfg *config.Config, out io.Writer) error {
	started := time.Now()
	severity := new(slog.LevelVar)
	logger := newLogger(cfg.Log, severity)
	if cfg.Net.Loops > message.MaxLoops {
		return fmt.Errorf("cannot run %d loops: message ids have room for %d (net.loops)", cfg.Net.Loops, message.MaxLoops)
	}
	logger.Info("starting", "version", version, "data", cfg.Data, "config", cfg.File)
	for _, w := range cfg.Hardware.Warnings {
		logger.Warn(w)
	}
	warnOfSecrets(cfg, logger)
	debug.SetMemoryLimit(heapLimit(cfg))
	manager, err := systemd.New(os.Getenv, os.Getpid())
	if err != nil {
		logger.Warn("service manager is not told everything", "err", err)
	}

	if manager.Present() && cfg.File == "" && hasKeys(packagedConfig) {
		logger.Warn("configuration file not used: no --config names it", "file", packagedConfig, "hint", "GATEPOST_ARGS in /etc/default/gatepost needs --config "+packagedConfig)
	}

	hup, stop := catchHUP() // a reload during the start is done behind it
	defer stop()
	b := &box{logger: logger, level: severity, cfg: cfg, hup: hup, hooks: make(chan api.WebhookOptions, 1), httpFD: -1}
	if b.passed, err = systemd.Passed(os.Getenv, os.Getpid()); err != nil {
		return err
	}
	b.demands = demands(cfg, b.passed)
	b.before = inherit(b.take(keptPark), b.take(keptBlob), b.demands, manager, cfg, logger)
	begun := starting(manager, extendEvery, func(state string) { notify(logger, manager, state) }, b.progress.Load)
	err = b.build(cfg)
	begun()
	if err != nil {
		b.before.close()
		return err
	}
	b.announce(out, cfg, time.Since(started))
	logger.Info("ready", "version", version, "took", time.Since(started))
	notify(logger, manager, systemd.Ready)
	err = b.run(ctx, cfg, manager)
	if err == nil {
		logger.Info("stopped")
	}
	return err
}

// packagedConfig is where the packages put the configuration.
const packagedConfig = "/etc/gatepost/gatepost.toml"

// hasKeys reports whether a configuration file says anything; the packaged one has
// every key as a comment.
func hasKeys(file string) bool {
	text, err := os.ReadFile(file)
	if err != nil {
		return false // nobody asked for it
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "[") {
			return true
		}
	}
	return false
}

// newLogger returns a logger whose level severity can change. Where standard
// error is the journal, lines go there with all their fields; log.format "json"
// is for those who collect standard error themselves.
func newLogger(o config.Log, severity *slog.LevelVar) *slog.Logger {
	severity.Set(level(o))
	options := &slog.HandlerOptions{Level: severity}
	switch {
	case o.Format == "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	case systemd.ToJournal(os.Getenv, os.Stderr):
		return slog.New(systemd.NewJournal(systemd.JournalOptions{Level: severity, Identifier: "gatepost", ID: eventID, Fallback: os.Stderr}))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

func level(o config.Log) (l slog.Level) {
	if err := l.UnmarshalText([]byte(o.Level)); err != nil {
		panic("BUG: config lets through log.level " + o.Level)
	}
	return l
}

// box is the parts of a running broker, in the order they are built.
type box struct {
	logger    *slog.Logger
	level     *slog.LevelVar
	cfg       *config.Config // reload replaces it
	hup       chan os.Signal
	hook      api.WebhookOptions      // of the configuration
	hooks     chan api.WebhookOptions // from reload to tell; one at most
	marker    marker
	progress  atomic.Int64     // of a start: records and blocks read
	passed    map[string][]int // descriptors of the service manager that nobody has taken yet
	before    *inheritance     // what the process before left; nil: nothing
	demands   byte             // on who connects, see demandNames
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
func (b *box) build(cfg *config.Config) (err error) {
	logger := b.logger
	defer func() {
		if err != nil {
			err = errors.Join(err, b.closeSockets(), b.closeData())
		}
	}()
	if b.certificates, err = certificates(cfg); err != nil {
		return err
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
		Sockets: netio.Sockets{
			Backlog: cfg.Net.Backlog, Unsent: int(cfg.Net.Unsent), UserTimeout: cfg.Net.UserTimeout,
			KeepAliveIdle: cfg.Net.KeepAlive.Idle, KeepAliveInterval: cfg.Net.KeepAlive.Interval, KeepAliveCount: cfg.Net.KeepAlive.Count,
		},
		Origins: origins(cfg),
		TLS:     b.tlsConfig(),
		MaxTLS:  cfg.TLS.MaxConnections,
		Logger:  logger,
	}); err != nil {
		return err
	}
	if err = b.listen(cfg); err != nil {
		return err
	}
	b.marker = marker{file: cfg.DataMarker, data: cfg.Data, disk: diskOf}
	fresh, err := b.marker.check()
	if err != nil {
		return err
	}
	lock, err := wal.Lock(cfg.Data)
	if err != nil {
		return err
	}
	if fresh {
		logger.Warn("new data directory", "data", cfg.Data, "hint", "a box that had data has lost sight of them: is the disk mounted?")
	}
	oldest, err := wal.Oldest(cfg.Data)
	if err != nil {
		lock.Close()
		return err
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
		Quarantine:   func(generation uint64, reason string) { b.log.Quarantine(generation, reason) },
		Rules:        rules(cfg),
		Progress:     func() { b.progress.Add(1) },
		// Until retention looks again a checkpoint writes two rolls at most,
		// the log grows by two more before the core waits, and by the rest of
		// a file; the three of them may be on the disk already, as spare files.
		Reserve: 5 * cfg.Wal.RollSize,
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
		return unreadable(err, cfg.Data)
	}
	b.core = broker.New(broker.Options{
		InboxItems:      cfg.Queue.ApplyItems,
		InboxBytes:      int(cfg.Queue.ApplyBytes),
		DedupWindow:     cfg.Broker.DedupWindow,
		MaxChannels:     cfg.Broker.MaxChannels,
		UserChannels:    cfg.Broker.UserChannels,
		CheckpointBytes: cfg.Wal.RollSize / 2,
		MaxOfUser:       max(cfg.Net.MaxConnections/2, 1),
		Strict:          cfg.Broker.PersonAllowList,
		Hooks:           cfg.Webhook.On(),
		Logger:          logger,
	}, b.store)
	// Not sooner: the first collection would come while the core takes memory for its
	// window, and what borders on pages that it has just freed is cleared by Go, all
	// 8 MiB, of which a new box uses none: 5 ms, in every tenth start. Until here it is
	// Go's 100, or GOGC, under the same limit.
	debug.SetGCPercent(cfg.Memory.GCPercent)
	b.core.Restore(&restored)
	b.log, b.report, err = wal.Open(wal.Options{
		Dir:      cfg.Data,
		Lock:     lock,
		RollSize: cfg.Wal.RollSize,
		Recycle:  cfg.Wal.Recycle(),
		Headroom: cfg.Wal.Headroom,
		First:    b.store.Generation(),
		After:    b.store.Index(),
		Behind:   hang(os.Getenv("GATEPOST_TEST_HANG")).disk(b.store.Ahead),
		Progress: func() { b.progress.Add(1) },
		NoSync:   noSync,
		Logger:   logger,
	}, func(c message.Committed) error {
		b.progress.Add(int64(c.Batch.Len()))
		return b.core.Replay(c)
	})
	if err != nil {
		return err
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
			Retry:          retries(cfg),
			NodeID:         1,
			MessageIDFloor: b.core.MaxMessageID(),
			Inquire:        b.inquire(cfg),
			Logger:         logger,
		}, loop, b.core, b.committer, b.reader)
		b.gates = append(b.gates, g)
		b.outboxes = append(b.outboxes, g)
	}
	limits, err := apiLimits(cfg)
	if err != nil {
		return err
	}
	hook, err := webhookOptions(cfg, logger)
	if err != nil {
		return err
	}
	b.hook = hook
	hook.WasOn = b.core.HooksOn()
	b.webhook = api.NewWebhook(hook, b.core, b.committer, b.store)
	source, err := datasource(cfg)
	if err != nil {
		return err
	}
	values := metrics.NewRegistry()
	_, sites := cfg.Net.Origins(cfg.Session.TokenAuth)
	b.api = api.New(api.Options{
		Outbox:     len(b.outboxes),
		Limits:     limits,
		Version:    version,
		Sites:      sites,
		IDFloor:    b.core.MaxMessageID(),
		Routes:     api.Routes{TCP: routed(cfg.API.RouteTCP, b.server.TCPAddr()), WS: routed(cfg.API.RouteWS, b.server.WSAddr()), WSS: routed("auto", b.server.WSSAddr())},
		Slots:      api.Slots{Connections: cfg.API.MaxConnections, Reads: cfg.API.MaxReads, Changes: cfg.API.MaxChanges, Sends: cfg.API.MaxSends},
		Health:     b.health,
		Damage:     b.damage(),
		Backup:     b.backup,
		Datasource: source,
		Logger:     logger,
	}, b.core, b.committer, b.store, values)
	b.register(values, cfg)
	b.outboxes = append(b.outboxes, b.api)
	b.takeOver(b.before)
	b.before = nil // as large as all that was unsent
	return nil
}

// backup writes a backup, as long as it does not fill the disk with the log that is
// kept meanwhile: messages go first.
func (b *box) backup(w io.Writer) error {
	return backup.Write(&spacious{w, b.committer.Full, b.committer.Full()}, b.store, b.log)
}

// spacious is a writer that fails when the disk has become full.
type spacious struct {
	io.Writer
	full func() bool
	was  bool // full in the beginning: it cannot be the reason
}

func (s *spacious) Write(p []byte) (int, error) {
	if !s.was && s.full() {
		return 0, errors.New("broken off: the disk is full, and the log that is kept meanwhile takes room; free some and take it again")
	}
	return s.Writer.Write(p)
}

// datasource is whom channels are asked of.
func datasource(cfg *config.Config) (o api.DatasourceOptions, err error) {
	if !cfg.Source.On() {
		return o, nil
	}
	o = api.DatasourceOptions{URL: cfg.Source.URL, Timeout: cfg.Source.Timeout, MaxAge: cfg.Source.MaxAge}
	if cfg.Source.SecretFile != "off" {
		secret, err := secret(cfg.Source.SecretFile)
		if err != nil {
			return o, &config.Mistake{Err: fmt.Errorf("%w (datasource.secret_file)", err)}
		}
		o.Secret = []byte(secret)
	}
	return o, nil
}

// inquire is what gates ask for channels; the API, which does, is built after them.
func (b *box) inquire(cfg *config.Config) func(typ uint8, id []byte, uid string, conn uint64, loop uint16, now time.Time) bool {
	if !cfg.Source.On() {
		return nil
	}
	return func(typ uint8, id []byte, uid string, conn uint64, loop uint16, now time.Time) bool {
		return b.api.Datasource().Inquire(typ, id, uid, conn, loop, now)
	}
}

// tlsConfig is nil without certificates.
func (b *box) tlsConfig() *tls.Config {
	if b.certificates == nil {
		return nil
	}
	return b.certificates.Config()
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
	for _, g := range b.report.Damaged() {
		lines = append(lines, g.String())
	}
	return lines[:min(len(lines), 100)]
}

// health says what is wrong with log or store, if anything is. It looks at the disk by
// itself: a box without traffic may have been full, or without files, for hours.
func (b *box) health() error {
	if state := b.committer.Stats().State; state != "ok" {
		return errors.New(state)
	}
	if err := b.log.Room(); err != nil {
		return err
	}
	if err := b.log.Stuck(); err != nil {
		return fmt.Errorf("the log grows in one file: %w", err)
	}
	if b.store.Stats().Unretired.Load() {
		return errors.New("old log files cannot be removed and take space; the next checkpoint tries again")
	}
	if err := b.reader.Trouble(); err != nil {
		return fmt.Errorf("messages cannot be read now and are delivered later: %w", err)
	}
	return b.store.Health(time.Now())
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
	stuck := hang(os.Getenv("GATEPOST_TEST_HANG"))
	var apply, reader, loops, rest, checkpoints sync.WaitGroup
	part(&checkpoints, b.store.Run)
	part(&apply, func() error { return b.core.Run(stuck.outboxes("apply", b.outboxes)) })
	part(&reader, func() error { b.reader.Run(stuck.outboxes("fetch", b.outboxes)); return nil })
	part(&rest, b.committer.Run)
	for i, loop := range b.server.Loops() {
		part(&loops, func() error {
			defer b.gates[i].Close()
			return loop.Run(stuck.loop(b.gates[i]))
		})
	}
	if b.http != nil {
		part(&rest, func() error { return b.api.Serve(b.http) })
	}
	// What opening and replaying left behind. It is a collection of all there is,
	// beside the first clients: milliseconds, but for a box with very many channels.
	part(&rest, func() error { debug.FreeOSMemory(); return nil })
	part(&rest, func() error { b.mark(); return nil })
	part(&rest, func() error { b.tell(ctx); return nil })
	if source := b.api.Datasource(); source != nil {
		part(&rest, func() error { source.Run(ctx, b.outboxes); return nil })
	}
	part(&rest, func() error { b.reload(ctx, manager); return nil })
	if manager.Present() {
		part(&rest, func() error { b.status(ctx, manager); return nil })
	}
	if manager.Interval() > 0 {
		part(&rest, func() error { b.watch(ctx, manager); return nil })
	}

	<-ctx.Done()
	notify(b.logger, manager, systemd.Stopping)
	b.logger.Info("stopping")
	var left *legacy // of a hot restart
	if cfg.Net.HotRestart && manager.Present() && errors.Is(context.Cause(ctx), context.Canceled) {
		left = &legacy{started: time.Now()}
		left.blob.Demands = b.demands
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
	line("data", fmt.Sprintf("%s (%d records, %d gaps)", cfg.Data, b.report.Records, len(b.report.Damaged())))
	line("profile", fmt.Sprintf("%s (%d processors, %d MiB memory, budget %d MiB)",
		cfg.Hardware, cfg.Hardware.Facts.CPUs, cfg.Hardware.Facts.Usable()>>20, cfg.Memory.Limit>>20))
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
