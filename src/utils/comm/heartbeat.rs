//! Signs of life: where each process of a job is, told to the others through the job's store.
//!
//! A thread of each process writes one key of the store twice a second: a count, how long the process has waited for
//! the others, and the phase it is in; and it looks whether a process has failed or found out that one is lost. The
//! training itself only notes its phase in memory, and the thread runs while a collective operation blocks. The signs are
//! not read until somebody has waited for long, or an operation has failed; then they tell who is late and who is lost.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};

use super::phase::Here;
use super::watchdog::{is_silent, late, list, Watchdog};
use crate::ffi::Store;

/// Time between two signs of life.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Time without one after which a process counts as silent.
pub(super) const SILENCE: Duration = Duration::from_millis(2500);

/// What a process has told last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sign {
    /// Grows with every sign.
    pub(super) beat: u64,
    /// How long it has waited for the others, if it does.
    pub(super) waits: Option<Duration>,
    /// Iteration and phase.
    pub(super) place: String,
}

impl Sign {
    fn of_here(beat: u64) -> Self {
        let here = Here::now();
        Self { beat, waits: here.waits_since.map(|since| since.elapsed()), place: here.place() }
    }

    fn to_text(&self) -> String {
        let waits = self.waits.map_or("-".into(), |time| time.as_millis().to_string());
        format!("{} {waits} {}", self.beat, self.place)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(3, ' ');
        let beat = fields.next()?.parse().ok()?;
        let waits = match fields.next()? {
            "-" => None,
            time => Some(Duration::from_millis(time.parse().ok()?)),
        };
        Some(Self { beat, waits, place: fields.next()?.into() })
    }
}

/// The signs of all processes, by rank; `None` from one that has given none.
pub(super) type AllSigns = Vec<Option<Sign>>;

/// The signs of a job in its store. All methods fail when the store is gone.
#[derive(Clone)]
pub(super) struct Signs {
    pub(super) store: Arc<Store>,
    pub(super) rank: usize,
    pub(super) world_size: usize,
    /// What another process has said, once this one has read it: the store may be gone when it is needed.
    known: Arc<OnceLock<Cause>>,
}

/// Why operations of the job fail.
#[derive(Clone)]
pub(super) struct Cause {
    /// The ranks that give no sign of life.
    pub(super) lost: Vec<usize>,
    /// Names them or, if all are alive, the one that has failed or those that the others wait for.
    pub(super) text: String,
}

impl Signs {
    pub(super) fn new(store: Store, rank: usize, world_size: usize) -> Self {
        Self { store: Arc::new(store), rank, world_size, known: Arc::default() }
    }

    fn give(&self, beat: u64) -> Result<()> {
        self.store.set(&sign_key(self.rank), Sign::of_here(beat).to_text().as_bytes())
    }

    /// The value of a key, which [`Store::get`] would wait for.
    pub(super) fn value(&self, key: &str) -> Result<Option<String>> {
        if !self.store.check(key)? {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&self.store.get(key)?).into_owned()))
    }

    fn of(&self, rank: usize) -> Result<Option<Sign>> {
        Ok(self.value(&sign_key(rank))?.as_deref().and_then(Sign::parse))
    }

    pub(super) fn all(&self) -> Result<AllSigns> {
        (0..self.world_size).map(|rank| self.of(rank)).collect()
    }

    /// A number that goes on changing while the process of this rank lives.
    pub(super) fn beat(&self, rank: usize) -> Result<Option<u64>> {
        Ok(self.of(rank)?.map(|sign| sign.beat))
    }

    /// This process leaves, with an error of its own if there is one: it will be silent without being lost. False if it
    /// has left before.
    pub(super) fn leave(&self, error: &str) -> Result<bool> {
        if self.store.check(&left_key(self.rank))? {
            return Ok(false);
        }
        self.store.set(&left_key(self.rank), b"")?;
        if !error.is_empty() {
            self.tell(&Cause { lost: Vec::new(), text: format!("rank {} has failed: {error}", self.rank) })?;
        }
        Ok(true)
    }

    /// This process needs the store no more.
    pub(super) fn say_goodbye(&self) -> Result<()> {
        self.store.set(&goodbye_key(self.rank), b"")
    }

    pub(super) fn has_said_goodbye(&self, rank: usize) -> Result<bool> {
        self.store.check(&goodbye_key(rank))
    }

    fn tell(&self, cause: &Cause) -> Result<()> {
        let ranks: Vec<_> = cause.lost.iter().map(usize::to_string).collect();
        self.store.set(CAUSE, format!("{} {}", ranks.join(","), cause.text).as_bytes())
    }

    /// What another process has told.
    fn told(&self) -> Result<Option<Cause>> {
        if let Some(known) = self.known.get() {
            return Ok(Some(known.clone()));
        }
        let Some(told) = self.value(CAUSE)? else { return Ok(None) };
        let (lost, text) = told.split_once(' ').unwrap_or(("", &told));
        let lost = lost.split(',').filter_map(|rank| rank.parse().ok()).collect();
        Ok(Some(self.known.get_or_init(|| Cause { lost, text: text.into() }).clone()))
    }

    /// Reads what another process has told, after which the store may go.
    fn listen(&self) {
        if self.known.get().is_none() && matches!(self.told(), Ok(Some(_))) {
            // Its host waits for this, if it is there.
            let _ = self.say_goodbye();
        }
    }

    /// Tells who is lost, has failed or is late: what another process has told, or else what is heard in a while.
    pub(super) fn cause(&self) -> Result<Cause> {
        if let Some(told) = self.told()? {
            return Ok(told);
        }
        let before = self.all()?;
        std::thread::sleep(SILENCE);
        if let Some(told) = self.told()? {
            return Ok(told);
        }
        let now = self.all()?;
        let (mut lost, mut absent) = (Vec::new(), Vec::new());
        for rank in (0..self.world_size).filter(|&rank| rank != self.rank) {
            if self.store.check(&left_key(rank))? {
                absent.push(rank);
            } else if is_silent(rank, &before, &now) {
                lost.push(rank);
            }
        }
        if !lost.is_empty() {
            let text = list(&lost, |rank| format!("rank {rank} is lost ({})", last_sign(&now[rank])));
            let cause = Cause { lost, text };
            // Processes that have no connection with the lost one fail one after the other as this one leaves.
            self.tell(&cause)?;
            return Ok(cause);
        }
        let late: Vec<_> = late(&now).into_iter().filter(|rank| *rank != self.rank && !absent.contains(rank)).collect();
        let text = if late.is_empty() {
            "no process is lost: see what the others say".into()
        } else {
            let late = list(&late, |rank| format!("rank {rank} is late ({})", place(&now[rank])));
            format!("no process is lost, but {late}")
        };
        Ok(Cause { lost, text })
    }
}

/// In the store when a process has failed or has found out which ones are lost: their ranks and a sentence.
const CAUSE: &str = "cause";

fn sign_key(rank: usize) -> String {
    format!("sign/{rank}")
}

/// In the store when a process will be silent without being lost.
fn left_key(rank: usize) -> String {
    format!("left/{rank}")
}

/// In the store when a process needs it no more.
fn goodbye_key(rank: usize) -> String {
    format!("goodbye/{rank}")
}

pub(super) fn place(sign: &Option<Sign>) -> &str {
    sign.as_ref().map_or("start", |sign| &sign.place)
}

pub(super) fn last_sign(sign: &Option<Sign>) -> String {
    sign.as_ref().map_or("it never gave a sign".into(), |sign| format!("last sign: {}", sign.place))
}

/// The thread that gives signs of life and watches for late processes.
pub(super) struct Heartbeat {
    stop: Sender<()>,
    ended: Receiver<()>,
}

impl Heartbeat {
    /// Who is late is named when this process has waited for `slow_after`.
    ///
    /// # Errors
    /// The store is gone, or there can be no thread.
    pub(super) fn start(signs: Signs, slow_after: Option<Duration>) -> Result<Self> {
        signs.give(0)?;
        let (stop, stopped) = mpsc::channel::<()>();
        let (end, ended) = mpsc::channel();
        let live = move || {
            let mut watchdog = slow_after.map(Watchdog::new);
            // The host of the store may go before this process does.
            for beat in 1.. {
                if stopped.recv_timeout(HEARTBEAT) != Err(RecvTimeoutError::Timeout) || signs.give(beat).is_err() {
                    break;
                }
                signs.listen();
                if let Some(watchdog) = &mut watchdog {
                    watchdog.watch(&signs);
                }
            }
            drop(end);
        };
        let thread = std::thread::Builder::new().name("heartbeat".into());
        thread.spawn(live).context("cannot start the thread that gives signs of life")?;
        Ok(Self { stop, ended })
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
    fn signs_are_read_as_they_are_written() {
        for text in ["7 - iteration 3, data loading", "0 12000 start"] {
            assert_eq!(Sign::parse(text).unwrap().to_text(), text);
        }
        assert_eq!(Sign::parse("x - start"), None);
    }

    /// The signs of a job's processes in a store of its own, which lives as long as the first of them.
    fn job(world_size: usize) -> Vec<Signs> {
        let host = Store::host("127.0.0.1", 0, Duration::from_secs(20)).unwrap();
        let port = host.port();
        let client = |_| Store::connect("127.0.0.1", port, Duration::from_secs(20)).unwrap();
        let stores = std::iter::once(host).chain((1..world_size).map(client));
        stores.enumerate().map(|(rank, store)| Signs::new(store, rank, world_size)).collect()
    }

    #[test]
    fn the_lost_are_told_from_the_late_and_from_those_who_left() {
        let job = job(5);
        let set = |rank: usize, text: &str| job[0].store.set(&sign_key(rank), text.as_bytes()).unwrap();
        set(2, "0 - start");
        let alive = Heartbeat::start(Signs { world_size: 3, ..job[1].clone() }, None).unwrap();
        assert!(job[2].leave("").unwrap() && !job[2].leave("too late").unwrap());
        let cause = Signs { world_size: 3, ..job[0].clone() }.cause().unwrap();
        assert!(cause.text.starts_with("no process is lost, but rank 1 is late ("), "{}", cause.text);
        alive.stop();

        job[1].leave("").unwrap();
        set(3, "4 - iteration 2, forward");
        let expected = "rank 3 is lost (last sign: iteration 2, forward), rank 4 is lost (it never gave a sign)";
        // The second one is told.
        for rank in [0, 1] {
            let cause = job[rank].cause().unwrap();
            assert_eq!((&cause.lost[..], cause.text.as_str()), (&[3, 4][..], expected));
        }
    }

    #[test]
    fn an_error_is_known_after_the_store_has_gone() {
        let mut job = job(2);
        let other = job.pop().unwrap();
        let heartbeat = Heartbeat::start(other.clone(), None).unwrap();
        assert!(job[0].leave("no such image").unwrap());
        let begin = std::time::Instant::now();
        while !job[0].has_said_goodbye(1).unwrap() && begin.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(job);
        assert!(other.all().is_err(), "the store has gone");
        assert_eq!(other.cause().unwrap().text, "rank 0 has failed: no such image");
        heartbeat.stop();
    }
}
