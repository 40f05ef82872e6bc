package systemd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// journalSocket is where journald takes entries in its native protocol.
const journalSocket = "/run/systemd/journal/socket"

// ToJournal says whether what is written to f goes to the journal: the service
// manager says so in JOURNAL_STREAM, and nobody has put something else in its
// place since.
func ToJournal(getenv func(string) string, f *os.File) bool {
	dev, ino, ok := strings.Cut(getenv("JOURNAL_STREAM"), ":")
	if !ok {
		return false
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false
	}
	return dev == strconv.FormatUint(uint64(st.Dev), 10) && ino == strconv.FormatUint(uint64(st.Ino), 10)
}

// JournalOptions say what a Journal writes.
type JournalOptions struct {
	Level      slog.Leveler
	Identifier string                      // SYSLOG_IDENTIFIER
	ID         func(message string) string // MESSAGE_ID of a message, "" if it has none
	Fallback   io.Writer                   // takes lines that the journal does not, as text

	socket string // for tests; "": journalSocket
}

// Journal is a slog.Handler that writes to journald with its fields: the level
// as PRIORITY, each attribute under its name in upper case, groups with "_"
// between, and MESSAGE with the attributes behind it as a person reads them. Any
// goroutine may use it.
type Journal struct {
	*journal
	fields []byte // of WithAttrs, encoded
	text   string // likewise, as in MESSAGE
	prefix string // of WithGroup
}

// journal is what all handlers that were made of one have in common.
type journal struct {
	o  JournalOptions
	mu sync.Mutex // guards what follows
	to *net.UnixConn
}

// NewJournal returns a handler. It connects with the first line.
func NewJournal(o JournalOptions) *Journal {
	if o.socket == "" {
		o.socket = journalSocket
	}
	return &Journal{journal: &journal{o: o}}
}

// Enabled is part of slog.Handler.
func (j *Journal) Enabled(_ context.Context, l slog.Level) bool { return l >= j.o.Level.Level() }

// WithAttrs is part of slog.Handler.
func (j *Journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *j
	with.fields = slices.Clone(j.fields)
	for _, a := range attrs {
		with.fields, with.text = with.attr(with.fields, with.text, a, with.prefix)
	}
	return &with
}

// WithGroup is part of slog.Handler.
func (j *Journal) WithGroup(name string) slog.Handler {
	with := *j
	if name != "" {
		with.prefix += name + "."
	}
	return &with
}

// Handle is part of slog.Handler.
func (j *Journal) Handle(_ context.Context, r slog.Record) error {
	entry, text := slices.Clone(j.fields), j.text
	r.Attrs(func(a slog.Attr) bool {
		entry, text = j.attr(entry, text, a, j.prefix)
		return true
	})
	entry = field(entry, "MESSAGE", r.Message+text)
	entry = field(entry, "PRIORITY", priority(r.Level))
	entry = field(entry, "SYSLOG_IDENTIFIER", j.o.Identifier)
	if j.o.ID != nil {
		if id := j.o.ID(r.Message); id != "" {
			entry = field(entry, "MESSAGE_ID", id)
		}
	}
	err := j.send(entry)
	if err == nil || j.o.Fallback == nil {
		return err
	}
	_, err = fmt.Fprintf(j.o.Fallback, "<%s>%s%s\n", priority(r.Level), strings.ReplaceAll(r.Message, "\n", " "), text)
	return err
}

// priority is a level as syslog counts them.
func priority(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "3"
	case l >= slog.LevelWarn:
		return "4"
	case l >= slog.LevelInfo:
		return "6"
	}
	return "7"
}

// attr adds an attribute, or those of a group, to the fields and to the text.
func (j *Journal) attr(fields []byte, text string, a slog.Attr, prefix string) ([]byte, string) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, member := range v.Group() {
			fields, text = j.attr(fields, text, member, prefix)
		}
		return fields, text
	}
	if a.Equal(slog.Attr{}) {
		return fields, text
	}
	value := v.String()
	if v.Kind() == slog.KindTime {
		value = v.Time().Format(time.RFC3339Nano)
	}
	word := value
	if word == "" || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r == '"' || r == '=' || r == 0x7f }) {
		word = strconv.Quote(word)
	}
	return field(fields, fieldName(prefix+a.Key), value), text + " " + prefix + a.Key + "=" + word
}

// fieldName makes a name of letters, digits and underscores that begins with a
// letter, as journald wants it, and is none of those that mean something to it.
func fieldName(key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	switch {
	case name == "", name[0] < 'A' || name[0] > 'Z', slices.Contains([]string{"MESSAGE", "PRIORITY", "MESSAGE_ID", "SYSLOG_IDENTIFIER"}, name):
		name = "X_" + name
	}
	return name[:min(len(name), 64)]
}

// field adds one field of the native protocol.
func field(dst []byte, name, value string) []byte {
	dst = append(dst, name...)
	if strings.Contains(value, "\n") {
		dst = append(dst, '\n')
		dst = binary.LittleEndian.AppendUint64(dst, uint64(len(value)))
	} else {
		dst = append(dst, '=')
	}
	dst = append(dst, value...)
	return append(dst, '\n')
}

// send gives an entry to journald, once more with a new connection if the old
// one has ended.
func (j *journal) send(entry []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	for again := j.to != nil; ; again = false {
		if j.to == nil {
			to, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: j.o.socket, Net: "unixgram"})
			if err != nil {
				return fmt.Errorf("cannot write to the journal: %w", err)
			}
			j.to = to
		}
		j.to.SetWriteDeadline(time.Now().Add(sendTimeout))
		_, err := j.to.Write(entry)
		if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
			err = j.sendFile(entry)
		}
		if err == nil {
			return nil
		}
		j.to.Close()
		j.to = nil
		if !again {
			return fmt.Errorf("cannot write to the journal: %w", err)
		}
	}
}

// sendFile sends an entry that no datagram can hold: in a file without a name
// that nobody can change any more.
func (j *journal) sendFile(entry []byte) error {
	fd, err := unix.MemfdCreate("journal-entry", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("memfd_create: %w", err)
	}
	defer unix.Close(fd)
	for rest := entry; len(rest) > 0; {
		n, err := unix.Write(fd, rest)
		if err != nil {
			return fmt.Errorf("writing %d bytes to a memfd: %w", len(rest), err)
		}
		rest = rest[n:]
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE|unix.F_SEAL_SEAL); err != nil {
		return fmt.Errorf("sealing a memfd: %w", err)
	}
	// WriteMsgUnix does not work with a connected socket.
	raw, err := j.to.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(to uintptr) bool {
		sent = unix.Sendmsg(int(to), nil, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
		return sent != unix.EAGAIN
	})
	return errors.Join(err, sent)
}
