# With the package's configuration goes what was written at work: the service files, the records of
# deaths, and the state of this boot.

purge_all() {
	rm -rf /etc/respawn /var/lib/respawn /run/respawn
	# Where the inits that have no log of their own write what agents and recorder say.
	rm -f /var/log/respawn.log
}
