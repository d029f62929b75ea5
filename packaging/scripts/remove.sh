# Before the removal: nothing is left that runs, or that init would start. Services are stopped, as
# nobody would start them again or stop them, and what the kernel remembers for the next agent goes.

stop_all() {
	respawn=/usr/sbin/respawn
	# While the agents are there, which keep what is stopped down. Without an agent it fails.
	$respawn stop --all 2>/dev/null || true
	# What `respawn install` has written.
	$respawn uninstall | grep -v '^nothing to remove' || true
	$respawn uninstall --recorder | grep -v '^nothing to remove' || true
	if [ -d /run/systemd/system ]; then
		ctl=$(command -v deb-systemd-invoke || command -v systemctl)
		# The spare first: it would take over.
		for unit in respawn-spare.service respawn.service respawn-recorder.service; do
			"$ctl" stop "$unit" 2>/dev/null || true
		done
	elif [ -x /etc/init.d/respawn ] && command -v invoke-rc.d >/dev/null; then
		invoke-rc.d respawn stop || true
		invoke-rc.d respawn-recorder stop || true
	fi
	# An agent that somebody has started by hand.
	$respawn shutdown 2>/dev/null || true
	$respawn unpin /sys/fs/bpf/respawn >/dev/null 2>&1 || true
	rmdir /sys/fs/bpf/respawn 2>/dev/null || true
	# Empty cgroups; one with a process in it stays. So do those of an agent with another runtime
	# directory: it holds a lock on a file there as long as it lives.
	for top in /sys/fs/cgroup /sys/fs/cgroup/unified; do
		for of_agent in "$top"/respawn/*/; do
			inode=$(stat -c %i "${of_agent}cgroup.procs" 2>/dev/null) || continue
			grep -q "WRITE .*:$inode " /proc/locks && continue
			find "$of_agent" -depth -type d -exec rmdir {} \; 2>/dev/null || true
		done
		rmdir "$top/respawn" 2>/dev/null || true
	done
}
