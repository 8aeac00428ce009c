#!/bin/sh
# Asks `cargo deny` for advisories, licences, banned crates and foreign sources, without the network. deny.toml has the
# rules, deny/ the advisories of https://github.com/rustsec/advisory-db: public domain or CC-BY-4.0, as their files say.
#
#   sh scripts/deny.sh          check
#   sh scripts/deny.sh renew    put the present advisories into deny/, which needs GitHub
set -eu

version=0.20.2
# cargo deny's own name for its copy of that repository.
copy=target/deny/advisory-db-3157b0e258782691
fail() { printf 'deny: %s\n' "$*" >&2; exit 1; }

if [ "${1:-check}" = renew ]; then
    new=$(mktemp -d)
    trap 'rm -rf "$new"' EXIT
    git clone -q --depth 1 https://github.com/rustsec/advisory-db "$new" ||
        fail "could not clone the advisories: check the way to github.com, then run this again"
    date=$(git -C "$new" show -s --format=%cs HEAD)
    rm -f deny/advisories-*.tar.gz
    tar -C "$new" --sort=name --owner=0 --group=0 --numeric-owner --mtime="$date" -c crates LICENSES LICENSE.txt |
        gzip -9n >"deny/advisories-$date.tar.gz"
    exit
fi

tools="${LEASEHOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/leasehold}/tools/cargo-deny-$version"
if ! [ -x "$tools/bin/cargo-deny" ]; then
    printf 'deny: building cargo-deny %s, once (minutes)\n' "$version" >&2
    cargo install --quiet --locked --root "$tools" "cargo-deny@$version" ||
        fail "could not build cargo-deny $version: check the way to crates.io, then run this again"
fi

pinned=$(echo deny/advisories-*.tar.gz)
if ! [ "$copy/.git/FETCH_HEAD" -nt "$pinned" ]; then
    rm -rf "$copy"
    mkdir -p "$copy/.git"
    tar -C "$copy" -xzf "$pinned"
    # All that cargo deny asks of the repository.
    touch "$copy/.git/FETCH_HEAD"
fi

# The crates of other platforms too, which no build here has brought.
cargo fetch --quiet --locked || fail "could not bring the crates of Cargo.lock: check the way to crates.io, then run this again"
exec "$tools/bin/cargo-deny" --locked --offline --log-level warn check --hide-inclusion-graph
