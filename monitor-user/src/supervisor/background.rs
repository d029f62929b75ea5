//! A program that puts itself into the background: its main process ends at once, with success, and
//! leaves at work what nobody supervises. Says so, and what to do; decides nothing.

use std::path::Path;
use std::time::Duration;

/// A main process that ends by itself with 0 before this, and leaves others behind, has gone into the
/// background.
pub(super) const WITHIN: Duration = Duration::from_secs(10);

/// How programs that do so by default are kept in the foreground.
const FOREGROUND: &[(&str, &str)] = &[
    ("nginx", "nginx -g \"daemon off;\""),
    ("apache2", "apache2 -D FOREGROUND"),
    ("httpd", "httpd -D FOREGROUND"),
    ("apachectl", "apachectl -D FOREGROUND"),
    ("apache2ctl", "apache2ctl -D FOREGROUND"),
    ("sshd", "sshd -D"),
    ("redis-server", "redis-server --daemonize no"),
    ("cron", "cron -f"),
    ("crond", "crond -n"),
    ("rsyslogd", "rsyslogd -n"),
    ("haproxy", "haproxy -db"),
    ("php-fpm", "php-fpm --nodaemonize"),
    ("dnsmasq", "dnsmasq --keep-in-foreground"),
    ("named", "named -f"),
    ("squid", "squid --foreground"),
    ("vsftpd", "vsftpd -obackground=NO"),
    ("exim4", "exim4 -bdf"),
    ("snmpd", "snmpd -f"),
    ("chronyd", "chronyd -d"),
    ("ntpd", "ntpd -n"),
    ("dhcpd", "dhcpd -f"),
    ("smbd", "smbd --foreground --no-process-group"),
    ("pure-ftpd", "pure-ftpd without --daemonize"),
];

/// What a program does that has done so, and what to do about it.
pub(super) fn advice(program: &Path) -> String {
    let name = program.file_name().and_then(|name| name.to_str());
    let known = FOREGROUND.iter().find(|(known, _)| Some(*known) == name);
    let how = match known {
        Some((_, how)) => format!("run it as {how}"),
        None => {
            "run it in the foreground, for which most daemons have an option, or describe it with \
                 type = \"forking\""
                .to_owned()
        }
    };
    format!(
        "its main process went into the background: it ended with 0 and left others behind; {how}, so \
         that it can be supervised"
    )
}
