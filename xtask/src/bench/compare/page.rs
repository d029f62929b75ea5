//! The page, its plots and the raw figures.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::{contest::Skipped, peer::Peer, plot::Plot};
use crate::bench::table::Table;

/// What one measure found.
pub(super) struct Section {
    key: String,
    title: String,
    said: Vec<String>,
    tables: Vec<Table>,
    plots: Vec<Plot>,
    pub(super) json: Value,
    skipped: Skipped,
}

impl Section {
    pub(super) fn new(key: &str, title: &str) -> Self {
        Self {
            key: key.into(),
            title: title.into(),
            said: Vec::new(),
            tables: Vec::new(),
            plots: Vec::new(),
            json: json!({}),
            skipped: Skipped::new(),
        }
    }

    pub(super) fn say(&mut self, paragraph: String) {
        self.said.push(paragraph);
    }

    pub(super) fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    pub(super) fn plot(&mut self, plot: Plot) {
        if !plot.is_empty() {
            self.plots.push(plot);
        }
    }

    pub(super) fn skipped(&mut self, skipped: Skipped) {
        self.skipped.extend(skipped);
    }

    /// The file of a plot, beside the page.
    fn plot_name(&self, number: usize) -> String {
        match number {
            0 => format!("benchmarks/{}.svg", self.key),
            _ => format!("benchmarks/{}-{number}.svg", self.key),
        }
    }

    pub(super) fn text(&self, with_plots: bool) -> String {
        let mut parts = vec![format!("## {}", self.title)];
        parts.extend(self.said.iter().map(|paragraph| wrapped(paragraph)));
        parts.extend(
            self.tables
                .iter()
                .map(|table| table.to_string().trim_end().to_owned()),
        );
        if with_plots {
            let plot = |number| format!("![{}]({})", self.title, self.plot_name(number));
            parts.extend((0..self.plots.len()).map(plot));
        }
        let skipped = |(name, why): (&&str, &String)| {
            format!("- skipped: {name}: {}", why.replace('\n', " "))
        };
        let skipped: Vec<String> = self.skipped.iter().map(skipped).collect();
        if !skipped.is_empty() {
            parts.push(skipped.join("\n"));
        }
        parts.join("\n\n")
    }
}

/// All of a run.
pub(super) struct Page {
    /// Where and when.
    pub(super) head: String,
    pub(super) machine: Value,
    pub(super) sections: Vec<Section>,
}

impl Page {
    pub(super) fn text(&self, peers: &[&dyn Peer], missing: &Skipped, with_plots: bool) -> String {
        let mut table = Table::new("", &["", "settings"]);
        for peer in peers {
            table.row([peer.name().into(), peer.settings().into()]);
        }
        let mut parts = vec![
            "# Benchmarks".to_string(),
            "<!-- written by: cargo xtask bench -->".to_string(),
            wrapped(&self.head),
            wrapped(INTRODUCTION),
            "## Who takes part, and how".to_string(),
            table.to_string().trim_end().to_string(),
        ];
        let missing = missing
            .iter()
            .map(|(name, why)| format!("- skipped: {name}: {why}"));
        let missing: Vec<String> = missing.collect();
        if !missing.is_empty() {
            parts.push(missing.join("\n"));
        }
        parts.extend(self.sections.iter().map(|section| section.text(with_plots)));
        parts.join("\n\n") + "\n"
    }

    pub(super) fn json(&self) -> Value {
        let mut all = Map::new();
        all.insert("machine".into(), self.machine.clone());
        for section in &self.sections {
            let mut json = section.json.clone();
            if !section.skipped.is_empty() {
                json["skipped"] = json!(section.skipped);
            }
            all.insert(section.key.clone(), json);
        }
        all.into()
    }

    /// Writes `benchmarks.md`, the plots and the JSON beside it.
    pub(super) fn write(&self, docs: &Path, peers: &[&dyn Peer], missing: &Skipped) -> Result<()> {
        let folder = docs.join("benchmarks");
        if folder.exists() {
            fs::remove_dir_all(&folder).context("remove the plots of before")?;
        }
        fs::create_dir_all(&folder).context("make the folder of plots")?;
        for section in &self.sections {
            for (number, plot) in section.plots.iter().enumerate() {
                let path = docs.join(section.plot_name(number));
                fs::write(&path, plot.svg())
                    .with_context(|| format!("write {}", path.display()))?;
            }
        }
        let raw = serde_json::to_string_pretty(&self.json())? + "\n";
        fs::write(folder.join("raw.json"), raw).context("write the raw figures")?;
        fs::write(docs.join("benchmarks.md"), self.text(peers, missing, true))
            .context("write the page")
    }
}

const INTRODUCTION: &str = "All peers of a table ran at the same time and were killed in turns, so a noisy moment is noisy \
    for all. Only ratios within one table mean something. Each ran the same static C program, which reports the first \
    line of its main through a FIFO. Every killed instance had run for at least 1.1 s, because some supervisors wait \
    after shorter runs. The floor is the first row. Peers other than respawn and the floor ran in a PID namespace, which \
    costs a fork less than 1 %. The raw figures are in [benchmarks/raw.json](benchmarks/raw.json).";

/// In lines of at most 120 characters.
fn wrapped(paragraph: &str) -> String {
    let mut text = String::new();
    let mut length = 0;
    for word in paragraph.split_whitespace() {
        let word_length = word.chars().count();
        if length > 0 && length + 1 + word_length > 120 {
            text.push('\n');
            length = 0;
        } else if length > 0 {
            text.push(' ');
            length += 1;
        }
        text.push_str(word);
        length += word_length;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_at_words() {
        let text = wrapped(&"word ".repeat(30));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines
                .iter()
                .all(|line| line.len() <= 120 && !line.ends_with(' '))
        );
    }

    #[test]
    fn says_who_was_skipped() {
        let mut section = Section::new("x", "X");
        section.skipped(Skipped::from([("monit", "not\nhere".to_string())]));
        assert_eq!(section.text(true), "## X\n\n- skipped: monit: not here");
    }
}
