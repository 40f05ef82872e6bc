#!/bin/sh
# Installs the Debian packages that the tests need beyond Go, git and make, if
# they are missing. Run again, it does nothing.
set -eu
PATH=$PATH:/usr/sbin:/sbin

missing=
# need PACKAGE PROGRAM...: PACKAGE is missing when one of its programs is.
need() {
	package=$1
	shift
	for program; do
		if ! command -v "$program" >/dev/null; then
			missing="$missing $package"
			return
		fi
	done
}
need gcc gcc                      # the race detector
need libc6-dev gcc
need qemu-user-static qemu-arm-static qemu-aarch64-static qemu-riscv64-static
need nodejs node                  # the official JavaScript SDK
need npm npm
need e2fsprogs mkfs.ext4 fsck.ext4 # file systems that lose power
need mount mount umount losetup
need util-linux mkfs
need strace strace                # what a message costs, in system calls
need valgrind valgrind callgrind_control # and in instructions
need systemd-container systemd-nspawn # a systemd as PID 1
need mmdebstrap mmdebstrap        # the Debian around it
need systemd systemd-analyze      # what it thinks of the units

if [ -z "$missing" ]; then
	echo "nothing is missing"
	exit 0
fi
echo "missing:$missing"

give_up() {
	echo "cannot install$missing: $1" >&2
	exit 1
}
command -v apt-get >/dev/null || give_up "this is not Debian, there is no apt-get; install them by hand"
sudo=
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || give_up "not root and no sudo; run scripts/setup.sh as root once"
	sudo=sudo
fi
$sudo apt-get update || give_up "apt-get update failed; is this machine offline?"
# shellcheck disable=SC2086 # one word for each package
$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing ||
	give_up "apt-get install failed; is this machine offline?"
