#!/usr/bin/env bash
# Behind etcd's gRPC proxy a holder's lease outlives its holder by nearly twice its ttl.
#
# etcd's lease ends a ttl after the last keep-alive that the holder sent; a failover's time is planned with that. etcd's
# own gRPC proxy stands between many clients and a cluster, and its documentation speaks of watches and cached reads: one
# expects that it passes keep-alives on.
# It doesn't. It answers them from a keep-alive of its own, every third of the ttl, which it goes on sending until for a
# whole ttl no client has asked. So after a client's last request come up to a ttl of the proxy's renewals, and then the
# lease's own ttl. A client that closes its connection ends that at once; a host that has lost its network or stands
# still doesn't.
#
# For leases: the plan "ttl 15 s, so a new leader within 15 s" is up to 30 s through the proxy, and nothing says so. What
# renews for somebody must stop with them. (This project renews registers, not etcd's leases: T-2, L-4.)
# Seen (etcd 3.7.3, ttl 9 s, a holder that asks every 3 s and is stopped): 6 to 10 s to the end of the lease directly, 12
# to 18 s through the proxy.
# Source: etcd server/proxy/grpcproxy/lease.go, keepAliveLoop and its ticker.
set -euo pipefail
# shellcheck source=common.bash
source "$(dirname "${BASH_SOURCE[0]}")/common.bash"

build_etcd
etcdctl=$work/go/etcdctl
start_etcd
proxy=127.0.0.1:$(free_port)
start proxy.log "$work/go/etcd" grpc-proxy start --endpoints="$etcd" --listen-addr="$proxy"
# at ENDPOINT COMMAND...: etcdctl there. It refuses a flag beside the variable.
at() { ETCDCTL_ENDPOINTS=$1 "$etcdctl" "${@:2}"; }
wait_for 30 "the proxy to answer" at "$proxy" get nothing

# outlives ENDPOINT: how many seconds a lease of 9 s lasts after its holder, who renewed it there, has stopped.
outlives() {
    local lease
    lease=$(at "$1" lease grant 9 | awk '{print $2}')
    ETCDCTL_ENDPOINTS=$1 "$etcdctl" lease keep-alive "$lease" >"$work/keep-alive.log" &
    started+=("$!")
    wait_for 30 "the holder's renewals" awk 'END { exit NR < 3 }' "$work/keep-alive.log"
    kill -STOP "$!"
    local since=$SECONDS
    # Asked at etcd itself, in both cases.
    while "$etcdctl" lease timetolive "$lease" | grep -q remaining; do
        ((SECONDS - since < 40)) || changed "the lease was still there after 40 s"
        sleep 0.2
    done
    kill -KILL "$!"
    echo $((SECONDS - since))
}

directly=$(outlives "$etcd")
proxied=$(outlives "$proxy")
echo "a lease of 9 s ended $directly s after its holder stood still; renewed through the proxy, $proxied s after"
((directly <= 11)) || changed "etcd itself kept it for longer than its ttl"
((proxied >= 12 && proxied <= 20)) || changed "the proxy no longer prolongs it"
