#!/bin/sh
# Makes sure that everything the two README commands need is here. Installs only missing pieces; silent if none is.
# Exit code 1 and a sentence that says what to do when a piece can't be installed.
set -eu

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

# install WHAT DEBIAN_PACKAGE FOR: by Debian's package manager if we may, else a sentence.
install() {
    if have apt-get && [ "$(id -u)" = 0 ]; then
        say "installing $2 ($3)"
        if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$2" >/tmp/leasehold-setup.$$ 2>&1; then
            apt-get update -q >>/tmp/leasehold-setup.$$ 2>&1 || true
            DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$2" >>/tmp/leasehold-setup.$$ 2>&1 ||
                { tail -n 5 /tmp/leasehold-setup.$$ >&2; fail "could not install $2: install $1 by hand ($3), then run this again"; }
        fi
        rm -f /tmp/leasehold-setup.$$
    else
        fail "$1 is missing ($3): install it, on Debian or Ubuntu with 'sudo apt-get install $2', on macOS with Homebrew, then run this again"
    fi
}

have cargo || fail "cargo is missing: install Rust from https://rustup.rs, then run this again"
have cc || install "a C compiler" build-essential "SQLite and ring are compiled from source"

# The demo's own build, on SQLite, has no gRPC.
[ "$*" = sqlite ] || have protoc || install protoc protobuf-compiler "etcd's client and the ledger's are generated from their protocols"
# Debian keeps the standard types, of which the ledger uses Timestamp, in a package of its own.
if [ "$*" != sqlite ] && have dpkg && [ ! -e /usr/include/google/protobuf/timestamp.proto ] && dpkg -s protobuf-compiler >/dev/null 2>&1; then
    install "protobuf's standard types" libprotobuf-dev "the ledger's protocol uses Timestamp"
fi

# The needs of the named modes, as in `setup.sh postgres etcd`.
wants() { case " $modes " in *" $1 "*) ;; *) return 1 ;; esac; }
modes="$*"

cache="${LEASEHOLD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/leasehold}"
needs_go() {
    have go || ls "$cache"/servers/"$1"-*/"$1" >/dev/null 2>&1 ||
        fail "a Go toolchain is missing ($1 is built from source, once): install Go 1.21 or later from https://go.dev/dl, then run this again"
}

if wants etcd; then
    [ -n "${LEASEHOLD_TEST_ETCD_ENDPOINTS:-}" ] || needs_go etcd
fi

if wants k8s; then
    # Pods as processes: their networks. The other programs that they need come with Debian's base.
    [ "$(uname)" != Linux ] || have ip || install "iproute2's ip" iproute2 "pods get networks of their own"
    [ -n "${LEASEHOLD_TEST_KUBECONFIG:-}${KUBEBUILDER_ASSETS:-}" ] || needs_go kubernetes
fi

if wants helm; then
    [ -n "${LEASEHOLD_TEST_HELM:-}" ] || needs_go helm
fi

if wants postgres; then
    have initdb || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || ls /opt/homebrew/opt/postgresql*/bin/initdb >/dev/null 2>&1 ||
        [ -n "${LEASEHOLD_TEST_POSTGRES_URL:-}" ] ||
        install "PostgreSQL's server" postgresql "real servers are started in throw-away folders"
    have pgbouncer || [ -x /usr/sbin/pgbouncer ] || install PgBouncer pgbouncer "a real pooler is put in front of PostgreSQL"
    have curl || install curl curl "the runbook's commands are run as they stand there"
    have sqlite3 || install "SQLite's shell" sqlite3 "it backs lease files up and restores them, as in the runbook"
fi
