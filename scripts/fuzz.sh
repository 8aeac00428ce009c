#!/bin/sh
# Lets libFuzzer look for inputs that break a target of fuzz/src/lib.rs: SECONDS each, the kept inputs first. What it
# finds is left in fuzz/libfuzzer/artifacts; once mended, it belongs to fuzz/seeds. Needs a nightly compiler; no
# sanitizer, since there is no unsafe code.
#
#   fuzz.sh SECONDS [TARGET …]
set -eu
cd "$(dirname "$0")/.."
seconds=$1
shift
[ $# -gt 0 ] || set -- record etcd k8s notification mark settings access batch grpc

tools=${LEASEHOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/leasehold}/tools
PATH=$tools/bin:$PATH
if ! rustup run nightly rustc --version >/dev/null 2>&1; then
    echo "fuzz: installing a nightly compiler (libFuzzer's instrumentation needs one)" >&2
    rustup toolchain install nightly --profile minimal >&2 || {
        echo "fuzz: no nightly compiler could be had: connect to the network once, and run this again" >&2
        exit 1
    }
fi
if ! command -v cargo-fuzz >/dev/null; then
    echo "fuzz: building cargo-fuzz (once)" >&2
    cargo install --quiet --locked --version 0.13.2 --root "$tools" cargo-fuzz >&2 || {
        echo "fuzz: cargo-fuzz can't be had: connect to the network once, and run this again" >&2
        exit 1
    }
fi
for target; do
    echo "== $target, $seconds s"
    found=fuzz/libfuzzer/corpus/$target
    mkdir -p "$found"
    cargo +nightly fuzz run --sanitizer none --fuzz-dir fuzz/libfuzzer --target-dir target/fuzz "$target" "$found" "fuzz/seeds/$target" \
        -- -max_total_time="$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=4096 -print_final_stats=1
done
