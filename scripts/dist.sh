#!/bin/sh
# Looks at what "make cross" has left in dist/: a size for each binary, checksums
# of all of them, and the list of what is inside.
set -eu
GO=${GO:-go}
limit=20000000 # bytes, for a gateway with little flash
cd dist
: >SBOM
for binary in gatepost-linux-*; do
	size=$(stat -c %s "$binary")
	echo "$binary, $size bytes"
	[ "$size" -le "$limit" ] || { echo "$binary has $size bytes, $limit are possible" >&2; exit 1; }
	if LC_ALL=C od -An -c -N4 "$binary" | grep -q 'E *L *F' && grep -qa 'ld-linux\|ld-musl' "$binary"; then
		echo "$binary is not static" >&2
		exit 1
	fi
	$GO version -m "$binary" >>SBOM
done
sha256sum gatepost-linux-* SBOM >SHA256SUMS
