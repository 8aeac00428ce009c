# What every finding needs: a folder that goes away, processes that are ended, limits on every wait.
# A finding says "source common.bash" first; it is not run by itself.
# shellcheck shell=bash disable=SC2034

postgres_version=15.20-0+deb12u1

work=$(mktemp -d)
chmod 755 "$work"
started=()

cleanup() {
    local status=$?
    trap - EXIT
    local pid tries
    for pid in "${started[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for tries in {1..30}; do
        kill -0 "${started[@]}" 2>/dev/null || break
        sleep 0.1
    done
    for pid in "${started[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    chmod -R u+w "$work" 2>/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Ends the script with exit code 1: the behaviour is no longer the one that is described.
changed() {
    echo "CHANGED: $*" >&2
    exit 1
}

# Ends the script with exit code 2: nothing was learnt, because something could not be installed or started.
unusable() {
    echo "NOT RUN: $*" >&2
    exit 2
}

# run LIMIT COMMAND...: the observation itself; its output is shown. A program prints CHANGED and fails if it differs.
run() {
    local limit=$1
    shift
    timeout --kill-after=5 "$limit" "$@" || changed "the observation above did not hold (exit code $?)"
}

# start LOG COMMAND...: a server in the background, ended when the script ends.
start() {
    local log=$1
    shift
    "$@" >"$work/$log" 2>&1 &
    started+=("$!")
}

# wait_for SECONDS TEXT COMMAND...: until the command succeeds.
wait_for() {
    local limit=$((SECONDS + $1)) text=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < limit)) || unusable "timed out waiting for $text"
        sleep 0.1
    done
}

# A TCP port on the loopback interface that nothing listens on.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1"); }

# python_packages NAME==VERSION...: into a virtual environment; afterwards $python runs it.
python_packages() {
    python3 -m venv "$work/venv" || unusable "python3 with venv is needed"
    python=$work/venv/bin/python
    "$python" -m pip install --quiet --disable-pip-version-check "$@" || unusable "pip could not install $*"
}

# debian_packages NAME=VERSION...: unpacked into $debian, not installed; needs no root.
debian_packages() {
    debian=$work/debian
    mkdir -p "$debian/archives"
    local sandbox=()
    [[ $(id -u) != 0 ]] || sandbox=(-o APT::Sandbox::User=root)
    (cd "$debian/archives" && apt-get "${sandbox[@]}" download -qq "$@") ||
        unusable "apt-get could not download $* (run apt-get update; this finding is for Debian 12)"
    local archive
    for archive in "$debian"/archives/*.deb; do dpkg -x "$archive" "$debian"; done
    with_debian=(env "LD_LIBRARY_PATH=$debian/usr/lib/x86_64-linux-gnu")
}

# PostgreSQL and PgBouncer refuse to run as root: "${unprivileged[@]}" COMMAND...
unprivileged=(env)
[[ $(id -u) != 0 ]] || unprivileged=(setpriv --reuid=65534 --regid=65534 --clear-groups)

# start_postgres: PostgreSQL 15 on port $pg_port, in $pg_url as superuser without a password.
start_postgres() {
    debian_packages "postgresql-15=$postgres_version" "$@"
    local bin=$debian/usr/lib/postgresql/15/bin
    pg_port=$(free_port)
    pg_url=postgresql://postgres@127.0.0.1:$pg_port/postgres
    mkdir "$work/pg"
    [[ $(id -u) != 0 ]] || chown 65534:65534 "$work/pg"
    (cd / && "${unprivileged[@]}" "${with_debian[@]}" "$bin/initdb" -D "$work/pg/data" -U postgres -A trust --no-sync) \
        >"$work/initdb.log" 2>&1 || unusable "initdb failed: $(tail -1 "$work/initdb.log")"
    start postgres.log "${unprivileged[@]}" "${with_debian[@]}" "$bin/postgres" -D "$work/pg/data" -p "$pg_port" \
        -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c jit=off
    wait_for 60 "PostgreSQL's port" listening "$pg_port"
}

# start_redis [OPTION...]: Redis 7.0.15 on port $redis_port, nothing written to disk.
start_redis() {
    debian_packages redis-tools=5:7.0.15-1~deb12u10 liblzf1=3.6-3 libjemalloc2=5.3.0-1
    redis_port=$(free_port)
    # The server is the same program as the checker in redis-tools, chosen by its name.
    ln -s "$debian/usr/bin/redis-check-rdb" "$work/redis-server"
    start redis.log "${with_debian[@]}" "$work/redis-server" --bind 127.0.0.1 --port "$redis_port" --dir "$work" \
        --save '' --daemonize no "$@"
    wait_for 20 "Redis' port" listening "$redis_port"
}

# java_packages DIRECTORY GROUP:ARTIFACT:VERSION...: these and what they need, as jars in DIRECTORY, by Maven.
java_packages() {
    local directory=$1 coordinate group artifact version dependencies=
    shift
    for coordinate in "$@"; do
        IFS=: read -r group artifact version <<<"$coordinate"
        dependencies+="<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId>"
        dependencies+="<version>$version</version></dependency>"
    done
    cat >"$work/pom.xml" <<XML
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>finding</groupId><artifactId>finding</artifactId><version>1</version>
  <dependencies>$dependencies</dependencies>
</project>
XML
    mvn -q -B -Dstyle.color=never -f "$work/pom.xml" dependency:copy-dependencies -DoutputDirectory="$directory" \
        >"$work/maven.log" 2>&1 || unusable "Maven could not install $*: $(grep -m 1 ERROR "$work/maven.log")"
}

# start_zookeeper OPTION...: a ZooKeeper server on $zookeeper with Curator beside it; the jars are in $jars.
start_zookeeper() {
    jars=$work/jars
    java_packages "$jars" org.apache.curator:curator-recipes:5.9.0 org.apache.zookeeper:zookeeper:3.9.4 \
        io.dropwizard.metrics:metrics-core:4.1.12.1 org.xerial.snappy:snappy-java:1.1.10.5 org.slf4j:slf4j-nop:2.0.13
    local port
    port=$(free_port)
    zookeeper=127.0.0.1:$port
    cat >"$work/zoo.cfg" <<CFG
tickTime=500
dataDir=$work/zookeeper
clientPort=$port
clientPortAddress=127.0.0.1
admin.enableServer=false
CFG
    start zookeeper.log java -cp "$jars/*" "$@" org.apache.zookeeper.server.quorum.QuorumPeerMain "$work/zoo.cfg"
    wait_for 60 "ZooKeeper's port" listening "$port"
}

# run_java LIMIT FILE ARGUMENT...: compiles one class and runs it with $jars.
run_java() {
    local limit=$1 file=$2
    shift 2
    javac -d "$work/classes" -cp "$jars/*" "$file" || unusable "javac failed"
    run "$limit" java -cp "$jars/*:$work/classes" "$(basename "$file" .java)" "$@"
}

# go_packages MODULE@VERSION...: a module in $work/go that requires these; everything else follows from them.
go_packages() {
    mkdir -p "$work/go"
    cd "$work/go"
    printf 'module finding\n\ngo 1.26\n' >go.mod
    go get "$@" 2>"$work/go-get.log" || unusable "go could not install $*: $(tail -1 "$work/go-get.log")"
}

# go_build PROGRAM PACKAGE: one program in $work/go.
go_build() {
    go build -mod=mod -o "$1" "$2" 2>"$work/go-build.log" || unusable "go build failed: $(tail -3 "$work/go-build.log")"
}

# build_etcd: etcd 3.7.3, the server as $work/go/etcd and the client as $work/go/etcdctl; it will listen on $etcd.
build_etcd() {
    go_packages go.etcd.io/etcd/server/v3@v3.7.3 go.etcd.io/etcd/etcdctl/v3@v3.7.3
    mkdir etcd-program
    cat >etcd-program/main.go <<'GO'
// etcd's server and etcdctl, each as released, chosen by the name of the program.
package main

import (
	"os"
	"path/filepath"

	"go.etcd.io/etcd/etcdctl/v3/ctlv3"
	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	if filepath.Base(os.Args[0]) == "etcdctl" {
		ctlv3.MustStart()
	} else {
		etcdmain.Main(os.Args)
	}
}
GO
    go_build etcd ./etcd-program
    ln -s etcd etcdctl
    etcd=127.0.0.1:$(free_port)
    etcd_peer=127.0.0.1:$(free_port)
    export ETCDCTL_ENDPOINTS=$etcd
}

start_etcd() {
    start etcd.log "$work/go/etcd" --data-dir "$work/etcd-data" --log-level error "$@" \
        --listen-client-urls "http://$etcd" --advertise-client-urls "http://$etcd" \
        --listen-peer-urls "http://$etcd_peer" --initial-advertise-peer-urls "http://$etcd_peer" \
        --initial-cluster "default=http://$etcd_peer"
    wait_for 60 "etcd to answer" "$work/go/etcdctl" endpoint health
}

# build_client_go_election: in $work/go, client-go 0.37.2 with candidate(NAME), whose way to the API server can be cut.
# The API server is client-go's own fake clientset, which stores objects; leader election is client-go's as released.
build_client_go_election() {
    go_packages k8s.io/client-go@v0.37.2
    cat >candidate.go <<'GO'
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"sync/atomic"
	"time"

	coordination "k8s.io/api/coordination/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	typed "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/klog/v2"
)

func init() {
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	_ = flags.Parse([]string{"-logtostderr=false", "-stderrthreshold=FATAL"})
	klog.SetOutput(io.Discard)
}

var server = fake.NewClientset().CoordinationV1()

var errCut = errors.New("connection refused")

// cable is a client's connection to the server; once cut, its requests fail.
type cable struct {
	typed.LeaseInterface
	cut *atomic.Bool
}

func (c cable) Leases(namespace string) typed.LeaseInterface {
	return cable{server.Leases(namespace), c.cut}
}

func (c cable) Get(ctx context.Context, name string, options meta.GetOptions) (*coordination.Lease, error) {
	if c.cut.Load() {
		return nil, errCut
	}
	return c.LeaseInterface.Get(ctx, name, options)
}

func (c cable) Update(ctx context.Context, lease *coordination.Lease, options meta.UpdateOptions) (*coordination.Lease, error) {
	if c.cut.Load() {
		return nil, errCut
	}
	return c.LeaseInterface.Update(ctx, lease, options)
}

type elector struct {
	*leaderelection.LeaderElector
	cut              *atomic.Bool
	started, stopped chan struct{}
}

func (e elector) cutOff() { e.cut.Store(true) }

func candidate(name string) elector {
	e := elector{nil, &atomic.Bool{}, make(chan struct{}), make(chan struct{})}
	le, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  meta.ObjectMeta{Namespace: "default", Name: "leader"},
			Client:     cable{cut: e.cut},
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		},
		LeaseDuration: 2900 * time.Millisecond,
		RenewDeadline: 2700 * time.Millisecond,
		RetryPeriod:   200 * time.Millisecond,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { close(e.started) },
			OnStoppedLeading: func() { close(e.stopped) },
		},
	})
	if err != nil {
		panic(err)
	}
	e.LeaderElector = le
	return e
}

func recordedSeconds(ctx context.Context) int32 {
	lease, err := server.Leases("default").Get(ctx, "leader", meta.GetOptions{})
	if err != nil {
		panic(err)
	}
	return *lease.Spec.LeaseDurationSeconds
}
GO
}
