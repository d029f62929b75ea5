//! Chooses the kernel object that the binary carries: `RESPAWN_BPF_OBJECT` if set, else the
//! committed one.

use std::path::PathBuf;
use std::{env, fs};

const COMMITTED: &str = "../monitor-ebpf/prebuilt/respawn.bpf.o";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-env-changed=RESPAWN_BPF_OBJECT");
    let object = env::var_os("RESPAWN_BPF_OBJECT").map_or(PathBuf::from(COMMITTED), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(&object)
        .map_err(|error| format!("kernel object {}: {error}", object.display()))?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("respawn.bpf.o"), bytes)?;
    Ok(())
}
