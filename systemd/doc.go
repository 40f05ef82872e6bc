// Package systemd tells the service manager how the process is: that it is
// ready, what it is doing, that it still turns, that it is about to stop. It
// speaks the notification protocol, takes the descriptors that the manager passes,
// and gives it some to keep for the next process; nothing else. gatepost.service
// beside it is the unit that expects this.
//
// Without a service manager (no NOTIFY_SOCKET) everything here does nothing and
// succeeds, so callers need no second path.
//
// # Ownership
//
// A Manager is an immutable value made by main from the environment; the
// package itself reads none. Its methods may be called from any goroutine. No
// socket stays open between two calls.
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
