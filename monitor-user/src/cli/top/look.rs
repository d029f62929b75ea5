//! What the terminal can show: colours, bold and dim, characters beyond ASCII.

use std::env;
use std::io;

use anstyle::{AnsiColor, Effects};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Span;

use crate::text::printable;

/// How things are shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) colour: bool,
    /// Bold, dim and reversed.
    pub(super) attributes: bool,
    pub(super) unicode: bool,
}

impl Look {
    /// By `NO_COLOR`, `TERM` and the locale.
    pub(super) fn from_environment() -> Self {
        let term = env::var("TERM").unwrap_or_default();
        let is_dumb = term.is_empty() || term == "dumb";
        let is_monochrome = term.starts_with("vt") || term.ends_with("-m") || term.contains("mono");
        let allowed = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
        // The first of them that is set counts, as in setlocale(3).
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .into_iter()
            .filter_map(|name| env::var(name).ok())
            .find(|value| !value.is_empty())
            .unwrap_or_default()
            .to_lowercase();
        Self {
            colour: allowed && !is_dumb && !is_monochrome,
            attributes: !is_dumb,
            unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    /// The style, as far as it can be shown.
    pub(super) fn style(self, style: anstyle::Style) -> Style {
        let mut shown = Style::new();
        if let (true, Some(anstyle::Color::Ansi(colour))) = (self.colour, style.get_fg_color()) {
            shown.fg = match colour {
                AnsiColor::Green => Some(Color::Green),
                AnsiColor::Yellow => Some(Color::Yellow),
                AnsiColor::Red => Some(Color::Red),
                _ => None,
            };
        }
        if self.attributes {
            for (effect, modifier) in [
                (Effects::BOLD, Modifier::BOLD),
                (Effects::DIMMED, Modifier::DIM),
                (Effects::INVERT, Modifier::REVERSED),
            ] {
                if style.get_effects().contains(effect) {
                    shown = shown.add_modifier(modifier);
                }
            }
        }
        shown
    }

    /// The text with nothing in it that the terminal cannot show, or would obey.
    pub(super) fn text(self, text: &str) -> String {
        let text = printable(text);
        if self.unicode {
            return text;
        }
        text.chars()
            .map(|c| if c.is_ascii() { c } else { '?' })
            .collect()
    }

    /// The same in so many columns at most; one that is cut says so at its end.
    pub(super) fn fit(self, text: &str, columns: u16) -> String {
        let mut text = self.text(text);
        let columns = usize::from(columns);
        if Span::raw(&text).width() <= columns {
            return text;
        }
        while Span::raw(&text).width() >= columns && text.pop().is_some() {}
        if columns > 0 {
            text.push(if self.unicode { '…' } else { '~' });
        }
        text
    }

    /// A bar for `value`, of which there is `most` at most.
    pub(super) fn bar(self, value: u64, most: u64) -> char {
        let heights = if self.unicode {
            ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█']
        } else {
            ['.', ':', '-', '=', '+', '*', '#', '@']
        };
        if value == 0 {
            return ' ';
        }
        let height = value.saturating_mul(8).div_ceil(most.max(1)).clamp(1, 8);
        heights[usize::try_from(height - 1).unwrap_or(0)]
    }

    /// What a horizontal line is made of.
    pub(super) fn line(self) -> &'static str {
        if self.unicode { "─" } else { "-" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RICH: Look = Look {
        colour: true,
        attributes: true,
        unicode: true,
    };
    const POOR: Look = Look {
        colour: false,
        attributes: false,
        unicode: false,
    };

    #[test]
    fn nothing_hostile_is_shown() {
        assert_eq!(RICH.text("a\u{1b}[2Jb\u{9b}c"), r"a\u{1b}[2Jb\u{9b}c");
        assert_eq!(RICH.text("naïve"), "naïve");
        assert_eq!(POOR.text("naïve"), "na?ve");
    }

    #[test]
    fn what_is_too_long_is_cut() {
        assert_eq!(RICH.fit("12345", 5), "12345");
        assert_eq!(RICH.fit("123456", 5), "1234…");
        assert_eq!(POOR.fit("123456", 5), "1234~");
        assert_eq!(RICH.fit("字字字", 5), "字字…");
        assert_eq!(RICH.fit("12", 1), "…");
        assert_eq!(RICH.fit("12", 0), "");
    }

    #[test]
    fn a_bar_is_seen_from_one_on() {
        let bars = String::from_iter([0, 1, 4, 8, 99].map(|value| RICH.bar(value, 8)));
        assert_eq!(bars, " ▁▄██");
        assert_eq!(POOR.bar(1, 1000), '.');
        assert_eq!(POOR.bar(1000, 1000), '@');
    }

    #[test]
    fn styles_are_shown_as_far_as_they_can_be() {
        let red = AnsiColor::Red.on_default().bold();
        assert_eq!(
            RICH.style(red),
            Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
        );
        assert_eq!(POOR.style(red), Style::new());
    }
}
