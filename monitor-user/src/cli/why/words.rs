//! What is told of a death whoever kept it: when, what it had used, and who sent a signal.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::accounts::Accounts;
use crate::clock;
use crate::deaths;
use crate::journal::JournalLine;
use crate::model::{Cause, CoreDump, Exit, How, Sender, Usage};
use crate::os::proc;
use crate::report::{Age, Bytes};

/// What the host knows of a sender now.
pub(super) enum Whereabouts {
    /// It lives; its command line.
    Lives(Vec<String>),
    Ended,
}

/// "2026-11-26 12:03:04.567, 5m00s ago, after 3m12s, pid 7 (nginx)"
pub(super) fn when(line: &JournalLine, exit: &Exit, zone: &TimeZone) -> String {
    let time = line.time().map_or_else(
        || "at an unknown time".to_owned(),
        |time| {
            let ago = Age(since(time, clock::now()));
            let local = time.to_zoned_datetime(zone.clone());
            format!("{}, {ago} ago", local.strftime("%Y-%m-%d %H:%M:%S%.3f"))
        },
    );
    let lived = exit.uptime_ns.map_or_else(String::new, |ns| {
        format!(", after {}", Age(Duration::from_nanos(ns)))
    });
    let comm = exit.comm.as_ref();
    let comm = comm.map_or_else(String::new, |comm| format!(" ({comm})"));
    format!("{time}{lived}, pid {}{comm}", exit.pid)
}

/// Of an out-of-memory kill, as far as the figures are known.
pub(super) fn memory(cause: &Cause) -> Option<String> {
    let Cause::OomKilled(kill) = cause else {
        return None;
    };
    let anon = kill.anon_rss_bytes?;
    let total = kill.total_vm_bytes.unwrap_or_default();
    let score = kill.oom_score_adj.unwrap_or_default();
    Some(format!(
        "{} resident and its own, {} of address space, oom_score_adj {score}",
        Bytes(anon),
        Bytes(total)
    ))
}

pub(super) fn used(usage: &Usage) -> String {
    let time = |ns| Age(Duration::from_nanos(ns));
    let mut words = format!(
        "at most {} of memory, {} of CPU in user mode, {} in the kernel",
        Bytes(usage.max_rss_bytes),
        time(usage.user_ns),
        time(usage.system_ns)
    );
    if let Some(threads) = usage.threads {
        words += &format!(", {threads} thread{}", if threads == 1 { "" } else { "s" });
    }
    if let (Some(read), Some(written)) = (usage.read_bytes, usage.written_bytes) {
        words += &format!(", {} read, {} written", Bytes(read), Bytes(written));
    }
    words
}

pub(super) fn core(core: &CoreDump) -> String {
    match (&core.piped_to, &core.file) {
        (Some(program), _) => format!("dumped to the program {program}"),
        (_, Some(file)) if file.starts_with('/') => format!("dumped to {file}"),
        (_, Some(file)) => format!("dumped to {file} in its working directory"),
        _ => format!("dumped by the pattern {}", core.pattern),
    }
}

/// "sh, pid 12, uid 0 (root), child of init (pid 1)"
pub(super) fn of_sender(sender: &Sender, how: Option<How>, accounts: &Accounts) -> String {
    let now = whereabouts(sender);
    let parent = sender.parent.as_ref().map_or_else(String::new, |parent| {
        format!(", child of {} (pid {})", parent.comm, parent.pid)
    });
    let own = if sender.own { ", of the service" } else { "" };
    let who = Who {
        name: &sender.comm,
        more: own.to_owned() + &parent,
        now,
    };
    of(sender, how, who, accounts)
}

/// The same of one that a recorder has kept more of: "/usr/bin/kill, pid 12, uid 0 (root), login user
/// alice in session 2, terminal pts/0". Whether it lives is known only if this is still the same boot.
pub(super) fn of_kept_sender(
    sender: &Sender,
    how: Option<How>,
    is_this_boot: bool,
    accounts: &Accounts,
) -> String {
    let profile = sender.profile();
    let mut more = String::new();
    if sender.own {
        more += ", of the same session";
    }
    if let Some(user) = deaths::login(profile, accounts) {
        more += &format!(", login user {user}");
        if let Some(session) = profile.login_session {
            more += &format!(" in session {session}");
        }
    }
    if let Some(tty) = &profile.tty {
        more += &format!(", terminal {tty}");
    }
    let who = Who {
        name: profile.exe.as_deref().unwrap_or(&sender.comm),
        more,
        now: is_this_boot.then(|| whereabouts(sender)).flatten(),
    };
    of(sender, how, who, accounts)
}

/// What is told of a sender beside what every sender has.
struct Who<'a> {
    name: &'a str,
    more: String,
    now: Option<Whereabouts>,
}

fn of(sender: &Sender, how: Option<How>, who: Who<'_>, accounts: &Accounts) -> String {
    let way = how.and_then(way).unwrap_or_default();
    if sender.itself {
        return format!("the process itself{way}");
    }
    let Who { name, more, now } = who;
    let user = user_name(sender.uid, accounts);
    let pid = match sender.pid {
        0 => format!("pid {} of the host", sender.host_pid),
        pid => format!("pid {pid}"),
    };
    let now = match now {
        Some(Whereabouts::Lives(command)) => {
            format!("; still running, now as: {}", command.join(" "))
        }
        Some(Whereabouts::Ended) => "; it has ended".to_owned(),
        None => String::new(),
    };
    format!("{name}, {pid}, uid {}{user}{more}{way}{now}", sender.uid)
}

/// " (root)", if the host knows the user.
pub(super) fn user_name(uid: u32, accounts: &Accounts) -> String {
    let user = accounts.user_of(uid).ok().flatten();
    user.map_or_else(String::new, |user| format!(" ({})", user.name))
}

/// By which call, in words that follow the sender's.
fn way(how: How) -> Option<&'static str> {
    Some(match how {
        How::Kill => ", by kill(2)",
        How::Tkill => ", by tkill(2)",
        How::Tgkill => ", by tgkill(2)",
        How::Sigqueue => ", by rt_sigqueueinfo(2)",
        How::Pidfd => ", by pidfd_send_signal(2)",
        How::CgroupKill => ", by a write to cgroup.kill",
        How::ParentDeath => ", its parent, by dying (PR_SET_PDEATHSIG)",
        How::ParentThreadDeath => {
            ", its parent, by the end of the thread that had forked it (PR_SET_PDEATHSIG)"
        }
        How::NamespaceEnd => ", init of its PID namespace, by ending",
        How::TracerEnd => ", its tracer, by ending (PTRACE_O_EXITKILL)",
        How::Fault => ", by a fault",
        How::CpuLimit
        | How::Seccomp
        | How::Terminal
        | How::Hangup
        | How::Timer
        | How::BrokenPipe
        | How::FileSizeLimit
        | How::Notification
        | How::Kernel => return None,
    })
}

/// What had the kernel send a signal that no process has sent.
pub(super) fn no_sender(how: How) -> Option<&'static str> {
    Some(match how {
        How::Kernel => "the kernel sent it",
        How::Seccomp => "seccomp ended it",
        How::CpuLimit => "its CPU time was used up (RLIMIT_CPU)",
        How::Terminal => "somebody pressed the key for it at its terminal",
        How::Hangup => "its terminal was closed, or its session's leader ended",
        How::Timer => "a timer that it had set ran out (alarm, setitimer or timer_create)",
        How::BrokenPipe => "it wrote to a pipe or socket without a reader",
        How::FileSizeLimit => "it wrote past its limit on the size of files (RLIMIT_FSIZE)",
        How::Notification => "it had asked to be notified by it (O_ASYNC or mq_notify)",
        _ => return None,
    })
}

/// `None`: it cannot be looked at from here.
pub(super) fn whereabouts(sender: &Sender) -> Option<Whereabouts> {
    if sender.pid == 0 || sender.itself {
        return None;
    }
    let lives = proc::stat(sender.pid)
        .is_ok_and(|stat| stat.start_time_ns == sender.start_time_ns && !stat.is_zombie());
    if !lives {
        return Some(Whereabouts::Ended);
    }
    let command = proc::command_line(sender.pid).unwrap_or_default();
    Some(Whereabouts::Lives(command))
}

pub(super) fn since(earlier: Timestamp, later: Timestamp) -> Duration {
    later.duration_since(earlier).try_into().unwrap_or_default()
}
