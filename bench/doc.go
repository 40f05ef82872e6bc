// Command bench measures Gatepost side by side with a floor and with other
// brokers: the same generator, the same payloads, the same windows, on loopback,
// each server alone on an empty directory. "make bench" measures Gatepost and the
// floor, "make bench-peers" the others too.
//
// A workload drives connections through one interface, conn, which has an
// implementation for each protocol. Each publisher is a goroutine that tops up its
// window with one write and then reads what has come. Every acknowledgement must be
// of a message that is unanswered, every delivery the next of its publisher; a run in
// which one is not fails, whatever it measured.
//
// The floor (floor.go) is the least that can be done for the same bytes behind the
// same sockets: append a group, sync it, answer. It keeps no channel and delivers
// nothing.
//
// Nothing of this is in the binary that is shipped. After a crash: servers die with
// the process that started them, and their directories stay in the temporary one.
package main
