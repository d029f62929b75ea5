//! `respawn` keeps services alive on a Linux host whatever dies, the watcher included.

mod cli;
mod config;
mod os;
mod supervisor;

fn main() {}
