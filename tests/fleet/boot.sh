#!/bin/bash
# boot.sh NAME SEED CGROUPS SIZE: becomes a machine of its own. machines.py starts it; it is killed with its parent.
#
# A real systemd as the first process of its own namespaces, over a copy-on-write view of this machine's root that lies
# in memory. All mounts are made in the machine's own mount namespace: when its last process ends, nothing is left.
# SEED is a folder whose files are put over the root; CGROUPS are the control groups that the machine becomes the root
# of, one a line; SIZE is how much it may write.
set -eu
name=$1 seed=$2 groups=$3 size=$4

if [ "${5:-}" != inside ]; then
    for group in $groups; do echo $$ > "$group/cgroup.procs"; done
    # setpriv: a machine whose parent is gone, however it went, is gone too.
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

# What this machine starts is nothing to the new one, which starts with sshd alone.
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
mount -t tmpfs tmpfs var/tmp -o mode=1777   # this machine's own changes while tests run here too
# Only what belongs to Debian is shown: no home, and no folder of this machine's own.
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

# The machine's control groups as this machine has them: all in one, or one tree for each kind (then MemoryMax needs
# the old kind of memory controller).
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
mount --make-rshared /   # or systemd hands no credentials to a service
[ ! -x /etc/fedmq-fleet-init ] || exec /etc/fedmq-fleet-init
exec env -i container=fedmq-fleet PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd
