//! A service's `Exec` laid out for the child, and the words for what went wrong with it.

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::Arc;

use super::confine::Confined;
use super::descriptors::ListenPid;
use super::landlock::{LANDLOCK, Landlocked};
use super::sandbox::Sandboxed;
use super::{FdLimit, SpawnError, Stage};
use crate::model::{Attempt, Exec, Identity, Instance, Limit, Output};
use crate::os::cgroup::Slot;
use crate::os::marker::Marker;
use crate::os::notify::NotifySocket;
use crate::os::open;
use crate::os::sys::{self, Limit64};

/// What new files of a service may not have, unless its file says otherwise.
const DEFAULT_UMASK: u32 = 0o022;

/// The kernel's names of the limits, by number, on both architectures.
/// <https://github.com/torvalds/linux/blob/v5.10/include/uapi/asm-generic/resource.h>
const LIMIT_NAMES: [&str; 16] = [
    "CPU",
    "FSIZE",
    "DATA",
    "STACK",
    "CORE",
    "RSS",
    "NPROC",
    "NOFILE",
    "MEMLOCK",
    "AS",
    "LOCKS",
    "SIGPENDING",
    "MSGQUEUE",
    "NICE",
    "RTPRIO",
    "RTTIME",
];

/// One of stdout and stderr.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Null,
    Inherit,
    /// The same file as stdout: opened once.
    AsStdout,
    File(CString),
    /// A FIFO, which has to be there, for both ends: so it waits for no reader, and writing to it is
    /// never an error.
    Fifo(CString),
}

const CAP_SYS_ADMIN: u32 = 21;

/// All that a start needs, in the form in which the child needs it: built once, used for each
/// start, so that nothing is allocated between an exit and the next exec.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(super) program: CString,
    /// Null-terminated, into `_strings`.
    pub(super) argv: Vec<*const c_char>,
    /// Null-terminated, into `_strings`.
    pub(super) envp: Vec<*const c_char>,
    /// The same with the marker, for a process that waits until it is recorded.
    pub(super) marked_envp: Vec<*const c_char>,
    _strings: Vec<CString>,
    marker: Option<Marker>,
    pub(super) identity: Option<Identity>,
    /// Who may put anything where the streams are.
    pub(super) trusted: [u32; 3],
    pub(super) working_directory: CString,
    pub(super) umask: u32,
    pub(super) nice: Option<i32>,
    pub(super) confined: Confined,
    pub(super) sandbox: Option<Sandboxed>,
    /// What of it holds instead.
    pub(super) landlock: Option<Landlocked>,
    pub(super) limits: Vec<(u32, Limit64)>,
    /// Which of them are not as the config has them, in words.
    lowered: Vec<String>,
    /// `None`: `/dev/null`
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Stream,
    pub(super) stderr: Stream,
    /// A file of the agent's in which the service says that it is ready, and its descriptor.
    pub(super) ready: Option<(CString, c_int)>,
    /// Where it sends notifications to.
    pub(super) notify: Option<Arc<NotifySocket>>,
    /// The sockets that are held for it, in the order of their descriptors.
    pub(super) sockets: Vec<Arc<OwnedFd>>,
    /// The variable that says whose they are; the child itself fills it in.
    pub(super) listen_pid: Option<ListenPid>,
}

// SAFETY: the pointers lead into `_strings`, whose bytes live on the heap, never change and move
// with the structure, and into `marker` and `listen_pid`, for which the same holds but that their bytes
// change, which are atomic; nothing is written through the pointers.
unsafe impl Send for Prepared {}
// SAFETY: as above.
unsafe impl Sync for Prepared {}

impl Prepared {
    pub(super) fn new(exec: &Exec, fd_limit: Option<FdLimit>) -> Result<Self, SpawnError> {
        let program = c_path(&exec.program, Stage::Exec, "run")?;
        let mut strings = Vec::with_capacity(exec.arguments.len() + exec.environment.len());
        for argument in &exec.arguments {
            strings.push(
                c_string(argument.as_bytes()).ok_or_else(|| {
                    has_nul(Stage::Exec, &format!("run {}", exec.program.display()))
                })?,
            );
        }
        for (key, value) in &exec.environment {
            let assignment = c_string(format!("{key}={value}").as_bytes());
            let failed = || has_nul(Stage::Exec, &format!("set the environment's {key:?}"));
            strings.push(assignment.ok_or_else(failed)?);
        }
        let pointers = |strings: &[CString]| {
            let strings = strings.iter().map(|string| string.as_ptr());
            strings.chain([ptr::null()]).collect()
        };
        let (arguments, environment) = strings.split_at(exec.arguments.len());
        let (argv, envp) = (pointers(arguments), pointers(environment));
        if let Some(identity) = &exec.identity {
            refuse_no_identity(identity)?;
        }
        let stdout = stream(&exec.stdout, Stage::Stdout)?;
        let stderr = match &exec.stderr {
            Output::File(path) if exec.stdout == Output::File(path.clone()) => Stream::AsStdout,
            Output::Log if exec.stdout == Output::Log => Stream::AsStdout,
            other => stream(other, Stage::Stderr)?,
        };
        let trusted = open::trusted_uids();
        let mut limits = limits(&exec.limits, fd_limit);
        let mut lowered = lower(&mut limits);
        let (sandbox, landlock) = sandbox(exec, &mut lowered)?;
        let confined = Confined::new(exec, trusted)?;
        lowered.extend(confined.skipped(exec));
        Ok(Self {
            program,
            argv,
            marked_envp: envp.clone(),
            envp,
            _strings: strings,
            marker: None,
            identity: exec.identity.clone().filter(|wanted| !is_own(wanted)),
            trusted,
            confined,
            sandbox,
            landlock,
            working_directory: c_path(&exec.working_directory, Stage::WorkingDirectory, "enter")?,
            umask: exec.umask.unwrap_or(DEFAULT_UMASK),
            nice: exec.nice,
            limits,
            lowered,
            stdin: None,
            stdout,
            stderr,
            ready: None,
            notify: None,
            sockets: Vec::new(),
            listen_pid: None,
        })
    }

    /// Puts a marker in the environment of those that are recorded.
    pub(crate) fn with_marker(mut self, marker: Marker) -> Self {
        self.marked_envp.clone_from(&self.envp);
        self.marked_envp.insert(0, marker.as_ptr());
        self.marker = Some(marker);
        self
    }

    /// What could not be laid out as the config has it, in words.
    pub(crate) fn lowered(&self) -> &[String] {
        &self.lowered
    }

    /// Has the marker name this process, which waits until it is recorded.
    pub(crate) fn mark(&self, attempt: Attempt, instance: Instance) {
        if let Some(marker) = &self.marker {
            marker.name(attempt, instance);
        }
    }

    /// With this file open for writing as that descriptor; it is made with the agent's rights.
    ///
    /// # Errors
    /// A path with a NUL byte.
    pub(crate) fn with_ready(mut self, path: &Path, fd: u8) -> Result<Self, SpawnError> {
        self.ready = Some((c_path(path, Stage::Ready, "open")?, c_int::from(fd)));
        Ok(self)
    }

    /// With this FIFO in the place of the log.
    ///
    /// # Errors
    /// A path with a NUL byte.
    pub(crate) fn with_log(mut self, fifo: &Path) -> Result<Self, SpawnError> {
        for (stream, stage) in [
            (&mut self.stdout, Stage::Stdout),
            (&mut self.stderr, Stage::Stderr),
        ] {
            if let Stream::Fifo(path) = stream {
                *path = c_path(fifo, stage, "open")?;
            }
        }
        Ok(self)
    }

    /// With a socket of its own to send notifications to.
    pub(crate) fn with_notify(mut self, socket: Option<Arc<NotifySocket>>) -> Self {
        self.notify = socket;
        self
    }

    /// With these sockets from descriptor 3 on, and a variable that says that they are for it. To be
    /// called before [`Self::with_marker`].
    pub(crate) fn with_sockets(mut self, sockets: Vec<Arc<OwnedFd>>) -> Self {
        if !sockets.is_empty() {
            let pid = ListenPid::new();
            self.envp.insert(0, pid.as_ptr());
            self.marked_envp.insert(0, pid.as_ptr());
            self.listen_pid = Some(pid);
        }
        self.sockets = sockets;
        self
    }

    /// Whether these are its sockets.
    pub(crate) fn has_sockets(&self, sockets: &[Arc<OwnedFd>]) -> bool {
        let pairs = || self.sockets.iter().zip(sockets);
        self.sockets.len() == sockets.len() && pairs().all(|(own, other)| Arc::ptr_eq(own, other))
    }

    /// Whether that is its socket.
    pub(crate) fn notifies(&self, socket: Option<&Arc<NotifySocket>>) -> bool {
        match (&self.notify, socket) {
            (Some(own), Some(socket)) => Arc::ptr_eq(own, socket),
            (own, socket) => own.is_none() && socket.is_none(),
        }
    }

    /// With this file as standard input, from where it is read so far.
    pub(crate) fn with_stdin(mut self, file: OwnedFd) -> Self {
        self.stdin = Some(file);
        self
    }

    fn is_hidden(&self) -> bool {
        let program = Path::new(OsStr::from_bytes(self.program.to_bytes()));
        self.sandbox
            .as_ref()
            .is_some_and(|sandbox| sandbox.hides(program))
    }

    /// What went wrong, in words.
    pub(super) fn error_in(
        &self,
        slot: Option<&Slot>,
        stage: Stage,
        detail: u32,
        errno: i32,
    ) -> SpawnError {
        let action = match stage {
            Stage::Fork => format!("make a process for {}", shown(&self.program)),
            Stage::Cgroup => match slot {
                Some(slot) => format!("start in the cgroup {}", slot.path().display()),
                None => "join the cgroup".to_owned(),
            },
            Stage::Files => "leave the agent's files".to_owned(),
            Stage::Listen => "give it its sockets".to_owned(),
            Stage::Record => "record the new process".to_owned(),
            Stage::Session => "begin a session".to_owned(),
            Stage::Stdin => "open /dev/null".to_owned(),
            Stage::Stdout => self.open_action(&self.stdout),
            Stage::Stderr => self.open_action(&self.stderr),
            Stage::Ready => match &self.ready {
                Some((path, _)) => format!("open {}", shown(path)),
                None => "open where it says that it is ready".to_owned(),
            },
            Stage::Limits => self.limit_action(detail),
            Stage::Nice => format!("set nice to {}", self.nice.unwrap_or(0)),
            Stage::Sandbox => match &self.sandbox {
                _ if detail == LANDLOCK => "restrict it by Landlock".to_owned(),
                Some(sandbox) => sandbox.action(detail),
                None => "set up its sandbox".to_owned(),
            },
            Stage::WorkingDirectory => format!("enter {}", shown(&self.working_directory)),
            Stage::Directories
            | Stage::CpuAffinity
            | Stage::Capabilities
            | Stage::NoNewPrivileges
            | Stage::OomScoreAdj => self.confined.action(stage, detail),
            Stage::Groups | Stage::User => self.identity_action(stage, detail),
            Stage::Exec => format!("run {}", shown(&self.program)),
        };
        let reason = describe(errno);
        let hint = match stage {
            Stage::Stdout | Stage::Stderr | Stage::WorkingDirectory | Stage::Exec
                if errno == libc::ETIMEDOUT =>
            {
                Some("it does not answer, as on a mount whose server is gone".to_owned())
            }
            Stage::Exec if self.is_hidden() => {
                Some("its sandbox hides what is there on the host".to_owned())
            }
            Stage::Exec => exec_hint(Path::new(OsStr::from_bytes(self.program.to_bytes())), errno),
            Stage::Stdout | Stage::Stderr if errno == libc::ENXIO => {
                Some("this FIFO has no reader".to_owned())
            }
            Stage::Directories if errno == libc::ELOOP || errno == libc::ENOTDIR => {
                Some("it is not a directory, and a link is not followed".to_owned())
            }
            Stage::Directories | Stage::Stdout | Stage::Stderr => {
                open::in_words(errno).map(str::to_owned)
            }
            Stage::Record if errno == libc::ESRCH => {
                Some("it does not see the agent as its parent".to_owned())
            }
            _ => None,
        };
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        SpawnError {
            stage,
            errno,
            message: format!("cannot {action}: {reason} ({stage}){hint}"),
        }
    }

    fn open_action(&self, stream: &Stream) -> String {
        match stream {
            Stream::File(path) | Stream::Fifo(path) => format!("open {}", shown(path)),
            Stream::AsStdout => self.open_action(&self.stdout),
            Stream::Null | Stream::Inherit => "open /dev/null".to_owned(),
        }
    }

    fn limit_action(&self, index: u32) -> String {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let Some((resource, limit)) = self.limits.get(index) else {
            return "set the limits".to_owned();
        };
        let name = limit_name(*resource);
        let (soft, hard) = (limit_amount(limit.soft), limit_amount(limit.hard));
        format!("set the limit {name} to {soft} (hard {hard})")
    }

    fn identity_action(&self, stage: Stage, detail: u32) -> String {
        let Some(identity) = &self.identity else {
            return "change the user".to_owned();
        };
        match (stage, detail) {
            (Stage::User, _) => format!("become user {}", identity.uid),
            (_, 1) => format!("become group {}", identity.gid),
            _ => {
                let groups: Vec<_> = identity.groups.iter().map(u32::to_string).collect();
                format!("join the groups [{}]", groups.join(", "))
            }
        }
    }
}

fn stream(output: &Output, stage: Stage) -> Result<Stream, SpawnError> {
    Ok(match output {
        Output::Null => Stream::Null,
        Output::Inherit => Stream::Inherit,
        Output::File(path) => Stream::File(c_path(path, stage, "open")?),
        Output::Log => Stream::Fifo(CString::default()),
    })
}

/// What a service sees of the host, and what holds of that where the agent may not make a mount namespace; what
/// does not hold comes to `lowered`.
///
/// # Errors
/// A path that is not there.
fn sandbox(
    exec: &Exec,
    lowered: &mut Vec<String>,
) -> Result<(Option<Sandboxed>, Option<Landlocked>), SpawnError> {
    let wanted = &exec.confinement.sandbox;
    if wanted.is_nothing() || sys::has_capability(CAP_SYS_ADMIN) {
        return Ok((Sandboxed::new(exec)?, None));
    }
    let landlock = Landlocked::new(exec)?;
    match &landlock {
        Some(_) if Landlocked::is_all_of(wanted) => Ok((None, landlock)),
        // It fails, and says why.
        _ if !wanted.optional => Ok((Sandboxed::new(exec)?, None)),
        Some(_) => {
            lowered.push(
                "of sandbox, only read_only has an effect: the rest takes CAP_SYS_ADMIN".to_owned(),
            );
            Ok((None, landlock))
        }
        None => {
            lowered.push("sandbox has no effect: it takes CAP_SYS_ADMIN".to_owned());
            Ok((None, None))
        }
    }
}

/// Lowers what is above the agent's own hard limits to these, where it may not raise them. Returns
/// what was lowered, in words.
fn lower(limits: &mut [(u32, Limit64)]) -> Vec<String> {
    let mut lowered = Vec::new();
    for (resource, wanted) in limits {
        let Ok(own) = sys::limit(*resource) else {
            continue;
        };
        if wanted.hard <= own.hard {
            continue;
        }
        // Whether it may be raised can only be tried.
        let tried = Limit64 {
            hard: wanted.hard,
            ..own
        };
        if sys::set_limit(*resource, &tried) != Err(libc::EPERM) {
            let _ = sys::set_limit(*resource, &own);
            continue;
        }
        lowered.push(format!(
            "the limit {} of {} is above the hard limit that the agent may give, {}, and lowered to it",
            limit_name(*resource),
            limit_amount(wanted.hard),
            limit_amount(own.hard)
        ));
        *wanted = Limit64 {
            soft: wanted.soft.min(own.hard),
            hard: own.hard,
        };
    }
    lowered
}

fn limit_name(resource: u32) -> String {
    let number = usize::try_from(resource).unwrap_or(usize::MAX);
    match LIMIT_NAMES.get(number) {
        Some(name) => (*name).to_owned(),
        None => resource.to_string(),
    }
}

fn limit_amount(value: u64) -> String {
    match value {
        u64::MAX => "unlimited".to_owned(),
        value => value.to_string(),
    }
}

fn limits(wanted: &[Limit], fd_limit: Option<FdLimit>) -> Vec<(u32, Limit64)> {
    let amount = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let mut limits: Vec<_> = wanted
        .iter()
        .map(|limit| {
            let values = Limit64 {
                soft: amount(limit.soft),
                hard: amount(limit.hard),
            };
            (limit.resource, values)
        })
        .collect();
    let nofile = libc::RLIMIT_NOFILE;
    if let Some(FdLimit { soft, hard }) = fd_limit
        && !wanted.iter().any(|limit| limit.resource == nofile)
    {
        limits.push((nofile, Limit64 { soft, hard }));
    }
    limits
}

/// Whether the agent has this identity already: an unprivileged agent could not even ask for it.
pub(crate) fn is_own(wanted: &Identity) -> bool {
    let (Ok(users), Ok(groups)) = (nix::unistd::getresuid(), nix::unistd::getresgid()) else {
        return false;
    };
    let uids = [users.real, users.effective, users.saved].map(nix::unistd::Uid::as_raw);
    let gids = [groups.real, groups.effective, groups.saved].map(nix::unistd::Gid::as_raw);
    let Ok(own) = nix::unistd::getgroups() else {
        return false;
    };
    let mut own: Vec<_> = own.into_iter().map(nix::unistd::Gid::as_raw).collect();
    let mut groups = wanted.groups.clone();
    for list in [&mut own, &mut groups] {
        list.sort_unstable();
        list.dedup();
    }
    uids == [wanted.uid; 3] && gids == [wanted.gid; 3] && own == groups
}

/// To the kernel, the highest ID means "leave it as it is": the service would keep the agent's.
fn refuse_no_identity(identity: &Identity) -> Result<(), SpawnError> {
    let (stage, what) = match identity {
        Identity { uid: u32::MAX, .. } => (Stage::User, "user"),
        Identity { gid: u32::MAX, .. } => (Stage::Groups, "group"),
        _ => return Ok(()),
    };
    Err(SpawnError {
        stage,
        errno: libc::EINVAL,
        message: format!("cannot become {what} {}: not an ID ({stage})", u32::MAX),
    })
}

fn c_string(bytes: &[u8]) -> Option<CString> {
    CString::new(bytes).ok()
}

pub(super) fn c_path(path: &Path, stage: Stage, verb: &str) -> Result<CString, SpawnError> {
    c_string(path.as_os_str().as_bytes())
        .ok_or_else(|| has_nul(stage, &format!("{verb} {}", path.display())))
}

fn has_nul(stage: Stage, action: &str) -> SpawnError {
    let action = action.replace('\0', "\\0");
    SpawnError {
        stage,
        errno: libc::EINVAL,
        message: format!("cannot {action}: there is a NUL byte in it ({stage})"),
    }
}

fn shown(path: &CStr) -> String {
    path.to_string_lossy().into_owned()
}

/// "No such file or directory"
fn describe(errno: i32) -> String {
    in_words(&io::Error::from_raw_os_error(errno))
}

/// An error without its number.
pub(super) fn in_words(error: &io::Error) -> String {
    if error.raw_os_error() == Some(libc::ETIMEDOUT) {
        // The C library's words for it speak of a connection.
        return "timed out".to_owned();
    }
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((reason, _)) => reason.to_owned(),
        None => text,
    }
}

/// What the error number leaves out: a file that is there can be "not found" all the same.
fn exec_hint(program: &Path, errno: i32) -> Option<String> {
    match errno {
        libc::ENOENT if program.exists() => Some(match interpreter(program) {
            Some(path) if path.as_os_str().as_bytes().ends_with(b"\r") => format!(
                "its first line ends in a carriage return (a Windows line end), so that the kernel looks \
                 for the interpreter {:?}; remove it from each line with sed -i 's/\\r$//'",
                path
            ),
            Some(path) => format!(
                "the file is there, but not its interpreter {}",
                path.display()
            ),
            None => "the file is there, but not the loader that it was linked for".to_owned(),
        }),
        libc::ENOEXEC => {
            Some("it is neither a program for this machine nor begins with #!".to_owned())
        }
        _ => None,
    }
}

/// The interpreter that a script's first line names.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(script)
        .ok()?;
    let line = first_line(&file)?;
    // As the kernel sees it: only blanks and tabs are around it.
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let rest = line.strip_prefix(b"#!")?;
    let start = rest.iter().position(|byte| !is_blank(byte))?;
    let rest = rest.get(start..)?;
    let end = rest.iter().position(is_blank).unwrap_or(rest.len());
    Some(PathBuf::from(OsStr::from_bytes(rest.get(..end)?)))
}

/// As far as the kernel reads it: 256 bytes.
fn first_line(file: &File) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    file.take(256).read_to_end(&mut text).ok()?;
    let end = text.iter().position(|byte| *byte == b'\n');
    text.truncate(end.unwrap_or(text.len()));
    Some(text)
}
