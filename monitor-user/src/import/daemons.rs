//! How known daemons stay in the foreground, by their program's name.
//!
//! Deliberately not here: what goes into the background only when it serves, and is needed by others, such
//! as `pg_ctlcluster`. In the foreground nobody would know when they may start.

/// What is done to the arguments.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// These are added, unless the first of them is there.
    Add(&'static [&'static str]),
    /// These are left out.
    Remove(&'static [&'static str]),
    /// The first becomes the others.
    Replace(&'static str, &'static [&'static str]),
    /// nginx has it in its `-g`.
    Nginx,
}

use Way::{Add, Nginx, Remove, Replace};

#[rustfmt::skip]
const DAEMONS: &[(&str, Way)] = &[
    ("acpid", Add(&["-f"])),
    ("apache2", Replace("start", &["start", "-DFOREGROUND"])),
    ("apache2ctl", Replace("start", &["-DFOREGROUND"])),
    ("apachectl", Replace("start", &["-DFOREGROUND"])),
    ("atd", Add(&["-f"])),
    ("auditd", Add(&["-n"])),
    ("automount", Add(&["-f"])),
    ("avahi-daemon", Remove(&["-D", "--daemonize"])),
    ("blkmapd", Add(&["-f"])),
    ("chronyd", Add(&["-n"])),
    ("collectd", Add(&["-f"])),
    ("conserver", Remove(&["-d"])),
    ("cron", Add(&["-f"])),
    ("crond", Add(&["-n"])),
    ("cupsd", Add(&["-f"])),
    ("dnsmasq", Add(&["-k"])),
    ("dovecot", Add(&["-F"])),
    ("exim4", Replace("-bd", &["-bdf"])),
    ("exim", Replace("-bd", &["-bdf"])),
    ("glusterd", Add(&["--no-daemon"])),
    ("gpsd", Add(&["-N"])),
    ("haproxy", Remove(&["-D"])),
    ("hostapd", Remove(&["-B"])),
    ("httpd", Replace("start", &["start", "-DFOREGROUND"])),
    ("ipmievd", Replace("daemon", &["nodaemon"])),
    ("iscsid", Add(&["-f"])),
    ("keepalived", Add(&["--dont-fork"])),
    ("krb5kdc", Add(&["-n"])),
    ("kadmind", Add(&["-nofork"])),
    ("lighttpd", Add(&["-D"])),
    ("memcached", Remove(&["-d"])),
    ("monit", Add(&["-I"])),
    ("mosquitto", Remove(&["-d"])),
    ("named", Add(&["-f"])),
    ("nfsdcld", Add(&["-F"])),
    ("nginx", Nginx),
    ("nmbd", Add(&["--foreground", "--no-process-group"])),
    ("nrpe", Replace("-d", &["-f"])),
    ("ntpd", Add(&["-n"])),
    ("opendkim", Add(&["-f"])),
    ("opendmarc", Add(&["-f"])),
    ("openvpn", Remove(&["--daemon"])),
    ("php-fpm", Add(&["--nodaemonize"])),
    ("postfix", Replace("start", &["start-fg"])),
    ("privoxy", Add(&["--no-daemon"])),
    ("proftpd", Add(&["-n"])),
    ("radvd", Add(&["-n"])),
    ("redis-server", Add(&["--daemonize", "no"])),
    ("redis-sentinel", Add(&["--daemonize", "no"])),
    ("rpc.gssd", Add(&["-f"])),
    ("rpc.idmapd", Add(&["-f"])),
    ("rpc.mountd", Add(&["-F"])),
    ("rpc.statd", Add(&["-F"])),
    ("rpc.svcgssd", Add(&["-f"])),
    ("rpcbind", Add(&["-f"])),
    ("rsyslogd", Add(&["-n"])),
    ("smbd", Add(&["--foreground", "--no-process-group"])),
    ("snmpd", Add(&["-f"])),
    ("squid", Add(&["--foreground"])),
    ("sshd", Add(&["-D"])),
    ("tor", Add(&["--RunAsDaemon", "0"])),
    ("unbound", Add(&["-d"])),
    ("varnishd", Add(&["-F"])),
    ("varnishncsa", Remove(&["-D"])),
    ("vsftpd", Add(&["-obackground=NO"])),
    ("wd_keepalive", Add(&["-F"])),
    ("xinetd", Add(&["-dontfork"])),
    ("zabbix_agentd", Add(&["--foreground"])),
    ("zabbix_server", Add(&["--foreground"])),
];

/// The words of a command line that keep the daemon in the foreground; `None`: it is not known how.
pub(super) fn in_foreground(words: &[String]) -> Option<Vec<String>> {
    let program = words.first()?;
    let name = program.rsplit('/').next()?;
    // php-fpm8.2 and the like.
    let plain = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let (_, way) = DAEMONS
        .iter()
        .find(|(known, _)| [name, plain].contains(known))?;
    let mut words = words.to_vec();
    let owned = |words: &[&str]| -> Vec<String> { words.iter().map(|w| (*w).to_owned()).collect() };
    match way {
        Add(flags) => {
            if !words
                .iter()
                .any(|word| flags.first() == Some(&word.as_str()))
            {
                words.extend(owned(flags));
            }
        }
        Remove(flags) => words.retain(|word| !flags.contains(&word.as_str())),
        Replace(from, to) => {
            let at = words.iter().position(|word| word == from)?;
            words.splice(at..=at, owned(to));
        }
        Nginx => nginx(&mut words),
    }
    Some(words)
}

/// `-g 'daemon on; master_process on;'`
fn nginx(words: &mut Vec<String>) {
    let off = "daemon off;";
    let directives = words.iter().position(|word| word == "-g");
    match directives.and_then(|at| words.get_mut(at + 1)) {
        Some(directives) if directives.contains("daemon on;") => {
            *directives = directives.replace("daemon on;", off);
        }
        Some(directives) if directives.contains(off) => {}
        Some(directives) => *directives = format!("{off} {directives}"),
        None => words.extend(["-g".to_owned(), off.to_owned()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_daemons_stay_in_the_foreground() {
        let line = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (from, to) in [
            (
                "/usr/sbin/php-fpm8.2 --x",
                Some("/usr/sbin/php-fpm8.2 --x --nodaemonize"),
            ),
            ("/usr/sbin/cron -f", Some("/usr/sbin/cron -f")),
            ("/usr/sbin/haproxy -D -f x", Some("/usr/sbin/haproxy -f x")),
            ("/usr/sbin/exim4 -bd -q", Some("/usr/sbin/exim4 -bdf -q")),
            ("/usr/sbin/apachectl graceful", None),
            ("/usr/sbin/unheard", None),
        ] {
            assert_eq!(in_foreground(&line(from)), to.map(line), "{from}");
        }
        let words = ["/usr/sbin/nginx", "-g", "daemon on; master_process on;"];
        let words = in_foreground(&words.map(str::to_owned)).unwrap();
        assert_eq!(words[2], "daemon off; master_process on;");
        let words = in_foreground(&["nginx".to_owned()]).unwrap();
        assert_eq!(words, ["nginx", "-g", "daemon off;"]);
    }
}
