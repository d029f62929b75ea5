//! Service files: TOML to validated specs.
