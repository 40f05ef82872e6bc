#!/bin/bash
# Measures the store at scale, on a file system of its own in a loop device, so
# that the bytes that reach the device are counted there: publishes MESSAGES
# messages of SIZE bytes over SENDERS channels, reads pages of history back,
# kills the broker and starts it again. Then the same with one checkpoint's
# worth and more that is in the log only. Needs root. One line per engine:
#
#   scripts/scale.sh                      # 10 million messages, both engines
#   MESSAGES=1000000 scripts/scale.sh recycled
set -euo pipefail
MESSAGES=${MESSAGES:-10000000} SENDERS=${SENDERS:-1000} SIZE=${SIZE:-256} WINDOW=${WINDOW:-64}
engines=${*:-tidwall recycled}
bin=${GATEPOST_BIN:-bin/gatepost}
work=$(mktemp -d /var/tmp/gatepost-scale.XXXXXX)
broker=
finish() {
	[ -z "$broker" ] || kill "$broker" 2>/dev/null || true
	[ -z "$broker" ] || wait "$broker" 2>/dev/null || true
	! mountpoint -q "$work/box" || umount "$work/box"
	rm -rf "$work"
}
trap finish EXIT

tcp=127.0.0.1:6150 http=127.0.0.1:6151
field() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$2"; }
start() { # flags...; sets broker and opened, the milliseconds until it was ready
	"$bin" run --data "$work/box/data" --tcp "$tcp" --ws 127.0.0.1:0 --http "$http" --encryption off --log.level warn "$@" >"$work/out" 2>"$work/err" &
	broker=$!
	for _ in $(seq 600); do
		opened=$(sed -n 's/^ready after \([0-9]*\) ms$/\1/p' "$work/out")
		[ -z "$opened" ] || return 0
		kill -0 "$broker" 2>/dev/null || break
		sleep 0.05
	done
	cat "$work/out" "$work/err" >&2
	exit 1
}
stop() { kill "-$1" "$broker"; wait "$broker" 2>/dev/null || true; broker=; }
rss() { awk '/^VmRSS/ {printf "%.0f", $2/1024}' "/proc/$broker/status"; }
bench() { "$bin" bench --addr "$tcp" --http "$http" --pid "$broker" --json --senders "$SENDERS" --size "$SIZE" --window "$WINDOW" "$@"; }
cold() { sync; echo 3 >/proc/sys/vm/drop_caches; }

printf '%-9s %9s %10s %10s %9s %9s %9s %9s %9s %9s %9s\n' engine acked/s disk/byte dev/byte rss_MiB open_ms rss_MiB page_p50 page_p99 logged open_ms
for engine in $engines; do
	truncate -s 8G "$work/image"
	mkfs.ext4 -q -F "$work/image"
	mkdir -p "$work/box"
	mount -o loop "$work/image" "$work/box"
	device=$(basename "$(findmnt -n -o SOURCE "$work/box")")
	sectors() { awk '{print $7}' "/sys/block/$device/stat"; }

	start --wal.engine "$engine"
	sync
	before=$(sectors)
	bench --mode publish --messages $((MESSAGES / SENDERS)) >"$work/publish"
	sync "$work/box"
	device_bytes=$((($(sectors) - before) * 512))
	full=$(rss)
	disk=$(du -s -B1 "$work/box/data" | cut -f1)
	stop KILL
	cold
	start --wal.engine "$engine"
	open=$opened after=$(rss)
	cold
	bench --mode history --run "$(field run "$work/publish")" --messages $((MESSAGES / SENDERS)) >"$work/history"
	stop TERM

	# A million messages that no checkpoint has.
	rm -rf "$work/box/data"
	start --wal.engine "$engine" --wal.roll_size 1GiB --memory.limit 4GiB
	bench --mode publish --messages $((1000000 / SENDERS)) >"$work/logged"
	stop KILL
	cold
	start --wal.engine "$engine" --wal.roll_size 1GiB --memory.limit 4GiB
	stop TERM
	umount "$work/box"
	rm "$work/image"

	payload=$((MESSAGES * SIZE))
	printf '%-9s %9s %10.2f %10.2f %9s %9s %9s %9s %9s %9s %9s\n' "$engine" "$(field acked_per_second "$work/publish")" \
		"$(echo "scale=4; $disk/$payload" | bc)" "$(echo "scale=4; $device_bytes/$payload" | bc)" "$full" "$open" "$after" \
		"$(field page_p50_us "$work/history")" "$(field page_p99_us "$work/history")" 1000000 "$opened"
done
