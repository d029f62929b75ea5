//! A host with Debian's packages that has booted, and what a test does there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use support::eventually_or;

use crate::init_root::{Namespace, kill_9};

/// A booted root of Debian's packages.
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
}

impl Host {
    /// Boots it, with these files in its `/etc`; there is no agent yet.
    pub(crate) fn boot(root: &Path, etc: Vec<(&'static str, String)>) -> Self {
        let mut files = vec![("inittab", "id:2:initdefault:\n".to_owned())];
        files.extend(etc);
        Self {
            namespace: Namespace::boot_debian(root, files),
        }
    }

    /// Imports the units of these services, and has init start agent and spare.
    pub(crate) fn import<'a>(&self, services: impl Iterator<Item = &'a str>) {
        let units = services.map(|service| format!("/lib/systemd/system/{service}.service"));
        let units: Vec<_> = units.collect();
        let imported = self.shell(&format!("respawn import {} 2>&1", units.join(" ")));
        assert!(imported.contains(" 0 lost"), "{imported}");
        self.respawn("check");
        self.respawn("install --init auto");
    }

    /// Runs it inside; returns what it prints.
    pub(crate) fn shell(&self, script: &str) -> String {
        let output = self.script("-ec", script);
        assert!(
            output.status.success(),
            "{script}\n{}{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
            self.describe()
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn succeeds(&self, script: &str) -> bool {
        self.script("-c", script).status.success()
    }

    pub(crate) fn script(&self, option: &str, script: &str) -> Output {
        // nsenter leaves it in a directory outside.
        let script = format!("cd /; {script}");
        let words = ["/bin/sh", option, &script];
        self.namespace.command(&words).output().unwrap()
    }

    pub(crate) fn respawn(&self, arguments: &str) -> String {
        self.shell(&format!("respawn {arguments}"))
    }

    pub(crate) fn is_up(&self, service: &str) -> bool {
        self.status(service)
            .is_some_and(|it| it["state"] == "running")
    }

    pub(crate) fn status(&self, service: &str) -> Option<Value> {
        let services = self.namespace.status()?;
        services.into_iter().find(|it| it["service"] == service)
    }

    /// Its main process, once it is up: pid inside and start time.
    pub(crate) fn main(&self, service: &str) -> (u64, u64) {
        eventually_or(
            &format!("{service} runs"),
            || {
                let status = self.status(service).filter(|it| it["state"] == "running")?;
                Some((status["pid"].as_u64()?, status["start_time_ns"].as_u64()?))
            },
            || self.describe(),
        )
    }

    /// Agent and spare, killed at once; returns when there are others.
    pub(crate) fn kill_agents(&self) {
        let old = self.namespace.agents();
        old.iter().for_each(|pid| kill_9(*pid));
        self.await_agents(&old);
    }

    pub(crate) fn await_agents(&self, old: &[u32]) {
        let new = || {
            let holder = self.namespace.holder().filter(|pid| !old.contains(pid))?;
            let spare = self.namespace.spare().filter(|pid| !old.contains(pid))?;
            self.namespace.status().map(|_| (holder, spare))
        };
        eventually_or("another agent and spare", new, || self.describe());
    }

    /// The events of a service, of these kinds.
    pub(crate) fn events(&self, service: &str, kinds: &[&str]) -> Vec<Value> {
        let mut events = self.namespace.journal();
        let is_one = |event: &Value| kinds.iter().any(|kind| event["event"] == *kind);
        events.retain(|event| event["service"] == service && is_one(event));
        events
    }

    pub(crate) fn describe(&self) -> String {
        let output = self
            .namespace
            .command(&["respawn", "status"])
            .output()
            .unwrap();
        let status = String::from_utf8_lossy(&output.stdout).into_owned();
        format!("{status}\n{}", self.namespace.describe())
    }
}
