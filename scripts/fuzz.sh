#!/bin/sh
# Runs every fuzz target for a time, 5s unless told: scripts/fuzz.sh [TIME]
set -eu
time=${1:-5s}
for file in $(grep -l '^func Fuzz' ./*/*_test.go); do
	dir=$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$file"); do
		echo "$dir $target $time"
		go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -parallel 2 >/tmp/fuzz.$$ 2>&1 || {
			# The engine sometimes reports its own deadline as a failure; a
			# finding always leaves a failing input.
			if grep -q 'Failing input\|panic' /tmp/fuzz.$$ || ! grep -q 'context deadline exceeded' /tmp/fuzz.$$; then
				cat /tmp/fuzz.$$
				rm -f /tmp/fuzz.$$
				exit 1
			fi
		}
		rm -f /tmp/fuzz.$$
	done
done
