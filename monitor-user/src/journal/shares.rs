//! Which services have used their share of a file of the journal. Reads that file once; writes
//! nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// More than this is not read: who fills a larger file fills its end too.
const MOST_READ: u64 = 16 << 20;

/// How much of the file is each service's.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<String, Share>);

#[derive(Debug, Default)]
struct Share {
    bytes: u64,
    /// The file says that it is used up.
    is_told: bool,
}

impl Shares {
    /// Counts what is in a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn of(mut file: &File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let mut text = Vec::new();
        file.seek(SeekFrom::Start(length.saturating_sub(MOST_READ)))?;
        file.take(MOST_READ).read_to_end(&mut text)?;
        let mut shares = Self::default();
        for line in String::from_utf8_lossy(&text).lines() {
            let Some(service) = service(line) else {
                continue;
            };
            shares.add(service, line.len() + 1);
            if line.contains(TOLD) {
                shares.tell(service);
            }
        }
        Ok(shares)
    }

    /// So many bytes more are a service's.
    pub(super) fn add(&mut self, service: &str, bytes: usize) {
        let share = self.share(service);
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        share.bytes = share.bytes.saturating_add(bytes);
    }

    /// Whether a service has that much.
    pub(super) fn has_used(&self, service: &str, most: u64) -> bool {
        let share = self.0.get(service);
        share.is_some_and(|share| share.bytes >= most)
    }

    /// Whether the file says so.
    pub(super) fn is_told(&self, service: &str) -> bool {
        self.0.get(service).is_some_and(|share| share.is_told)
    }

    /// The file says so now.
    pub(super) fn tell(&mut self, service: &str) {
        self.share(service).is_told = true;
    }

    fn share(&mut self, service: &str) -> &mut Share {
        self.0.entry(service.to_owned()).or_default()
    }
}

const TOLD: &str = r#""event":"journal_share""#;

/// Whose a line is. Within a string of JSON no quote is without its backslash.
fn service(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(r#","service":""#)?;
    Some(rest.split_once('"')?.0)
}
