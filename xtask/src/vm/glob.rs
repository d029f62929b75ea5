//! Patterns of names: `*` is any text, `?` any character.

/// Whether all of the text fits.
pub(super) fn fits(pattern: &str, text: &str) -> bool {
    let Some(first) = pattern.chars().next() else {
        return text.is_empty();
    };
    let rest = &pattern[first.len_utf8()..];
    let mut characters = text.chars();
    match first {
        '*' => {
            let mut ends = text.char_indices().map(|(at, _)| at);
            ends.any(|at| fits(rest, &text[at..])) || fits(rest, "")
        }
        '?' => characters.next().is_some() && fits(rest, characters.as_str()),
        _ => characters.next() == Some(first) && fits(rest, characters.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn fits_as_in_a_shell() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "a", true),
            ("", "a", false),
            ("a*c", "abbc", true),
            ("a*c", "abbd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*::b", "a::b", true),
            ("a::*", "a::", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
