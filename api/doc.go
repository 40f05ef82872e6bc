// Package api is the HTTP side of a box: channels are made and changed here,
// and here it is watched. It is not on the path of messages.
//
//	GET  /health                     200 {"status":"ok"}, with "damage" if the start found any, or 503 and why
//	GET  /metrics                    Prometheus text
//	GET  /varz                       the same numbers as JSON
//	GET  /backup                     everything, as a tar archive; see package backup
//	GET  /history                    messages of a channel, see below
//	POST /channel                    create a group, add its members; reset=1 replaces them
//	POST /channel/subscriber_add     add members to a group
//	POST /channel/subscriber_remove  remove members from a group
//	POST /channel/delete             remove a group
//
// Paths and bodies are those of the public WuKong servers:
// {"channel_id": "g1", "channel_type": 2, "reset": 0, "subscribers": ["a", "b"]}.
//
// /history takes uid (who asks), to or group, from (a sequence), limit (1000 at
// most, 100 if not given) and order (up or down), or message_id or client_msg_no
// (and from_uid) to find one message. It reads what is on disk and in memory
// without disturbing anybody.
//
// A change is a record in the log like a message. It goes the same way, and
// 200 is said when it is durable and carried out. A request that was not
// answered may or may not have been carried out; asking again does no harm.
//
// The Server owns the table of requests that wait, under a lock: its callers
// are net/http's goroutines on one side and apply on the other.
package api
