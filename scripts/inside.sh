#!/bin/sh
# The life of an installation under a real systemd: installs the packages of
# dist/ in a container that boots the Debian of scripts/tree.sh, upgrades, goes
# back, removes and purges, once with 2,000 clients on it. Needs root and "make deb".
# About 40 s.
#
#   scripts/inside.sh            # TREE=DIR is another Debian
set -eu
fail() { echo "FAIL: $*"; exit 1; }

if [ "${1-}" != inside ]; then
	tree=${TREE:-$(scripts/tree.sh)}
	rig=$(mktemp -d "${TMPDIR:-/tmp}/gatepost-inside.XXXXXX")
	trap 'rm -rf "$rig"' EXIT
	deb=$(echo dist/gatepost_*_amd64.deb)
	cp "$deb" "$rig/new.deb"
	# The tree keeps no documentation; these are the same packages else.
	epoch=$(git log -1 --format=%ct)
	SOURCE_DATE_EPOCH=$epoch scripts/deb.sh 0.0.8 amd64 dist/gatepost-linux-amd64 "$rig/old.deb" >/dev/null
	cp "$0" "$rig/inside.sh"
	CGO_ENABLED=0 ${GO:-go} test -c -o "$rig/e2e.test" ./e2e # the clients of an upgrade
	printf '#!/bin/sh\nexec sh /rig/inside.sh inside\n' >"$rig/run"
	chmod 755 "$rig/run"
	# Its own mounts and, where it dies, nothing of it stays. nspawn's exit code
	# says nothing: it ends with an error when all went well.
	SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 timeout -k 5 180 unshare --mount --propagation private \
		systemd-nspawn --quiet "--directory=$tree" --volatile=overlay "--bind=$rig:/rig" "--machine=gatepost-inside-$$" \
		--register=no --keep-unit --private-network --boot --console=pipe >"$rig/console" 2>&1 </dev/null || :
	cat "$rig/out" 2>/dev/null || tail -n 30 "$rig/console"
	[ "$(cat "$rig/result" 2>/dev/null)" = success ] && grep -q '^all as it should be' "$rig/out" || { echo "FAILED under systemd" >&2; exit 1; }
	exit 0
fi

# From here on in the container.
export DEBIAN_FRONTEND=noninteractive
finish() {
	[ "$?" = 0 ] || { systemctl status gatepost --no-pager; journalctl -u gatepost --no-pager -n 40; }
}
trap finish EXIT
is() { # STATE of gatepost
	got=$(systemctl is-active gatepost || :)
	[ "$got" = "$1" ] || fail "$2: gatepost is $got, not $1"
}
pid() { systemctl show --property MainPID --value gatepost; }

echo "-- first installation starts and enables it"
dpkg -i /rig/old.deb
is active "installed"
[ "$(systemctl is-enabled gatepost)" = enabled ] || fail "not enabled"
gatepost selftest --json
[ "$(stat -L -c %a /var/lib/gatepost)" = 700 ] || fail "mode of the data"
ps=$(stat -c %U "/proc/$(pid)")
[ "$ps" = gatepost ] || fail "it runs as $ps"
gatepost send --uid alice --to bob "before the upgrade"

echo "-- an upgrade restarts it once, with its data and its configuration"
sed -i 's/^#level = .*/level = "debug"/' /etc/gatepost/gatepost.toml
before=$(pid)
dpkg -i /rig/new.deb
is active "upgraded"
[ "$(pid)" != "$before" ] || fail "the old version runs on"
gatepost listen --uid bob --count 1 | grep "before the upgrade" || fail "the message is gone"
gatepost selftest >/dev/null
gatepost config show --config /etc/gatepost/gatepost.toml | grep '^level = "debug"' || fail "the configuration is gone"
# As text, or as a field where the journal gets fields.
{ journalctl -u gatepost --no-pager | grep 'level=DEBUG' || journalctl -u gatepost PRIORITY=7 --no-pager | grep 'connection closed'; } >/dev/null ||
	fail "the configuration is not used"

echo "-- 2,000 clients do not notice an upgrade and the way back, whatever they do meanwhile"
cp /etc/default/gatepost /tmp/flags
sed -i '/^GATEPOST_ARGS=/s/$/ --encryption off --net.login_timeout 60s --net.idle_timeout 10m --retry.first 4s/' /etc/default/gatepost
systemctl restart gatepost
(cd /rig && GATEPOST_STRICT=1 GATEPOST_BIN=/usr/bin/gatepost GATEPOST_UPGRADES="/rig/old.deb /rig/new.deb" \
	./e2e.test -test.v -test.timeout 2m -test.run '^TestPackageUpgradeUnderLoad$' >/tmp/upgrade 2>&1) || { cat /tmp/upgrade; fail "an upgrade under load"; }
grep -e '--- PASS' -e connections -e 'dpkg -i' /tmp/upgrade
cp /tmp/flags /etc/default/gatepost

echo "-- what is stopped or disabled stays so, and a configuration that is wrong stops no upgrade"
systemctl stop gatepost
systemctl disable gatepost 2>&1
dpkg -i /rig/old.deb # and back
is inactive "upgraded while it was stopped"
[ "$(systemctl is-enabled gatepost || :)" = disabled ] || fail "enabled again"
systemctl enable gatepost 2>&1
echo 'no_such_key = 1' >>/etc/gatepost/gatepost.toml
systemctl start gatepost || :
dpkg -i /rig/new.deb || fail "an upgrade with a wrong configuration"
sed -i '/no_such_key/d' /etc/gatepost/gatepost.toml
systemctl restart gatepost
gatepost selftest >/dev/null

echo "-- a support bundle has journal, unit and counters"
gatepost support-bundle --output /tmp/box.tar.gz
tar -xzf /tmp/box.tar.gz -C /tmp
grep -q 'ActiveState=active' /tmp/gatepost-support/unit.txt || fail "unit.txt"
grep -q 'store opened' /tmp/gatepost-support/journal.txt || fail "journal.txt"
grep -q '/var/lib/gatepost' /tmp/gatepost-support/files.txt || fail "files.txt"
grep -q 'gatepost_channels' /tmp/gatepost-support/metrics.txt || fail "metrics.txt"
! grep '"error"' /tmp/gatepost-support/manifest.json | grep -v 'the broker runs' || fail "see above"
stat -c '%s bytes' /tmp/box.tar.gz

echo "-- removed: it ends, data and configuration stay; installed again they are there"
dpkg -r gatepost
is inactive "removed"
[ -d /var/lib/gatepost/ ] && [ -f /etc/gatepost/gatepost.toml ] || fail "data or configuration are gone"
dpkg -i /rig/new.deb
is active "installed again"
gatepost history --uid bob --to alice | grep "before the upgrade" || fail "the message is gone"

echo "-- purged: nothing stays"
dpkg -P gatepost
for f in /var/lib/gatepost /var/lib/private/gatepost /var/lib/gatepost-marker /etc/gatepost /etc/default/gatepost /usr/bin/gatepost /etc/systemd/system/multi-user.target.wants/gatepost.service; do
	[ ! -e "$f" ] && [ ! -L "$f" ] || fail "$f is still there"
done
! grep gatepost /etc/passwd /etc/group || fail "the user is still there"
echo "all as it should be"
