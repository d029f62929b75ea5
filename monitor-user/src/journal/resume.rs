//! Goes on with a journal where somebody who has the cursor of a line has stopped.
//!
//! ```text
//! is the line kept? ─yes─▶ after it
//!        │ no
//!        ▼
//! is an older line of its numbering kept? ─yes─▶ after the last one of these
//!        │ no
//!        ▼
//!  from the oldest line on
//! ```
//!
//! Lines older than one that is gone can be kept, since `journal` and `journal.busy` are turned over
//! each in its time.

use anyhow::Result;

use super::{Cursor, JournalLine, Reader};

/// A journal that is read on.
pub(crate) struct Resumed {
    pub(crate) reader: Reader,
    pub(crate) found: Found,
}

/// What is left of the place of a cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// The line, or nothing is missing without it.
    Line,
    /// Only lines that were written before it.
    Older,
    /// None that is known to be older.
    Nothing,
}

/// Opens a journal after the line with that cursor, or as near to it as can be without a repeat. `passed`
/// sees each line that is passed over, some of them twice.
///
/// # Errors
/// As those of `open` and [`Reader::next`].
pub(crate) fn resume(
    open: impl Fn() -> Result<Reader>,
    cursor: Cursor,
    mut passed: impl FnMut(&JournalLine),
) -> Result<Resumed> {
    let mut wanted = cursor;
    let mut is_older = false;
    loop {
        let mut reader = open()?;
        let mut older = None;
        let mut has_later = false;
        while let Some(line) = reader.next()? {
            passed(&line);
            let Some(place) = line.cursor() else {
                continue;
            };
            if place == wanted {
                reader.begin_after(cursor.seq);
                let is_exact = !is_older || cursor.is_gap();
                let found = if is_exact { Found::Line } else { Found::Older };
                return Ok(Resumed { reader, found });
            }
            if cursor.is_after(place) {
                older = Some(place);
            }
            has_later |= place.is_after(cursor);
        }
        // Another time round: it can be gone by then.
        if let Some(older) = older {
            wanted = older;
            is_older = true;
            continue;
        }
        let mut reader = open()?;
        let mut found = Found::Nothing;
        if has_later {
            reader.begin_after(cursor.seq);
            if cursor.is_gap() {
                found = Found::Line;
            }
        }
        return Ok(Resumed { reader, found });
    }
}
