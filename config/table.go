package config

import "time"

const (
	kib int64 = 1 << 10
	mib int64 = 1 << 20
	gib int64 = 1 << 30
)

// kind is how a value is written and what its range means.
type kind int

const (
	text     kind = iota // a string that is not empty
	address              // host:port, or "off"
	boolean              // true or false
	integer              // a whole number
	size                 // a whole number and a unit: "64KiB"
	duration             // as Go writes it: "10s", "1m30s"
	choice               // one of a few words
)

// key is one line of the table. The value lives in the Config at the address
// that at returns: *string for text, address and choice, *bool, *int, *int64
// for size, *time.Duration.
type key struct {
	name    string
	kind    kind
	builtin string // the default as it would be written; "" when the profile's class has it
	min     int64  // smallest number, bytes or nanoseconds
	max     int64
	zero    string   // what 0 means where it is allowed besides min..max
	power   bool     // only powers of two
	words   []string // of a choice
	live    bool     // may change while the broker runs, see Adopt
	at      func(*Config) any
	help    string
}

// section is a group of keys in the file and in the documentation.
type section struct{ name, help string }

func sections() []section {
	return []section{
		{"", "Ports and the data directory."},
		{"log", "What the process says on standard error."},
		{"net", "Sockets, rings and the limits of connections."},
		{"queue", "Bounds of the queues between the parts. A full queue stops the reading of sockets; nothing is dropped in silence."},
		{"wal", "The log on disk."},
		{"store", "What is kept. Whole blocks and files are dropped, the oldest first; what was dropped is skipped for readers and counted."},
		{"broker", "Bounds of the core's tables."},
		{"retry", "Resending of messages that were pushed and not acknowledged."},
		{"session", "Delivery to one connection."},
		{"api", "The HTTP API."},
		{"tls", "Encrypted connections, with certificates."},
		{"webhook", "What the application is told."},
		{"datasource", "What the application is asked."},
		{"memory", "The budget of the process."},
		{"profile", "Where the profiles of this machine are."},
	}
}

// table returns the keys in the order of the documentation.
func table() []key {
	second := int64(time.Second)
	return []key{
		{name: "data", kind: text, builtin: "data", at: func(c *Config) any { return &c.Data },
			help: "Directory of everything that is kept. It is created when it is missing, with a warning; one process at a time."},
		{name: "data_marker", kind: text, builtin: "off", at: func(c *Config) any { return &c.DataMarker },
			help: "File that tells a disk that is not mounted from a new box. A broker that has started makes it when the data directory is on another disk than the file, and not in memory. While it exists, a start is refused if the data directory holds no data or is on the same disk as the file. Remove it to begin with new data. The packaged service has one, /var/lib/gatepost-marker/own-disk."},
		{name: "tcp", kind: address, builtin: ":5100", at: func(c *Config) any { return &c.TCP },
			help: "Where WuKongIM clients connect over TCP."},
		{name: "ws", kind: address, builtin: ":5200", at: func(c *Config) any { return &c.WS },
			help: "Where WuKongIM clients connect over WebSocket."},
		{name: "http", kind: address, builtin: "127.0.0.1:5001", at: func(c *Config) any { return &c.HTTP },
			help: "The HTTP API. Listening for other machines needs api.token_file."},
		{name: "encryption", kind: boolean, builtin: "true", at: func(c *Config) any { return &c.Encryption },
			help: "Encrypt payloads between client and broker, as the WuKongIM clients expect. One switch for all connections."},

		{name: "api.token_file", live: true, kind: text, builtin: "off", at: func(c *Config) any { return &c.API.TokenFile },
			help: "File with the token that each request must have, in its first line, in a header \"token\" or \"Authorization: Bearer\"; \"off\": none is asked for. /health needs none. \"credential:NAME\", here and for every other file, is one that systemd hands over (LoadCredential=NAME:PATH)."},
		{name: "api.route_tcp", kind: text, builtin: "auto", at: func(c *Config) any { return &c.API.RouteTCP },
			help: "HOST:PORT that GET /route tells clients to use for TCP. \"auto\": the port that is listened on, and the host under which HTTP was asked."},
		{name: "api.route_ws", kind: text, builtin: "auto", at: func(c *Config) any { return &c.API.RouteWS },
			help: "The same for WebSocket."},
		{name: "api.max_connections", kind: integer, builtin: "64", min: 1, max: 10_000, at: func(c *Config) any { return &c.API.MaxConnections },
			help: "Connections to HTTP at a time; each takes some 20 KiB. Further ones take the place of those that never said a whole request, or wait."},
		{name: "api.max_reads", kind: integer, builtin: "4", min: 1, max: 1000, at: func(c *Config) any { return &c.API.MaxReads },
			help: "Readings of history at a time; others wait up to 5 seconds. Each may take some MiB."},
		{name: "api.max_changes", kind: integer, builtin: "4", min: 1, max: 1000, at: func(c *Config) any { return &c.API.MaxChanges },
			help: "The same for changes of channels and users."},
		{name: "api.max_sends", kind: integer, builtin: "8", min: 1, max: 1000, at: func(c *Config) any { return &c.API.MaxSends },
			help: "The same for messages sent over HTTP."},

		{name: "tls.tcp", kind: address, builtin: "off", at: func(c *Config) any { return &c.TLS.TCP },
			help: "Where WuKongIM clients connect inside TLS. Needs tls.cert_file."},
		{name: "tls.ws", kind: address, builtin: "off", at: func(c *Config) any { return &c.TLS.WS },
			help: "Where they connect over WebSocket inside TLS (wss)."},
		{name: "tls.http", kind: boolean, builtin: "false", at: func(c *Config) any { return &c.TLS.HTTP },
			help: "The HTTP API speaks TLS, on the address of http. It needs api.token_file all the same for other machines."},
		{name: "tls.cert_file", live: true, kind: text, builtin: "off", at: func(c *Config) any { return &c.TLS.CertFile },
			help: "Certificate with its chain, PEM. It and the other files are read again on SIGHUP also when their names are the same; connections stay."},
		{name: "tls.key_file", live: true, kind: text, builtin: "off", at: func(c *Config) any { return &c.TLS.KeyFile },
			help: "Its key, PEM."},
		{name: "tls.client_ca_file", live: true, kind: text, builtin: "off", at: func(c *Config) any { return &c.TLS.ClientCAFile },
			help: "Authorities, PEM: every client must have a certificate of one of them. \"off\": none needs one."},
		{name: "tls.max_connections", live: true, kind: integer, builtin: "250", min: 1, max: 1_000_000, at: func(c *Config) any { return &c.TLS.MaxConnections },
			help: "Connections inside TLS, of all; each may take 48 KiB of the budget. A further one takes the place of one that is not logged in, or is closed."},

		{name: "webhook.url", live: true, kind: text, builtin: "off", at: func(c *Config) any { return &c.Webhook.URL },
			help: "The application's address, http or https, that is told of messages and of who is online: POST with ?event=NAME. It is told of what comes after this was first set, at least once and in the order of each channel, and again until it answers 2xx. \"off\": nobody is told."},
		{name: "webhook.events", live: true, kind: text, builtin: "msg.offline,msg.notify,user.onlinestatus", at: func(c *Config) any { return &c.Webhook.Events },
			help: "Which events, separated by commas."},
		{name: "webhook.secret_file", live: true, kind: text, builtin: "off", at: func(c *Config) any { return &c.Webhook.SecretFile },
			help: "File with a secret, in its first line. Requests are signed with it in the header X-Gatepost-Signature: t=UNIX,v1=HEX, HMAC-SHA-256 of \"UNIX.BODY\"."},
		{name: "webhook.timeout", live: true, kind: duration, builtin: "10s", min: second / 10, max: 300 * second, at: func(c *Config) any { return &c.Webhook.Timeout },
			help: "How long one request may take."},

		{name: "datasource.url", kind: text, builtin: "off", at: func(c *Config) any { return &c.Source.URL },
			help: "The application's address, http or https, that is asked who is in a channel that is not here (POST with getSubscribers, getBlacklist, getWhitelist, getChannelInfo), and who may send everywhere (getSystemUIDs). The first message to the channel waits for the answer, which is kept. \"off\": what is not here is not there."},
		{name: "datasource.secret_file", kind: text, builtin: "off", at: func(c *Config) any { return &c.Source.SecretFile },
			help: "File with a secret, in its first line, that these requests are signed with, like webhook.secret_file."},
		{name: "datasource.timeout", kind: duration, builtin: "5s", min: second / 10, max: 60 * second, at: func(c *Config) any { return &c.Source.Timeout },
			help: "How long one request may take."},
		{name: "datasource.max_age", kind: duration, builtin: "5m", min: second, max: 30 * 24 * 3600 * second, zero: "for ever", at: func(c *Config) any { return &c.Source.MaxAge },
			help: "When an answer is older, the application is asked again with the next message to the channel, which does not wait. While it cannot be reached the last answer holds."},

		{name: "log.level", live: true, kind: choice, builtin: "info", words: []string{"debug", "info", "warn", "error"}, at: func(c *Config) any { return &c.Log.Level },
			help: "The least important line that is still written."},
		{name: "log.format", kind: choice, builtin: "text", words: []string{"text", "json"}, at: func(c *Config) any { return &c.Log.Format },
			help: "How a line is written."},

		{name: "net.loops", kind: integer, min: 1, max: 15, at: func(c *Config) any { return &c.Net.Loops },
			help: "Event loops. The profile takes one processor fewer than there are, at least 1 and at most 4."},
		{name: "net.scratch", kind: size, min: 64 * kib, max: 2 * mib, power: true, at: func(c *Config) any { return &c.Net.Scratch },
			help: "The ring of each loop that sockets are read into."},
		{name: "net.read_budget", kind: size, min: 4 * kib, max: 16 * mib, at: func(c *Config) any { return &c.Net.ReadBudget },
			help: "How much one connection may have read in a round before the others get their turn."},
		{name: "net.out_limit", kind: size, min: 4 * kib, max: 1 * mib, at: func(c *Config) any { return &c.Net.OutLimit },
			help: "Unsent bytes of one connection above which nothing more is pushed to it until it has read; it is caught up from the log later."},
		{name: "net.ring_pool", kind: size, min: 4 * mib, max: 1 * gib, at: func(c *Config) any { return &c.Net.RingPool },
			help: "Memory for partial frames and unsent bytes, all loops together, at least 4MiB for each. It is mapped when needed."},
		{name: "net.max_connections", live: true, kind: integer, min: 1, max: 1_000_000, at: func(c *Config) any { return &c.Net.MaxConnections },
			help: "Connections at a time. A further one takes the place of one that is not logged in: the oldest of the address that has most of those; if all are logged in, it is closed. One user has half of them at most, and a further login ends the oldest. The profile's number is lowered to what the limit of open files allows."},
		{name: "net.idle_timeout", kind: duration, builtin: "3m", min: second, max: 24 * 3600 * second, at: func(c *Config) any { return &c.Net.IdleTimeout },
			help: "A connection that sends nothing for this long, not even a ping, is closed."},
		{name: "net.login_timeout", kind: duration, builtin: "5s", min: second / 10, max: 3600 * second, at: func(c *Config) any { return &c.Net.LoginTimeout },
			help: "A connection that has not logged in after this long is closed."},
		{name: "net.partial_timeout", kind: duration, builtin: "30s", min: second / 10, max: 3600 * second, at: func(c *Config) any { return &c.Net.PartialTimeout },
			help: "A connection whose frame is still incomplete after this long is closed."},
		{name: "net.wait", kind: choice, builtin: "yield", words: []string{"yield", "block"}, at: func(c *Config) any { return &c.Net.Wait },
			help: "How a loop waits: `yield` polls once more after letting others run and has the lower latency, `block` sleeps at once."},
		{name: "net.proxy_protocol", kind: boolean, builtin: "false", at: func(c *Config) any { return &c.Net.ProxyProtocol },
			help: "Expect a PROXY protocol header in front of every connection and believe the address in it. Only behind a proxy that always sends one."},
		{name: "net.hot_restart", kind: boolean, builtin: "true", at: func(c *Config) any { return &c.Net.HotRestart },
			help: "When the service manager restarts the process, connections stay and the next process goes on with them. `false`: they are closed."},
		{name: "net.max_payload", live: true, kind: size, builtin: "32767B", min: 1, max: 32767, at: func(c *Config) any { return &c.Net.MaxPayload },
			help: "The largest payload of a message, decrypted. The protocol ends at 32767B on the wire, which is 24559B when it is encrypted."},
		{name: "net.backlog", kind: integer, builtin: "1024", min: 1, max: 65535, at: func(c *Config) any { return &c.Net.Backlog },
			help: "Connections that wait in the kernel to be accepted. The kernel caps it at net.core.somaxconn."},
		{name: "net.unsent", kind: size, builtin: "16KiB", min: 4 * kib, max: 16 * mib, at: func(c *Config) any { return &c.Net.Unsent },
			help: "Bytes of one connection that the kernel holds and has not sent (TCP_NOTSENT_LOWAT). Less means that a slow receiver is noticed earlier."},
		{name: "net.user_timeout", kind: duration, builtin: "1m", min: second, max: 3600 * second, at: func(c *Config) any { return &c.Net.UserTimeout },
			help: "A connection whose peer acknowledges no data for this long, or reads none, is closed by the kernel (TCP_USER_TIMEOUT)."},
		{name: "net.keepalive_idle", kind: duration, builtin: "1m", min: second, max: 32767 * second, at: func(c *Config) any { return &c.Net.KeepAlive.Idle },
			help: "After this long without a byte the kernel asks whether the peer is there. Whole seconds."},
		{name: "net.keepalive_interval", kind: duration, builtin: "15s", min: second, max: 32767 * second, at: func(c *Config) any { return &c.Net.KeepAlive.Interval },
			help: "How often it asks. Whole seconds."},
		{name: "net.keepalive_count", kind: integer, builtin: "4", min: 1, max: 127, at: func(c *Config) any { return &c.Net.KeepAlive.Count },
			help: "How many questions without an answer close the connection."},
		{name: "net.rate", live: true, kind: integer, builtin: "0", min: 1, max: 1_000_000, zero: "no limit", at: func(c *Config) any { return &c.Net.Rate },
			help: "SEND frames per second that one connection may send."},
		{name: "net.ws_origins", kind: text, builtin: "auto", at: func(c *Config) any { return &c.Net.WSOrigins },
			help: "Which web pages may open a WebSocket; programs that are no browser may always. `same`: those of the host that they connect to, if that is an address, localhost or the name of this machine. Sites, separated by commas (`https://app.example.org`): those too, and they may use the HTTP API with its token (CORS). `any`: all. `auto`: `any` with session.token_auth, else `same`."},

		{name: "queue.log_items", kind: integer, min: 16, max: 1_000_000, at: func(c *Config) any { return &c.Queue.LogItems },
			help: "Batches waiting for the log."},
		{name: "queue.log_bytes", kind: size, min: 64 * kib, max: 1 * gib, at: func(c *Config) any { return &c.Queue.LogBytes },
			help: "Bytes waiting for the log."},
		{name: "queue.apply_items", kind: integer, min: 16, max: 1_000_000, at: func(c *Config) any { return &c.Queue.ApplyItems },
			help: "Written batches waiting for the core."},
		{name: "queue.apply_bytes", kind: size, min: 64 * kib, max: 1 * gib, at: func(c *Config) any { return &c.Queue.ApplyBytes },
			help: "Bytes waiting for the core."},
		{name: "queue.mailbox_items", kind: integer, min: 16, max: 1_000_000, at: func(c *Config) any { return &c.Queue.MailboxItems },
			help: "Deliveries waiting for one loop. Acknowledgements do not count."},
		{name: "queue.mailbox_bytes", kind: size, min: 64 * kib, max: 1 * gib, at: func(c *Config) any { return &c.Queue.MailboxBytes },
			help: "Bytes of deliveries waiting for one loop."},

		{name: "wal.engine", kind: choice, builtin: "auto", words: []string{"auto", "tidwall", "recycled"}, at: func(c *Config) any { return &c.Wal.Engine },
			help: "How the log is written. tidwall appends to growing files; recycled overwrites files of wal.roll_size that are used again, which costs a flash about a quarter of the bytes and half of the flushes, and needs no copy of the file in memory. auto is recycled. It may be changed between two starts."},
		{name: "wal.linger", kind: duration, builtin: "0s", min: 1000, max: second / 200, zero: "not at all", at: func(c *Config) any { return &c.Wal.Linger },
			help: "How long a group of fewer than 8 batches waits for more before it is written. It makes every acknowledgement later and saves writes when few clients send."},
		{name: "wal.roll_size", kind: size, min: 1 * mib, max: 1 * gib, at: func(c *Config) any { return &c.Wal.RollSize },
			help: "A generation of the log that has grown to this size is followed by a new one."},
		{name: "wal.group_bytes", kind: size, min: 64 * kib, max: 64 * mib, at: func(c *Config) any { return &c.Wal.GroupBytes },
			help: "Bytes that are written and synced together at most."},
		{name: "wal.group_items", kind: integer, min: 1, max: 1_000_000, at: func(c *Config) any { return &c.Wal.GroupItems },
			help: "Batches that are written and synced together at most."},
		{name: "wal.headroom", kind: size, min: 1 * mib, max: 64 * gib, at: func(c *Config) any { return &c.Wal.Headroom },
			help: "Free space on the disk below which messages are refused, so that a full disk can still be restarted from. They are taken again when a quarter more is free."},

		{name: "store.budget", live: true, kind: size, builtin: "0B", min: 64 * mib, max: 1 << 50, zero: "no bound but the disk", at: func(c *Config) any { return &c.Store.Budget },
			help: "What log, messages and metadata may take on the disk together, at least 16 times wal.roll_size. Beyond it the oldest messages of all channels are dropped. Without a bound messages are refused when the disk is full."},
		{name: "store.person_max_age", live: true, kind: duration, builtin: "0s", min: second, max: 100 * 365 * 24 * 3600 * second, zero: "for ever", at: func(c *Config) any { return &c.Store.Person.MaxAge },
			help: "How long messages of person channels are kept. 720h is 30 days."},
		{name: "store.person_max_messages", live: true, kind: integer, builtin: "0", min: 1, max: 2_000_000_000, zero: "no bound", at: func(c *Config) any { return &c.Store.Person.MaxMessages },
			help: "How many messages of a person channel are kept."},
		{name: "store.person_max_bytes", live: true, kind: size, builtin: "0B", min: 64 * kib, max: 1 << 50, zero: "no bound", at: func(c *Config) any { return &c.Store.Person.MaxBytes },
			help: "How many bytes the messages of a person channel may take, compressed."},
		{name: "store.group_max_age", live: true, kind: duration, builtin: "0s", min: second, max: 100 * 365 * 24 * 3600 * second, zero: "for ever", at: func(c *Config) any { return &c.Store.Group.MaxAge },
			help: "How long messages of groups are kept."},
		{name: "store.group_max_messages", live: true, kind: integer, builtin: "0", min: 1, max: 2_000_000_000, zero: "no bound", at: func(c *Config) any { return &c.Store.Group.MaxMessages },
			help: "How many messages of a group are kept."},
		{name: "store.group_max_bytes", live: true, kind: size, builtin: "0B", min: 64 * kib, max: 1 << 50, zero: "no bound", at: func(c *Config) any { return &c.Store.Group.MaxBytes },
			help: "How many bytes the messages of a group may take, compressed."},

		{name: "broker.dedup_window", kind: integer, min: 1, max: 100_000_000, at: func(c *Config) any { return &c.Broker.DedupWindow },
			help: "How many of the latest messages are remembered by sender and client_msg_no, so that a resend is not stored twice."},
		{name: "broker.max_group_members", live: true, kind: integer, builtin: "10000", min: 1, max: 1_000_000, at: func(c *Config) any { return &c.Broker.MaxGroupMembers },
			help: "Members of one group at most."},
		{name: "broker.person_allow_list", kind: boolean, builtin: "false", at: func(c *Config) any { return &c.Broker.PersonAllowList },
			help: "A person is sent to by those on their list only (POST /channel/whitelist_add with their uid and channel_type 1), or by all with allow_stranger. Off, by everybody who is not on their blacklist."},
		{name: "broker.max_channels", kind: integer, min: 1, max: 100_000_000, at: func(c *Config) any { return &c.Broker.MaxChannels },
			help: "Channels at most: groups, pairs of users and all other types together. A message that needs one more is refused (reason 11), as is the creation of a group. Messages of devices make at most three quarters of them; the rest is for groups and whatever else comes over HTTP. Persons who are banned or have lists are counted apart, up to the same number. Each 96 bytes of a channel's id count as one more. The memory budget counts as many channels."},
		{name: "broker.user_channels", kind: integer, builtin: "1000", min: 1, max: 100_000_000, zero: "no limit", at: func(c *Config) any { return &c.Broker.UserChannels },
			help: "Channels that the messages of one user make in an hour at most, over all connections; a message that needs one more is refused (reason 11). It does not count for what comes over HTTP and for system users. Without session.token_auth a client may call itself anything."},

		{name: "retry.first", live: true, kind: duration, builtin: "10s", min: second / 100, max: 3600 * second, at: func(c *Config) any { return &c.Retry.First },
			help: "A message is pushed again when it was not acknowledged after this long. The wait doubles each time."},
		{name: "retry.max", live: true, kind: duration, builtin: "1m", min: second / 100, max: 24 * 3600 * second, at: func(c *Config) any { return &c.Retry.Max },
			help: "The longest wait between two tries."},
		{name: "retry.tries", live: true, kind: integer, builtin: "5", min: 1, max: 100, at: func(c *Config) any { return &c.Retry.Tries },
			help: "Tries in all. After the last one the message waits for the next connect."},
		{name: "retry.tick", kind: duration, builtin: "100ms", min: second / 1000, max: 10 * second, at: func(c *Config) any { return &c.Retry.Tick },
			help: "How exactly retries are timed."},

		{name: "session.inflight_max", kind: integer, min: 1, max: 65536, at: func(c *Config) any { return &c.Session.InflightMax },
			help: "Messages pushed to one connection and not yet acknowledged, at most."},
		{name: "session.inflight_total", kind: integer, min: 256, max: 1 << 26, at: func(c *Config) any { return &c.Session.InflightTotal },
			help: "The same for all connections together. Channels that connections are behind in count too, up to a quarter of it, and read positions on their way to the log. When it is used up, a connection gets up to 8 pushes until others acknowledge."},
		{name: "session.cursor_interval", kind: duration, builtin: "1s", min: second / 100, max: 600 * second, at: func(c *Config) any { return &c.Session.CursorInterval },
			help: "How often the read position of a device is written to the log. Longer means fewer writes and more messages pushed twice after a power cut."},
		{name: "session.token_auth", kind: boolean, builtin: "false", at: func(c *Config) any { return &c.Session.TokenAuth },
			help: "A client logs in with the token that the application set for its user and device flag (POST /user/token), and with no other. Off, a client is who it says it is."},
		{name: "session.device_level", kind: choice, builtin: "slave", words: []string{"slave", "master"}, at: func(c *Config) any { return &c.Session.DeviceLevel },
			help: "With master a login ends the user's other connections of the same device flag; with slave only those of the same device id. With session.token_auth the token says which."},

		{name: "memory.limit", kind: size, min: 16 * mib, max: 1024 * gib, at: func(c *Config) any { return &c.Memory.Limit },
			help: "Budget of the whole process. Rings, queues and tables together must fit into it. The profile takes at most 40 % of the memory."},
		{name: "memory.gc_percent", kind: integer, min: 10, max: 1000, at: func(c *Config) any { return &c.Memory.GCPercent },
			help: "How much the heap may grow between two collections, in percent."},

		{name: "profile.dir", kind: text, builtin: "/etc/gatepost/profile.d", at: func(c *Config) any { return &c.Profiles.Dir },
			help: "Directory of profiles, *.profile, that are laid over those in the binary in the order of their names. calibrated.profile is looked for beside the directory and in the data directory."},
	}
}
