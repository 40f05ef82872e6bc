// Package e2e is the black-box proof: it starts the real gatepost binary and
// talks to it as clients do, over TCP, WebSocket, HTTP and the command line.
//
// It imports nothing of the broker. The Go client (wire_test.go,
// client_test.go, ws_test.go) was written from the protocol description alone,
// so that a mistake in the broker's codec is not repeated here; package
// jssdk drives the official JavaScript SDK, a client nobody here wrote.
//
// Every rig that looks for losses has a control that proves it can find one:
// see power_test.go, where the same rig run without syncs must report losses.
//
// Environment:
//
//	GATEPOST_BIN     path of a binary to test; without it the package builds one
//	GATEPOST_SEED    seed of all random choices; printed by every run
//	GATEPOST_SOAK=1  the long form: more rounds, more streams, more messages
//	GATEPOST_KEEP=1  keep data directories and logs of failed tests
//
// Owner of a broker process: the test that started it; t.Cleanup stops it.
// Nothing here asserts how long something took: waits have limits that say
// "never", not "slowly".
package e2e
