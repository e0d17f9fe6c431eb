//! SIGINT and SIGTERM: something is done once, then the process ends.

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::comm::{announce_stop, finish_stop};
use crate::ffi::system::exit_now;

type Action = Box<dyn FnOnce(&str) + Send>;

static ACTION: Mutex<Option<Action>> = Mutex::new(None);
/// A signal has come; the process ends when its action is done.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Held while the action is carried out.
static ACTING: Mutex<()> = Mutex::new(());
/// Held by those who must come to an end before the process does.
static POSTPONED: RwLock<()> = RwLock::new(());

/// While it lives, the action is carried out at the first signal.
#[must_use = "the action is forgotten when the guard is dropped"]
pub struct TerminationGuard(());

/// At the first SIGINT or SIGTERM calls `action` with the signal's name, in a thread of its own and without waiting for
/// whatever else runs, then ends the process with status 128 + signal. After the guard is gone a signal just ends it.
/// The other processes of the job are told, and stop in the same way. Where one of them is lost, the action may be
/// carried out as well, with a few words instead of the name.
///
/// # Errors
/// The system refuses the signal handlers.
pub fn on_termination(action: impl FnOnce(&str) + Send + 'static) -> Result<TerminationGuard> {
    static WATCHING: Mutex<bool> = Mutex::new(false);
    let mut watching = WATCHING.lock().unwrap_or_else(PoisonError::into_inner);
    if !*watching {
        let signals = Signals::new([SIGINT, SIGTERM]).context("cannot watch for SIGINT and SIGTERM")?;
        std::thread::Builder::new()
            .name("termination".into())
            .spawn(move || watch(signals))
            .context("cannot start the thread that watches for signals")?;
        *watching = true;
    }
    *ACTION.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(action));
    Ok(TerminationGuard(()))
}

fn watch(mut signals: Signals) {
    let Some(signal) = signals.forever().next() else { return };
    ENDING.store(true, Ordering::SeqCst);
    let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
    announce_stop(signal, name);
    act(name);
    finish_stop();
    end(128 + signal);
}

/// Carries the action out, if that has not been done; or waits until it is done.
pub(super) fn act(reason: &str) {
    let _alone = acting();
    let action = ACTION.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(action) = action {
        // The process must end whatever happens in there.
        let _ = catch_unwind(AssertUnwindSafe(|| action(reason)));
    }
}

fn acting() -> MutexGuard<'static, ()> {
    ACTING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A signal has come, and the process ends for it.
pub(super) fn is_ending() -> bool {
    ENDING.load(Ordering::SeqCst)
}

/// While the guard lives, [`end`] waits.
pub fn postpone_end() -> RwLockReadGuard<'static, ()> {
    POSTPONED.read().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the process with this status: no destructors, which other threads' work could get in the way of, but what
/// [`postpone_end`] was asked for comes to its end.
pub fn end(status: i32) -> ! {
    let _all = POSTPONED.write();
    exit_now(status)
}

impl Drop for TerminationGuard {
    fn drop(&mut self) {
        // Whatever ends the loop now (another process that got the signal first) must not end the process before the
        // action is done.
        while is_ending() {
            std::thread::park();
        }
        let _alone = acting();
        *ACTION.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
