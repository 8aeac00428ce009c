#!/bin/sh
# Runs the commands on standard input, one a line, COUNT of them at a time: most of what ours do is wait. Prints what
# each of them printed when it has ended. Exit code 1 if any failed.
#
#   printf '%s\n' "COMMAND ARGS" "COMMAND ARGS" | together.sh COUNT
set -eu

if [ "$1" = --one ]; then
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    began=$(date +%s) failed=
    sh -c "$2" >"$log" 2>&1 </dev/null || failed=", FAILED"
    printf '== %s (%s s%s)\n%s\n' "$2" $(($(date +%s) - began)) "$failed" "$(cat "$log")"
    [ -z "$failed" ] && exit 0 || exit 1
fi

tr '\n' '\0' | xargs -0 -P "$1" -n 1 sh "$0" --one || { echo "some failed: look for FAILED above" >&2; exit 1; }
