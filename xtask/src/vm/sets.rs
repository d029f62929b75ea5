//! Named sets of tests, for runs that cannot afford all of them on every kernel.
//!
//! Says which tests, not on which kernels: that is for whoever runs a set.

use super::glob;

/// A set by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Set {
    /// What matters most
    Ci,
    /// What a kernel can change
    Matrix,
}

impl Set {
    /// The set with exactly these tests.
    pub(super) fn of(tests: &[String]) -> Option<Self> {
        let sets = <Self as clap::ValueEnum>::value_variants().iter().copied();
        sets.into_iter().find(|set| set.tests() == tests)
    }

    /// Whether the set has all tests that fit this pattern.
    pub(super) fn covers(self, test: &str) -> bool {
        // What a `*` stands for in a pattern may be a pattern itself.
        self.tests().iter().any(|own| glob::fits(own, test))
    }

    /// Patterns of bash (extglob).
    pub(super) fn tests(self) -> &'static [&'static str] {
        match self {
            Self::Ci => &CI,
            Self::Matrix => &MATRIX,
        }
    }
}

/// What matters most, on each kernel: what the verifier says, what `doctor` says, a burst, the cause
/// of each way of a signal, restarts, agent and service killed together, and one real init.
const CI: [&str; 20] = [
    "verifier::*",
    "doctor_truth::*",
    "burst::each_exit_of_a_burst_is_shown_or_counted_as_lost",
    "causes::every_way_to_send_has_its_sender",
    "causes::what_a_process_does_to_itself_is_its_own",
    "causes::the_kernels_own_kills_have_no_sender",
    "causes::a_parents_and_a_tracers_end_are_told",
    "causes::the_end_of_a_pid_namespace_is_told",
    "causes::a_cgroup_kill_has_its_writer",
    "causes::an_out_of_memory_kill_has_its_figures",
    "restart::each_of_twenty_signals_is_told_and_mended",
    "agent_death::a_service_that_dies_while_no_agent_lives_is_started_again_once",
    "agent_death::a_spare_waits_and_takes_over",
    "unseen::a_service_killed_at_the_same_moment_as_its_agent_is_back_at_once",
    "sandbox::*",
    "recorder::who_killed_it_is_known_though_the_killer_is_gone",
    "recorder::what_happens_while_no_recorder_runs_is_recorded_by_the_next",
    "machine::bpffs::an_agent_mounts_bpffs_and_loses_no_cause",
    "machine::cgroups::with_cgroup_v1_alone_services_are_kept_and_stop_whole",
    "machine::init::under_its_init_agents_and_services_survive_kills_at_random",
];

/// What a kernel can change, without the tests that take minutes and those of what runs in user
/// space alone.
const MATRIX: [&str; 33] = [
    "verifier::*",
    "doctor::*",
    "doctor_truth::*",
    "burst::*",
    "causes::*",
    "restart::each_*",
    "restart::a_policy_*",
    "restart::with_overlap_*",
    "agent_death::*",
    "unseen::*",
    "files_alone::*",
    "instance::*",
    "race::*",
    "refused::*",
    "pins::*",
    "standby::*",
    "start::*",
    "stop::*",
    "reload::*",
    "hooks::*",
    "sockets::*",
    "notify::*",
    "fd_store::*",
    "forking::*",
    "sandbox::*",
    "ownership::*",
    "pid1::*",
    "kernel_memory::*",
    "recorder::*",
    "watch_exits::*",
    "watch_input::*",
    "control::*",
    "machine::*",
];

#[cfg(test)]
mod tests {
    use super::Set;

    #[test]
    fn a_set_covers_its_patterns_and_those_that_are_narrower() {
        for (test, expected) in [
            ("causes::*", true),
            ("causes::a_*", true),
            ("causes::a_cgroup_kill_has_its_writer", true),
            ("restart::each_of_twenty_*", true),
            ("restart::*", false),
            ("deaths::*", false),
            ("*", false),
        ] {
            assert_eq!(Set::Matrix.covers(test), expected, "{test}");
        }
        // What matters most is run by those who run all.
        assert!(Set::Ci.tests().iter().all(|test| Set::Matrix.covers(test)));
    }
}
