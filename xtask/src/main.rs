//! respawn's build, test, demo and CI commands: `cargo xtask --help`.
fn main() {}
