//! libtorch's default generator in the tests of the library.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

thread_local! {
    static IS_HELD: Cell<bool> = const { Cell::new(false) };
}

/// See [`generator`].
pub(crate) struct Held(Option<MutexGuard<'static, ()>>);

/// Held by tests that draw from libtorch's default generator (the initial values of weights, sampled anchors), which
/// all threads share: the numbers are the same in every run, whatever else is tested meanwhile. Taken again by a
/// function that such a test calls, it changes nothing.
pub(crate) fn generator() -> Held {
    static LOCK: Mutex<()> = Mutex::new(());
    if IS_HELD.get() {
        return Held(None);
    }
    let lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    IS_HELD.set(true);
    tch::manual_seed(1);
    Held(Some(lock))
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.is_some() {
            IS_HELD.set(false);
        }
    }
}

/// Fails in a test that would draw other numbers in every run.
pub(crate) fn check_is_held() {
    assert!(IS_HELD.get(), "this test draws random numbers: it has to hold utils::testing::generator()");
}

/// What `run` gives with one of libtorch's threads, and with two.
pub(crate) fn with_one_and_two_threads<T>(run: impl Fn() -> T) -> (T, T) {
    let _alone = generator();
    let before = tch::get_num_threads();
    let with = |threads| {
        tch::set_num_threads(threads);
        run()
    };
    let results = (with(1), with(2));
    tch::set_num_threads(before);
    results
}
