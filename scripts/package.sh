#!/bin/sh
# Looks at what "make dist deb" makes: the same bytes from a copy of the sources
# elsewhere, what is in the packages, and the whole life of an installation in a
# root directory where systemd does not run. Needs root, or fakeroot.
set -eu
MAKE=${MAKE:-make} LC_ALL=C SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export LC_ALL SOURCE_DATE_EPOCH
if [ "$(id -u)" != 0 ]; then exec fakeroot "$0"; fi
umask 022
work=$(mktemp -d "${TMPDIR:-/tmp}/gatepost-package.XXXXXX")
trap 'rm -rf "$work"' EXIT
fail() { echo "FAIL: $*" >&2; exit 1; }
same() { # WHAT GOT WANT
	[ "$2" = "$3" ] || { printf 'FAIL: %s\n--- got\n%s\n--- want\n%s\n' "$1" "$2" "$3" >&2; exit 1; }
}
$MAKE --no-print-directory dist deb >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
deb=$(echo dist/gatepost_*_amd64.deb)
version=$(dpkg-deb -f "$deb" Version)

echo "-- again in another directory, from nothing: the same bytes"
elsewhere="$work/another place/deep"
mkdir -p "$elsewhere"
git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c 'for f; do [ ! -e "$f" ] || printf "%s\0" "$f"; done' sh |
	tar -c --null -T - | tar -x -C "$elsewhere"
# Its own cache: what was compiled here must not come in.
built=$(bin/gatepost version --json | sed 's/.*"version":"\([^"]*\)".*/\1/')
(cd "$elsewhere" && GOCACHE="$work/cache" TMPDIR="$work" $MAKE --no-print-directory "version=$built" "debversion=$version" targets=amd64 debs=amd64=amd64 deb) >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
for file in gatepost-linux-amd64 "$(basename "$deb")"; do
	cmp "dist/$file" "$elsewhere/dist/$file" || fail "$file is not the same when it is built elsewhere"
	sha256sum "dist/$file"
done

echo "-- checksums and the list of what is inside"
(cd dist && sha256sum --quiet -c SHA256SUMS) || fail "SHA256SUMS is wrong"
same "binaries in the SBOM" "$(grep -c ': go1' dist/SBOM)" 6
grep -q 'GOARM=6' dist/SBOM && grep -q 'GOARM=7' dist/SBOM || fail "the SBOM has no binary for ARMv6 or none for ARMv7"

echo "-- contents"
for deb in dist/gatepost_*.deb; do
	dpkg-deb -c "$deb" >"$work/list"
	files=$(awk '$1 !~ /^d/ {print $1, $2, $6}' "$work/list" | grep -v '/doc/gatepost/[a-zA-Z]*\.md$\|/usr/lib/systemd/system/')
	same "files of $deb" "$files" "-rw-r--r-- root/root ./etc/default/gatepost
-rw-r--r-- root/root ./etc/gatepost/gatepost.toml
-rwxr-xr-x root/root ./usr/bin/gatepost
-rw-r--r-- root/root ./usr/lib/sysusers.d/gatepost.conf
-rw-r--r-- root/root ./usr/lib/tmpfiles.d/gatepost.conf
-rw-r--r-- root/root ./usr/share/bash-completion/completions/gatepost
-rw-r--r-- root/root ./usr/share/doc/gatepost/changelog.gz
-rw-r--r-- root/root ./usr/share/doc/gatepost/copyright
-rw-r--r-- root/root ./usr/share/doc/gatepost/sbom.txt
-rw-r--r-- root/root ./usr/share/fish/vendor_completions.d/gatepost.fish
-rw-r--r-- root/root ./usr/share/man/man1/gatepost.1.gz
-rw-r--r-- root/root ./usr/share/zsh/vendor-completions/_gatepost"
	for unit in systemd/*.service systemd/*.socket; do
		[ ! -f "$unit" ] || grep -q " ./usr/lib/systemd/system/$(basename "$unit")\$" "$work/list" || fail "$unit is not in $deb"
	done
	same "directories that others cannot read in $deb" "$(grep '^d' "$work/list" | grep -v '^drwxr-xr-x root/root' || true)" ""
done
# What is the same whatever the processor says the same.
for arch in arm64 armhf; do
	for from in amd64 $arch; do
		mkdir -p "$work/$from" && dpkg-deb -x "dist/gatepost_${version}_$from.deb" "$work/$from"
	done
	same "differences of amd64 and $arch" "$(diff -rq "$work/amd64" "$work/$arch" | sed 's/ and .*//; s|.*/||' | sort)" "gatepost
sbom.txt"
done
same "program in the package for arm64" "$(od -An -tx1 -j18 -N2 "$work/arm64/usr/bin/gatepost")" " b7 00"
same "program in the package for armhf" "$(od -An -tx1 -j18 -N2 "$work/armhf/usr/bin/gatepost")" " 28 00"
zcat "$work/amd64/usr/share/doc/gatepost/changelog.gz" | grep "^gatepost ($version)" >/dev/null || fail "the changelog does not begin with $version"
zcat "$work/amd64/usr/share/man/man1/gatepost.1.gz" | grep 'selftest' >/dev/null || fail "the manual page knows no selftest"

echo "-- first installation"
root=$work/root
mkdir -p "$root/etc" "$root/var/lib/dpkg/info" "$root/var/lib/dpkg/updates"
: >"$root/var/lib/dpkg/status"
: >"$root/var/lib/dpkg/available"
printf 'root:x:0:0:root:/root:/bin/sh\n' >"$root/etc/passwd"
printf 'root:x:0:\n' >"$root/etc/group"
# Scripts run here, with DPKG_ROOT, as where an image is made.
life() {
	dpkg --root="$root" --force-script-chrootless --force-architecture --force-not-root --force-confdef --force-confold "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "dpkg $*"; }
	! grep -i 'error\|cannot\|not found\|no such' "$work/log" || fail "dpkg $*: see above"
}
state() { # of all that the scripts make
	grep '^gatepost:' "$root/etc/passwd" "$root/etc/group" | sed 's/:[0-9]*:[0-9]*:/:N:N:/; s/:[0-9][0-9]*:$/:N:/; s|.*/etc/||' || :
	find "$root/etc/systemd" "$root/var/lib/systemd" "$root/etc/gatepost" ! -type d -printf '%P %l\n' 2>/dev/null | sort
	stat -c '%a %n' "$root/etc/gatepost" 2>/dev/null | sed "s|$root||" || :
}
old="$work/gatepost_0.0.9_amd64.deb"
scripts/deb.sh 0.0.9 amd64 dist/gatepost-linux-amd64 "$old" >/dev/null
life -i "$old"
first=$(state)
for line in 'passwd:gatepost:' 'group:gatepost:' 'multi-user.target.wants/gatepost.service /' '750 /etc/gatepost'; do
	echo "$first" | grep -q "$line" || fail "behind the installation there is no $line:
$first"
done
same "group of the configuration" "$(stat -c %g "$root/etc/gatepost")" "$(sed -n 's/^gatepost:x:\([0-9]*\):.*/\1/p' "$root/etc/group")"
(cd "$root" && md5sum --quiet -c var/lib/dpkg/info/gatepost.md5sums) || fail "md5sums are wrong"

echo "-- the binary that was installed sends a message through a broker of its own"
"$root/usr/bin/gatepost" selftest --offline --timeout 1m | tail -n 1
"$root/usr/bin/gatepost" config show --config "$root/etc/gatepost/gatepost.toml" >/dev/null || fail "the configuration that was installed is wrong"

echo "-- scripts that run again, and an upgrade, change nothing"
DPKG_ROOT=$root DPKG_MAINTSCRIPT_PACKAGE=gatepost "$root/var/lib/dpkg/info/gatepost.postinst" configure 0.0.9
same "state behind a second configuration" "$(state)" "$first"
mkdir -p "$root/var/lib/gatepost/log"
echo data >"$root/var/lib/gatepost/log/1"
echo 'tcp = ":5110"' >>"$root/etc/gatepost/gatepost.toml"
rm "$root/etc/systemd/system/multi-user.target.wants/gatepost.service" # as "systemctl disable" does
disabled=$(state)
life -i "dist/gatepost_${version}_amd64.deb"
same "state behind the upgrade" "$(state)" "$disabled"
tail -n 1 "$root/etc/gatepost/gatepost.toml" | grep -q 5110 || fail "an upgrade changed the configuration"
same "version behind the upgrade" "$(dpkg-query --admindir="$root/var/lib/dpkg" -f '${Version}' -W gatepost)" "$version"

echo "-- removed: data, user and configuration stay"
life -r gatepost
[ ! -e "$root/usr/bin/gatepost" ] || fail "the binary is still there"
[ -f "$root/var/lib/gatepost/log/1" ] || fail "the data is gone"
[ -f "$root/etc/gatepost/gatepost.toml" ] || fail "the configuration is gone"
grep -q '^gatepost:' "$root/etc/passwd" || fail "the user is gone"

echo "-- installed again, and purged: nothing stays, also when it runs twice"
life -i "$old"
echo secret >"$root/etc/gatepost/token" # which is the administrator's
cp "$root/var/lib/dpkg/info/gatepost.postrm" "$work/postrm"
life -P gatepost
DPKG_ROOT=$root DPKG_MAINTSCRIPT_PACKAGE=gatepost "$work/postrm" purge
[ ! -e "$root/var/lib/gatepost" ] || fail "the data is still there"
rm "$root/etc/gatepost/token" && rmdir "$root/etc/gatepost"
same "state behind the purge" "$(state)" ""
echo "all as it should be"
