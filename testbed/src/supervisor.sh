# Reads "+ PID SIGNAL" and "- PID" from the runner and its children until the last of them has closed the pipe.
mark=$1
trap '' HUP INT QUIT TERM
root=$(mktemp -d "${TMPDIR:-/tmp}/leasehold-XXXXXX") && root=$(cd "$root" && pwd -P) && chmod 711 "$root" || exit 1
echo "$root"
exec >/dev/null

known=
while read -r what pid signal; do
    case $what in
    +) known="$known $pid:$signal" ;;
    -)
        kept=
        for each in $known; do [ "${each%%:*}" = "$pid" ] || kept="$kept $each"; done
        known=$kept
        ;;
    esac
done

# On Linux their descendants too: by the mark in the environment, or by a working directory below the root
# (Postgres overwrites the memory that its environment is read from).
ours() {
    for each in $known; do kill -0 "${each%%:*}" && echo "${each%%:*}"; done
    grep -lsF "$mark=$root" /proc/[0-9]*/environ | cut -d/ -f3
    ls -ld /proc/[0-9]*/cwd | sed -n "s|.* /proc/\([0-9]*\)/cwd -> $root/.*|\1|p"
}

for pid in $(ours); do kill -CONT "$pid"; done
for each in $known; do
    [ "${each#*:}" = KILL ] && kill -KILL "-${each%%:*}"
    kill "-${each#*:}" "${each%%:*}"
done
tries=0
while left=$(ours) && [ -n "$left" ] && [ $tries -lt 200 ]; do
    tries=$((tries + 1))
    # After three seconds everything is killed.
    [ $tries -gt 30 ] && kill -KILL $left
    sleep 0.1
done
# A server that was killed leaves its System V shared memory behind; its lock file has the id.
for file in "$root"/*/data/postmaster.pid; do
    set -- $(sed -n 7p "$file") && [ -n "$2" ] && ipcrm -m "$2"
done
# What is mounted would be there for ever.
sed -n "s|^[^ ]* \($root/[^ ]*\) .*|\1|p" /proc/self/mounts | while read -r at; do umount -l "$at"; done
rm -rf "$root"
