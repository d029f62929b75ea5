# Makes a root of real Debian packages: $1 is the step, $2 the directory that all of it is in.
#
# The packages are downloaded by apt in a private root of its own, and installed by dpkg in a chroot,
# with their maintainer scripts, and with namespaces around it so that none of them reaches the host.
set -e
step=$1 dir=$2

# Packages that Debian takes for granted, and what the daemons' own scripts need.
base="base-files base-passwd bash bsdutils coreutils dash debconf debianutils diffutils dpkg findutils
grep gzip hostname init-system-helpers libc-bin login mawk ncurses-base ncurses-bin passwd perl-base
sed sysvinit-utils tar usr-is-merged util-linux"
daemons="nginx-light postgresql redis-server openssh-server php-fpm haproxy rsyslog cron mosquitto dnsmasq
chrony"
clients="curl libfcgi-bin mosquitto-clients openssh-client"
# A host without systemd.
host="adduser iproute2 lsb-base netbase procps psmisc systemd-standalone-tmpfiles
sysv-rc insserv sysvinit-core"

apt() {
    APT_CONFIG=$dir/apt.conf LC_ALL=C apt-get --quiet=2 --option Dpkg::Use-Pty=0 "$@"
}

# The lists, the cache and the sources are its own; the mirror and the way to it are the host's.
fetch() {
    . /etc/os-release
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/etc"
    : > "$dir/status"
    apt-get indextargets --format '$(CREATED_BY) $(SITE) $(RELEASE)' |
        while read -r created site release; do
            for suite in "$VERSION_CODENAME" stable oldstable; do
                case $created:$release in
                Packages:$suite | Packages:$suite-updates | Packages:$suite-security)
                    echo "deb [signed-by=$keyring] $site $release main"
                    ;;
                esac
            done
        done | sort -u > "$dir/sources.list"
    apt-config dump Acquire > "$dir/apt.conf"
    cat >> "$dir/apt.conf" <<END
Dir::State "$dir";
Dir::State::status "$dir/status";
Dir::State::lists "$dir/lists";
Dir::Cache "$dir/cache";
Dir::Etc::sourcelist "$dir/sources.list";
Dir::Etc::sourceparts "$dir/etc";
Dir::Etc::preferencesparts "$dir/etc";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
END
    apt update --option APT::Update::Error-Mode=any
    apt install --print-uris $base | sed "s/^'[^']*' \([^ ]*\) .*/\1/" > "$dir/base"
    apt install --yes --download-only $base $daemons $clients $host
}

# Runs in PID, mount and network namespaces of its own.
build() {
    root=$dir/root
    mount --make-rprivate /
    mkdir -p "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/lib64"
    cd "$root"
    for name in bin sbin lib lib64; do ln -s usr/$name $name; done
    mkdir -p dev etc/dpkg/dpkg.cfg.d proc run sys tmp var/cache/packages var/lib/dpkg/info \
        var/lib/dpkg/updates
    chmod 1777 tmp
    for device in null zero full random urandom tty; do
        : > dev/$device
        mount --bind /dev/$device dev/$device
    done
    mount -t proc proc proc
    mount --bind "$dir/cache/archives" var/cache/packages
    : > var/lib/dpkg/status
    cat > etc/dpkg/dpkg.cfg.d/small <<END
force-unsafe-io
force-confold
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/i18n/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/man/*
path-exclude=/usr/lib/*/libLLVM*
path-exclude=/usr/lib/llvm*
END
    while read -r package; do
        dpkg-deb --fsys-tarfile "$dir/cache/archives/$package" |
            tar --extract --keep-directory-symlink --exclude './usr/share/doc/*' \
                --exclude './usr/share/man/*' --exclude './usr/share/locale/*'
    done < "$dir/base"
    cp usr/share/base-passwd/passwd.master etc/passwd
    cp usr/share/base-passwd/group.master etc/group
    printf '#!/bin/sh\nexit 101\n' > usr/sbin/policy-rc.d
    chmod 755 usr/sbin/policy-rc.d
    run chroot . dpkg --force-depends --unpack --recursive /var/cache/packages
    run chroot . dpkg --configure --pending
    rm usr/sbin/policy-rc.d
    umount var/cache/packages
    cp "$dir"/cache/archives/cron_*.deb var/cache/packages
}

run() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
        DEBCONF_NONINTERACTIVE_SEEN=true LC_ALL=C.UTF-8 "$@" < /dev/null
}

$step
