//! Black-box tests of the `respawn` binary on the running kernel: a module for each promise, all in one
//! program, which links once.
//!
//! `cargo xtask test` runs one module after the other, as many measure or load the host; `cargo test` runs
//! tests of two modules beside each other where one ends and the next one begins. None of them changes what
//! belongs to the process: its environment, working directory, signals or limits.
#![recursion_limit = "256"]

mod accounts;
mod agent_death;
mod boot;
mod burst;
mod causes;
mod children;
mod command_line;
mod config_input;
mod container;
mod control;
mod control_input;
mod crash_points;
mod daemons;
mod dead_time;
mod deaths;
mod docs;
mod doctor;
mod doctor_truth;
mod dropins;
mod essential;
mod events;
mod fd_store;
mod files_alone;
mod fleet;
mod forking;
mod hang;
mod hooks;
mod image;
mod import;
mod inherited;
mod inits;
mod instance;
mod kernel_memory;
mod killers;
mod machine;
mod metrics;
mod notify;
mod order;
mod output;
mod ownership;
mod packages;
mod pid1;
mod pins;
mod probes;
mod race;
mod readiness;
mod recorder;
mod refused;
mod reload;
mod restart;
mod sandbox;
mod scale;
mod servers;
mod shortage;
mod sockets;
mod standby;
mod start;
mod steps;
mod stop;
mod surroundings;
mod systemd;
mod takeover;
mod templates;
mod top;
mod two_agents;
mod unseen;
mod upgrade;
mod verifier;
mod watch_exits;
mod watch_filters;
mod watch_input;

#[path = "support/debian_host.rs"]
mod debian_host;
#[path = "support/init_root.rs"]
mod init_root;
