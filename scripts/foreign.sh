#!/bin/sh
# Runs the unit tests of the packages that need no sockets on processors other
# than this one: 32 bits, other byte orders of alignment, other page tables.
# 386 runs as it is on a PC, the others under qemu's user emulation. The binaries
# of "make cross" then send a message through a broker of their own.
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
# try NAME QEMU: the binary for one processor.
try() {
	exec=
	[ "$2" = none ] || exec=qemu-$2-static
	echo "-- selftest of gatepost-linux-$1"
	# shellcheck disable=SC2086 # nothing, or a program
	$exec "dist/gatepost-linux-$1" selftest --offline --timeout 3m
}
on 386 i386
on arm arm
on arm64 aarch64
on riscv64 riscv64
try armv6 arm
try armv7 arm
try arm64 aarch64
try riscv64 riscv64
if [ "$host" = amd64 ]; then try 386 none; else try 386 i386; fi
