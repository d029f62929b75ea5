//! What a service may do and use, laid out for the child, and how the child takes it on. All of
//! [`Confined`]'s methods but `new` and `after_exec` run between clone and exec: as in `child`.

use std::ffi::{CString, c_int};
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use super::prepared::c_path;
use super::{Child, SpawnError, Stage};
use crate::model::{Confinement, DirectoryKind, Exec, Signal, capability_name};
use crate::os::cgroup::Slot;
use crate::os::open::NOT_OURS;
use crate::os::signal;
use crate::os::sys::{self, CapabilitySets, Errno};

const DIRECTORY_FLAGS: c_int =
    libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NOFOLLOW;
/// Those on the way to a service's own directory.
const WAY_MODE: u32 = 0o755;
/// As many times, a tenth of a millisecond each, a process is given to leave the agent's memory.
const LEAVES_TRIES: u32 = 100;

/// See the module's head.
#[derive(Debug)]
pub(super) struct Confined {
    directories: Vec<Directory>,
    mode: u32,
    /// Whose they are; `None`: the agent's own user's.
    owner: Option<(u32, u32)>,
    trusted: [u32; 3],
    oom_score_adj: Option<i32>,
    /// It goes on without what this host does not allow.
    is_optional: bool,
    no_new_privileges: bool,
    /// One bit each; `None`: those of the user.
    capabilities: Option<u64>,
    /// Whether they are for a user that has none by itself.
    are_ambient: bool,
    /// One bit for each processor; empty: the agent's own.
    cpus: Vec<u64>,
}

#[derive(Debug)]
struct Directory {
    parent: CString,
    /// One component each.
    names: Vec<CString>,
    /// For messages.
    path: String,
}

impl Confined {
    pub(super) fn new(exec: &Exec, trusted: [u32; 3]) -> Result<Self, SpawnError> {
        let Confinement {
            oom_score_adj,
            no_new_privileges,
            capabilities,
            cpu_affinity,
            directories,
            cgroup: _,
            sandbox,
        } = &exec.confinement;
        let no_new_privileges = *no_new_privileges;
        let lay_out = |(place, name): &(DirectoryKind, String)| {
            let part = |name: &str| c_path(Path::new(name), Stage::Directories, "make");
            Ok(Directory {
                parent: part(place.parent())?,
                names: name.split('/').map(part).collect::<Result<_, _>>()?,
                path: format!("{}/{name}", place.parent()),
            })
        };
        let names = directories.names.iter();
        let uid = exec.identity.as_ref().map(|identity| identity.uid);
        let own = nix::unistd::geteuid().as_raw();
        let bit = |set: u64, number: &u8| set | 1_u64.checked_shl((*number).into()).unwrap_or(0);
        let mut cpus = Vec::new();
        for cpu in cpu_affinity {
            let word = usize::from(cpu / 64);
            cpus.resize(cpus.len().max(word + 1), 0_u64);
            if let Some(word) = cpus.get_mut(word) {
                *word |= 1 << (cpu % 64);
            }
        }
        let mut oom_score_adj = *oom_score_adj;
        match oom_score_adj.map_or(Ok(()), refuse_lower_score) {
            Err(_) if sandbox.optional => oom_score_adj = None,
            other => other?,
        }
        let may_have = |number: &&u8| !sandbox.optional || sys::has_capability(u32::from(**number));
        Ok(Self {
            directories: names.map(lay_out).collect::<Result<_, _>>()?,
            mode: directories.mode,
            owner: exec.identity.as_ref().map(|it| (it.uid, it.gid)),
            trusted,
            oom_score_adj,
            is_optional: sandbox.optional,
            no_new_privileges,
            capabilities: capabilities
                .as_ref()
                .map(|set| set.iter().filter(may_have).fold(0, bit)),
            are_ambient: uid.unwrap_or(own) != 0,
            cpus,
        })
    }

    /// What this host does not allow, and is skipped, in words.
    pub(super) fn skipped(&self, exec: &Exec) -> Vec<String> {
        let mut skipped = Vec::new();
        if let (Some(score), None) = (exec.confinement.oom_score_adj, self.oom_score_adj) {
            skipped.push(format!(
                "oom_score_adj has no effect: {score} takes CAP_SYS_RESOURCE"
            ));
        }
        if let (Some(wanted), Some(set)) = (&exec.confinement.capabilities, self.capabilities) {
            let is_missing = |number: &&u8| set >> **number & 1 == 0;
            let missing: Vec<_> = wanted.iter().filter(is_missing).collect();
            if !missing.is_empty() {
                let names: Vec<_> = missing.into_iter().map(|it| capability_name(*it)).collect();
                skipped.push(format!(
                    "it lacks capabilities that the agent does not have: {}",
                    names.join(", ")
                ));
            }
        }
        skipped
    }

    /// Makes the directories, with the agent's rights. Leaves another umask.
    pub(super) fn make_directories(&self, reach: impl Fn(Stage, u32)) -> Result<(), Errno> {
        if self.directories.is_empty() {
            return Ok(());
        }
        sys::set_umask(0o022);
        for (index, directory) in self.directories.iter().enumerate() {
            reach(Stage::Directories, u32::try_from(index).unwrap_or(u32::MAX));
            self.make(directory)?;
        }
        Ok(())
    }

    fn make(&self, directory: &Directory) -> Result<(), Errno> {
        let flags = DIRECTORY_FLAGS & !libc::O_NOFOLLOW;
        // Root's own: what leads to it, links too, is what root wants.
        let mut place = sys::open(&directory.parent, flags, 0)?;
        let mut is_new = false;
        for name in &directory.names {
            is_new = match sys::make_directory_at(place, name, WAY_MODE) {
                Ok(()) => true,
                Err(libc::EEXIST) => false,
                Err(errno) => return Err(errno),
            };
            let next = sys::open_at(place, name, DIRECTORY_FLAGS, 0)?;
            self.refuse_planted(place, next)?;
            sys::close(place);
            place = next;
        }
        let found = sys::status(place, c"")?;
        if let Some((uid, gid)) = self.owner
            && (found.uid, found.gid) != (uid, gid)
        {
            sys::change_owner(place, uid, gid)?;
        }
        if is_new || found.mode & 0o7777 != self.mode {
            sys::change_mode(place, self.mode)?;
        }
        sys::close(place);
        Ok(())
    }

    /// Where others may write, only what is the service's own already is taken: they could have moved
    /// anything there. What was just made was not there to be moved.
    fn refuse_planted(&self, parent: c_int, directory: c_int) -> Result<(), Errno> {
        let (parent, found) = (sys::status(parent, c"")?, sys::status(directory, c"")?);
        let is_safe = self.trusted.contains(&parent.uid) && parent.mode & 0o022 == 0;
        let owner = self.owner.map(|(uid, _)| uid);
        let is_known = self.trusted.contains(&found.uid) || owner == Some(found.uid);
        match is_safe || is_known {
            true => Ok(()),
            false => Err(NOT_OURS),
        }
    }

    /// Before the user changes.
    pub(super) fn with_agents_rights(&self, reach: impl Fn(Stage, u32)) -> Result<(), Errno> {
        if !self.cpus.is_empty() {
            reach(Stage::CpuAffinity, 0);
            sys::set_affinity(&self.cpus)?;
        }
        if let Some(set) = self.capabilities {
            reach(Stage::Capabilities, 0);
            sys::limit_capabilities(set)?;
            sys::keep_capabilities()?;
        }
        Ok(())
    }

    /// After that.
    pub(super) fn with_own_rights(&self, reach: impl Fn(Stage, u32)) -> Result<(), Errno> {
        if let Some(set) = self.capabilities {
            reach(Stage::Capabilities, 1);
            sys::set_capabilities(&CapabilitySets::all(set))?;
            if self.are_ambient {
                sys::make_ambient(set)?;
            }
        }
        if self.no_new_privileges {
            reach(Stage::NoNewPrivileges, 0);
            sys::set_no_new_privileges()?;
        }
        Ok(())
    }

    /// What can be set only when the process is out of the agent's memory: of two that share it, the
    /// kernel gives both the same `oom_score_adj` (`__set_oom_adj` in fs/proc/base.c).
    ///
    /// # Errors
    /// It cannot be set, and the process was killed.
    pub(super) fn after_exec(&self, child: &Child, slot: Option<&Slot>) -> Result<(), Errno> {
        let Some(score) = self.oom_score_adj else {
            return Ok(());
        };
        let result = set_score(child.pid, score);
        if result == Err(libc::EACCES) && self.is_optional {
            return Ok(());
        }
        if result.is_err() {
            let _ = signal::send(child.pidfd.as_fd(), Signal::KILL);
            if let Some(slot) = slot {
                let _ = slot.kill();
            }
            return result;
        }
        // It may have begun others before.
        for pid in slot.and_then(|slot| slot.pids().ok()).unwrap_or_default() {
            if pid != child.pid {
                let _ = set_score(pid, score);
            }
        }
        Ok(())
    }

    /// What was being done, in words.
    pub(super) fn action(&self, stage: Stage, detail: u32) -> String {
        match stage {
            Stage::Directories => {
                let index = usize::try_from(detail).unwrap_or(usize::MAX);
                let directory = self.directories.get(index);
                let path = directory.map_or("its directories", |it| it.path.as_str());
                format!("make the directory {path}")
            }
            Stage::CpuAffinity => "set cpu_affinity".to_owned(),
            Stage::NoNewPrivileges => "set no_new_privileges".to_owned(),
            Stage::OomScoreAdj => score_action(self.oom_score_adj.unwrap_or(0)),
            _ => {
                let set = self.capabilities.unwrap_or(0);
                let numbers = (0..64).filter(|number| set >> number & 1 != 0);
                let names: Vec<_> = numbers.map(capability_name).collect();
                format!("limit it to the capabilities [{}]", names.join(", "))
            }
        }
    }
}

fn score_action(score: i32) -> String {
    format!("set oom_score_adj to {score}")
}

fn own_score() -> Option<i32> {
    let text = fs::read_to_string("/proc/self/oom_score_adj").ok()?;
    text.trim().parse().ok()
}

/// Less than the agent's own takes a right. Whether a container gives that shows only then.
fn refuse_lower_score(score: i32) -> Result<(), SpawnError> {
    const CAP_SYS_RESOURCE: u32 = 24;
    if own_score().is_none_or(|own| score >= own) || sys::has_capability(CAP_SYS_RESOURCE) {
        return Ok(());
    }
    let action = score_action(score);
    Err(SpawnError {
        stage: Stage::OomScoreAdj,
        errno: libc::EACCES,
        message: format!(
            "cannot {action}: it is lower than the agent's own, which takes CAP_SYS_RESOURCE \
             ({})",
            Stage::OomScoreAdj
        ),
    })
}

fn set_score(pid: u32, score: i32) -> Result<(), Errno> {
    let own = own_score();
    for _ in 0..LEAVES_TRIES {
        if sys::shares_memory(pid) == Some(true) {
            std::thread::sleep(std::time::Duration::from_micros(100));
            continue;
        }
        match fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
            Ok(()) => {}
            // It has ended.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                return Ok(());
            }
            Err(error) => return Err(error.raw_os_error().unwrap_or(libc::EIO)),
        }
        // Where nobody says whose memory it has, the agent's own score does.
        let (Some(before), Some(after)) = (own, own_score()) else {
            return Ok(());
        };
        if before == after {
            return Ok(());
        }
        let _ = fs::write("/proc/self/oom_score_adj", before.to_string());
    }
    Err(libc::ETIMEDOUT)
}
