# After an upgrade: the agents and the recorder that run go on as the new version. No service is
# restarted: the spare or the next agent takes them over, and deaths wait in the kernel meanwhile.

# Those of init's that still run the binary that was replaced. Others, of a terminal for instance, are
# left alone: nobody would start them again.
replaced() {
	for exe in /proc/[0-9]*/exe; do
		[ "$(readlink "$exe" 2>/dev/null)" = "/usr/sbin/respawn (deleted)" ] || continue
		dir=${exe%/exe}
		grep -q '^PPid:[[:space:]]*1$' "$dir/status" 2>/dev/null || continue
		tr '\0' '\n' <"$dir/cmdline" 2>/dev/null | grep -qx -e agent -e recorder || continue
		echo "${dir#/proc/}"
	done
}

renew() {
	if [ -d /run/systemd/system ]; then
		# Debian's asks the administrator's policy first.
		ctl=$(command -v deb-systemd-invoke || command -v systemctl)
		# The spare first: it then takes over from the agent as the new version.
		for unit in respawn-spare.service respawn.service respawn-recorder.service; do
			"$ctl" try-restart "$unit" || true
		done
		return 0
	fi
	if [ -x /etc/init.d/respawn ] && command -v invoke-rc.d >/dev/null; then
		invoke-rc.d respawn try-restart || true
		invoke-rc.d respawn-recorder try-restart || true
	fi
	# Lines that `respawn install` has written: init starts them again at once.
	if grep -qs '^# respawn.*: begin' /etc/inittab; then
		for pid in $(replaced); do
			kill -TERM "$pid" 2>/dev/null || true
		done
	fi
}
