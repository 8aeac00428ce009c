#!/bin/sh
# Runs a command beside busy processes, eight for each processor, and ends them with it. Its exit code is the command's.
#
#   busy.sh COMMAND ARGS
set -eu
pids=
trap 'kill $pids' EXIT
trap 'exit 130' INT TERM
for _ in $(seq $(($(nproc) * 8))); do
    while :; do :; done &
    pids="$pids $!"
done
"$@"
