package api

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"gatepost/broker"
	"gatepost/message"
	"gatepost/metrics"
)

// Proposer takes batches for the log; see session.Proposer.
type Proposer interface {
	Propose(*message.Batch) error
}

// Options are the limits of a server.
type Options struct {
	Outbox int // index of this server among the broker's outboxes
	Limits
	IDFloor    int64         // ids of messages are above it
	Version    string        // of the broker
	Sites      []string      // whose pages may read answers, as browsers name them in Origin
	Slots      Slots         // how much HTTP may do at a time
	Routes     Routes        // that clients are told
	Wait       time.Duration // for the log to take and answer a change; 0: 10 s
	Health     func() error  // nil: well; else why not
	Damage     []string      // found at the start; /health says it too
	Backup     func(io.Writer) error
	Datasource DatasourceOptions // of channels that are not here
	Logger     *slog.Logger
}

// Limits are the options that may change while a server serves, see SetLimits.
type Limits struct {
	Token      string // that requests must have; "": none
	MaxMembers int    // of a group
	MaxPayload int    // bytes of a message
}

// Slots is how much HTTP may do at a time, so that it cannot take from the
// messages: 4 changes, 4 pages of history and 8 sends are some 30 MiB at the very
// worst, a connection some 20 KiB, 50 while its body comes in. Open streams are 2
// MiB more, see streams.go. Zero values take the default.
type Slots struct {
	Connections int // default 64
	Reads       int // of history; default 4
	Changes     int // default 4
	Sends       int // default 8
}

func (s Slots) withDefaults() Slots {
	for _, v := range []struct {
		at      *int
		without int
	}{{&s.Connections, 64}, {&s.Reads, 4}, {&s.Changes, 4}, {&s.Sends, 8}} {
		if *v.at == 0 {
			*v.at = v.without
		}
	}
	return s
}

// Server answers HTTP requests.
type Server struct {
	o       Options
	limits  atomic.Pointer[limits]
	core    *broker.Broker
	log     Proposer
	values  *metrics.Registry
	archive Archive
	source  *Datasource // nil: there is none
	began   time.Time
	streams *streams
	backups slots
	pace    pace
	http    http.Server
	body    time.Duration // for the body of a request to come in; set before Serve

	away      turned
	displaced atomic.Int64

	mu      sync.Mutex
	waiting map[uint64]chan answer // requests by Origin.Conn; guarded by mu
	last    uint64                 // id of the newest request; guarded by mu
	ids     message.IDs            // guarded by mu
}

const (
	maxBody     = 1 << 20   // bytes of a request; a record takes twice as much
	smallBody   = 128 << 10 // of one with a single message, or without
	maxEvent    = 1024      // bytes of what names an event
	maxToken    = 4096      // bytes of a token
	defaultWait = 10 * time.Second
	readWait    = 20 * time.Second // for history to be read; inside WriteTimeout
	// changeMembers is how many members one record takes, so that records
	// stay far below the log's limits.
	changeMembers = 1000
	maxBatch      = 1000 // messages of one request
	maxPicked     = 100  // messages that are asked for by name in one request
)

// New returns a server. Post works at once, requests are answered from Serve on.
func New(o Options, core *broker.Broker, log Proposer, archive Archive, values *metrics.Registry) *Server {
	if o.Wait <= 0 {
		o.Wait = defaultWait
	}
	o.Slots = o.Slots.withDefaults()
	s := &Server{began: time.Now(), body: bodyTimeout, o: o, core: core, log: log, archive: archive, values: values, streams: newStreams(), backups: make(slots, maxBackups), pace: backupPace(), waiting: make(map[uint64]chan answer), ids: message.NewIDs(message.HTTPMaker, o.IDFloor)}
	s.SetLimits(o.Limits)
	if o.Datasource.URL != "" {
		s.source = newDatasource(o.Datasource, s)
	}
	values.CounterFunc("gatepost_http_unauthorized_total", "Requests without the token of the HTTP API, or with a wrong one.", s.away.count.Load)
	values.CounterFunc("gatepost_http_displaced_total", "HTTP connections that made room for others before a request on them was let in.", s.displaced.Load)
	values.CounterFunc("gatepost_streams_evicted_total", "Streams without an end whose pieces were forgotten, for others to have room.", s.streams.evicted.Load)
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.HandleFunc(r.method+" "+r.path, r.handler)
	}
	all := sorry(mux)
	s.http = http.Server{
		Handler:           s.settled(forSites(o.Sites, all, guard(s.token256, &s.away, all))),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       15 * time.Second,
		ConnContext:       remember,
		ConnState:         notice,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          newErrorLog(o.Logger),
	}
	return s
}

// limits are Limits as they are used.
type limits struct {
	Limits
	hash *[sha256.Size]byte // of Token; nil: there is none
}

// SetLimits changes limits, for requests from now on. Any goroutine.
func (s *Server) SetLimits(l Limits) {
	now := &limits{Limits: l}
	if l.Token != "" {
		hash := sha256.Sum256([]byte(l.Token))
		now.hash = &hash
	}
	s.limits.Store(now)
}

func (s *Server) token256() *[sha256.Size]byte { return s.limits.Load().hash }

// endpoint is one kind of request.
type endpoint struct {
	method, path string
	handler      http.HandlerFunc
}

// routes are all kinds of requests; openapi.json describes each.
func (s *Server) routes() []endpoint {
	slot := func(n int, what string) func(http.HandlerFunc) http.HandlerFunc {
		room := make(slots, n)
		return func(h http.HandlerFunc) http.HandlerFunc { return room.limit(what, h) }
	}
	slotted := slot(s.o.Slots.Reads, "readings of history")
	read := func(h http.HandlerFunc) http.HandlerFunc { return slotted(s.within(readWait, h)) }
	change, send := slot(s.o.Slots.Changes, "changes"), slot(s.o.Slots.Sends, "messages")
	all := []endpoint{
		{"GET", "/health", s.health},
		{"GET", "/metrics", s.metrics},
		{"GET", "/varz", s.varz},
		{"POST", "/backup", s.backup},
		{"GET", "/openapi.json", s.describe},

		{"GET", "/channel/info", s.info},
		{"GET", "/channel/subscribers", s.subscribers},
		{"GET", "/channel/blacklist", s.lists(false)},
		{"GET", "/channel/whitelist", s.lists(true)},
		{"POST", "/channel/keep", change(s.keep)},

		{"POST", "/user/token", change(s.token)},
		{"POST", "/user/device_quit", change(s.deviceQuit)},
		{"POST", "/user/offline_push", change(s.offlinePush)},
		{"POST", "/user/systemuids_add", change(s.systems(message.OpSystem))},
		{"POST", "/user/systemuids_remove", change(s.systems(message.OpOrdinary))},
		{"GET", "/user/systemuids", s.allSystems},
		{"POST", "/user/onlinestatus", s.within(s.o.Wait, s.onlineStatus)},

		{"GET", "/connz", s.within(s.o.Wait, s.connz)},
		{"POST", "/conn/kick", s.within(s.o.Wait, s.end(message.ReasonConnectKick))},
		{"POST", "/conn/remove", s.within(s.o.Wait, s.end(0))},
		{"GET", "/route", s.route},
		{"POST", "/route/batch", s.routeMany},

		{"POST", "/conversation/sync", read(s.talks)},
		{"POST", "/conversation/syncMessages", read(s.talkMessages)},
		{"POST", "/conversations/clearUnread", change(s.changeTalk(message.OpRead))},
		{"POST", "/conversations/setUnread", change(s.changeTalk(message.OpUnread))},
		{"POST", "/conversations/delete", change(s.changeTalk(message.OpHide))},

		{"POST", "/message/send", send(s.send)},
		{"POST", "/message/sendbatch", send(s.sendBatch)},
		{"POST", "/message/event", send(s.event)},
		{"POST", "/message/eventsync", read(s.eventSync)},
		{"POST", "/messages", read(s.messages)},
		{"POST", "/message", read(s.message)},
		{"POST", "/channel/messagesync", read(s.messageSync)},
		{"GET", "/channel/max_message_seq", s.newestSeq},
		{"GET", "/channel/last_message", read(s.lastMessage)},
		{"GET", "/message/byclientmsgno", read(s.byClientMsgNo)},
		{"GET", "/history", read(s.history)},
	}
	for _, a := range actions() {
		all = append(all, endpoint{"POST", a.path, change(s.change(a))})
	}
	return all
}

// sorry answers what is no kind of request in the form of all other errors.
func sorry(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		said := silent{header: make(http.Header), status: http.StatusNotFound}
		h.ServeHTTP(&said, r)
		if allow := said.header.Get("Allow"); said.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", allow)
			fail(w, said.status, fmt.Errorf("cannot %s %s: %s is possible", r.Method, r.URL.Path, allow))
			return
		}
		fail(w, http.StatusNotFound, fmt.Errorf("cannot %s %s: there is no such path; GET /openapi.json describes those there are", r.Method, r.URL.Path))
	})
}

// silent keeps a status and nothing that is written.
type silent struct {
	header http.Header
	status int
}

func (s *silent) Header() http.Header         { return s.header }
func (s *silent) WriteHeader(status int)      { s.status = status }
func (s *silent) Write(p []byte) (int, error) { return len(p), nil }

// Serve answers requests on ln until Close, and returns why it ended otherwise.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.http.Serve(newCrowd(ln, s.o.Slots.Connections, &s.displaced)); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("cannot serve HTTP on %v: %w", ln.Addr(), err)
	}
	return nil
}

// Datasource returns who asks the application for channels, nil if nobody does.
func (s *Server) Datasource() *Datasource { return s.source }

// Close stops listening and ends all requests.
func (s *Server) Close() error { return s.http.Close() }

// Post takes answers of the broker to the requests that wait for them; see
// broker.Outbox. There is nothing else for a server.
func (s *Server) Post(ds []broker.Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range ds {
		if c := s.waiting[ds[i].Conn]; c != nil && (ds[i].Kind == broker.Ack || ds[i].Kind == broker.Known) {
			select {
			case c <- answer{part: int(ds[i].ClientSeq), reason: ds[i].Reason, id: ds[i].MessageID, seq: ds[i].Seq}:
			default:
				panic("BUG: a change was answered more often than it has records")
			}
		}
	}
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if err := s.o.Health(); err != nil {
		reply(w, http.StatusServiceUnavailable, map[string]any{"status": "trouble", "msg": err.Error()})
		return
	}
	answer := map[string]any{"status": "ok"}
	if len(s.o.Damage) > 0 {
		answer["damage"] = s.o.Damage
	}
	reply(w, http.StatusOK, answer)
}

func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", metrics.ContentType)
	_ = s.values.WritePrometheus(w) // who asked is gone
}

// varz answers GET /varz: all values, and some of them under the names that the
// public servers have for them.
func (s *Server) varz(w http.ResponseWriter, _ *http.Request) {
	var text bytes.Buffer
	all := make(map[string]any)
	if err := errors.Join(s.values.WriteJSON(&text), json.Unmarshal(text.Bytes(), &all)); err != nil {
		panic("BUG: the values cannot be written: " + err.Error())
	}
	for name, ours := range map[string]string{
		"connections": "gatepost_connections", "in_msgs": "gatepost_sends_total", "out_msgs": "gatepost_recvs_total",
		"in_bytes": "gatepost_read_bytes_total", "out_bytes": "gatepost_written_bytes_total",
		"retry_queue": "gatepost_inflight", "slow_clients": "gatepost_behind",
	} {
		if value, ok := all[ours]; ok {
			all[name] = value
		}
	}
	all["server_id"], all["version"] = "1", s.o.Version
	all["uptime"], all["goroutine"] = time.Since(s.began).Truncate(time.Second).String(), runtime.NumGoroutine()
	all["tcp_addr"], all["ws_addr"], all["wss_addr"] = s.o.Routes.TCP, s.o.Routes.WS, s.o.Routes.WSS
	reply(w, http.StatusOK, all)
}

// decode reads the body of a request, limit bytes at most. Names that are not
// UTF-8 are refused: the JSON decoder would put something else, and longer, in
// their place.
func decode(w http.ResponseWriter, r *http.Request, limit int64, c any) error {
	text, err := readBody(w, r, limit)
	if err != nil {
		if long := new(http.MaxBytesError); errors.As(err, &long) {
			w.Header().Set("Connection", "close") // what is left of it is not taken in
		}
		return fmt.Errorf("cannot read the body: %w", err)
	}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // Windows writes it
	if !utf8.Valid(text) {
		return errors.New("the body is not UTF-8")
	}
	if seen, ok := r.Context().Value(bodies{}).(func(any)); ok {
		seen(c)
	}
	var odd *json.UnmarshalTypeError
	switch err := unmarshal(text, c); {
	case err == nil:
		return nil
	case errors.As(err, &odd) && odd.Field != "":
		return fmt.Errorf("%s is a JSON %s, a value for a %s is expected, see /openapi.json", odd.Field, odd.Value, odd.Type)
	case errors.As(err, &odd):
		return fmt.Errorf("the body is a JSON %s, which is not what is expected, see /openapi.json", odd.Value)
	default:
		return fmt.Errorf("the body is not what is expected, one JSON value, see /openapi.json: %w", err)
	}
}

// readBody reads a body of limit bytes at most, unpacked.
func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	raw := http.MaxBytesReader(w, r.Body, limit)
	switch packing := strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))); packing {
	case "", "identity":
		return io.ReadAll(raw)
	case "gzip", "x-gzip":
		unpacked, err := gzip.NewReader(raw)
		if err != nil {
			return nil, err
		}
		return io.ReadAll(http.MaxBytesReader(w, unpacked, limit))
	default:
		return nil, fmt.Errorf("the Content-Encoding %s is not understood, gzip is", packing)
	}
}

// bodies is the key of a func(any) in the context of a request: it is shown what
// the body is decoded into. Tests hold that and openapi.json together.
type bodies struct{}

// carryOut commits the records of a change to what is called name and answers the
// request. Records that are refused for the reason fine have nothing to change.
func (s *Server) carryOut(w http.ResponseWriter, r *http.Request, name string, parts []message.Record, fine uint8) {
	answers, status, err := s.commit(r.Context(), parts, false)
	if err != nil {
		fail(w, status, fmt.Errorf("cannot change %s: %w", name, err))
		return
	}
	worst := message.ReasonSuccess
	for _, a := range answers {
		if a.reason != message.ReasonSuccess && a.reason != fine {
			worst = a.reason
		}
	}
	switch worst {
	case message.ReasonSuccess:
		reply(w, http.StatusOK, map[string]any{"status": http.StatusOK})
	case message.ReasonNotAllowSend:
		fail(w, http.StatusBadRequest, fmt.Errorf("cannot change %s: %w", name, errCrowded))
	case message.ReasonChannelNotExist:
		fail(w, http.StatusNotFound, fmt.Errorf("cannot change %s: there is no such channel, or nobody is in it who should", name))
	default:
		fail(w, http.StatusServiceUnavailable, fmt.Errorf("cannot change %s: the log refused it (reason %d), see the broker's log", name, worst))
	}
}

// enlist makes a request known to Post; it may get n answers.
func (s *Server) enlist(n int) (uint64, <-chan answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	c := make(chan answer, n)
	s.waiting[s.last] = c
	return s.last, c
}

func (s *Server) dismiss(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiting, id)
}

func fail(w http.ResponseWriter, status int, err error) {
	reply(w, status, map[string]any{"status": status, "msg": err.Error()})
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // who asked is gone
}
