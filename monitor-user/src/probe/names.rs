//! Name patterns, compiled for the kernel: `*`, `?`, `[a-z]`, `[!a-z]`, and `\` before a byte that
//! is meant as itself.

use anyhow::{Result, bail};
use monitor_ebpf::{COMM_LEN, NAME_WORDS, NameMatcher};

/// One position of a pattern: the bytes it accepts.
#[derive(Clone, Copy)]
struct Atom([bool; 256]);

/// A pattern as atoms, each with or without a `*` before it; `star_at_end` is the last one's.
struct Pattern {
    atoms: Vec<(bool, Atom)>,
    star_at_end: bool,
}

/// Compiles patterns into one matcher that accepts a name that one of them matches.
///
/// # Errors
/// A pattern that is empty, malformed or longer than any name; more patterns than fit.
pub(crate) fn compile(patterns: &[String]) -> Result<NameMatcher> {
    let mut matcher = NameMatcher::NONE;
    let mut used = [0_usize; NAME_WORDS];
    for text in patterns {
        let pattern = parse(text)?;
        let states = pattern.atoms.len() + 1;
        let Some(word) = (0..NAME_WORDS).find(|&word| used[word] + states <= 64) else {
            bail!(
                "too many name patterns: {} are given, with room for about 16",
                patterns.len()
            );
        };
        let first = used[word];
        used[word] += states;
        matcher.start[word] |= 1 << first;
        matcher.accept[word] |= 1 << (first + states - 1);
        for (index, (star, atom)) in pattern.atoms.iter().enumerate() {
            let state = 1_u64 << (first + index);
            if *star {
                matcher.stay[word] |= state;
            }
            for (byte, accepted) in atom.0.iter().enumerate() {
                if *accepted {
                    matcher.atoms[byte][word] |= state;
                }
            }
        }
        if pattern.star_at_end {
            matcher.stay[word] |= 1 << (first + states - 1);
        }
    }
    Ok(matcher)
}

fn parse(text: &str) -> Result<Pattern> {
    if text.is_empty() {
        bail!("empty name pattern: expected a name or a glob such as \"nginx*\"");
    }
    let mut bytes = text.bytes().enumerate();
    let mut pattern = Pattern {
        atoms: Vec::new(),
        star_at_end: false,
    };
    while let Some((at, byte)) = bytes.next() {
        let mut atom = Atom([false; 256]);
        match byte {
            b'*' => {
                pattern.star_at_end = true;
                continue;
            }
            b'?' => atom.0 = [true; 256],
            b'[' => atom = parse_set(text, at, &mut bytes)?,
            b'\\' => match bytes.next() {
                Some((_, escaped)) => atom.0[usize::from(escaped)] = true,
                None => bail!("name pattern {text:?}: nothing follows the last \\"),
            },
            _ => atom.0[usize::from(byte)] = true,
        }
        pattern.atoms.push((pattern.star_at_end, atom));
        pattern.star_at_end = false;
    }
    if pattern.atoms.len() >= COMM_LEN {
        bail!(
            "name pattern {text:?} can match nothing: the kernel keeps {} bytes of a name",
            COMM_LEN - 1
        );
    }
    Ok(pattern)
}

/// Reads a set after its `[`, which stands at `start`.
fn parse_set(
    text: &str,
    start: usize,
    bytes: &mut impl Iterator<Item = (usize, u8)>,
) -> Result<Atom> {
    let unclosed = || {
        anyhow::anyhow!(
            "name pattern {text:?}: no ] for the [ at byte {}",
            start + 1
        )
    };
    let mut set = Vec::new();
    let mut negated = false;
    loop {
        let (_, byte) = bytes.next().ok_or_else(unclosed)?;
        match byte {
            b'!' | b'^' if set.is_empty() && !negated => negated = true,
            // Just after the opening it stands for itself.
            b']' if !set.is_empty() => break,
            b'\\' => set.push((bytes.next().ok_or_else(unclosed)?.1, true)),
            _ => set.push((byte, false)),
        }
    }
    let mut atom = Atom([negated; 256]);
    let mut index = 0;
    while let Some(&(low, _)) = set.get(index) {
        let high = match (set.get(index + 1), set.get(index + 2)) {
            (Some((b'-', false)), Some(&(high, _))) => {
                index += 2;
                high
            }
            _ => low,
        };
        if high < low {
            bail!(
                "name pattern {text:?}: the range {}-{} is empty",
                char::from(low),
                char::from(high)
            );
        }
        atom.0[usize::from(low)..=usize::from(high)].fill(!negated);
        index += 1;
    }
    Ok(atom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(patterns: &[&str], name: &str) -> bool {
        let patterns: Vec<String> = patterns.iter().map(|&p| p.to_owned()).collect();
        compile(&patterns).unwrap().matches(&comm(name))
    }

    fn comm(name: &str) -> [u8; COMM_LEN] {
        let mut comm = [0; COMM_LEN];
        comm[..name.len()].copy_from_slice(name.as_bytes());
        comm
    }

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, yes, no) in [
            ("nginx", "nginx", "nginx2"),
            ("nginx*", "nginx-worker", "xnginx"),
            ("*ng*x", "nginx", "nginxy"),
            ("a?c", "abc", "ac"),
            ("[a-c]x", "bx", "dx"),
            ("[!a-c]x", "dx", "bx"),
            ("[]]", "]", "["),
            ("[a-]", "-", "b"),
            ("\\*", "*", "a"),
            ("[\\]a]", "]", "b"),
            ("***", "anything", "anything\u{0}x_never"),
            ("exactly15bytes_", "exactly15bytes_", "exactly15bytes"),
        ] {
            assert!(matches(&[pattern], yes), "{pattern} {yes}");
            if !no.contains("never") {
                assert!(!matches(&[pattern], no), "{pattern} {no}");
            }
        }
        assert!(matches(&["a", "b*"], "bcd") && !matches(&["a", "b*"], "cb"));
        assert!(!matches(&[], "a"));
    }

    #[test]
    fn sixteen_of_the_longest_patterns_fit() {
        let patterns: Vec<String> = (0..16).map(|n| format!("*pattern_{n:03}_x*")).collect();
        let matcher = compile(&patterns).unwrap();
        assert!(matcher.matches(&comm("pattern_015_x")));
        assert!(!matcher.matches(&comm("pattern_016_x")));
        assert!(compile(&vec!["0123456789abcde".to_owned(); 17]).is_err());
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for text in ["", "[a", "a\\", "[z-a]", "sixteen_bytes_xx", "[!", "[]"] {
            assert!(compile(&[text.to_owned()]).is_err(), "{text:?}");
        }
    }

    /// The plain recursive definition.
    fn glob(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.first(), name.first()) {
            (None, None) => true,
            (Some(b'*'), _) => {
                glob(&pattern[1..], name) || !name.is_empty() && glob(pattern, &name[1..])
            }
            (Some(b'?'), Some(_)) => glob(&pattern[1..], &name[1..]),
            (Some(a), Some(b)) => a == b && glob(&pattern[1..], &name[1..]),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?]{1,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(matches(&[&pattern], &name), glob(pattern.as_bytes(), name.as_bytes()));
        }

        #[test]
        fn never_panics(pattern in any::<String>()) {
            let _ = compile(&[pattern]);
        }
    }
}
