package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"syscall"

	"gatepost/ack"
	"gatepost/api"
	"gatepost/config"
	"gatepost/netio"
	"gatepost/session"
	"gatepost/store"
	"gatepost/systemd"
)

// What a reload can change is in this file and nowhere else, in the form in
// which the start uses it too.

func retries(cfg *config.Config) ack.Options {
	return ack.Options{Tick: cfg.Retry.Tick, First: cfg.Retry.First, Max: cfg.Retry.Max, Tries: cfg.Retry.Tries}
}

func rules(cfg *config.Config) store.Rules {
	return store.Rules{Keep: keep(&cfg.Store), Budget: cfg.Store.Budget, BlockFile: blockFile(cfg.Store.Budget)}
}

// apiLimits reads the token's file.
func apiLimits(cfg *config.Config) (api.Limits, error) {
	l := api.Limits{MaxMembers: cfg.Broker.MaxGroupMembers, MaxPayload: int(cfg.Net.MaxPayload)}
	var err error
	if path := cfg.API.Token(); path != "" {
		if l.Token, err = secret(path); err != nil {
			err = &config.Mistake{Err: fmt.Errorf("%w (api.token_file)", err)}
		}
	}
	return l, err
}

// certificates reads those of TLS; nil: TLS is off.
func certificates(cfg *config.Config) (*netio.Certificates, error) {
	if !cfg.TLS.On() {
		return nil, nil
	}
	files := [3]string{cfg.TLS.CertFile, cfg.TLS.KeyFile, cfg.TLS.ClientCAFile}
	if files[2] == "off" {
		files[2] = ""
	}
	var bad error
	for i, value := range files {
		path, err := config.File(value, os.Getenv("CREDENTIALS_DIRECTORY"))
		files[i], bad = path, errors.Join(bad, err)
	}
	c, err := (*netio.Certificates)(nil), bad
	if err == nil {
		c, err = netio.LoadCertificates(files[0], files[1], files[2])
	}
	if err != nil {
		return nil, &config.Mistake{Err: fmt.Errorf("%w (tls.cert_file, tls.key_file, tls.client_ca_file)", err)}
	}
	return c, nil
}

// secret reads a token or secret of a file that a key names.
func secret(value string) (string, error) {
	path, err := config.File(value, os.Getenv("CREDENTIALS_DIRECTORY"))
	if err != nil {
		return "", err
	}
	return api.ReadToken(path)
}

// webhookOptions reads the secret's file.
func webhookOptions(cfg *config.Config, logger *slog.Logger) (api.WebhookOptions, error) {
	o := api.WebhookOptions{
		Offline: cfg.Webhook.Has(api.EventOffline),
		Notify:  cfg.Webhook.Has(api.EventNotify),
		Status:  cfg.Webhook.Has(api.EventStatus),
		Timeout: cfg.Webhook.Timeout,
		Logger:  logger,
	}
	if cfg.Webhook.On() {
		o.URL = cfg.Webhook.URL
	}
	if cfg.Webhook.SecretFile != "off" {
		secret, err := secret(cfg.Webhook.SecretFile)
		if err != nil {
			return o, &config.Mistake{Err: fmt.Errorf("%w (webhook.secret_file)", err)}
		}
		o.Secret = []byte(secret)
	}
	return o, nil
}

// reload reads the configuration again whenever SIGHUP comes.
func (b *box) reload(ctx context.Context, manager systemd.Manager) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.hup:
		}
		notify(b.logger, manager, systemd.ReloadingNow())
		live, restart, err := b.again()
		switch {
		case err != nil:
			b.logger.Error("configuration not read again, nothing has changed", "err", err)
		case len(restart) > 0:
			b.logger.Warn("configuration read again, some keys need a restart", "changed", strings.Join(live, " "), "restart", strings.Join(restart, " "))
		default:
			b.logger.Info("configuration read again", "changed", strings.Join(live, " "))
		}
		notify(b.logger, manager, systemd.Ready)
	}
}

// again reads the configuration and all files that it names, and if all of them
// are sound makes them hold.
func (b *box) again() (live, restart []string, err error) {
	next, err := b.cfg.Reload()
	if err != nil {
		return nil, nil, err
	}
	cfg, live, restart, err := b.cfg.Adopt(next)
	if err != nil {
		return nil, nil, err
	}
	if b.http != nil { // its address may be a passed socket's
		if err := cfg.CheckHTTP(b.http.Addr().String()); err != nil {
			return nil, nil, err
		}
	}
	certs, err := certificates(cfg)
	if err != nil {
		return nil, nil, err
	}
	limits, err := apiLimits(cfg)
	if err != nil {
		return nil, nil, err
	}
	hook, err := webhookOptions(cfg, b.logger)
	if err != nil {
		return nil, nil, err
	}

	// Nothing fails from here on.
	b.cfg = cfg
	if certs != nil {
		b.certificates.Take(certs)
	}
	b.level.Set(level(cfg.Log))
	b.server.SetMaxConns(cfg.Net.MaxConnections, cfg.TLS.MaxConnections)
	for _, g := range b.gates {
		g.SetLimits(session.Limits{MaxPayload: int(cfg.Net.MaxPayload), Rate: cfg.Net.Rate, Retry: retries(cfg)})
	}
	b.api.SetLimits(limits)
	b.store.SetRules(rules(cfg))
	if !reflect.DeepEqual(hook, b.hook) {
		b.hook = hook
		hook.Stats = b.webhook.Stats()
		select {
		case <-b.hooks: // one that was not begun
		default:
		}
		b.hooks <- hook
	}
	return live, restart, nil
}

// tell runs one webhook after the other: each until the next one comes.
func (b *box) tell(ctx context.Context) {
	for hook := b.webhook; ; {
		until, stop := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			hook.Run(until)
		}()
		var o api.WebhookOptions
		select {
		case <-ctx.Done():
		case o = <-b.hooks:
		}
		stop()
		<-done
		if ctx.Err() != nil {
			return
		}
		var err error
		if o.WasOn, err = b.core.AskHooks(ctx, o.URL != ""); err != nil {
			return // the end
		}
		hook = api.NewWebhook(o, b.core, b.committer, b.store)
	}
}

// catchHUP begins to take SIGHUP, which would else end the process.
func catchHUP() (hup chan os.Signal, stop func()) {
	hup = make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	return hup, func() { signal.Stop(hup) }
}
