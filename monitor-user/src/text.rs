//! Text of unknown origin on its way to a reader: names, arguments and messages that anybody may
//! have chosen. Makes visible what a terminal would obey, reorder or hide, and measures columns.
//!
//! Knows no event and no command; colours are added by the caller, after this.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use serde::Serialize;
use unicode_width::UnicodeWidthStr;

/// Characters that have a glyph class of their own and are shown as nothing, beyond the format
/// characters: the rest of `Default_Ignorable_Code_Point`.
/// <https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt>
const BLANK: [RangeInclusive<char>; 8] = [
    '\u{34f}'..='\u{34f}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{e0000}'..='\u{e0fff}',
];

/// One line of text in which every character can be seen: control, bidirectional and zero-width
/// characters are escaped as in Rust, such as `\n`, `\u{1b}` and `\u{202e}`.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut may_combine = false;
    for c in text.chars() {
        if is_visible(c, may_combine) {
            shown.push(c);
            may_combine = true;
        } else {
            // Those that have a short name, such as \n, are ASCII.
            match c.is_ascii() {
                true => shown.extend(c.escape_debug()),
                false => shown.extend(c.escape_unicode()),
            }
            may_combine = false;
        }
    }
    shown
}

/// The same for a text of several lines, whose ends stay.
pub(crate) fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// A mark that combines with the character before it is visible, and nothing without one.
fn is_visible(c: char, may_combine: bool) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    if BLANK.iter().any(|range| range.contains(&c)) {
        return false;
    }
    // The standard library knows which characters are printable, and escapes a combining mark only
    // where it is the first of a text.
    let mut buffer = [b'a'; 5];
    let length = c.encode_utf8(&mut buffer[1..]).len();
    let after_a = std::str::from_utf8(&buffer[..=length]).unwrap_or_default();
    if may_combine {
        after_a.escape_debug().count() == 2
    } else {
        c.escape_debug().count() == 1
    }
}

/// How many columns of a terminal the text takes: 2 for each CJK character.
pub(crate) fn columns(text: &str) -> usize {
    text.width()
}

/// The text with spaces after it, in so many columns at least.
pub(crate) fn padded(text: &str, least: usize) -> String {
    let gap = " ".repeat(least.saturating_sub(columns(text)));
    format!("{text}{gap}")
}

/// One line of JSON without a control character in it.
///
/// # Errors
/// The value's own: see [`serde_json::to_string`].
pub(crate) fn json(value: &impl Serialize) -> serde_json::Result<String> {
    let text = serde_json::to_string(value)?;
    Ok(match visible_json(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(text) => text,
    })
}

/// JSON with those control characters escaped that JSON itself permits: DEL and C1, which some
/// terminals obey. They can be in strings only, where an escape means the same.
pub(crate) fn visible_json(text: &str) -> Cow<'_, str> {
    let is_control = |c: char| matches!(c, '\u{7f}'..='\u{9f}');
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 5);
    for c in text.chars() {
        if is_control(c) {
            shown.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_a_terminal_obeys_or_hides_is_visible() {
        for (text, shown) in [
            ("", ""),
            ("a b~", "a b~"),
            (r#"it's "quoted" \d+"#, r#"it's "quoted" \d+"#),
            ("a\u{1b}[2Jb", r"a\u{1b}[2Jb"),
            ("a\nb\tc\r\0\u{7f}", r"a\nb\tc\r\0\u{7f}"),
            // C1: 0x9b is CSI, as ESC [ is.
            ("a\u{80}\u{9b}31m", r"a\u{80}\u{9b}31m"),
            // Bidirectional: marks, embeddings, overrides, isolates.
            ("\u{61c}\u{200e}\u{200f}", r"\u{61c}\u{200e}\u{200f}"),
            ("txt.\u{202e}exe", r"txt.\u{202e}exe"),
            ("\u{202a}\u{2066}\u{2069}", r"\u{202a}\u{2066}\u{2069}"),
            // Zero width: space, joiners, BOM, soft hyphen, word joiner, tags.
            ("a\u{200b}b\u{200c}\u{200d}", r"a\u{200b}b\u{200c}\u{200d}"),
            ("\u{feff}\u{ad}\u{2060}", r"\u{feff}\u{ad}\u{2060}"),
            ("a\u{e0041}\u{fe0f}\u{34f}", r"a\u{e0041}\u{fe0f}\u{34f}"),
            ("\u{3164}\u{115f}\u{ffa0}", r"\u{3164}\u{115f}\u{ffa0}"),
            // Lines and paragraphs, and spaces that look like one.
            ("\u{2028}\u{2029}\u{a0}", r"\u{2028}\u{2029}\u{a0}"),
            ("\u{e000}\u{fffd}", "\\u{e000}\u{fffd}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn the_world_writes_its_names_as_it_does() {
        for name in [
            "naïve",
            "e\u{301}te\u{301}",
            "日本語",
            "ภาษาไทยที่",
            "हिन्दी",
            "עִבְרִית",
            "한국어",
            "🦀",
        ] {
            assert_eq!(printable(name), name);
        }
        // A mark without a character to combine with would change what stands before the text.
        assert_eq!(printable("\u{301}a"), r"\u{301}a");
        assert_eq!(printable("\u{202e}\u{301}"), r"\u{202e}\u{301}");
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(printable_lines("a\u{1b}\n\nb"), "a\\u{1b}\n\nb");
    }

    #[test]
    fn columns_are_a_terminals() {
        for (text, expected) in [("", 0), ("web", 3), ("日本", 4), ("e\u{301}", 1), ("🦀", 2)] {
            assert_eq!(columns(text), expected, "{text}");
        }
        assert_eq!(padded("日本", 6), "日本  ");
        assert_eq!(padded("longer", 3), "longer");
    }

    #[test]
    fn json_has_no_control_character_and_means_the_same() {
        let value = json!({"comm": "a\u{9b}31m\u{7f}\u{1b}\u{85}", "\u{90}": "ä\u{202e}"});
        let text = json(&value).unwrap();
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert!(text.contains(r"a\u009b31m\u007f\u001b\u0085"), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(matches!(visible_json("{}"), Cow::Borrowed(_)));
    }
}
