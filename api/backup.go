package api

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"
)

// maxBackups is how many backups may be under way at a time.
const maxBackups = 2

// pace is how slow the reader of a backup may be. The log is kept while it reads,
// and the log of a reader that never ends would fill the disk.
type pace struct {
	window time.Duration // of waiting for the reader
	bytes  int64         // that it must have read in each
	age    time.Duration // of the whole backup
}

// backupPace is 70 KB/s, which a bad radio link has, and time for 20 GiB at 1 MB/s.
func backupPace() pace { return pace{window: time.Minute, bytes: 4 << 20, age: 6 * time.Hour} }

// backup streams a backup. When it fails in the middle the connection is broken
// off, and what came has no end.
func (s *Server) backup(w http.ResponseWriter, _ *http.Request) {
	select {
	case s.backups <- struct{}{}:
		defer func() { <-s.backups }()
	default:
		w.Header().Set("Retry-After", "60")
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("cannot take a backup: %d are under way, as many as may be at a time; try again when one is done", cap(s.backups)))
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	out := &patient{ResponseWriter: w, control: http.NewResponseController(w), pace: s.pace, began: time.Now()}
	if err := s.o.Backup(out); err != nil {
		s.o.Logger.Error("backup failed", "err", err, "bytes", out.sent, "took", time.Since(out.began))
		panic(http.ErrAbortHandler)
	}
	s.o.Logger.Info("backup taken", "bytes", out.sent, "took", time.Since(out.began))
}

// patient is a response whose reader may take its time within a pace. Only waiting
// for the reader counts, not the disk that the backup comes from.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
	pace    pace
	began   time.Time
	waited  time.Duration // in the window
	read    int64         // in the window
	sent    int64         // in all
}

func (p *patient) Write(b []byte) (int, error) {
	began := time.Now()
	patience := p.pace.window - p.waited
	if p.read >= p.pace.bytes {
		patience += p.pace.window // the next window, whose bytes are all to come
	}
	left := p.pace.age - began.Sub(p.began)
	if err := p.control.SetWriteDeadline(began.Add(min(patience, left))); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return 0, fmt.Errorf("cannot set a deadline: %w", err)
	}
	n, err := p.ResponseWriter.Write(b)
	p.waited += time.Since(began)
	p.read += int64(n)
	p.sent += int64(n)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	const why = "the log is kept meanwhile; take the backup over a faster connection"
	switch {
	case time.Since(p.began) >= p.pace.age:
		return n, fmt.Errorf("broken off after %v and %d bytes: no backup may take longer, because "+why, p.pace.age, p.sent)
	case err != nil, p.waited >= p.pace.window && p.read < p.pace.bytes:
		return n, fmt.Errorf("broken off after %d bytes: the reader took %d in %v and should take %d, because "+why,
			p.sent, p.read, p.waited.Round(time.Millisecond), p.pace.bytes)
	case p.waited >= p.pace.window:
		p.waited, p.read = 0, 0
	}
	return n, nil
}
