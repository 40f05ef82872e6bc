// Package e2e is the black-box proof: it starts the real gatepost binary and
// talks to it as clients do, over TCP, WebSocket, HTTP and the command line.
//
// It imports nothing of the broker. The Go client (wire_test.go,
// client_test.go, ws_test.go, rpc_test.go) was written from the protocol
// description alone, so that a mistake in the broker's codec is not repeated
// here; jssdk drives the official JavaScript SDK, a client nobody here wrote.
//
// Every rig that looks for losses has a control that proves it can find one:
// TestPowerCutControl runs the power cut without syncs and must see losses,
// TestDamagedCheckpointControl retires the log too early and must see losses,
// TestDiskFaultsControl has a disk that lies about writes and must see losses, and
// the TestRig tests show the rigs what they are there to find.
//
// The file system that fails on demand is a program of its own, faultfs, which
// the tests build; it needs root and /dev/fuse.
//
// Environment:
//
//	GATEPOST_BIN       path of a binary to test; without it one is built
//	GATEPOST_SEED      seed of all random choices; printed by every run
//	GATEPOST_SOAK=1    the long form: more rounds, streams and messages
//	GATEPOST_STRICT=1  a test that this machine cannot run (no root, no loop
//	                   devices, no /dev/fuse, no Node) fails instead of being skipped
//	GATEPOST_KEEP=1    keep the data directories of failed tests
//	GATEPOST_FAULT     only those cases of TestDiskFaults whose names contain it, of
//	                   all that there are; such as "read EIO"
//	GATEPOST_ATTACK    how long each attack of TestAdversary takes, such as 20s
//	GATEPOST_GROWTH    directory for the table and the drawing of TestGrowth, which
//	                   is skipped without it; scripts/growth.sh sets it
//
// The long form takes longer than the ten minutes after which go test gives
// up: run it with -timeout 3h.
//
// Owner of a broker process: the test that started it; t.Cleanup stops it.
// Nothing here asserts how long something took: waits have limits that say
// "never", not "slowly".
package e2e
