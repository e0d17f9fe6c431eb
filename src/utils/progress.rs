//! Progress of a long loop: a bar on a terminal, a log line now and then otherwise.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::timer::time_str;

/// All bars of the process, so that a log line can be written between them.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Without a terminal: the longest silence.
const SILENCE: Duration = Duration::from_secs(60);

/// Clears the bars, calls `print`, draws the bars again.
pub fn suspend<T>(print: impl FnOnce() -> T) -> T {
    BARS.suspend(print)
}

/// Counts the steps of one loop.
pub struct Progress {
    target: &'static str,
    what: String,
    total: u64,
    done: u64,
    started: Instant,
    bar: Option<ProgressBar>,
    said: Instant,
    said_at: u64,
}

impl Progress {
    /// `target` is the logger, `what` names the steps (`"iterations"`, `"images"`). With `quiet` there is a bar on a
    /// terminal and nothing otherwise, for a loop that has log lines of its own.
    pub fn new(target: &'static str, what: &str, total: u64, quiet: bool) -> Self {
        use std::io::IsTerminal;
        let bar = std::io::stderr().is_terminal().then(|| {
            let style =
                ProgressStyle::with_template("{wide_bar} {pos}/{len} {prefix} [{elapsed_precise} < {eta_precise}]")
                    .unwrap_or_else(|_| ProgressStyle::default_bar());
            BARS.add(ProgressBar::new(total).with_style(style).with_prefix(what.to_owned()))
        });
        let now = Instant::now();
        // A quiet loop without a terminal has said everything it will say.
        let said_at = if quiet { u64::MAX } else { 0 };
        Self { target, what: what.into(), total, done: 0, started: now, bar, said: now, said_at }
    }

    /// Starts counting at `done` (a loop that goes on where an earlier one stopped).
    pub fn starting_at(mut self, done: u64) -> Self {
        self.done = done;
        self.said_at = self.said_at.max(done);
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.reset_eta();
        }
        self
    }

    /// Counts `steps` more.
    pub fn inc(&mut self, steps: u64) {
        self.done += steps;
        if let Some(bar) = &self.bar {
            bar.inc(steps);
        } else if self.done < self.total && self.is_due() {
            let elapsed = self.started.elapsed().as_secs_f64();
            let left = elapsed / self.done as f64 * (self.total - self.done) as f64;
            log::info!(
                target: self.target,
                "{} of {} {}  eta: {}",
                self.done,
                self.total,
                self.what,
                time_str(left.floor())
            );
            self.said = Instant::now();
            self.said_at = self.done;
        }
    }

    fn is_due(&self) -> bool {
        let new = self.done.saturating_sub(self.said_at);
        new > 0 && (new >= self.total.div_ceil(10) || self.said.elapsed() >= SILENCE)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            BARS.remove(bar);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_due_every_tenth_of_the_way() {
        let mut progress = Progress::new("test", "images", 95, false);
        let mut due = 0;
        for _ in 0..95 {
            progress.done += 1;
            if progress.is_due() {
                due += 1;
                progress.said_at = progress.done;
            }
        }
        assert_eq!(due, 9);
    }

    #[test]
    fn a_quiet_loop_is_never_due() {
        let mut progress = Progress::new("test", "iterations", 10, true).starting_at(3);
        assert_eq!(progress.done, 3);
        progress.done = 10;
        assert!(!progress.is_due());
    }
}
