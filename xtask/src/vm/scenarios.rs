//! The machines that a test run boots on each kernel: one for all the tests that need nothing
//! special, and one for each that does.

use super::glob;

/// A machine, and the tests that are for it.
#[derive(Debug)]
pub(super) struct Scenario {
    /// What `RESPAWN_MACHINE` says there.
    pub(super) name: &'static str,
    /// Patterns of bash (extglob).
    tests: &'static [&'static str],
    pub(super) processors: u32,
    pub(super) memory_mib: u32,
    /// For the kernel, or for the boot script where it begins with `vm.`.
    pub(super) append: &'static str,
    /// What is on the machine's disk, and hence there at the next scenario's boot.
    pub(super) disk: &'static [&'static str],
    /// Whether it boots on the disk of the one before.
    pub(super) reboots: bool,
}

/// Nothing special.
pub(super) const PLAIN: Scenario = Scenario {
    name: "plain",
    tests: &["!(machine::*)"],
    processors: 2,
    memory_mib: 1024,
    append: "",
    disk: &[],
    reboots: false,
};

const fn special(
    name: &'static str,
    tests: &'static [&'static str],
    append: &'static str,
) -> Scenario {
    Scenario {
        name,
        tests,
        append,
        ..PLAIN
    }
}

/// The tests in which the processors' number matters most.
const RACES: &[&str] = &["burst::*", "race::*", "agent_death::*", "restart::*"];

/// All of them, in the order of running.
pub(super) const ALL: [Scenario; 14] = [
    PLAIN,
    Scenario {
        processors: 1,
        ..special("one_cpu", RACES, "")
    },
    Scenario {
        processors: 4,
        ..special("four_cpus", RACES, "")
    },
    Scenario {
        memory_mib: 768,
        ..special(
            "oom",
            &["machine::kernel::when_the_hosts_memory_runs_out_agents_live_and_the_eater_is_told"],
            "",
        )
    },
    special(
        "lockdown",
        &[
            "machine::kernel::under_confidentiality_lockdown_services_are_kept_and_what_is_missing_is_said",
        ],
        "lockdown=confidentiality",
    ),
    special(
        "no_bpf_lsm",
        &["machine::kernel::without_bpf_among_the_lsms_all_else_is_there"],
        "lsm=lockdown,yama",
    ),
    special(
        "no_cgroup",
        &["machine::cgroups::with_no_cgroup_mounted_services_are_kept_and_stop_whole"],
        "vm.cgroup=none",
    ),
    special(
        "cgroup1",
        &["machine::cgroups::with_cgroup_v1_alone_services_are_kept_and_stop_whole"],
        "vm.cgroup=v1",
    ),
    special(
        "no_bpffs",
        &["machine::bpffs::an_agent_mounts_bpffs_and_loses_no_cause"],
        "vm.bpffs=none",
    ),
    special(
        "no_bpffs_doctor",
        &["machine::bpffs::doctor_says_of_a_bpffs_that_is_not_mounted_what_an_agent_makes_of_it"],
        "vm.bpffs=none",
    ),
    special(
        "bpffs_denied",
        &["machine::bpffs::where_nothing_can_be_mounted_services_are_kept_all_the_same"],
        "vm.bpffs=none",
    ),
    special(
        "suspend",
        &["machine::suspend::a_machine_that_was_asleep_has_the_same_agent"],
        "",
    ),
    Scenario {
        disk: &["etc", "var/lib"],
        ..special(
            "init",
            &["machine::init::under_its_init_agents_and_services_survive_kills_at_random"],
            "",
        )
    },
    Scenario {
        reboots: true,
        ..special(
            "init_rebooted",
            &["machine::init::after_a_reboot_services_run_once_and_the_journal_goes_on"],
            "",
        )
    },
];

impl Scenario {
    /// Whether a test that fits one of the patterns is for it.
    pub(super) fn is_wanted(&self, patterns: &[String]) -> bool {
        let any = |is_it: fn(&str) -> bool| patterns.iter().any(|pattern| is_it(pattern));
        match self.name {
            "plain" => any(|pattern| !pattern.starts_with("machine")),
            "one_cpu" | "four_cpus" => any(|pattern| pattern == "*"),
            _ => {
                let fits = |test: &&str| patterns.iter().any(|pattern| glob::fits(pattern, test));
                self.tests.iter().any(fits)
            }
        }
    }

    /// Whether it is for one test alone, which is this one.
    pub(super) fn is_for(&self, test: &str) -> bool {
        self.tests == [test]
    }

    /// What the machine is to run, and to keep.
    pub(super) fn script(&self, patterns: &[String], limit_s: u64) -> String {
        let quoted = |word: &str| format!("'{}'", word.replace('\'', "'\\''"));
        let tests: Vec<String> = self.tests.iter().map(|test| quoted(test)).collect();
        let mut script = String::new();
        if !self.disk.is_empty() {
            script = format!("printf '%s\\n' {} > /vm/disk\n", self.disk.join(" "));
        }
        script
            + &format!(
                "export RESPAWN_MACHINE={}\nexec /vm/run-tests {limit_s} {} {}\n",
                self.name,
                quoted(&format!("@({})", patterns.join("|"))),
                tests.join(" ")
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(pattern: &str) -> Vec<&'static str> {
        let patterns = [pattern.to_owned()];
        let wanted = ALL.iter().filter(|scenario| scenario.is_wanted(&patterns));
        wanted.map(|scenario| scenario.name).collect()
    }

    #[test]
    fn a_pattern_boots_the_machines_that_its_tests_need() {
        assert_eq!(wanted("*").len(), ALL.len());
        assert_eq!(wanted("pins::*"), ["plain"]);
        assert_eq!(wanted("machine::cgroups::*"), ["no_cgroup", "cgroup1"]);
        assert_eq!(wanted("machine::*").len(), ALL.len() - 3);
        assert!(wanted("machine::nothing").is_empty());
    }

    #[test]
    fn a_machine_that_boots_again_follows_one_that_keeps_something() {
        for (scenario, next) in ALL.iter().zip(&ALL[1..]) {
            assert_eq!(!scenario.disk.is_empty(), next.reboots, "{}", next.name);
        }
    }

    #[test]
    fn the_script_names_machine_and_tests() {
        let script = ALL[12].script(&["it's".to_owned(), "b*".to_owned()], 60);
        assert!(script.starts_with("printf '%s\\n' etc var/lib > /vm/disk\n"));
        assert!(script.contains(
            "RESPAWN_MACHINE=init\nexec /vm/run-tests 60 '@(it'\\''s|b*)' 'machine::init::"
        ));
    }
}
