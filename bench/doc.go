// Command bench measures Gatepost side by side with a floor and with other
// brokers: the same generator, the same payloads, the same windows, on loopback,
// each server alone on an empty directory. "make bench" measures Gatepost and the
// floor, "make bench-peers" the others too.
//
// A workload drives connections through one interface, conn, which has an
// implementation for each protocol. Each publisher is a goroutine that tops up its
// window with one write and then reads what has come. Every acknowledgement must be
// of a message that is unanswered and have the position in its channel that is its own,
// where the server gives one; every delivery must be the next of its publisher, byte by
// byte. A run in which one is not fails, whatever it measured.
//
// The floors (floor.go) do for the same bytes behind the same sockets what nobody can
// leave out: write a group, sync it, and answer while the next one is synced. They know
// no channel, no sequence and no sender, and deliver nothing.
//
// Nothing of this is in the binary that is shipped. SIGINT and SIGTERM kill the server
// that runs and remove what it wrote. After a crash: servers die with the process that
// started them, and their directories stay in the one that --work names or, without it,
// in .bench-* where bench was started, which git does not see.
package main
