//! A bar chart in SVG, on a logarithmic scale.

use std::fmt::Write as _;

const LABELS: f64 = 220.0;
const BARS: f64 = 420.0;
const NUMBERS: f64 = 90.0;
const LINE: f64 = 22.0;
const HEAD: f64 = 34.0;

/// Bars with a time each.
pub(super) struct Plot {
    title: String,
    /// In µs.
    bars: Vec<(String, f64)>,
}

impl Plot {
    pub(super) fn of_times(title: &str, times_us: &[(String, f64)]) -> Self {
        Self {
            title: format!("{title} (logarithmic)"),
            bars: times_us
                .iter()
                .filter(|(_, time)| *time > 0.0)
                .cloned()
                .collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bars.is_empty()
    }

    pub(super) fn svg(&self) -> String {
        let height = HEAD + LINE * self.bars.len() as f64 + 8.0;
        let width = LABELS + BARS + NUMBERS;
        let logarithms = self.bars.iter().map(|(_, time)| time.log10());
        let lowest = logarithms.clone().fold(f64::INFINITY, f64::min) - 0.3;
        let span = (logarithms.fold(f64::NEG_INFINITY, f64::max) - lowest).max(0.1);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"8\" y=\"20\" font-weight=\"bold\">{}</text>\n",
            escaped(&self.title)
        );
        for (index, (name, time)) in self.bars.iter().enumerate() {
            let top = HEAD + LINE * index as f64;
            let length = (time.log10() - lowest) / span * BARS;
            let color = if name.starts_with("respawn") {
                "#c0392b"
            } else {
                "#7f8c8d"
            };
            let text = top + 14.0;
            let _ = writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{text:.0}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LABELS:.0}\" y=\"{top:.0}\" width=\"{length:.1}\" height=\"16\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"{text:.0}\">{}</text>",
                LABELS - 8.0,
                escaped(name),
                LABELS + length + 6.0,
                readable(*time)
            );
        }
        svg + "</svg>\n"
    }
}

/// `870 µs`, `12.3 ms`, `1.02 s`
fn readable(time_us: f64) -> String {
    match time_us {
        ..1000.0 => format!("{time_us:.0} µs"),
        ..100_000.0 => format!("{:.1} ms", time_us / 1e3),
        ..1_000_000.0 => format!("{:.0} ms", time_us / 1e3),
        _ => format!("{:.2} s", time_us / 1e6),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_a_bar_for_each() {
        let times = [
            ("a & b".to_string(), 870.0),
            ("respawn".to_string(), 1_020_000.0),
            ("no".to_string(), 0.0),
        ];
        let plot = Plot::of_times("Kill", &times);
        let svg = plot.svg();
        assert!(svg.contains("a &amp; b") && svg.contains("870 µs") && svg.contains("1.02 s"));
        assert_eq!(svg.matches("fill=\"#").count(), 2);
        assert!(
            svg.contains("width=\"420.0\""),
            "the longest is the whole width: {svg}"
        );
    }
}
