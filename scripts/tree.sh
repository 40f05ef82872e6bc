#!/bin/sh
# tree.sh: makes a small Debian with systemd as PID 1 for the tests under
# systemd-nspawn, unless it is there from before, and prints where it is. Made
# anew when this file changes. SUITE=trixie is another Debian.
set -eu
suite=${SUITE:-bookworm} # its 252 is the oldest systemd that must work
cache=${XDG_CACHE_HOME:-$HOME/.cache}/gatepost
tree=$cache/$suite-$(sha256sum "$0" | cut -c1-12)
if [ -d "$tree" ]; then
	echo "$tree"
	exit 0
fi
command -v mmdebstrap >/dev/null || { echo "cannot make a Debian: mmdebstrap is missing; scripts/setup.sh installs it" >&2; exit 1; }
mkdir -p "$cache"
new=$(mktemp -d "$cache/new-XXXXXX")
trap 'rm -rf "$new"' EXIT
# No procps on purpose: the units must work without.
mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus \
	--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	"$suite" "$new/tree" >&2 || { echo "cannot make a Debian $suite; is this machine offline?" >&2; exit 1; }

# One unit for all tests: it runs what the host has bound to /rig, whose output
# and end are there too, and then the machine goes down.
cat >"$new/tree/etc/systemd/system/rig.service" <<'END'
[Unit]
Description=Test rig
After=multi-user.target
[Service]
Type=oneshot
WorkingDirectory=/rig
ExecStart=/rig/run
StandardOutput=file:/rig/out
StandardError=inherit
ExecStopPost=/bin/sh -c 'echo $SERVICE_RESULT >/rig/result'
ExecStopPost=/bin/systemctl --no-block poweroff
[Install]
WantedBy=graphical.target
END
mkdir -p "$new/tree/etc/systemd/system/graphical.target.wants" "$new/tree/rig"
ln -s ../rig.service "$new/tree/etc/systemd/system/graphical.target.wants/rig.service"
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer; do
	ln -sf /dev/null "$new/tree/etc/systemd/system/$unit"
done
: >"$new/tree/etc/machine-id"
mv "$new/tree" "$tree"
echo "$tree"
