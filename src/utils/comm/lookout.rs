//! Ends the process when the job is lost and the main thread does not come to say so: it may wait for a GPU, whose
//! all-reduce over NCCL waits for a process that is lost, or on a connection that nobody closes.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::end::{end_for_main_thread, within, FAREWELL};
use super::heartbeat::{Pulse, HEARTBEAT};
use super::phase::Here;
use super::signs::{Event, Signs, SILENCE};
use crate::ffi::system::send_signal;
use crate::utils::termination;

/// Time that the main thread has to fail by itself, once the job is lost.
const GRACE: Duration = Duration::from_secs(5);
/// The same where it has begun to, or where a signal's action is carried out.
const GRACE_TO_END: Duration = Duration::from_secs(60);

/// The thread that looks for what the heartbeat has met with, and stays where that one hangs.
pub(super) struct Lookout {
    stop: Sender<()>,
}

impl Lookout {
    /// # Errors
    /// There can be no thread.
    pub(super) fn start(signs: Signs, pulse: Arc<Pulse>) -> Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let look = move || {
            let mut watch = Watch { signs, pulse, beats: 0, unanswered: 0 };
            let mut since = None;
            while stopped.recv_timeout(HEARTBEAT) == Err(RecvTimeoutError::Timeout) {
                if since.is_none() {
                    since = watch.event().map(|event| (event, Instant::now()));
                    match since {
                        // The others go on for as long as they can without it.
                        Some((Event::Ended, _)) => return,
                        Some((Event::Stopped(signal), _)) => watch.stop_too(signal),
                        _ => {}
                    }
                }
                let Some((_, since)) = since else { continue };
                let grace = if termination::is_ending() { GRACE_TO_END } else { GRACE };
                if since.elapsed() >= grace && Here::now().needs_the_others() {
                    end_for_main_thread(since.elapsed() >= GRACE_TO_END);
                }
            }
        };
        let thread = std::thread::Builder::new().name("lookout".into());
        thread.spawn(look).context("cannot start the thread that looks out for the other processes")?;
        Ok(Self { stop })
    }

    /// Looks no more.
    pub(super) fn stop(self) {
        drop(self.stop);
    }
}

struct Watch {
    signs: Signs,
    pulse: Arc<Pulse>,
    /// The beats that the store had taken at the last look, and since how many looks there is no other.
    beats: u64,
    unanswered: u32,
}

impl Watch {
    fn event(&mut self) -> Option<Event> {
        let beats = self.pulse.beats.load(Ordering::Relaxed);
        self.unanswered = if beats == self.beats { self.unanswered + 1 } else { 0 };
        self.beats = beats;
        if let Some(cause) = self.signs.known() {
            return Some(cause.event);
        }
        // With the store goes its host.
        if self.pulse.store_is_gone.load(Ordering::Relaxed) || self.unanswered >= self.pulse.patience {
            return Some(Event::Lost);
        }
        if self.pulse.next_is_silent.load(Ordering::Relaxed) {
            let signs = self.signs.clone();
            let cause = within(SILENCE + FAREWELL, move || signs.cause())?.ok()?;
            // It may have come back meanwhile.
            return Some(cause.event).filter(|event| *event != Event::Unknown);
        }
        None
    }

    /// Does what a signal to another process would have done here: rank 0 saves, then all end with the same status.
    fn stop_too(&self, signal: i32) {
        if termination::is_ending() {
            return;
        }
        if let (0, Some(cause)) = (self.signs.rank, self.signs.known()) {
            log::warn!("{}: the job stops", cause.text);
        }
        // Should that fail, the process ends after the grace.
        let _ = send_signal(std::process::id(), signal);
    }
}
