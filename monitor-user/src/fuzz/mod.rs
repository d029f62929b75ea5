//! Fuzzing: whatever the agent reads from others, in any bytes, is read or refused with words, and
//! nothing of it is fatal. `cargo xtask fuzz` runs it for longer, with other numbers each time.
//!
//! The engine is this file's own: it changes seeds of `fuzz/` at the top of the repository, joins
//! them, and puts in words that a target knows. It learns nothing from which code ran. cargo-fuzz and
//! bolero's engines that do need a nightly compiler or a library crate, and this is neither; so the
//! targets that random bytes would not get far in make up input by their grammar instead.
//!
//! An input that breaks something is written to a file, which belongs among the seeds once that is
//! mended.

mod config;
mod targets;

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::random::Random;

/// How many inputs each target gets where no time is set: a second or so.
const INPUTS: u64 = 2_000;
/// Longest input that is made up.
const LONGEST: usize = 4096;

impl Random {
    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// What inputs of a target are made of.
struct Material {
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static str],
}

impl Material {
    /// The seeds of a target, and words that it knows.
    fn of(target: &str, words: &'static [&'static str]) -> Self {
        let folder = seeds_of(target);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(!seeds.is_empty(), "no seeds in {folder:?}");
        Self { seeds, words }
    }

    /// A seed, changed in a few places.
    fn input(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = random.pick(&self.seeds);
        for _ in 0..random.index(8) {
            self.change(&mut bytes, random);
        }
        bytes.truncate(LONGEST);
        bytes
    }

    fn change(&self, bytes: &mut Vec<u8>, random: &mut Random) {
        let at = random.index(bytes.len() + 1);
        let end = (at + random.index(16)).min(bytes.len());
        match random.index(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            3 => {
                let other = random.pick(&self.seeds);
                let from = random.index(other.len() + 1);
                let to = (from + random.index(64)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            4 | 5 if !self.words.is_empty() => {
                let word = random.pick(self.words).bytes();
                bytes.splice(at..end, word);
            }
            6 => bytes
                .splice(at..end, random.next().to_le_bytes())
                .for_each(drop),
            _ => match bytes.get_mut(at) {
                Some(byte) if random.chance(50) => *byte ^= 1 << random.index(8),
                Some(byte) => *byte = random.byte(),
                None => bytes.push(random.byte()),
            },
        }
    }
}

fn seeds_of(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz")
        .join(target)
}

/// How long to go on: so many inputs, or until then.
enum Length {
    Inputs(u64),
    Until(Instant),
}

impl Length {
    #[expect(
        clippy::disallowed_methods,
        reason = "a run that has so much time reads it"
    )]
    fn wanted() -> Self {
        match number("RESPAWN_FUZZ_SECONDS") {
            Some(seconds) => Self::Until(Instant::now() + Duration::from_secs(seconds)),
            None => Self::Inputs(INPUTS),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "as above")]
    fn is_over(&self, done: u64) -> bool {
        match self {
            Self::Inputs(inputs) => done >= *inputs,
            Self::Until(end) => Instant::now() >= *end,
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Has `check` read inputs: each seed as it is, and then what `make` makes up. `check` panics if
/// something is wrong with what it found.
fn run(
    target: &str,
    material: &Material,
    mut make: impl FnMut(&Material, &mut Random) -> Vec<u8>,
    mut check: impl FnMut(&[u8]),
) {
    let seed = number("RESPAWN_FUZZ_SEED").unwrap_or(1);
    let mut random = Random(seed);
    let length = Length::wanted();
    let mut try_one = |input: &[u8]| {
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| check(input)));
        if let Err(panic) = outcome {
            let path = std::env::temp_dir().join(format!("respawn-fuzz-{target}-{seed}"));
            fs::write(&path, input).unwrap();
            eprintln!("fuzz: {target} breaks at the input in {}", path.display());
            panic::resume_unwind(panic);
        }
    };
    for seed in &material.seeds {
        try_one(seed);
    }
    let mut done = 0;
    while !length.is_over(done) {
        try_one(&make(material, &mut random));
        done += 1;
    }
    println!("fuzz: {target}: {done} inputs, seed {seed}");
}

/// The same with seeds that were changed.
fn run_changed(target: &str, words: &'static [&'static str], check: impl FnMut(&[u8])) {
    let material = Material::of(target, words);
    run(target, &material, Material::input, check);
}
