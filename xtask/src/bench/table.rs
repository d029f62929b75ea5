//! A table in Markdown that can also be read as it is.

use std::fmt;

/// Columns are as wide as their widest cell; the first is to the left, the others to the right.
pub(super) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(title: impl Into<String>, header: &[&str]) -> Self {
        Self {
            title: title.into(),
            rows: vec![header.iter().map(ToString::to_string).collect()],
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        if !self.title.is_empty() {
            writeln!(formatter, "{}\n", self.title)?;
        }
        for (index, row) in self.rows.iter().enumerate() {
            write!(formatter, "|")?;
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(formatter, " {cell:<width$} |")?,
                    _ => write!(formatter, " {cell:>width$} |")?,
                }
            }
            writeln!(formatter)?;
            if index == 0 {
                let rule = |(column, width): (usize, &usize)| match column {
                    0 => format!("{}|", "-".repeat(width + 2)),
                    _ => format!("{}:|", "-".repeat(width + 1)),
                };
                let rules: String = widths.iter().enumerate().map(rule).collect();
                writeln!(formatter, "|{rules}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_up() {
        let mut table = Table::new("Exits", &["what", "µs"]);
        table.row(["a process".into(), "12".into()]);
        table.row(["é".into(), "1234".into()]);
        assert_eq!(
            table.to_string(),
            "Exits\n\n\
             | what      |   µs |\n\
             |-----------|-----:|\n\
             | a process |   12 |\n\
             | é         | 1234 |\n"
        );
    }
}
