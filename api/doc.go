// Package api is the HTTP side of a box, in both directions: applications make
// and change channels and users here, send and read messages, and are told of
// what happens; and here the box is watched. It is not on the path of messages.
//
//	GET  /health      200 {"status":"ok"}, with "damage" if the start found any, or 503 and why
//	GET  /metrics     Prometheus text; /varz the same numbers as JSON
//	POST /backup      everything, as a tar archive; see package backup
//	GET  /history     messages of a channel, see below
//	     /channel...  channels, their members, lists and what is set of them: actions
//	     /user...     tokens, who is online, who may send everywhere
//	     /message..., /messages, /channel/messagesync ... messages
//	     /conversation...  lists of conversations, what is unread
//	     /conn..., /connz, /route...  connections
//
// openapi.json, which is served, describes all of it; tests hold the two together.
// Paths and bodies are those of the public WuKong servers:
// {"channel_id": "g1", "channel_type": 2, "reset": 0, "subscribers": ["a", "b"]}.
//
// /history takes uid (who asks; a group the application may ask for without one), to or group, from (a sequence), limit (1000 at
// most, 100 if not given) and order (up or down), or message_id or client_msg_no
// (and from_uid) to find one message. It reads what is on disk and in memory
// without disturbing anybody.
//
// A change is a record in the log like a message. It goes the same way, and
// 200 is said when it is durable and carried out. A request that was not
// answered may or may not have been carried out; asking again does no harm.
//
// A Webhook tells the application of messages and of who is online, behind a
// position in each channel that is stored: at least once, in order, and again
// until it answers.
//
// A Datasource asks the application who is in a channel, when the first message to
// it comes. Its answers are changes like those of requests.
//
// The Server owns the table of requests that wait, under a lock: its callers
// are net/http's goroutines on one side and apply on the other.
package api
