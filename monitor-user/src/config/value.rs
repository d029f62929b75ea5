//! Readers for the kinds of value that several keys share: durations, sizes, paths, words.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;

use super::cursor::{Item, quoted};

const DURATION: &str = r#"a duration such as "10s" or "1m 30s""#;

const SIZE: &str = r#"a size such as "64KiB" or "8MiB""#;

/// Ten years: longer ones are mistakes, and no sum of a few of them overflows a clock.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// `"100ms"`, `"1m 30s"`: from zero to ten years, never without a unit.
pub(super) fn duration(item: &Item<'_>) -> Option<Duration> {
    let Some(text) = item.as_str() else {
        let hint = item.as_integer();
        let hint = hint.map(|(seconds, _)| format!("with a unit, write \"{seconds}s\""));
        item.expected(DURATION, hint.as_deref());
        return None;
    };
    let Ok(parsed) = text.parse::<SignedDuration>() else {
        item.expected(DURATION, Some("units are h, m, s, ms, us and ns"));
        return None;
    };
    match Duration::try_from(parsed) {
        Ok(duration) if duration <= MAX_DURATION => Some(duration),
        Ok(_) => {
            item.expected("a duration of at most ten years", None);
            None
        }
        Err(_) => {
            item.expected("a duration that is not negative", None);
            None
        }
    }
}

/// What is never over: thirty years, so that no sum overflows a clock.
pub(crate) const INFINITY: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// A duration after which something is given up, or `"infinity"`.
pub(super) fn timeout(item: &Item<'_>) -> Option<Duration> {
    match item.as_str() {
        Some("infinity") => Some(INFINITY),
        _ => duration(item),
    }
}

/// A number of bytes: `"8MiB"`, or an integer.
pub(super) fn size(item: &Item<'_>) -> Option<u64> {
    if let Some((bytes, _)) = item.as_integer() {
        let bytes = u64::try_from(bytes).ok();
        if bytes.is_none() {
            item.expected("a size that is not negative", None);
        }
        return bytes;
    }
    match item.as_str().map(parse_size) {
        Some(Ok(bytes)) => return Some(bytes),
        Some(Err(BadSize::Unit)) => {
            item.expected(
                SIZE,
                Some("units are B, KiB, MiB, GiB, TiB, kB, MB, GB and TB"),
            );
        }
        Some(Err(BadSize::TooLarge)) => item.expected("a size of less than 2^63 bytes", None),
        None => item.expected(SIZE, None),
    }
    None
}

/// The same within limits, which are told if it is not.
pub(super) fn size_within(
    item: &Item<'_>,
    limits: RangeInclusive<u64>,
    expected: &str,
) -> Option<u64> {
    let size = size(item)?;
    if !limits.contains(&size) {
        item.expected(expected, None);
        return None;
    }
    Some(size)
}

#[derive(Debug, PartialEq)]
pub(crate) enum BadSize {
    Unit,
    TooLarge,
}

/// Bare `K`, `M` and `G` are no units here: they mean 1000 to some and 1024 to others.
pub(crate) fn parse_size(text: &str) -> Result<u64, BadSize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(BadSize::Unit);
    }
    let factor: u64 = match unit.trim_start() {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(BadSize::Unit),
    };
    let number: u64 = number.parse().map_err(|_| BadSize::TooLarge)?;
    let bytes = number.checked_mul(factor).ok_or(BadSize::TooLarge)?;
    i64::try_from(bytes).map_err(|_| BadSize::TooLarge)?;
    Ok(bytes)
}

/// A path from the root: a service has no other directory to start from.
pub(super) fn absolute_path(item: &Item<'_>) -> Option<PathBuf> {
    const WHAT: &str = "an absolute path";
    let path = Path::new(item.string(WHAT)?);
    if !path.is_absolute() {
        item.expected(WHAT, None);
        return None;
    }
    Some(path.to_owned())
}

/// One of a few words.
pub(super) fn word<T: Copy>(item: &Item<'_>, words: &[(&str, T)]) -> Option<T> {
    let found = words.iter().find(|(word, _)| item.as_str() == Some(word));
    if found.is_none() {
        let words: Vec<_> = words.iter().map(|(word, _)| quoted(word)).collect();
        item.expected(&words.join(" or "), None);
    }
    found.map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_that_mean_one_thing() {
        for (text, expected) in [
            ("0B", Ok(0)),
            ("64KiB", Ok(65_536)),
            ("8 MiB", Ok(8 << 20)),
            ("2GB", Ok(2_000_000_000)),
            ("64", Err(BadSize::Unit)),
            ("64K", Err(BadSize::Unit)),
            ("-1KiB", Err(BadSize::Unit)),
            ("KiB", Err(BadSize::Unit)),
            ("", Err(BadSize::Unit)),
            ("1ä", Err(BadSize::Unit)),
            ("99999999TiB", Err(BadSize::TooLarge)),
            ("8388608TiB", Err(BadSize::TooLarge)),
            ("99999999999999999999999B", Err(BadSize::TooLarge)),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }
}
