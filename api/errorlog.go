package api

import (
	"bytes"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// errorLog takes what net/http says of connections: at level debug, as anybody can
// cause it, but for certificates of clients that are refused for their time. As
// often as not it is the clock of this machine that is wrong, and then all are
// refused: that is said once a minute, with the clock.
type errorLog struct {
	log *slog.Logger

	mu   sync.Mutex
	said time.Time
}

func newErrorLog(l *slog.Logger) *log.Logger { return log.New(&errorLog{log: l}, "", 0) }

// expired is how package x509 says it.
const expired = "x509: certificate has expired or is not yet valid"

func (e *errorLog) Write(p []byte) (int, error) {
	text := strings.TrimSpace(string(p))
	if !bytes.Contains(p, []byte(expired)) {
		e.log.Debug(text)
		return len(p), nil
	}
	now := time.Now()
	e.mu.Lock()
	say := e.said.IsZero() || now.Sub(e.said) >= time.Minute
	if say {
		e.said = now
	}
	e.mu.Unlock()
	if say {
		e.log.Warn("client certificate refused for its time; is the clock right?", "clock", now.UTC(), "err", text)
	}
	return len(p), nil
}
