//! Puts text in places of a picture, as far as there is room.

use anstyle::Style;
use ratatui::buffer::Buffer;

use super::look::Look;

/// Text at places; what has no room is cut or left out.
pub(super) struct Canvas<'a> {
    pub(super) buffer: &'a mut Buffer,
    pub(super) look: Look,
    /// Nothing is put from this line on.
    pub(super) end: u16,
}

impl Canvas<'_> {
    /// Puts text in so many columns at most, and returns where it ends.
    pub(super) fn put(&mut self, x: u16, y: u16, columns: u16, text: &str, style: Style) -> u16 {
        let columns = columns.min(self.buffer.area.width.saturating_sub(x));
        if y >= self.end || columns == 0 {
            return x;
        }
        let text = self.look.fit(text, columns);
        let style = self.look.style(style);
        let (end, _) = self.buffer.set_stringn(x, y, text, columns.into(), style);
        end
    }

    /// The same at the right edge of these columns.
    pub(super) fn right(&mut self, x: u16, y: u16, columns: u16, text: &str, style: Style) {
        self.put(
            x,
            y,
            columns,
            &format!("{text:>width$}", width = columns.into()),
            style,
        );
    }

    /// A line across, with a title.
    pub(super) fn rule(&mut self, y: u16, title: &str) {
        let line = self.look.line();
        let before = line.repeat(2);
        let x = self.put(0, y, u16::MAX, &before, Style::new().dimmed());
        let x = self.put(x + 1, y, u16::MAX, title, Style::new().bold());
        let rest = usize::from(self.buffer.area.width.saturating_sub(x + 1));
        self.put(
            x + 1,
            y,
            u16::MAX,
            &line.repeat(rest),
            Style::new().dimmed(),
        );
    }
}
