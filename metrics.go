package main

import (
	"fmt"
	"sync/atomic"

	"gatepost/config"
	"gatepost/metrics"
	"gatepost/netio"
	"gatepost/queue"
	"gatepost/session"
)

// register gives the parts' counters their public names.
func (b *box) register(r *metrics.Registry, cfg *config.Config) {
	r.GaugeFunc("gatepost_info", "1, with the version as a label.", func() float64 { return 1 }, "version", version)
	r.Runtime()
	r.GaugeFunc("gatepost_memory_limit_bytes", "Budget of the process.", func() float64 { return float64(cfg.Memory.Limit) })

	stats := b.committer.Stats
	r.CounterFunc("gatepost_wal_groups_total", "Commit groups written and synced.", func() int64 { return stats().Groups })
	r.CounterFunc("gatepost_wal_syncs_total", "Syncs of log files.", func() int64 { return stats().Syncs })
	r.CounterFunc("gatepost_wal_records_total", "Records written.", func() int64 { return stats().Records })
	r.CounterFunc("gatepost_wal_bytes_total", "Bytes of records written.", func() int64 { return stats().Bytes })
	r.CounterFunc("gatepost_wal_refused_batches_total", "Batches refused because of the disk.", func() int64 { return stats().Refused })
	r.GaugeFunc("gatepost_wal_trouble", "1 while the log takes nothing: full disk or failed log.", func() float64 {
		if stats().State != "ok" {
			return 1
		}
		return 0
	})
	r.GaugeFunc("gatepost_wal_gaps", "Stretches of the log that were damaged at the start.", func() float64 { return float64(len(b.report.Damaged())) })
	r.Histogram("gatepost_wal_group_records", "Records per commit group.", metrics.Plain(), stats().GroupRecords)
	r.Histogram("gatepost_wal_sync_seconds", "Time of a sync.", metrics.Seconds(), stats().SyncTime)

	waiting := func(name string, fill func() queue.Fill) {
		for _, g := range []struct {
			name, help string
			value      func(queue.Fill) int
		}{
			{"gatepost_queue_items", "What waits in a queue.", func(f queue.Fill) int { return f.Items }},
			{"gatepost_queue_bytes", "Bytes of it.", func(f queue.Fill) int { return f.Weight }},
			{"gatepost_queue_max_items", "What a queue takes.", func(f queue.Fill) int { return f.MaxItems }},
			{"gatepost_queue_max_bytes", "Bytes of it.", func(f queue.Fill) int { return f.MaxWeight }},
		} {
			r.GaugeFunc(g.name, g.help, func() float64 { return float64(g.value(fill())) }, "queue", name)
		}
	}
	waiting("log", b.committer.Waiting)
	waiting("apply", b.core.Waiting)
	for i, g := range b.gates {
		waiting(fmt.Sprintf("loop %d", i), g.Waiting)
	}

	hook := b.webhook.Stats()
	r.CounterFunc("gatepost_webhook_posts_total", "Requests to the webhook that were answered with 2xx.", hook.Posts.Load)
	r.CounterFunc("gatepost_webhook_failures_total", "Requests to the webhook that failed and are made again.", hook.Failures.Load)
	r.CounterFunc("gatepost_webhook_messages_total", "Messages that the application was told of.", hook.Messages.Load)
	r.CounterFunc("gatepost_webhook_lost_total", "Messages that were dropped from the store before the application was told of them.", hook.Lost.Load)
	r.GaugeFunc("gatepost_webhook_trouble", "1 while the webhook does not answer.", func() float64 {
		if hook.Failing.Load() {
			return 1
		}
		return 0
	})

	if source := b.api.Datasource(); source != nil {
		asked := source.Stats()
		r.CounterFunc("gatepost_datasource_requests_total", "Requests to the datasource that were answered with 2xx.", asked.Requests.Load)
		r.CounterFunc("gatepost_datasource_failures_total", "Requests to the datasource that were not.", asked.Failures.Load)
		r.CounterFunc("gatepost_datasource_changes_total", "Channels of which the datasource said something new.", asked.Changes.Load)
		r.GaugeFunc("gatepost_datasource_trouble", "1 while the datasource cannot be reached.", func() float64 {
			if asked.Failing.Load() {
				return 1
			}
			return 0
		})
	}

	kept := b.store.Stats()
	for _, c := range []struct {
		name, help string
		gauge      bool
		value      *atomic.Int64
	}{
		{"gatepost_checkpoints_total", "Checkpoints completed.", false, &kept.Checkpoints},
		{"gatepost_checkpoint_failures_total", "Attempts at a checkpoint that failed and are tried again.", false, &kept.Failures},
		{"gatepost_checkpoint_raw_bytes_total", "Bytes of records put into blocks.", false, &kept.RawBytes},
		{"gatepost_checkpoint_stored_bytes_total", "Bytes that these take in block files.", false, &kept.StoredBytes},
		{"gatepost_checkpoint_lost_total", "Messages that a checkpoint could not read back from the log.", false, &kept.Lost},
		{"gatepost_store_blocks", "Blocks in block files.", true, &kept.Blocks},
		{"gatepost_store_block_bytes", "Bytes of block files.", true, &kept.BlockBytes},
		{"gatepost_store_meta_bytes", "Bytes of metadata on the disk.", true, &kept.MetaBytes},
		{"gatepost_store_unsaved_messages", "Messages that are only in the log.", true, &kept.Unsaved},
		{"gatepost_store_dropped_total", "Messages dropped by retention.", false, &kept.Dropped},
		{"gatepost_store_bad_blocks_total", "Reads of a block that found it damaged.", false, &kept.BadBlocks},
	} {
		if c.gauge {
			r.GaugeFunc(c.name, c.help, func() float64 { return float64(c.value.Load()) })
		} else {
			r.CounterFunc(c.name, c.help, c.value.Load)
		}
	}
	r.GaugeFunc("gatepost_checkpointing", "1 while a checkpoint is under way.", func() float64 {
		if b.store.Checkpointing() {
			return 1
		}
		return 0
	})
	r.GaugeFunc("gatepost_checkpoint_seconds", "Time that the last checkpoint took.", func() float64 { return float64(kept.Took.Load()) / 1e9 })
	r.GaugeFunc("gatepost_store_damage", "What was found damaged at the start, in lines of the log.", func() float64 { return float64(len(b.found.Trouble)) })

	core := b.core.Stats()
	for _, c := range []struct {
		name, help string
		value      *atomic.Int64
	}{
		{"gatepost_messages_total", "Messages stored.", &core.Messages},
		{"gatepost_messages_volatile_total", "Messages passed on without being stored.", &core.Volatile},
		{"gatepost_messages_duplicate_total", "Resends that got their first answer again.", &core.Duplicates},
		{"gatepost_messages_refused_total", "Messages and changes refused behind admission.", &core.Refused},
		{"gatepost_pushes_total", "Messages handed to online connections.", &core.Pushes},
		{"gatepost_kicks_total", "Connections replaced by another one of the user.", &core.Kicks},
	} {
		r.CounterFunc(c.name, c.help, c.value.Load)
	}
	r.GaugeFunc("gatepost_channels", "Groups and pairs of users that have a channel.", func() float64 { return float64(core.Channels.Load()) })
	r.GaugeFunc("gatepost_channels_members_lost", "Channels whose members were found lost at the start.", func() float64 { return float64(core.Memberless.Load()) })
	r.GaugeFunc("gatepost_users", "Users that are online or a member of a channel.", func() float64 { return float64(core.Users.Load()) })

	sum := func(of func(*session.Stats) *atomic.Int64) func() int64 {
		return func() (n int64) {
			for _, g := range b.gates {
				n += of(g.Stats()).Load()
			}
			return n
		}
	}
	for _, c := range []struct {
		name, help string
		gauge      bool
		of         func(*session.Stats) *atomic.Int64
	}{
		{"gatepost_sessions", "Logged-in connections.", true, func(s *session.Stats) *atomic.Int64 { return &s.Live }},
		{"gatepost_logins_total", "Logins.", false, func(s *session.Stats) *atomic.Int64 { return &s.Logins }},
		{"gatepost_logins_refused_total", "Logins refused.", false, func(s *session.Stats) *atomic.Int64 { return &s.LoginsFail }},
		{"gatepost_logins_late_total", "Logins refused late, because too many wrong tokens came from their address.", false, func(s *session.Stats) *atomic.Int64 { return &s.LoginsLate }},
		{"gatepost_sends_total", "SENDs admitted.", false, func(s *session.Stats) *atomic.Int64 { return &s.Sends }},
		{"gatepost_sends_refused_total", "SENDs refused at admission.", false, func(s *session.Stats) *atomic.Int64 { return &s.SendsRefuse }},
		{"gatepost_log_full_total", "Times the log's queue was full and senders were not read.", false, func(s *session.Stats) *atomic.Int64 { return &s.LogFull }},
		{"gatepost_log_refused_total", "Records that the log refused.", false, func(s *session.Stats) *atomic.Int64 { return &s.LogRefused }},
		{"gatepost_recvs_total", "RECVs written, resends included.", false, func(s *session.Stats) *atomic.Int64 { return &s.Recvs }},
		{"gatepost_recvacks_total", "RECVACKs that settled a push.", false, func(s *session.Stats) *atomic.Int64 { return &s.RecvAcks }},
		{"gatepost_resends_total", "RECVs written again.", false, func(s *session.Stats) *atomic.Int64 { return &s.Resends }},
		{"gatepost_gone_total", "Messages that are not stored and found no room on a connection.", false, func(s *session.Stats) *atomic.Int64 { return &s.Gone }},
		{"gatepost_given_up_total", "Pushes that wait for the next connect.", false, func(s *session.Stats) *atomic.Int64 { return &s.GivenUp }},
		{"gatepost_behind", "Channels of connections that are being caught up.", true, func(s *session.Stats) *atomic.Int64 { return &s.Behind }},
		{"gatepost_catchup_pages_total", "Pages asked for to catch up.", false, func(s *session.Stats) *atomic.Int64 { return &s.CatchUps }},
		{"gatepost_inflight", "Pushes waiting for a RECVACK.", true, func(s *session.Stats) *atomic.Int64 { return &s.Inflight }},
		{"gatepost_bad_frames_total", "Connections closed for what they sent.", false, func(s *session.Stats) *atomic.Int64 { return &s.BadFrames }},
	} {
		value := sum(c.of)
		if c.gauge {
			r.GaugeFunc(c.name, c.help, func() float64 { return float64(value()) })
		} else {
			r.CounterFunc(c.name, c.help, value)
		}
	}

	sockets := func(of func(*netio.Stats) *atomic.Int64) func() int64 {
		return func() (n int64) {
			for _, l := range b.server.Loops() {
				n += of(l.Stats()).Load()
			}
			return n
		}
	}
	r.GaugeFunc("gatepost_connections", "Open connections.", func() float64 { return float64(b.server.Conns()) })
	for _, c := range []struct {
		name, help string
		labels     []string
		of         func(*netio.Stats) *atomic.Int64
	}{
		{"gatepost_accepted_total", "Connections accepted.", nil, func(s *netio.Stats) *atomic.Int64 { return &s.Accepted }},
		{"gatepost_accept_refused_total", "Connections closed at once: net.max_connections, and all others are logged in.", nil, func(s *netio.Stats) *atomic.Int64 { return &s.Refused }},
		{"gatepost_accept_pauses_total", "Times accept failed for want of descriptors or memory.", nil, func(s *netio.Stats) *atomic.Int64 { return &s.AcceptPauses }},
		{"gatepost_closed_total", "Connections closed.", []string{"by", "peer"}, func(s *netio.Stats) *atomic.Int64 { return &s.ClosedPeer }},
		{"gatepost_closed_total", "", []string{"by", "error"}, func(s *netio.Stats) *atomic.Int64 { return &s.ClosedError }},
		{"gatepost_closed_total", "", []string{"by", "session"}, func(s *netio.Stats) *atomic.Int64 { return &s.ClosedHandler }},
		{"gatepost_closed_total", "", []string{"by", "idle"}, func(s *netio.Stats) *atomic.Int64 { return &s.ClosedIdle }},
		{"gatepost_closed_total", "", []string{"by", "login"}, func(s *netio.Stats) *atomic.Int64 { return &s.ClosedLogin }},
		{"gatepost_closed_total", "", []string{"by", "crowded"}, func(s *netio.Stats) *atomic.Int64 { return &s.ClosedCrowded }},
		{"gatepost_closed_total", "", []string{"by", "partial"}, func(s *netio.Stats) *atomic.Int64 { return &s.ClosedPartial }},
		{"gatepost_closed_total", "", []string{"by", "buffer"}, func(s *netio.Stats) *atomic.Int64 { return &s.ClosedBuffer }},
		{"gatepost_closed_total", "", []string{"by", "proxy"}, func(s *netio.Stats) *atomic.Int64 { return &s.ClosedProxy }},
		{"gatepost_closed_total", "", []string{"by", "tls"}, func(s *netio.Stats) *atomic.Int64 { return &s.ClosedTLS }},
		{"gatepost_closed_total", "", []string{"by", "websocket"}, func(s *netio.Stats) *atomic.Int64 { return &s.ClosedWS }},
		{"gatepost_reads_total", "Reads from sockets.", nil, func(s *netio.Stats) *atomic.Int64 { return &s.Reads }},
		{"gatepost_writes_total", "Writes to sockets.", nil, func(s *netio.Stats) *atomic.Int64 { return &s.Writes }},
		{"gatepost_read_bytes_total", "Bytes read from sockets.", nil, func(s *netio.Stats) *atomic.Int64 { return &s.BytesIn }},
		{"gatepost_written_bytes_total", "Bytes written to sockets.", nil, func(s *netio.Stats) *atomic.Int64 { return &s.BytesOut }},
		{"gatepost_rounds_total", "Rounds of the loops.", nil, func(s *netio.Stats) *atomic.Int64 { return &s.Rounds }},
		{"gatepost_epoll_waits_total", "Times the loops asked for events.", nil, func(s *netio.Stats) *atomic.Int64 { return &s.Waits }},
		{"gatepost_ring_starved_total", "Times a connection had to wait for a ring.", nil, func(s *netio.Stats) *atomic.Int64 { return &s.Starved }},
	} {
		help := c.help
		if help == "" {
			help = "Connections closed."
		}
		r.CounterFunc(c.name, help, sockets(c.of), c.labels...)
	}
	for _, g := range []struct {
		name, help string
		of         func(*netio.Stats) *atomic.Int64
	}{
		{"gatepost_rings", "Rings lent to connections.", func(s *netio.Stats) *atomic.Int64 { return &s.RingsLent }},
		{"gatepost_ring_bytes", "Bytes of rings that exist.", func(s *netio.Stats) *atomic.Int64 { return &s.RingsMapped }},
		{"gatepost_ring_fallbacks", "Rings that are plain slices because mapping failed.", func(s *netio.Stats) *atomic.Int64 { return &s.RingsFallback }},
	} {
		value := sockets(g.of)
		r.GaugeFunc(g.name, g.help, func() float64 { return float64(value()) })
	}
}
