//! What needs a machine of its own: its memory runs out, it is locked down, it lacks what a host
//! has, it sleeps, it boots again.
//!
//! `cargo xtask vm --test 'machine::*'` boots an emulated machine for each, made as the test needs
//! it, and names it in `RESPAWN_MACHINE`. Anywhere else these tests are skipped.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bpffs;
mod cgroups;
mod init;
mod kernel;
mod suspend;

use serde_json::Value;
use support::rig::Rig;
use support::skip;

/// Whether this machine is made for that.
fn is_machine(test: &str, kind: &str) -> bool {
    let is = std::env::var("RESPAWN_MACHINE").is_ok_and(|machine| machine == kind);
    if !is {
        skip(
            test,
            "needs a machine of its own: cargo xtask vm --test 'machine::*'",
        );
    }
    is
}

/// A check of `doctor`: its verdict, and why.
fn doctor(rig: &Rig, name: &str) -> (String, String) {
    let output = rig.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name).unwrap();
    let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("detail"))
}
