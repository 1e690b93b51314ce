#!/bin/bash
# boot.sh NAME SEED CGROUPS SIZE: becomes a machine. machines.py starts it; it is killed with its parent.
#
# A systemd as the first process of its own namespaces, over a copy-on-write view of this host's root in memory. All
# mounts are in the machine's own mount namespace: they end with its last process. SEED is a folder of files to copy
# over the root; CGROUPS are the control groups of the machine, one a line; SIZE is its disk space.
set -eu
name=$1 seed=$2 groups=$3 size=$4

if [ "${5:-}" != inside ]; then
    for group in $groups; do echo $$ > "$group/cgroup.procs"; done
    # setpriv: the machine ends with its parent.
    exec setpriv --pdeathsig KILL unshare --net --pid --fork --kill-child --mount --uts --ipc --cgroup \
        -- bash "$0" "$name" "$seed" "$groups" "$size" inside
fi

mount --make-rprivate /
scratch=$(dirname "$seed")/scratch
mkdir -p "$scratch"
mount -t tmpfs -o "mode=755,size=$size" "fedmq-$name" "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
root=$scratch/root
mount -t overlay "fedmq-$name" -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$root"
cp -a "$seed/." "$root/"
cd "$root"

# Units of this host do not start in the machine; only sshd does.
find etc/systemd/system -mindepth 1 -maxdepth 1 \( -name '*.wants' -o -name '*.requires' \) -exec rm -r {} +
for unit in systemd-udevd systemd-networkd systemd-resolved systemd-timesyncd; do
    ln -sf /dev/null "etc/systemd/system/$unit.service"
done
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
mkdir -p etc/systemd/system/multi-user.target.wants
ln -sf /lib/systemd/system/ssh.service etc/systemd/system/multi-user.target.wants/ssh.service
tr -d - < /proc/sys/kernel/random/uuid > etc/machine-id
echo "$name" > etc/hostname
: > etc/fstab
hostname "$name"

mount -t proc proc proc -o nosuid,nodev,noexec
mount -t sysfs sysfs sys -o ro,nosuid,nodev,noexec
mount -t tmpfs tmpfs dev -o mode=755,nosuid
mkdir dev/pts dev/shm
for device in null zero full random urandom tty; do
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mount -t devpts devpts dev/pts -o newinstance,ptmxmode=0666,mode=620,gid=5
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs tmpfs dev/shm -o mode=1777
mount -t tmpfs tmpfs run -o mode=755
mount -t tmpfs tmpfs tmp -o mode=1777
mount -t tmpfs tmpfs var/tmp -o mode=1777   # the host's own changes while tests run
# Show only Debian's folders: no home, and no other folder of this host.
for folder in *; do
    case $folder in
        bin | boot | dev | etc | lib* | opt | proc | run | sbin | sys | tmp | usr | var | root) ;;
        *) [ ! -d "$folder" ] || [ -L "$folder" ] || mount -t tmpfs tmpfs "$folder" -o mode=755 ;;
    esac
done
home=$(mktemp -d "$scratch/home.XXXX")
chmod 700 "$home"
cp -a "$seed/root/." "$home/" 2> /dev/null || true
mount --bind "$home" root

# The same layout of control groups as on this host: one tree, or one for each kind (MemoryMax then needs the old
# memory controller).
if [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup -o nosuid,nodev,noexec
else
    mount -t tmpfs tmpfs sys/fs/cgroup -o mode=755
    mkdir sys/fs/cgroup/unified sys/fs/cgroup/systemd sys/fs/cgroup/memory sys/fs/cgroup/pids
    mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
    mount -t cgroup cgroup sys/fs/cgroup/systemd -o none,name=systemd
    mount -t cgroup cgroup sys/fs/cgroup/memory -o memory
    mount -t cgroup cgroup sys/fs/cgroup/pids -o pids
fi
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount --bind proc/sys/net proc/sys/net 2> /dev/null || true

mkdir -p run/.old
pivot_root . run/.old
cd /
umount -l /run/.old
rmdir /run/.old
mount --make-rshared /   # or systemd passes no credentials to services
[ ! -x /etc/fedmq-fleet-init ] || exec /etc/fedmq-fleet-init
exec env -i container=fedmq-fleet PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
