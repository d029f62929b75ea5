#!/bin/sh
# Runs before everything else, whatever the init: mounts what it has not mounted. The kernel's
# command line says what this machine is to lack.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin

# What is to be mounted, by its type, in a place where nothing is yet.
put() {
    mountpoint -q "$3" && return
    mkdir -p "$3" 2> /dev/null
    mount -t "$1" -o "$2" "$1" "$3" 2> /dev/null
}

wanted() {
    sed -n "s/.*vm.$1=\([^ ]*\).*/\1/p" /proc/cmdline
}

put proc rw /proc
put sysfs rw /sys
put devtmpfs rw /dev
put devpts mode=620,gid=5,ptmxmode=666 /dev/pts
put tmpfs mode=1777 /dev/shm
put tmpfs mode=755 /run
# Not over what the machine was given there: tests find programs at the paths where they were built.
[ -n "$(ls -A /tmp 2> /dev/null)" ] || put tmpfs mode=1777 /tmp
chmod 1777 /tmp
put securityfs rw /sys/kernel/security
put tracefs rw /sys/kernel/tracing

case $(wanted bpffs) in
    none) umount /sys/fs/bpf 2> /dev/null ;;
    *) put bpf mode=700 /sys/fs/bpf ;;
esac

case $(wanted cgroup) in
    none) ;;
    v1)
        put tmpfs mode=755 /sys/fs/cgroup
        for controller in pids memory cpu freezer; do
            mkdir -p "/sys/fs/cgroup/$controller"
            mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
        done
        ;;
    *)
        put cgroup2 rw /sys/fs/cgroup
        echo "+memory +pids +cpu" > /sys/fs/cgroup/cgroup.subtree_control
        ;;
esac

# As udev makes them, for what opens its own output by name.
ln -sfn /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
busybox ip link set lo up
busybox hostname -F /etc/hostname
