//! What names a line of a journal, also when the line's file has been removed.

use std::fmt;
use std::str::FromStr;

use crate::os::proc;

/// A line's place among all lines, written as `SEQ-SERIES-TIME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The line's number.
    pub(crate) seq: u64,
    /// Which numbering that is: another boot or a journal that began again has another one.
    pub(crate) series: u32,
    /// The moment that the line is about, in nanoseconds since boot. 0: no line, but a place where lines
    /// are missing.
    pub(crate) at_ns: u64,
}

/// A text is no cursor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoCursor;

impl Cursor {
    /// The place before that line, where others are missing.
    pub(crate) const fn gap_before(self) -> Self {
        Self {
            seq: self.seq.saturating_sub(1),
            at_ns: 0,
            ..self
        }
    }

    /// Whether it names a place where lines are missing.
    pub(super) const fn is_gap(self) -> bool {
        self.at_ns == 0
    }

    /// Whether that line was written before, by the numbers.
    pub(super) const fn is_after(self, other: Self) -> bool {
        self.series == other.series && other.seq < self.seq
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seq, series, at_ns } = self;
        write!(f, "{seq}-{series:08x}-{at_ns:x}")
    }
}

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let mut parts = text.split('-');
        let mut next = || parts.next().ok_or(NoCursor);
        let (seq, series, at_ns) = (next()?, next()?, next()?);
        let cursor = Self {
            seq: seq.parse().map_err(|_| NoCursor)?,
            series: u32::from_str_radix(series, 16).map_err(|_| NoCursor)?,
            at_ns: u64::from_str_radix(at_ns, 16).map_err(|_| NoCursor)?,
        };
        // In the one way in which it is written.
        (cursor.to_string() == text)
            .then_some(cursor)
            .ok_or(NoCursor)
    }
}

/// A numbering that no other journal has.
pub(super) fn new_series() -> u32 {
    let id = proc::random_id().ok();
    let begin = id.as_ref().and_then(|id| id.get(..8));
    let of_id = begin.and_then(|begin| u32::from_str_radix(begin, 16).ok());
    // The time alone tells it from those before.
    let of_time = || u32::try_from((proc::since_boot_ns() >> 20) & 0xffff_ffff).unwrap_or(0);
    of_id.unwrap_or_else(of_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_as_it_was_written() {
        for (cursor, text) in [
            (
                Cursor {
                    seq: 17,
                    series: 0x1234,
                    at_ns: 255,
                },
                "17-00001234-ff",
            ),
            (
                Cursor {
                    seq: u64::MAX,
                    series: u32::MAX,
                    at_ns: 0,
                },
                "18446744073709551615-ffffffff-0",
            ),
        ] {
            assert_eq!(cursor.to_string(), text);
            assert_eq!(text.parse(), Ok(cursor));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "17",
            "17-00001234",
            "17-00001234-ff-",
            "17-00001234-ff-1",
            "17-1234-ff",
            "017-00001234-ff",
            "+17-00001234-ff",
            "17-0000123g-ff",
            "17-00001234-FF",
            "17-00001234-0ff",
            " 17-00001234-ff",
            "-1-00001234-ff",
            "18446744073709551616-00001234-ff",
            "17-00001234-10000000000000000",
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(NoCursor), "{text:?}");
        }
    }

    #[test]
    fn two_series_differ() {
        assert_ne!(new_series(), new_series());
    }
}
