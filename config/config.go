package config

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"gatepost/hwprofile"
)

// Config holds every setting with its final value. Sizes are bytes. The fields
// are named like the keys of the file: net.read_budget is Net.ReadBudget.
type Config struct {
	Data       string // directory
	DataMarker string // file, "off": none
	TCP        string // host:port, "" when off
	WS         string // host:port, "" when off
	HTTP       string // host:port, "" when off
	Encryption bool

	Log      Log
	Net      Net
	Queue    Queue
	Wal      Wal
	Store    Store
	Broker   Broker
	Retry    Retry
	Session  Session
	API      API
	TLS      TLS
	Webhook  Webhook
	Source   Datasource
	Memory   Memory
	Profiles Profiles

	// Hardware is the machine and the profiles that gave the defaults.
	Hardware hwprofile.Profile

	// File is the TOML file that was read, "" without one.
	File string

	origin map[string]string       // key name -> where its value came from; every key is present
	again  func() (*Config, error) // see Reload
}

// API is the HTTP API.
type API struct {
	TokenFile string
	RouteTCP  string
	RouteWS   string

	MaxConnections int
	MaxReads       int
	MaxChanges     int
	MaxSends       int
}

// Token returns the file with the token, "" if there is none.
func (a API) Token() string {
	if a.TokenFile == "off" {
		return ""
	}
	return a.TokenFile
}

// credential is how the value of a key for a file begins when systemd has the
// file: LoadCredential= and SetCredential= of the unit, under a name.
const credential = "credential:"

// File returns the path of a file that a key names. dir is CREDENTIALS_DIRECTORY.
func File(value, dir string) (string, error) {
	name, ok := strings.CutPrefix(value, credential)
	switch {
	case !ok:
		return value, nil
	case name == "" || strings.ContainsAny(name, "/\x00") || name[0] == '.':
		return "", fmt.Errorf("cannot use %q: %q is no name of a credential", value, name)
	case dir == "":
		return "", fmt.Errorf("cannot use %q: this process was given no credentials; LoadCredential=%s:PATH in the systemd unit gives one", value, name)
	}
	return filepath.Join(dir, name), nil
}

// TLS is encrypted connections. Files are "off" where there is none.
type TLS struct {
	TCP            string // host:port, "" when off
	WS             string // host:port, "" when off
	HTTP           bool
	CertFile       string
	KeyFile        string
	ClientCAFile   string
	MaxConnections int
}

// On says whether anything is served inside TLS.
func (t TLS) On() bool { return t.TCP != "" || t.WS != "" || t.HTTP }

// Webhook is what the application is told.
type Webhook struct {
	URL        string
	Events     string // names, separated by commas
	SecretFile string
	Timeout    time.Duration
}

// On says whether anybody is told.
func (w Webhook) On() bool { return w.URL != "off" }

// Has says whether an event is among those to be told.
func (w Webhook) Has(event string) bool {
	for name := range strings.SplitSeq(w.Events, ",") {
		if strings.TrimSpace(name) == event {
			return true
		}
	}
	return false
}

// Datasource is whom channels are asked of that are not here.
type Datasource struct {
	URL        string
	SecretFile string
	Timeout    time.Duration
	MaxAge     time.Duration
}

// On says whether anybody is asked.
func (d Datasource) On() bool { return d.URL != "off" }

// Log is what the process says on standard error.
type Log struct {
	Level  string // "debug", "info", "warn", "error"
	Format string // "text", "json"
}

// Net is sockets, rings and limits of connections.
type Net struct {
	Loops          int
	Scratch        int64
	ReadBudget     int64
	OutLimit       int64
	RingPool       int64 // for all loops together
	MaxConnections int
	IdleTimeout    time.Duration
	LoginTimeout   time.Duration
	PartialTimeout time.Duration
	Wait           string // "yield", "block"
	ProxyProtocol  bool
	HotRestart     bool // connections outlive a restart by the service manager
	MaxPayload     int64
	Backlog        int
	Unsent         int64
	UserTimeout    time.Duration
	KeepAlive      KeepAlive
	Rate           int // messages per second of one connection, 0: no limit
	WSOrigins      string
}

// Origins returns which sites' pages may open a WebSocket: any, or besides those of
// the host that they connect to those of the list, which HTTP answers too. tokens says that clients log in
// with one, which a page of another site has not.
func (n Net) Origins(tokens bool) (anySite bool, list []string) {
	switch n.WSOrigins {
	case "any":
		return true, nil
	case "auto":
		return tokens, nil
	case "same":
		return false, nil
	}
	for site := range strings.SplitSeq(n.WSOrigins, ",") {
		list = append(list, strings.TrimSpace(site))
	}
	return false, list
}

// KeepAlive is the kernel's question whether a silent peer is still there.
type KeepAlive struct {
	Idle     time.Duration
	Interval time.Duration
	Count    int
}

// Yield reports whether loops poll once more before they sleep.
func (n Net) Yield() bool { return n.Wait == "yield" }

// Queue is the bounds of the hand-over structures.
type Queue struct {
	LogItems     int
	LogBytes     int64
	ApplyItems   int
	ApplyBytes   int64
	MailboxItems int   // of each loop
	MailboxBytes int64 // of each loop
}

// Recycle reports whether the log is written into files that are used again.
// auto does so everywhere: in the benchmark of the engines it was the faster
// one at every group size, and it needs less memory.
func (w Wal) Recycle() bool { return w.Engine != "tidwall" }

// Store is what is kept. 0 is no bound.
type Store struct {
	Budget        int64 // of everything on the disk
	Person, Group Keep
}

// Keep is how much of each channel of a type is kept.
type Keep struct {
	MaxAge      time.Duration
	MaxMessages int
	MaxBytes    int64
}

// Wal is the log.
type Wal struct {
	Engine     string // "auto", "tidwall", "recycled"
	Linger     time.Duration
	RollSize   int64
	GroupBytes int64
	GroupItems int
	Headroom   int64
}

// Broker is the bounds of the core's tables.
type Broker struct {
	DedupWindow     int // remembered (sender, client_msg_no)
	MaxGroupMembers int
	PersonAllowList bool
	MaxChannels     int
	UserChannels    int // that the messages of one user may make in an hour
}

// Retry is the resending of messages that were pushed and not acknowledged.
type Retry struct {
	First time.Duration
	Max   time.Duration
	Tries int
	Tick  time.Duration
}

// Session is the bounds of one connection's delivery.
type Session struct {
	InflightMax    int
	InflightTotal  int // for all loops together
	CursorInterval time.Duration
	TokenAuth      bool
	DeviceLevel    string // "slave", "master"
}

// Memory is the budget of the process.
type Memory struct {
	Limit     int64
	GCPercent int
}

// Profiles is where the profiles of this machine are.
type Profiles struct {
	Dir string
}

// Origin says where the value of a key came from: "built-in", "FILE:LINE", where
// a file without a directory is in the binary, or "flag --net.loops". It is "" for a name that is no key.
func (c *Config) Origin(name string) string { return c.origin[name] }

// Ceiling is the smallest memory limit in bytes that is enough when every
// queue, ring and table is full. Load refuses a memory.limit below it.
func (c *Config) Ceiling() int64 {
	sealed := int64(0)
	if c.TLS.On() {
		sealed = int64(c.TLS.MaxConnections) * tlsBytes
	}
	return sealed + c.sizes().Ceiling()
}

// tlsBytes is what a connection inside TLS may take besides: 14 KiB measured when
// idle, and two records.
const tlsBytes = 48 * kib

// HeapLimit is the value for debug.SetMemoryLimit in bytes: the budget without
// the rings, which live outside the Go heap, and without a tenth for what
// neither counts.
func (c *Config) HeapLimit() int64 {
	rings := c.Net.RingPool + int64(c.Net.Loops)*c.Net.Scratch
	return c.Memory.Limit - rings - c.Memory.Limit/10
}
