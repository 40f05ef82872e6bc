// Package broker is the deterministic core: committed batches in; acks,
// deliveries and changes out.
//
// Broker belongs to one goroutine, apply, with one inbox. What the log hands
// over (Commit) and what the loops say of their connections (Attach, Detach)
// arrive there in one order. Sequences, de-duplication, membership and read
// positions follow from the log alone, so replaying it gives the same state;
// who is online is memory only.
//
// Wait rule: Commit may block, it is the only edge that may. Attach and Detach
// never block and are never refused. Post must not block: an Outbox that is
// full drops pushes, and sees to it that their connections are caught up by
// Fetch.
//
// After a crash: state is rebuilt by Replay. A record that was in the log but
// not yet answered is applied and answers nobody; its sender resends, and
// de-duplication gives it the first answer.
package broker
