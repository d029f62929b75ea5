#!/bin/sh
# Runs the job, reports its end on the port of the results, and switches the machine off. The job
# may leave a list of what is on the machine's disk: that is sent before, and is there at the next
# boot.
export PATH=/vm/files:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8
port=/dev/$(sed 's/.*vm.port=\([^ ]*\).*/\1/' /proc/cmdline)
stty -F "$port" raw
echo @@up > "$port"
cd /root
# What a host gives its services is more than what the kernel gives PID 1.
ulimit -n 20000
sh /vm/job < /dev/null > "$port" 2>&1
status=$?
if [ -e /vm/disk ]; then
    sync
    # Sockets are none of a disk's files.
    tar -C / -cz --files-from /vm/disk 2> /dev/null | base64 | sed 's/^/@@disk /' > "$port"
fi
echo "@@exit $status" > "$port"
busybox poweroff -f
