//! Values that are printed smoothed (the original's `utils/metric_logger.py`).

use std::collections::VecDeque;
use std::fmt;

/// A series of values, seen through a window of the last few and as a whole.
#[derive(Clone, Debug)]
pub struct SmoothedValue {
    window: VecDeque<f64>,
    window_size: usize,
    total: f64,
    count: u64,
}

impl Default for SmoothedValue {
    fn default() -> Self {
        Self::new(20)
    }
}

impl SmoothedValue {
    /// A series whose median looks at the last `window_size` values (at least one).
    pub fn new(window_size: usize) -> Self {
        Self { window: VecDeque::new(), window_size: window_size.max(1), total: 0.0, count: 0 }
    }

    /// Appends a value.
    pub fn update(&mut self, value: f64) {
        if self.window.len() == self.window_size {
            self.window.pop_front();
        }
        self.window.push_back(value);
        self.total += value;
        self.count += 1;
    }

    /// Median of the window; the lower of the two middle values when their number is even, as `torch.median`.
    /// Not a number while there are no values.
    pub fn median(&self) -> f64 {
        let mut sorted: Vec<f64> = self.window.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
    }

    /// Mean of the whole series.
    pub fn global_avg(&self) -> f64 {
        self.total / self.count as f64
    }
}

/// Named series in the order of their first update; displays as `name: median (global average)` of each.
#[derive(Clone, Debug)]
pub struct MetricLogger {
    meters: Vec<(String, SmoothedValue)>,
    delimiter: String,
}

impl MetricLogger {
    /// Without series; `delimiter` goes between them.
    pub fn new(delimiter: &str) -> Self {
        Self { meters: Vec::new(), delimiter: delimiter.into() }
    }

    /// Appends a value to the series of that name.
    pub fn update(&mut self, name: &str, value: f64) {
        if let Some((_, meter)) = self.meters.iter_mut().find(|(n, _)| n == name) {
            return meter.update(value);
        }
        let mut meter = SmoothedValue::default();
        meter.update(value);
        self.meters.push((name.into(), meter));
    }

    /// The series of that name.
    pub fn get(&self, name: &str) -> Option<&SmoothedValue> {
        self.meters.iter().find(|(n, _)| n == name).map(|(_, meter)| meter)
    }

    /// What goes between the series.
    pub fn delimiter(&self) -> &str {
        &self.delimiter
    }
}

impl fmt::Display for MetricLogger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, meter)) in self.meters.iter().enumerate() {
            let delimiter = if i == 0 { "" } else { &self.delimiter };
            write!(f, "{delimiter}{name}: {:.4} ({:.4})", meter.median(), meter.global_avg())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_forgets_and_the_global_average_does_not() {
        let mut value = SmoothedValue::new(3);
        for v in [10.0, 1.0, 2.0, 3.0] {
            value.update(v);
        }
        assert_eq!(value.median(), 2.0);
        assert_eq!(value.global_avg(), 4.0);
    }

    #[test]
    fn an_even_window_gives_the_lower_middle() {
        let mut value = SmoothedValue::default();
        for v in [4.0, 1.0, 3.0, 2.0] {
            value.update(v);
        }
        assert_eq!(value.median(), 2.0);
        assert!(SmoothedValue::default().median().is_nan());
    }

    #[test]
    fn meters_are_printed_in_order_with_four_digits() {
        let mut meters = MetricLogger::new("  ");
        meters.update("loss", 1.5);
        meters.update("loss_mask", 0.25);
        meters.update("loss", 0.5);
        assert_eq!(meters.to_string(), "loss: 0.5000 (1.0000)  loss_mask: 0.2500 (0.2500)");
        assert_eq!(meters.get("loss").map(SmoothedValue::global_avg), Some(1.0));
        assert!(meters.get("time").is_none());
    }
}
