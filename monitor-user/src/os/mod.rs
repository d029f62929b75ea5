//! Performs one action at a time; the only user-space home of `unsafe`.
