#!/bin/sh
# Runs the commands on standard input, one a line, COUNT of them at a time: most of what ours do is wait. Prints the
# output of each when it has ended; at last the ten slowest, and the last lines of those that failed. One that is not
# done after LIMIT seconds (900) is killed with its process group, and has failed. Exit code 1 if any has.
#
#   printf '%s\n' "COMMAND ARGS" "COMMAND ARGS" | LIMIT=60 together.sh COUNT
set -eu

if [ "$1" = --one ]; then
    log=$(mktemp) began=$(date +%s) code=0 result=
    trap 'rm -f "$log"' EXIT
    # `cd ".../PACKAGE" && ".../TEST-0123456789abcdef"` is shown as `PACKAGE: TEST`.
    name=$(printf '%s\n' "$2" | sed 's|^cd ".*/\([^/"]*\)" && ".*/\(.*\)-[0-9a-f]\{16\}"$|\1: \2|')
    # In the background, so that the traps are heard; there SIGINT would be ignored, also by all that it starts.
    timeout -k 10 "$LIMIT" env --default-signal=INT,QUIT sh -c "$2" >"$log" 2>&1 </dev/null &
    trap 'kill $! 2>/dev/null; exit 130' INT TERM
    wait $! || code=$?
    took=$(($(date +%s) - began))
    [ "$code" = 0 ] || result=", FAILED"
    [ "$took" -lt "$LIMIT" ] || result=", FAILED: not done after $LIMIT s"
    printf '== %s (%s s%s)\n%s\n' "$name" "$took" "$result" "$(cat "$log")"
    echo "$took s  $name" >>"$RESULTS/times"
    [ -z "$result" ] || printf '== %s (%s s%s); its last lines:\n%s\n' "$name" "$took" "$result" "$(tail -n 20 "$log")" >>"$RESULTS/failed"
    [ -z "$result" ] && exit 0 || exit 1
fi

LIMIT=${LIMIT:-900} RESULTS=$(mktemp -d) code=0
export LIMIT RESULTS
trap 'rm -rf "$RESULTS"' EXIT
trap 'exit 130' INT TERM
tr '\n' '\0' | xargs -0 -P "$1" -n 1 sh "$0" --one || code=1
echo "== the slowest:"
sort -rn "$RESULTS/times" | head -n 10
[ "$code" = 0 ] || { cat "$RESULTS/failed" 2>/dev/null; echo "== some failed: see above" >&2; }
exit "$code"
