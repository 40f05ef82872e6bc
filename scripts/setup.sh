#!/bin/sh
# Installs the Debian packages that the tests need and that are missing.
# Safe to run again; does nothing when all is there.
set -eu
missing=
need() { # command package
	command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}
PATH=$PATH:/usr/sbin:/sbin
need node nodejs
need npm npm
need mkfs.ext4 e2fsprogs
need losetup mount
need qemu-arm-static qemu-user-static
if [ -z "$missing" ]; then
	exit 0
fi
if ! command -v apt-get >/dev/null 2>&1; then
	echo "cannot install$missing: there is no apt-get; install them by hand" >&2
	exit 1
fi
run=
if [ "$(id -u)" -ne 0 ]; then
	run=sudo
fi
echo "installing$missing"
export DEBIAN_FRONTEND=noninteractive
$run apt-get -qq update
# shellcheck disable=SC2086 # a list of packages
$run apt-get -qq install -y --no-install-recommends $missing >/dev/null || {
	echo "cannot install$missing: apt-get failed, see above; is the machine online?" >&2
	exit 1
}
