# Makes a layer over the root of Debian's packages, for a host with systemd and with rpm: $1 is the step, $2 the
# directory that all of it is in, which has the root too.
set -e
step=$1 dir=$2

apt() {
    APT_CONFIG=$dir/systemd-apt.conf LC_ALL=C apt-get --quiet=2 --option Dpkg::Use-Pty=0 "$@"
}

# Downloads what the root does not have yet. Configured as for the root, whose packages count as installed.
fetch() {
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
    cat "$dir/apt.conf" - > "$dir/systemd-apt.conf" <<END
Dir::State::status "$dir/root/var/lib/dpkg/status";
END
    apt update --option APT::Update::Error-Mode=any
    apt install --yes --download-only systemd rpm
}

# Runs in PID, mount and network namespaces of its own.
build() {
    mount --make-rprivate /
    mkdir -p "$dir/systemd" "$dir/systemd-work" "$dir/systemd-root"
    chmod 755 "$dir/systemd"
    mount -t overlay -o "lowerdir=$dir/root,upperdir=$dir/systemd,workdir=$dir/systemd-work" \
        root "$dir/systemd-root"
    cd "$dir/systemd-root"
    for device in null zero full random urandom tty; do mount --bind /dev/$device dev/$device; done
    mount -t proc proc proc
    mount --bind "$dir/cache/archives" var/cache/packages
    printf '#!/bin/sh\nexit 101\n' > usr/sbin/policy-rc.d
    chmod 755 usr/sbin/policy-rc.d
    # systemd has its own.
    run chroot . dpkg --purge --force-depends systemd-standalone-tmpfiles
    run chroot . dpkg --force-depends --unpack --recursive /var/cache/packages
    run chroot . dpkg --configure --pending
    rm usr/sbin/policy-rc.d
    umount var/cache/packages
}

run() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
        DEBCONF_NONINTERACTIVE_SEEN=true LC_ALL=C.UTF-8 "$@" < /dev/null
}

$step
