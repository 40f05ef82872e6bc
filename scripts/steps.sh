#!/bin/sh
# steps.sh STEP...: makes one step after the other until one fails, and says
# how long each took.
start=$(date +%s)
for step; do
	printf '\n== %s\n' "$step"
	began=$(date +%s)
	if ! ${MAKE:-make} --no-print-directory "$step"; then
		printf '== %s FAILED after %d s; again: make %s\n' "$step" $(($(date +%s) - began)) "$step"
		exit 1
	fi
	printf '== %s: %d s\n' "$step" $(($(date +%s) - began))
done
printf '\n== all passed in %d s\n' $(($(date +%s) - start))
