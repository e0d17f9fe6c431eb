//! Stopwatch and durations as text (the original's `utils/timer.py`).

use std::time::{Duration, Instant};

/// Adds up the time between `tic` and `toc`.
#[derive(Debug, Default)]
pub struct Timer {
    started: Option<Instant>,
    total: Duration,
}

impl Timer {
    /// With nothing measured.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a measurement.
    pub fn tic(&mut self) {
        self.started = Some(Instant::now());
    }

    /// Stops the measurement that `tic` began; without one nothing is added.
    pub fn toc(&mut self) {
        if let Some(started) = self.started.take() {
            self.total += started.elapsed();
        }
    }

    /// Seconds measured so far.
    pub fn total_time(&self) -> f64 {
        self.total.as_secs_f64()
    }
}

/// Seconds as Python prints `datetime.timedelta(seconds=…)`: `0:01:02`, `1 day, 0:00:00.500000`.
pub fn time_str(seconds: f64) -> String {
    let microseconds = (seconds.max(0.0) * 1e6).round() as u64;
    let (whole, fraction) = (microseconds / 1_000_000, microseconds % 1_000_000);
    let (days, rest) = (whole / 86_400, whole % 86_400);
    let mut text = match days {
        0 => String::new(),
        1 => "1 day, ".into(),
        n => format!("{n} days, "),
    };
    text += &format!("{}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60);
    if fraction > 0 {
        text += &format!(".{fraction:06}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_python_writes_them() {
        // str(datetime.timedelta(seconds=x))
        for (seconds, text) in [
            (0.0, "0:00:00"),
            (62.0, "0:01:02"),
            (0.5, "0:00:00.500000"),
            (86_399.0, "23:59:59"),
            (86_400.0, "1 day, 0:00:00"),
            (180_000.25, "2 days, 2:00:00.250000"),
        ] {
            assert_eq!(time_str(seconds), text);
        }
    }

    #[test]
    fn a_timer_adds_its_measurements_up() {
        let mut timer = Timer::new();
        timer.toc();
        assert_eq!(timer.total_time(), 0.0);
        for _ in 0..2 {
            timer.tic();
            std::thread::sleep(Duration::from_millis(5));
            timer.toc();
        }
        assert!(timer.total_time() >= 0.01);
    }
}
