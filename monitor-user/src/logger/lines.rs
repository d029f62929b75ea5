//! Lines in what services write, and what stands before them in a log. Pure.

/// What the agent writes into a FIFO when an instance has ended: it completes a line that has no end.
/// On a line of its own it is nothing.
pub(crate) const END: &[u8] = b"\0respawn: end of an instance\0\n";

/// A longer line is cut: a service must not have the logger keep any amount of it.
pub(super) const LONGEST: usize = 64 << 10;

/// How long a stamp is, its blank included.
const STAMP: usize = "2026-11-26T21:45:38.123456Z ".len();

/// What stands before the lines that were read at this moment.
pub(super) fn stamp(time: jiff::Timestamp) -> String {
    format!("{time:.6} ")
}

/// The first line of some bytes, and so much of them it is; `None`: it has no end yet.
fn split_first(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let window = bytes.get(..LONGEST).unwrap_or(bytes);
    match memchr::memchr(b'\n', window) {
        Some(end) => Some((window.get(..=end)?, end + 1)),
        // It goes on in a line of its own.
        None if window.len() == LONGEST => Some((window, LONGEST)),
        None => None,
    }
}

/// Puts a line into `out`, complete and with its stamp.
fn push(line: &[u8], stamp: &str, out: &mut Vec<u8>) {
    let line = match line.strip_suffix(END) {
        Some([]) => return,
        Some(rest) => rest,
        None => line,
    };
    out.extend_from_slice(stamp.as_bytes());
    out.extend_from_slice(line);
    if !line.ends_with(b"\n") {
        out.push(b'\n');
    }
}

/// What was made of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// So many of them are dealt with.
    pub(super) bytes: usize,
    /// They are all that there is of whole lines.
    pub(super) is_all: bool,
}

/// Makes of the whole lines in `bytes`, the first of which begins with `carry`, what is to be written to
/// the log, in `out`: at most `room` bytes of it, but at least one line if `must`.
pub(super) fn take(
    carry: &[u8],
    bytes: &[u8],
    stamp: &str,
    room: u64,
    must: bool,
    out: &mut Vec<u8>,
) -> Taken {
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let mut taken = Taken::default();
    let mut carry = carry;
    loop {
        let rest = bytes.get(taken.bytes..).unwrap_or_default();
        let joined;
        let found = if carry.is_empty() {
            split_first(rest)
        } else {
            // As much as may belong to that line.
            joined = [carry, rest.get(..LONGEST).unwrap_or(rest)].concat();
            let found = split_first(&joined);
            found.map(|(line, length)| (line, length.saturating_sub(carry.len())))
        };
        let Some((line, length)) = found else {
            taken.is_all = true;
            return taken;
        };
        let before = out.len();
        push(line, stamp, out);
        let is_first = before == 0;
        if out.len() > room && !(must && is_first) {
            out.truncate(before);
            return taken;
        }
        taken.bytes += length;
        carry = &[];
    }
}

/// What a service has written, without the agent's words in between.
pub(crate) fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        match line.ends_with(END) {
            true => push(line, "", &mut out),
            false => out.extend_from_slice(line),
        }
    }
    out
}

/// A log's line without its stamp, if it has one.
pub(crate) fn without_stamp(line: &[u8]) -> &[u8] {
    match split_stamp(line) {
        Some((_, rest)) => rest,
        None => line,
    }
}

/// The stamp and the rest of a line.
pub(crate) fn split_stamp(line: &[u8]) -> Option<(&str, &[u8])> {
    let (stamp, rest) = line.split_at_checked(STAMP)?;
    let is_one = stamp.iter().enumerate().all(|(at, byte)| match at {
        4 | 7 => *byte == b'-',
        10 => *byte == b'T',
        13 | 16 => *byte == b':',
        19 => *byte == b'.',
        26 => *byte == b'Z',
        27 => *byte == b' ',
        _ => byte.is_ascii_digit(),
    });
    let stamp = std::str::from_utf8(stamp).ok()?;
    is_one.then_some((stamp.trim_end(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(carry: &[u8], bytes: &[u8]) -> (String, usize) {
        let mut out = Vec::new();
        let taken = take(carry, bytes, "T ", u64::MAX, true, &mut out);
        assert!(taken.is_all);
        (String::from_utf8(out).unwrap(), taken.bytes)
    }

    #[test]
    fn whole_lines_get_a_stamp_and_the_rest_waits() {
        assert_eq!(all(b"", b""), (String::new(), 0));
        assert_eq!(all(b"", b"one\ntwo\nthr"), ("T one\nT two\n".to_owned(), 8));
        assert_eq!(all(b"thr", b"ee\nfour"), ("T three\n".to_owned(), 3));
        assert_eq!(all(b"thr", b""), (String::new(), 0));
        assert_eq!(all(b"", b"\n\n"), ("T \nT \n".to_owned(), 2));
    }

    #[test]
    fn the_end_of_an_instance_completes_its_line() {
        let text = [b"last words", END, b"first words\n"].concat();
        let (out, taken) = all(b"", &text);
        assert_eq!(out, "T last words\nT first words\n");
        assert_eq!(taken, text.len());
        // It may be read in two pieces.
        let (first, second) = END.split_at(10);
        assert_eq!(
            all(&[b"last words", first].concat(), second).0,
            "T last words\n"
        );
        let text = [b"a line\n", END, END].concat();
        assert_eq!(all(b"", &text), ("T a line\n".to_owned(), text.len()));
        assert_eq!(
            plain(&[b"a line\n", END, b"b", END, b"c"].concat()),
            b"a line\nb\nc"
        );
    }

    #[test]
    fn only_so_much_is_taken_as_there_is_room_for() {
        let mut out = Vec::new();
        let taken = take(b"", b"one\ntwo\nthree\n", "T ", 13, true, &mut out);
        assert_eq!(out, b"T one\nT two\n");
        assert_eq!((taken.bytes, taken.is_all), (8, false));
        out.clear();
        let taken = take(b"", b"one\n", "T ", 2, false, &mut out);
        assert_eq!((out.len(), taken.bytes, taken.is_all), (0, 0, false));
        let taken = take(b"", b"one\ntwo\n", "T ", 2, true, &mut out);
        assert_eq!(
            (out.as_slice(), taken.bytes, taken.is_all),
            (&b"T one\n"[..], 4, false)
        );
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let text = vec![b'x'; LONGEST + 10];
        let (out, taken) = all(b"", &text);
        assert_eq!((out.len(), taken), (LONGEST + 3, LONGEST));
        let (out, taken) = all(&text[..100], &text);
        assert_eq!((out.len(), taken), (LONGEST + 3, LONGEST - 100));
    }

    #[test]
    fn stamps_are_told_from_what_looks_like_them() {
        let time: jiff::Timestamp = "2026-11-26T21:45:38.1Z".parse().unwrap();
        let line = [stamp(time).as_bytes(), b"words\n"].concat();
        assert_eq!(line, b"2026-11-26T21:45:38.100000Z words\n");
        assert_eq!(without_stamp(&line), b"words\n");
        assert_eq!(split_stamp(&line).unwrap().0, "2026-11-26T21:45:38.100000Z");
        for line in [&b""[..], b"words\n", b"2026-11-26 21:45:38.100000Z words\n"] {
            assert_eq!(without_stamp(line), line);
        }
    }
}
