// Package systemd is what a process and its service manager say to each other:
// that it is ready, what it is doing, that it still turns, that it is about to
// stop; which sockets it was given, and which descriptors it keeps for the next
// process; and its log, with all fields, for journald. The units that expect this
// are beside it.
//
// Without a service manager everything here does nothing and succeeds, so
// callers need no second path.
//
// # Ownership
//
// A Manager is an immutable value made by main from the environment; the
// package itself reads none. Its methods may be called from any goroutine. No
// socket stays open between two calls. Passed gives descriptors away: they are
// the caller's. A Journal may be used from any goroutine; it keeps one socket to
// journald, opens it again when journald has been started anew, and hands a line
// that does not get through to its fallback.
//
// # What the watchdog proves
//
// Only as much as its caller checks. Send Watchdog when every loop and the log
// gave a sign of life lately, never from a bare ticker: a process whose loops
// hang while its ticker runs is exactly what the watchdog is for.
//
// # After a crash
//
// Nothing is kept. The manager sees the process end, or its watchdog stay away,
// and starts it anew.
package systemd
