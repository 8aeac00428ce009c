# Makes a container's root, says "started" with the main process's id, and becomes that process.
# ROOT LOG READ_ONLY RIGHTS, then any number of "ro|rw SOURCE PATH", then "--", its environment as "NAME=VALUE", and the
# program with its arguments. RIGHTS are arguments of setpriv.
set -e
root=$1 log=$2 read_only=$3 rights=$4
shift 4
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p usr/local etc dev/shm proc run var/tmp tmp root
chmod 1777 tmp var/tmp
ln -s ../run var/run

# The programs and libraries of the system, at their usual places. Not /usr as a whole: the image's files go into /usr/local.
for each in bin sbin lib lib32 lib64 usr/bin usr/sbin usr/lib usr/lib32 usr/lib64 usr/libexec usr/share; do
    if [ -L "/$each" ]; then
        ln -s "$(readlink "/$each")" "$each"
    elif [ -d "/$each" ]; then
        mkdir -p "$each"
        mount -o bind,ro "/$each" "$each"
    fi
done

echo 'root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/sh
nonroot:x:65532:65532:nonroot:/:/bin/sh' >etc/passwd
echo 'root:x:0:
nogroup:x:65534:
nonroot:x:65532:' >etc/group
echo 'hosts: files' >etc/nsswitch.conf
: >etc/resolv.conf
cp /etc/ld.so.* etc/ 2>/dev/null || true

for each in null zero full random urandom; do
    : >"dev/$each"
    mount --bind "/dev/$each" "dev/$each"
done
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t proc proc proc

while [ "$1" != -- ]; do
    if [ -d "$2" ]; then
        mkdir -p ".$3"
    elif [ ! -e ".$3" ]; then
        mkdir -p ".$(dirname "$3")"
        : >".$3"
    fi
    mount -o "bind,$1" "$2" ".$3"
    shift 3
done
shift
[ "$read_only" = true ] && mount -o remount,bind,ro "$root"

# From the outer /proc: its id outside of the container.
read -r pid _ </proc/self/stat
echo "started $pid"
# The testbed's supervisor knows its runner's descendants by this variable; else the environment is the container's own.
exec chroot "$root" setpriv $rights env -i -C / "LEASE_TESTBED_ROOT=$LEASE_TESTBED_ROOT" "$@" >>"$log" 2>&1
