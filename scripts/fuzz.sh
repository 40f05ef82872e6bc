#!/bin/sh
# Runs every fuzz target of the repository for $FUZZTIME, one after the other.
# A failing input is left in the package's testdata/fuzz: commit it with the
# repair.
set -eu
GO=${GO:-go}
time=${FUZZTIME:-5s}

# "FuzzX" lines are followed by the "ok package" they belong to.
targets=$($GO test -list '^Fuzz' $($GO list ./... | grep -v '/e2e$') |
	awk '/^Fuzz/ { names[n++] = $1 } /^ok/ { for (i = 0; i < n; i++) print $2, names[i]; n = 0 }')
[ -n "$targets" ] || { echo "found no fuzz targets" >&2; exit 1; }

echo "$targets" | while read -r package name; do
	echo "-- $package $name"
	if ! out=$($GO test -run '^$' -fuzz "^$name\$" -fuzztime "$time" -parallel 2 "$package" 2>&1 </dev/null); then
		# Now and then the engine calls its own deadline a failure. A finding
		# says more than that.
		if echo "$out" | grep -q 'Failing input\|panic' || ! echo "$out" | grep -q 'context deadline exceeded'; then
			echo "$out"
			exit 1
		fi
	fi
	echo "$out" | grep '^fuzz: elapsed' | tail -n 1
done
