//! Programs of Debian's packages: the host's, or those that `cargo xtask setup` unpacks.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Why there is none, for a skipped test.
pub const NOT_HERE: &str = "it is neither installed nor unpacked: run `cargo xtask setup`";

/// Where programs are, and where Debian has those that users do not run.
const FOLDERS: [&str; 3] = ["usr/bin", "usr/sbin", "usr/lib/systemd"];

/// A program that is here, from that package.
pub fn tool(package: &str, name: &str) -> Option<Command> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = FOLDERS.map(|folder| Path::new("/").join(folder));
    let mut on_host = env::split_paths(&path).chain(system);
    if let Some(program) = on_host.find_map(|folder| file(folder.join(name))) {
        return Some(Command::new(program));
    }
    let unpacked = unpacked(package);
    let mut folders = FOLDERS.iter();
    let program = folders.find_map(|folder| file(unpacked.join(folder).join(name)))?;
    let libraries = unpacked.join(format!("usr/lib/{}-linux-gnu", env::consts::ARCH));
    let mut command = Command::new(program);
    command
        .env("RSYSLOG_MODDIR", libraries.join("rsyslog"))
        .env("LD_LIBRARY_PATH", libraries);
    Some(command)
}

fn file(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
}

fn unpacked(package: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/test-packages")
        .join(package)
}
