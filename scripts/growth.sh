#!/bin/sh
# Measures what a message costs as channels, users, groups, stored messages and
# connections grow, and draws docs/growth.svg. The table goes to standard output and
# belongs into docs/benchmarks.md. Ten minutes, some GiB of memory and of disk; the
# machine has to be quiet. One part of it:
#
#   scripts/growth.sh channels            # or users, group, stored, connections; no drawing
set -eu
cd "$(dirname "$0")/.."
GATEPOST_BIN=${GATEPOST_BIN:-$PWD/bin/gatepost}
GATEPOST_GROWTH=$(mktemp -d)
GATEPOST_GROWTH_ONLY=${1:-}
TMPDIR=${TMPDIR:-/var/tmp}
trap 'rm -rf "$GATEPOST_GROWTH"' EXIT
export GATEPOST_BIN GATEPOST_GROWTH GATEPOST_GROWTH_ONLY TMPDIR
go test -count=1 -timeout 60m -v -run TestGrowth ./e2e >&2
cat "$GATEPOST_GROWTH/growth.md"
[ -n "$GATEPOST_GROWTH_ONLY" ] || cp "$GATEPOST_GROWTH/growth.svg" docs/growth.svg
