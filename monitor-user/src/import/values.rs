//! systemd's and supervisord's values in respawn's words: time spans, sizes, booleans.

use std::time::Duration;

use serde_json::{Value, json};

/// `5min 20s`, `100ms`, `2`: seconds. `Ok(None)`: `infinity`.
pub(super) fn time_span(text: &str) -> Option<Option<Duration>> {
    const UNITS: &[(&[&str], u64)] = &[
        (&["us", "usec", "µs"], 1),
        (&["ms", "msec"], 1_000),
        (&["", "s", "sec", "second", "seconds"], 1_000_000),
        (&["m", "min", "minute", "minutes"], 60_000_000),
        (&["h", "hr", "hour", "hours"], 3_600_000_000),
        (&["d", "day", "days"], 86_400_000_000),
        (&["w", "week", "weeks"], 604_800_000_000),
    ];
    let mut rest = text.trim();
    if rest == "infinity" {
        return Some(None);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => {
                let end = after.find(|c: char| !c.is_ascii_digit());
                after.split_at(end.unwrap_or(after.len()))
            }
            None => ("", after),
        };
        let after = after.trim_start();
        let end = after.find(|c: char| c.is_ascii_digit() || c.is_whitespace());
        let (unit, after) = after.split_at(end.unwrap_or(after.len()));
        let (_, factor) = UNITS.iter().find(|(names, _)| names.contains(&unit))?;
        let number: u64 = number.parse().ok()?;
        total = total.checked_add(number.checked_mul(*factor)?)?;
        let mut part = *factor;
        for digit in fraction.bytes() {
            part /= 10;
            total = total.checked_add(u64::from(digit - b'0') * part)?;
        }
        rest = after.trim_start();
    }
    Some(Some(Duration::from_micros(total)))
}

/// As a service file has it.
pub(super) fn duration(duration: Duration) -> Value {
    let micros = duration.as_micros();
    json!(if micros.is_multiple_of(1_000_000) {
        format!("{}s", micros / 1_000_000)
    } else if micros.is_multiple_of(1_000) {
        format!("{}ms", micros / 1_000)
    } else {
        format!("{micros}us")
    })
}

/// The same of a timeout; `None`: never.
pub(super) fn timeout(timeout: Option<Duration>) -> Value {
    timeout.map_or(json!("infinity"), duration)
}

/// `yes`, `on`, `true`, `1`.
pub(super) fn boolean(text: &str) -> bool {
    ["yes", "y", "true", "t", "on", "1"].contains(&text.to_ascii_lowercase().as_str())
}

/// `512M`: a number of bytes, by 1,024. supervisord's `50MB` too.
pub(super) fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_uppercase();
    let shift = match unit.strip_suffix('B').unwrap_or(&unit) {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    let bytes = number.checked_mul(1 << shift)?;
    i64::try_from(bytes).is_ok().then_some(bytes)
}

/// The largest unit that it is a multiple of.
pub(super) fn size_value(bytes: u64) -> Value {
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return json!(format!("{}{unit}", bytes >> shift));
        }
    }
    json!(bytes)
}

/// A signal as a service file has it; systemd takes it with and without `SIG`.
pub(super) fn signal(text: &str) -> Option<String> {
    let text = text.trim();
    let known: Result<crate::model::Signal, _> = text.parse();
    known.ok().map(|signal| signal.to_string())
}

/// The name of a service that may be called so.
pub(super) fn service_name(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '@' | '-');
    let name: String = text
        .chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .collect();
    let name = name.trim_start_matches(['.', '-']);
    let name: String = name.chars().take(64).collect();
    match name.is_empty() {
        true => "service".to_owned(),
        false => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_read_as_in_systemd() {
        let micros = |micros| Some(Some(Duration::from_micros(micros)));
        for (text, expected) in [
            ("5", micros(5_000_000)),
            ("0", micros(0)),
            ("100ms", micros(100_000)),
            ("1min 30s", micros(90_000_000)),
            ("1h30", micros(3_630_000_000)),
            ("1.5s", micros(1_500_000)),
            ("2 min", micros(120_000_000)),
            ("infinity", Some(None)),
            ("", None),
            ("x", None),
            ("5 parsecs", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(time_span(text), expected, "{text}");
        }
        assert_eq!(duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(duration(Duration::from_secs(90)), "90s");
    }

    #[test]
    fn sizes_and_names() {
        assert_eq!(size("512M"), Some(512 << 20));
        assert_eq!(size("50MB"), Some(50 << 20));
        assert_eq!(size("7"), Some(7));
        assert_eq!(size("10%"), None);
        assert_eq!(size_value(512 << 20), "512MiB");
        assert_eq!(size_value(7), 7);
        assert_eq!(service_name("a:b/c"), "a_b_c");
        assert_eq!(service_name("-.x"), "x");
        assert_eq!(service_name(""), "service");
        assert_eq!(signal("QUIT").as_deref(), Some("SIGQUIT"));
        assert_eq!(signal("SIGNOPE"), None);
    }
}
