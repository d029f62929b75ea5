//! What is measured, one a file.

pub(super) mod both;
pub(super) mod cold;
pub(super) mod crowd;
pub(super) mod http;
pub(super) mod restart;
pub(super) mod scale;
