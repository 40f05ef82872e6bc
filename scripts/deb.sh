#!/bin/sh
# deb.sh VERSION ARCH BINARY OUT: makes the Debian package of a binary. TOOL is a
# gatepost of the same sources that runs here: it writes manual, completions and
# the example of a configuration. The same input and SOURCE_DATE_EPOCH give the
# same bytes, on any machine with the same dpkg.
set -eu
version=$1 arch=$2 binary=$3 out=$4
TOOL=${TOOL:-bin/gatepost} GO=${GO:-go}
MAINTAINER=${MAINTAINER:-Gatepost maintainers <root@localhost>}
: "${SOURCE_DATE_EPOCH:?is the time of all files, in seconds since 1970}"
export SOURCE_DATE_EPOCH LC_ALL=C TZ=UTC
umask 022
root=$(mktemp -d "${TMPDIR:-/tmp}/gatepost-deb.XXXXXX")
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
doc=$root/usr/share/doc/gatepost
control=$root/DEBIAN

put() { # MODE TARGET FILE...
	mode=$1 target=$root/$2
	shift 2
	for file; do
		[ -f "$file" ] || continue # a pattern that matches nothing
		install -D -m "$mode" "$file" "$target/$(basename "$file")"
	done
}
put 755 usr/bin "$binary"
mv "$root/usr/bin/$(basename "$binary")" "$root/usr/bin/gatepost.new"
mv "$root/usr/bin/gatepost.new" "$root/usr/bin/gatepost"
put 644 usr/lib/systemd/system systemd/*.service systemd/*.socket systemd/*.path systemd/*.timer
put 644 usr/lib/sysusers.d systemd/sysusers.d/*.conf
put 644 usr/lib/tmpfiles.d systemd/tmpfiles.d/*.conf
put 644 usr/share/doc/gatepost README.md docs/*.md

mkdir -p "$root/etc/gatepost" "$root/etc/default" "$root/usr/share/man/man1" \
	"$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" \
	"$root/usr/share/fish/vendor_completions.d" "$control"
"$TOOL" config example >"$root/etc/gatepost/gatepost.toml"
cat >"$root/etc/default/gatepost" <<'END'
# Flags of "gatepost run" under systemd, see "man gatepost".
GATEPOST_ARGS=--config /etc/gatepost/gatepost.toml
END
"$TOOL" man | gzip -9n >"$root/usr/share/man/man1/gatepost.1.gz"
"$TOOL" completion bash >"$root/usr/share/bash-completion/completions/gatepost"
"$TOOL" completion zsh >"$root/usr/share/zsh/vendor-completions/_gatepost"
"$TOOL" completion fish >"$root/usr/share/fish/vendor_completions.d/gatepost.fish"
mkdir -p "$doc"
$GO version -m "$root/usr/bin/gatepost" | sed '1s/^[^:]*/gatepost/' >"$doc/sbom.txt"
{
	printf 'gatepost (%s) unstable; urgency=medium\n\n' "$version"
	sed -n '/^## /,${/^\* /p}' CHANGELOG.md | fold -s -w 76 | sed 's/^\* /  * /; /^  \*/!s/^/    /; s/ *$//'
	printf '\n -- %s  %s\n' "$MAINTAINER" "$(date -R -d "@$SOURCE_DATE_EPOCH")"
} | gzip -9n >"$doc/changelog.gz"
# What is linked in wants its licence to go along.
{
	printf 'Gatepost %s is a single program that contains the following others.\n' "$version"
	$GO version -m "$root/usr/bin/gatepost" >"$control/modules"
	awk '$1 == "dep" {print $2 "@" $3}' "$control/modules" | while read -r module; do
		dir=$($GO list -m -f '{{.Dir}}' "${module%@*}")
		printf '\n==== %s\n\n' "$module"
		licences=$(find "$dir" -maxdepth 1 -type f '(' -iname 'licen[cs]e*' -o -iname 'copying*' ')' | sort)
		[ -n "$licences" ] || { echo "cannot find the licence of $module in $dir" >&2; exit 1; }
		cat $licences
	done
	rm "$control/modules"
	printf '\n==== Go\n\n'
	cat "$($GO env GOROOT)/LICENSE" 2>/dev/null || cat /usr/share/doc/golang*/copyright
} >"$doc/copyright"

for script in preinst postinst prerm postrm; do
	install -m 755 "scripts/debian/$script" "$control/$script"
done
printf '/etc/default/gatepost\n/etc/gatepost/gatepost.toml\n' >"$control/conffiles"
(cd "$root" && find usr -type f | sort | xargs md5sum) >"$control/md5sums"
cat >"$control/control" <<END
Package: gatepost
Version: $version
Architecture: $arch
Maintainer: $MAINTAINER
Installed-Size: $(find "$root" -path "$control" -prune -o -type f -printf '%s\n' | awk '{n += int(($1 + 1023) / 1024)} END {print n}')
Recommends: ca-certificates
Section: net
Priority: optional
Description: message broker for edge gateways
 One program that makes a durable messaging appliance of a small box: devices
 connect over TCP or WebSocket with clients of the WuKong protocol, and get an
 acknowledgement only when the message is on disk. Receivers get it pushed until
 they acknowledge it, through power cuts, full disks and slow readers.
END
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
# One thread: the bytes must not depend on the number of processors.
dpkg-deb --root-owner-group -Zxz --threads-max=1 --build "$root" "$out" >/dev/null
echo "$out, $(stat -c %s "$out") bytes"
