#!/bin/sh
# Runs the unit tests of the packages that need no sockets on processors other
# than this one: 32 bits, other byte orders of alignment, other page tables.
# 386 runs as it is on a PC, the others under qemu's user emulation.
set -eu
GO=${GO:-go}
packages="./message ./queue ./ack ./ring ./wukong ./jsonrpc ./wal ./store ./broker ./config ./hwprofile ./metrics"
host=$($GO env GOHOSTARCH)

# on GOARCH QEMU: the tests for one processor.
on() {
	echo "-- $1"
	exec=
	if [ "$1" != "$host" ] && [ "$1$host" != 386amd64 ]; then
		exec=$(command -v "qemu-$2-static") || { echo "qemu-$2-static is missing: run scripts/setup.sh" >&2; exit 1; }
	fi
	CGO_ENABLED=0 GOARCH=$1 GOARM=7 $GO test -short ${exec:+-exec "$exec"} $packages
}
on 386 i386
on arm arm
on arm64 aarch64
on riscv64 riscv64
