//! A host's files and a `getent` of its own, in a temporary directory.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::*;

const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/bash
# a:x:1:1::/:

   app:x:1000:1000:App,,,:/srv/app:/bin/sh
+@netgroup:x:7:7:::
+nis:x:8:8::/:/bin/sh
-nis:x:9:9::/:/bin/sh
+::::::
:x:10:10::/:/bin/sh
short:x:11:12
nouid:x::13::/:/bin/sh
nogid:x:14:::/:/bin/sh
signed:x:+15:15::/:/bin/sh
negative:x:-2:-2::/:/bin/sh
large:x:4294967296:1::/:/bin/sh
nobody-at-all:x:4294967295:1::/:/bin/sh
root-by-group:x:16:4294967295::/:/bin/sh
one
two:x
1001:x:17:17::/:/bin/sh
app:x:1002:1002::/second:/bin/sh
again:x:1000:1003::/third:/bin/sh
more:x:18:18::/home/more:/bin/sh:and:more
last:x:19:19::/home/last:/bin/last";

const GROUP: &str = "\
root:x:0:
+:::app
-staff:x:3:app
# note:x:4:app
app:x:1000:
video:x:44:mallory,app,app
spaces:x:45: app , mallory
prefix:x:46:application,ap
four:x:47:app:app
empty:x:48:,,
broken:x:x:app
nobody-at-all:x:4294967295:app
short:x:49
video:x:50:app
";

/// A host with these sources of accounts beside the files, none of which knows anything.
struct Host {
    dir: TempDir,
    accounts: Accounts,
}

impl Host {
    fn new(passwd: impl AsRef<[u8]>, group: impl AsRef<[u8]>, nsswitch: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("passwd"), passwd).unwrap();
        fs::write(dir.path().join("group"), group).unwrap();
        if let Some(nsswitch) = nsswitch {
            fs::write(dir.path().join("nsswitch.conf"), nsswitch).unwrap();
        }
        let accounts = Accounts {
            etc: dir.path().into(),
            getent: Getent::new(dir.path().join("getent"), Duration::from_secs(60)),
        };
        let host = Self { dir, accounts };
        host.getent("exit 2");
        host
    }

    /// Has `getent` do this after it has noted its arguments.
    fn getent(&self, script: &str) {
        let program = self.dir.path().join("getent");
        let asked = self.dir.path().join("asked");
        let script = format!("#!/bin/sh\necho \"$*\" >> {}\n{script}\n", asked.display());
        // Written by another process: no fork of a parallel test holds it open for writing, which
        // would keep it from being run.
        let mut writer = Command::new("sh")
            .args([
                "-c",
                "cat > \"$0.new\" && chmod 755 \"$0.new\" && mv \"$0.new\" \"$0\"",
            ])
            .arg(program)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = writer.stdin.take().unwrap();
        stdin.write_all(script.as_bytes()).unwrap();
        drop(stdin);
        assert!(writer.wait().unwrap().success());
    }

    /// What `getent` was asked, a line each.
    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.dir.path().join("asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }

    fn user(&self, name: &str) -> Option<User> {
        self.accounts.user_named(name).unwrap()
    }
}

fn files_alone() -> Host {
    Host::new(PASSWD, GROUP, Some("passwd: files\ngroup: files\n"))
}

const SYSTEMD: &str = "passwd: files systemd\ngroup: files systemd\n";

#[test]
fn a_user_has_what_the_line_says() {
    let app = User {
        name: "app".into(),
        uid: 1000,
        gid: 1000,
        home: "/srv/app".into(),
        shell: "/bin/sh".into(),
    };
    let host = files_alone();
    // The first of several that have the name or the number.
    assert_eq!(host.user("app"), Some(app.clone()));
    assert_eq!(host.accounts.user_of(1000), Ok(Some(app)));
    let short = host.user("short").unwrap();
    assert_eq!((short.uid, short.gid), (11, 12));
    assert_eq!((short.home, short.shell), (String::new(), String::new()));
    // No newline at the end of the file.
    assert_eq!(host.user("last").unwrap().shell, "/bin/last");
    assert_eq!(host.user("more").unwrap().shell, "/bin/sh");
    assert_eq!(host.user("1001").unwrap().uid, 17);
}

#[test]
fn a_line_that_is_no_entry_is_skipped() {
    let host = files_alone();
    for name in [
        "a",
        "# a",
        "+nis",
        "nis",
        "-nis",
        "+",
        "",
        "+@netgroup",
        "nouid",
        "nogid",
        "signed",
        "negative",
        "large",
        "nobody-at-all",
        "root-by-group",
        "one",
        "two",
        "app:x",
        "APP",
    ] {
        assert_eq!(host.user(name), None, "{name:?}");
    }
    for uid in [1, 7, 8, 9, 10, 13, 14, 15, 16, NO_ID, NO_ID - 1] {
        assert_eq!(host.accounts.user_of(uid), Ok(None), "{uid}");
    }
    assert_eq!(host.asked(), [""; 0]);
}

#[test]
fn groups_of_a_user_are_the_primary_one_and_those_that_name_it() {
    let host = files_alone();
    let groups = |name, gid| host.accounts.groups_of(name, gid).unwrap();
    assert_eq!(groups("app", 1000), [44, 45, 47, 50, 1000]);
    assert_eq!(groups("mallory", 44), [44, 45]);
    assert_eq!(groups("nobody", 7), [7]);
    assert_eq!(groups("", 7), [7]);
    let named = |name| {
        host.accounts
            .group_named(name)
            .unwrap()
            .map(|group| group.gid)
    };
    assert_eq!(named("video"), Some(44));
    assert_eq!(named("short"), Some(49));
    assert_eq!(named("broken"), None);
    assert_eq!(named("nobody-at-all"), None);
    assert_eq!(named("-staff"), None);
    let of = |gid| host.accounts.group_of(gid).unwrap().map(|group| group.name);
    assert_eq!(of(50), Some("video".into()));
    assert_eq!(of(51), None);
}

#[test]
fn bytes_that_are_no_text_do_no_harm() {
    let passwd = b"b\xffd:x:5:5::/h\xff:/bin/sh\nnul\0:x:6:6::/:/bin/sh\ncr:x:7:7::/:/bin/sh\r\n";
    let host = Host::new(passwd, b"g\xff:x:5:\xff,cr\n", None);
    assert_eq!(
        host.accounts.user_of(5).unwrap().unwrap().home,
        "/h\u{fffd}"
    );
    assert_eq!(host.user("nul"), None);
    assert_eq!(host.user("cr").unwrap().uid, 7);
    assert_eq!(host.accounts.groups_of("cr", 7), Ok(vec![5, 7]));
}

#[test]
fn long_lines_and_large_files_are_read_to_their_end() {
    let members: Vec<_> = (0..200_000).map(|number| format!("user{number}")).collect();
    let group = format!("all:x:7:{}\nlast:x:8:user199999\n", members.join(","));
    assert!(group.len() > 2_000_000);
    let mut passwd = String::new();
    for number in 0..200_000 {
        passwd += &format!("user{number}:x:{number}:{number}::/home/user{number}:/bin/sh\n");
    }
    let host = Host::new(passwd, group, None);
    assert_eq!(host.user("user199999").unwrap().uid, 199_999);
    assert_eq!(host.accounts.groups_of("user199999", 1), Ok(vec![1, 7, 8]));
    assert_eq!(host.accounts.groups_of("user200000", 1), Ok(vec![1]));
}

#[test]
fn files_that_are_not_there_are_empty_and_others_that_cannot_be_read_are_an_error() {
    let host = Host::new("", "", None);
    fs::remove_file(host.dir.path().join("passwd")).unwrap();
    assert_eq!(host.user("app"), None);
    fs::create_dir(host.dir.path().join("passwd")).unwrap();
    let error = host.accounts.user_named("app").unwrap_err().to_string();
    assert!(error.starts_with("cannot read "), "{error}");
    assert!(error.contains("/passwd: "), "{error}");
}

#[test]
fn the_sources_of_a_database_are_read_from_nsswitch() {
    for (text, databases, expected) in [
        ("", &["passwd"][..], false),
        ("passwd: files", &["passwd"], false),
        ("passwd:files systemd", &["passwd"], true),
        ("  passwd :  files\tsss  # comment", &["passwd"], true),
        ("passwd: files # systemd", &["passwd"], false),
        ("# passwd: sss", &["passwd"], false),
        ("passwd: compat", &["passwd"], true),
        ("passwd: files [NOTFOUND=return]", &["passwd"], false),
        ("passwd: files [NOTFOUND = return] ldap", &["passwd"], true),
        (
            "passwd: files [!UNAVAIL=return SUCCESS=merge]files",
            &["passwd"],
            false,
        ),
        ("passwd: files [unclosed", &["passwd"], false),
        ("passwd: sss files", &["passwd"], true),
        ("passwd:", &["passwd"], false),
        ("passwd_compat: nis", &["passwd"], false),
        ("group: sss", &["passwd"], false),
        (
            "group: files\ninitgroups: files sss",
            &["initgroups", "group"],
            true,
        ),
        (
            "group: sss\ninitgroups: files",
            &["initgroups", "group"],
            false,
        ),
        ("group: sss", &["initgroups", "group"], true),
        ("passwd: files\npasswd: sss", &["passwd"], true),
    ] {
        assert_eq!(
            files::has_further_sources(text, databases),
            expected,
            "{text:?}"
        );
    }
}

#[test]
fn getent_is_asked_for_what_the_files_lack_once_each() {
    let host = Host::new(PASSWD, GROUP, Some(SYSTEMD));
    host.getent(
        "case $* in
         'passwd remote' | 'passwd 70000')
             echo 'remote:x:70000:70001:Remote:/home/remote:/bin/zsh' ;;
         'group crew' | 'group 70002') echo 'crew:x:70002:remote' ;;
         'initgroups remote') echo 'remote                70002 44  70003' ;;
         'initgroups app') echo 'app  44 70004 4294967295' ;;
         'initgroups lonely') echo 'lonely' ;;
         *) exit 2 ;;
         esac",
    );
    assert_eq!(host.user("app").unwrap().uid, 1000);
    assert_eq!(host.asked(), [""; 0]);
    for _ in 0..2 {
        let remote = host.user("remote").unwrap();
        assert_eq!((remote.uid, remote.gid), (70_000, 70_001));
        assert_eq!(remote.shell, "/bin/zsh");
        assert_eq!(host.user("nobody-here"), None);
    }
    assert_eq!(host.asked(), ["passwd remote", "passwd nobody-here"]);
    assert_eq!(
        host.accounts.user_of(70_000).unwrap().unwrap().name,
        "remote"
    );
    assert_eq!(host.accounts.user_of(70_009), Ok(None));
    assert_eq!(
        host.accounts.group_named("crew").unwrap().unwrap().gid,
        70_002
    );
    assert_eq!(
        host.accounts.group_of(70_002).unwrap().unwrap().name,
        "crew"
    );
    let groups = |name, gid| host.accounts.groups_of(name, gid).unwrap();
    assert_eq!(groups("remote", 70_001), [44, 70_001, 70_002, 70_003]);
    // A user of the files may be in groups that others know.
    assert_eq!(groups("app", 1000), [44, 45, 47, 50, 1000, 70_004]);
    assert_eq!(groups("lonely", 9), [9]);
    assert_eq!(groups("unknown", 9), [9]);
}

#[test]
fn getent_is_not_asked_what_could_not_be_or_would_be_an_option() {
    let host = Host::new(PASSWD, GROUP, Some(SYSTEMD));
    for name in ["", "-s", "--help", "a:b", "a\nb", "a\0b"] {
        assert_eq!(host.user(name), None, "{name:?}");
    }
    assert_eq!(host.asked(), [""; 0]);
    assert_eq!(host.user("a b@domain"), None);
    assert_eq!(host.asked(), ["passwd a b@domain"]);
}

#[test]
fn without_getent_the_files_are_all() {
    let host = Host::new(PASSWD, GROUP, Some(SYSTEMD));
    fs::remove_file(host.dir.path().join("getent")).unwrap();
    assert_eq!(host.user("remote"), None);
    assert_eq!(host.accounts.groups_of("mallory", 44), Ok(vec![44, 45]));
}

#[test]
fn an_answer_that_is_none_is_an_error_that_says_so() {
    for (script, expected) in [
        ("exit 1", "getent passwd remote ended with status 1"),
        ("exit 3", "getent passwd remote ended with status 3"),
        (
            "kill -SEGV $$",
            "getent passwd remote was killed by SIGSEGV",
        ),
        (
            "exit 0",
            "getent passwd remote printed something else than its entry",
        ),
        (
            "echo remote:x:a:b:::",
            "getent passwd remote printed something else than its entry",
        ),
        (
            "echo remote:x:4294967295:0:::",
            "getent passwd remote printed something else than its entry",
        ),
        (
            "cat /dev/zero",
            "getent passwd remote printed more than 1048576 bytes",
        ),
    ] {
        let host = Host::new(PASSWD, GROUP, Some(SYSTEMD));
        host.getent(script);
        let error = host.accounts.user_named("remote").unwrap_err();
        assert_eq!(error.to_string(), expected, "{script}");
    }
    // Of another user than was asked for.
    let host = Host::new(PASSWD, GROUP, Some(SYSTEMD));
    host.getent("echo other:x:71000:71000:::");
    assert!(host.accounts.user_of(70_000).is_err());
    host.getent("echo remote 1 x");
    let error = host.accounts.groups_of("remote", 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "getent initgroups remote printed something else than groups"
    );
}

#[test]
fn a_name_service_that_hangs_is_waited_for_once() {
    let mut host = Host::new(PASSWD, GROUP, Some(SYSTEMD));
    host.getent("exec sleep 1000");
    host.accounts.getent = Getent::new(host.dir.path().join("getent"), Duration::from_millis(300));
    let error = host.accounts.user_named("remote").unwrap_err();
    assert_eq!(
        error.to_string(),
        "getent passwd remote did not answer within 300ms"
    );
    let error = host.accounts.user_named("other").unwrap_err();
    assert_eq!(
        error.to_string(),
        "getent passwd other was not asked, as it did not answer the last question in time"
    );
    assert_eq!(host.asked(), ["passwd remote"]);
    assert_eq!(host.user("app").unwrap().uid, 1000);
}
