package main

import (
	"log/slog"
	"os"

	"gatepost/config"
	"gatepost/netio"
)

// warnOfSecrets says which files with secrets everybody on this machine can read.
func warnOfSecrets(cfg *config.Config, logger *slog.Logger) {
	for _, s := range []struct{ key, value string }{
		{"api.token_file", cfg.API.TokenFile},
		{"tls.key_file", cfg.TLS.KeyFile},
		{"webhook.secret_file", cfg.Webhook.SecretFile},
		{"datasource.secret_file", cfg.Source.SecretFile},
	} {
		if s.value == "" || s.value == "off" {
			continue
		}
		path, err := config.File(s.value, os.Getenv("CREDENTIALS_DIRECTORY"))
		if err != nil {
			continue // who reads it says why not
		}
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o004 != 0 {
			logger.Warn("secret file is readable by everybody", "key", s.key, "file", path, "mode", info.Mode().Perm().String(), "hint", "chmod o-rwx "+path)
		}
	}
}

// origins says which web pages may open a WebSocket. Without tokens whoever connects
// is believed who they are, and so would be any page that a browser here shows.
func origins(cfg *config.Config) *netio.Origins {
	o := new(netio.Origins)
	o.Any, o.List = cfg.Net.Origins(cfg.Session.TokenAuth)
	if name, err := os.Hostname(); err == nil { // without one only addresses count
		o.Names = []string{name, name + ".local"}
	}
	return o
}
