#!/bin/sh
# Runs before everything else, from the init's own table.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2> /dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=620,gid=5 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t securityfs security /sys/kernel/security 2> /dev/null
mount -t tracefs tracing /sys/kernel/tracing 2> /dev/null
mount -t bpf -o mode=700 bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
busybox ip link set lo up
busybox hostname -F /etc/hostname
