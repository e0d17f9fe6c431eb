//! Names the processes that keep the others waiting.

use std::fmt::Write;
use std::time::{Duration, Instant};

use super::phase::Here;
use super::signs::{last_sign, place, AllSigns, Sign, Signs, SILENCE};
use crate::utils::miscellaneous::say_error;

/// Processes that a message names at most.
const NAMED: usize = 8;

/// Notices when this process has waited for the others too long.
pub(super) struct Watchdog {
    slow_after: Duration,
    /// When the wait that it looks at began.
    wait: Option<Instant>,
    /// How long that wait must last until the next warning.
    limit: Duration,
    /// What was read before, in order to tell the late from the silent.
    before: Option<(Instant, AllSigns)>,
}

impl Watchdog {
    pub(super) fn new(slow_after: Duration) -> Self {
        Self { slow_after, wait: None, limit: slow_after, before: None }
    }

    /// To be called again and again.
    pub(super) fn watch(&mut self, signs: &Signs) {
        match self.warning(signs) {
            // Only rank 0 has a log.
            Some(warning) if signs.rank == 0 => log::warn!("{warning}"),
            Some(warning) => say_error(format_args!("[rank {}] WARNING: {warning}", signs.rank)),
            None => {}
        }
    }

    fn warning(&mut self, signs: &Signs) -> Option<String> {
        let wait = Here::now().waits_since;
        if wait != self.wait {
            *self = Self { wait, ..Self::new(self.slow_after) };
        }
        let waited = wait?.elapsed();
        if waited < self.limit {
            return None;
        }
        // That the store is gone is noticed by the next sign.
        let Some((when, before)) = self.before.take() else {
            self.before = Some((Instant::now(), signs.all().ok()?));
            return None;
        };
        if when.elapsed() < SILENCE {
            self.before = Some((when, before));
            return None;
        }
        self.limit = waited + self.slow_after;
        report(signs.rank, waited, &before, &signs.all().ok()?)
    }
}

/// What the process `me` has to say after a wait; `None` where another one says it.
fn report(me: usize, waited: Duration, before: &AllSigns, now: &AllSigns) -> Option<String> {
    let late = late(now);
    let is_slow = |&rank: &usize| late.contains(&rank) || is_silent(rank, before, now);
    if (0..now.len()).find(|rank| !is_slow(rank)) != Some(me) {
        return None;
    }
    let slow: Vec<usize> = (0..now.len()).filter(is_slow).collect();
    let who = if slow.is_empty() {
        let all: Vec<usize> = (0..now.len()).collect();
        let places = list(&all, |rank| format!("rank {rank} in {}", place(&now[rank])));
        format!("they wait for each other ({places}); can they reach each other over the network?")
    } else {
        list(&slow, |rank| match is_silent(rank, before, now) {
            true => format!("rank {rank} gives no sign of life ({})", last_sign(&now[rank])),
            false => format!("rank {rank} is late ({})", place(&now[rank])),
        })
    };
    Some(format!("waited {:.0} s for the other processes: {who}", waited.as_secs_f64()))
}

pub(super) fn is_silent(rank: usize, before: &AllSigns, now: &AllSigns) -> bool {
    let beat = |signs: &AllSigns| signs[rank].as_ref().map(|sign| sign.beat);
    beat(before) == beat(now)
}

/// Who does not wait, so that the others have to.
pub(super) fn late(signs: &AllSigns) -> Vec<usize> {
    let does_not_wait = |sign: &Option<Sign>| sign.as_ref().is_none_or(|sign| sign.waits.is_none());
    (0..signs.len()).filter(|&rank| does_not_wait(&signs[rank])).collect()
}

/// Ranks in words, not more than a reader wants.
pub(super) fn list(ranks: &[usize], describe: impl Fn(usize) -> String) -> String {
    let mut text = ranks.iter().take(NAMED).map(|&rank| describe(rank)).collect::<Vec<_>>().join(", ");
    if ranks.len() > NAMED {
        let _ = write!(text, " and {} more", ranks.len() - NAMED);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signs(texts: &[&str]) -> AllSigns {
        texts.iter().map(|text| Sign::parse(text)).collect()
    }

    #[test]
    fn the_late_are_named_by_the_first_who_waits() {
        let before = signs(&["1 - iteration 5, forward", "1 9000 iteration 5, update", "1 9100 iteration 5, update"]);
        let now = signs(&["6 - iteration 5, forward", "6 11500 iteration 5, update", "6 11600 iteration 5, update"]);
        let waited = Duration::from_secs(12);
        let expected = "waited 12 s for the other processes: rank 0 is late (iteration 5, forward)";
        assert_eq!(report(1, waited, &before, &now).as_deref(), Some(expected));
        assert_eq!((report(0, waited, &before, &now), report(2, waited, &before, &now)), (None, None));
    }

    #[test]
    fn the_silent_are_told_from_the_late() {
        let before = signs(&["4 10 start", "1 50 start", "2 - start", ""]);
        let now = signs(&["4 10 start", "6 3000 start", "7 - start", ""]);
        let text = report(1, Duration::from_secs(3), &before, &now).unwrap();
        let expected =
            "rank 0 gives no sign of life (last sign: start), rank 2 is late (start), rank 3 gives no sign of \
                        life (it never gave a sign)";
        assert!(text.ends_with(expected), "{text}");
    }

    #[test]
    fn processes_that_wait_for_each_other_are_shown() {
        let (before, now) = (signs(&["1 1 start", "1 1 start"]), signs(&["2 2 start", "2 2 update"]));
        let text = report(0, Duration::from_secs(3), &before, &now).unwrap();
        assert!(text.contains("they wait for each other (rank 0 in start, rank 1 in update)"), "{text}");
    }

    #[test]
    fn long_lists_are_cut() {
        let text = list(&(0..20).collect::<Vec<_>>(), |rank| rank.to_string());
        assert_eq!(text, "0, 1, 2, 3, 4, 5, 6, 7 and 12 more");
    }
}
