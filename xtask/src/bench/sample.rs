//! Measured times, and what is said of them.

use serde_json::{Value, json};

/// Times in nanoseconds, in order.
pub(super) struct Sample(Vec<u64>);

impl Sample {
    pub(super) fn of(mut times_ns: Vec<u64>) -> Self {
        times_ns.sort_unstable();
        Self(times_ns)
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The nearest rank, in microseconds; 0 of an empty sample.
    fn percentile_us(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100);
        let time_ns = self.0.get(rank.saturating_sub(1)).copied().unwrap_or(0);
        time_ns as f64 / 1000.0
    }

    pub(super) fn median_us(&self) -> f64 {
        self.percentile_us(50)
    }

    pub(super) fn p90_us(&self) -> f64 {
        self.percentile_us(90)
    }

    pub(super) fn p99_us(&self) -> f64 {
        self.percentile_us(99)
    }

    pub(super) fn max_us(&self) -> f64 {
        self.percentile_us(100)
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "count": self.count(),
            "median_us": self.median_us(),
            "p90_us": self.p90_us(),
            "p99_us": self.p99_us(),
            "max_us": self.max_us(),
        })
    }

    /// Median, p90 and maximum as cells of a table.
    pub(super) fn cells(&self, unit: Unit) -> [String; 3] {
        let divisor = unit.microseconds();
        let times = [self.median_us(), self.p90_us(), self.max_us()];
        times.map(|time_us| readable(time_us / divisor))
    }
}

/// What a table's times are in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Microseconds,
    Milliseconds,
}

impl Unit {
    pub(super) fn microseconds(self) -> f64 {
        match self {
            Self::Microseconds => 1.0,
            Self::Milliseconds => 1000.0,
        }
    }
}

/// Three significant digits or more: `1.25`, `98.4`, `1234`.
pub(super) fn readable(number: f64) -> String {
    match number {
        ..10.0 => format!("{number:.2}"),
        ..100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// How many times `base` is in `time`; 0 where there is no base.
pub(super) fn ratio(time: f64, base: f64) -> f64 {
    if base > 0.0 { time / base } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_nearest_rank() {
        let sample = Sample::of((1..=10).rev().map(|number| number * 1000).collect());
        assert_eq!(sample.count(), 10);
        assert_eq!(sample.median_us(), 5.0);
        assert_eq!(sample.p90_us(), 9.0);
        assert_eq!(sample.max_us(), 10.0);
        assert_eq!(Sample::of(vec![1500]).median_us(), 1.5);
        assert_eq!(Sample::of(Vec::new()).max_us(), 0.0);
    }

    #[test]
    fn shows_three_digits() {
        let sample = Sample::of(vec![1_250, 98_400, 1_234_000]);
        assert_eq!(sample.cells(Unit::Microseconds), ["98.4", "1234", "1234"]);
        assert_eq!(sample.cells(Unit::Milliseconds), ["0.10", "1.23", "1.23"]);
    }

    #[test]
    fn a_ratio_of_nothing_is_no_number_that_confuses() {
        assert_eq!(ratio(10.0, 4.0), 2.5);
        assert_eq!(ratio(10.0, 0.0), 0.0);
    }
}
