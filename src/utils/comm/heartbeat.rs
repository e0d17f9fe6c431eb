//! Signs of life: where each process of a job is, told to the others through the job's store.
//!
//! A thread of each process writes one key of the store twice a second: a count, how long the process has waited for
//! the others, and the phase it is in. It also looks whether something has come over the job, and whether the next
//! process, by rank, still gives signs: so each is watched by one other, however many there are. The training itself
//! only notes its phase in memory, and the thread runs while a collective operation blocks. The signs of all are not
//! read until somebody has waited for long, a process is silent, or an operation has failed; then they tell who is late
//! and who is lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::signs::{Signs, SILENCE};
use super::watchdog::Watchdog;

/// Time between two signs of life.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(500);
/// Time without a sign after which a process is thought to be lost, unless operations end earlier: a network may take
/// some of it to find another way.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the thread has met with.
pub(super) struct Pulse {
    /// Own signs in which the next process gives none before it is thought to be lost. Counted, so that a process that
    /// was stopped itself blames nobody.
    pub(super) patience: u32,
    /// Grows with every sign that the store has taken.
    pub(super) beats: AtomicU64,
    /// The store is gone, and the thread has ended.
    pub(super) store_is_gone: AtomicBool,
    /// The next process has given no sign for long.
    pub(super) next_is_silent: AtomicBool,
}

/// The process of the next rank.
struct Next {
    rank: usize,
    beat: Option<u64>,
    unchanged: u32,
    patience: u32,
}

/// As many signs as are given in [`PATIENCE`], or in the time after which operations fail.
fn patience(timeout: Duration) -> u32 {
    timeout.min(PATIENCE).div_duration_f64(HEARTBEAT).ceil() as u32
}

impl Next {
    fn of(signs: &Signs, patience: u32) -> Self {
        Self { rank: (signs.rank + 1) % signs.world_size, beat: None, unchanged: 0, patience }
    }

    /// Whether its beat, read once more, has been the same for too long.
    fn is_silent(&mut self, beat: Option<u64>) -> bool {
        self.unchanged = if beat == self.beat { self.unchanged.saturating_add(1) } else { 0 };
        self.beat = beat;
        self.unchanged >= self.patience
    }

    /// True if it gives no signs without having left. That the store is gone is noticed by the next own sign.
    fn look(&mut self, signs: &Signs) -> bool {
        let Ok(beat) = signs.beat(self.rank) else { return false };
        self.is_silent(beat) && matches!(signs.has_left(self.rank), Ok(false))
    }
}

/// The thread that gives signs of life and watches for late processes.
pub(super) struct Heartbeat {
    pub(super) pulse: Arc<Pulse>,
    stop: Sender<()>,
    ended: Receiver<()>,
}

impl Heartbeat {
    /// Who is late is named when this process has waited for `slow_after`; operations fail after `timeout`.
    ///
    /// # Errors
    /// The store is gone, or there can be no thread.
    pub(super) fn start(signs: Signs, timeout: Duration, slow_after: Option<Duration>) -> Result<Self> {
        signs.introduce()?;
        signs.give(0)?;
        let (stop, stopped) = mpsc::channel::<()>();
        let (end, ended) = mpsc::channel();
        let patience = patience(timeout);
        let pulse = Arc::new(Pulse {
            patience,
            beats: AtomicU64::new(0),
            store_is_gone: AtomicBool::new(false),
            next_is_silent: AtomicBool::new(false),
        });
        let met = pulse.clone();
        let live = move || {
            let mut watchdog = slow_after.map(Watchdog::new);
            let mut next = Next::of(&signs, patience);
            for beat in 1.. {
                if stopped.recv_timeout(HEARTBEAT) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
                if signs.give(beat).is_err() {
                    met.store_is_gone.store(true, Ordering::Relaxed);
                    break;
                }
                met.beats.store(beat, Ordering::Relaxed);
                signs.listen();
                met.next_is_silent.store(next.look(&signs), Ordering::Relaxed);
                if let Some(watchdog) = &mut watchdog {
                    watchdog.watch(&signs);
                }
            }
            drop(end);
        };
        let thread = std::thread::Builder::new().name("heartbeat".into());
        thread.spawn(live).context("cannot start the thread that gives signs of life")?;
        Ok(Self { pulse, stop, ended })
    }

    /// Gives no more signs.
    pub(super) fn stop(self) {
        drop(self.stop);
        // Nothing is ever sent. A store that does not answer must not keep the process from its end.
        let _ = self.ended.recv_timeout(SILENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_is_silent_when_its_beat_stands_still_for_long() {
        assert_eq!([15, 1800].map(|seconds| patience(Duration::from_secs(seconds))), [30, 120]);
        let mut next = Next { rank: 1, beat: None, unchanged: 0, patience: 3 };
        let mut looks = |beat, times| (0..times).map(|_| next.is_silent(beat)).collect::<Vec<_>>();
        assert_eq!(looks(Some(7), 3), vec![false; 3], "the first look only sees the beat");
        assert_eq!(looks(Some(7), 2), [true, true]);
        assert_eq!(looks(Some(8), 1), [false]);
        assert_eq!(looks(Some(8), 2), vec![false; 2]);
        assert_eq!(looks(Some(8), 1), [true]);
    }
}
