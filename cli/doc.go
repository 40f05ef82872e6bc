// Package cli is the command line of Gatepost: one file per subcommand, each a
// client of a running box (over the wire protocol and the HTTP API) or a
// reader of its files. Only `run` starts a broker, through the function that
// main hands in with Env.
//
// Exit codes, for scripts: 0 it was done; 1 it was tried and failed, was
// refused, or a check of `bench` did not hold; 2 the command line is wrong,
// nothing was tried.
//
// What goes to stdout is the answer and stays parseable (one line per thing,
// or JSON with --json); everything said to the person goes to stderr.
//
// commands is the one table: help, the completion of three shells and the manual page
// are written from it and from the flags that each command declares when it is asked
// to describe itself.
//
// Tokens are read from files or standard input: a command line can be seen by others.
//
// Client is the protocol client the commands share: a blocking connection with
// one owner. It keeps nothing on disk. `send` says what the broker answered:
// a printed message_id means the message was durable on the box before it was
// printed. `listen` acknowledges a message after printing it, so a listener
// that dies gets the same message again. `tail` reads history and moves nobody's
// position; it keeps its own in memory, and says which sequences it cannot print.
package cli
