//! What the processes of a job tell each other through its store: signs of life, failures, and that they stop.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Result;

use super::phase::Here;
use super::watchdog::{is_silent, late, list};
use crate::ffi::Store;
use crate::utils::atomic_file::this_machine;

/// Time without a sign after which a process counts as silent.
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

/// What has come over a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Processes give no sign of life.
    Lost,
    /// A process has failed.
    Failed,
    /// A process was told to stop by a signal of this number, and all stop with it.
    Stopped(i32),
    /// The host of the store has come to the end of its work.
    Ended,
    /// Nothing of these.
    Unknown,
}

impl Event {
    fn to_word(self) -> String {
        match self {
            Self::Lost => "lost".into(),
            Self::Failed => "failed".into(),
            Self::Stopped(signal) => format!("signal={signal}"),
            Self::Ended => "ended".into(),
            Self::Unknown => "unknown".into(),
        }
    }

    fn parse(word: &str) -> Self {
        match word {
            "lost" => Self::Lost,
            "failed" => Self::Failed,
            "ended" => Self::Ended,
            _ => word.strip_prefix("signal=").and_then(|n| n.parse().ok()).map_or(Self::Unknown, Self::Stopped),
        }
    }
}

/// Why operations of the job fail.
#[derive(Clone)]
pub(super) struct Cause {
    pub(super) event: Event,
    /// The ranks that give no sign of life.
    pub(super) lost: Vec<usize>,
    /// Names them or, if all are alive, the one that has failed or those that the others wait for.
    pub(super) text: String,
}

impl Signs {
    pub(super) fn new(store: Store, rank: usize, world_size: usize) -> Self {
        Self { store: Arc::new(store), rank, world_size, known: Arc::default() }
    }

    pub(super) fn give(&self, beat: u64) -> Result<()> {
        self.store.set(&sign_key(self.rank), Sign::of_here(beat).to_text().as_bytes())
    }

    /// Sets a key; when this returns, all processes see it. The store does not answer to being set, but it handles what
    /// comes over one connection in turn.
    fn publish(&self, key: &str, value: &[u8]) -> Result<()> {
        self.store.set(key, value)?;
        self.store.check(key).map(drop)
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

    /// Tells the machine that this process runs on.
    pub(super) fn introduce(&self) -> Result<()> {
        self.publish(&machine_key(self.rank), this_machine().as_bytes())
    }

    /// This process leaves, with an error of its own if there is one: it will be silent without being lost. False if
    /// the others knew as much before.
    pub(super) fn leave(&self, error: &str) -> Result<bool> {
        let is_news = !error.is_empty() && self.told()?.is_none();
        if self.has_left(self.rank)? && !is_news {
            return Ok(false);
        }
        self.publish(&left_key(self.rank), b"")?;
        if is_news {
            let text = format!("rank {} has failed: {error}", self.rank);
            self.tell(&Cause { event: Event::Failed, lost: Vec::new(), text })?;
        }
        Ok(true)
    }

    pub(super) fn has_left(&self, rank: usize) -> Result<bool> {
        self.store.check(&left_key(rank))
    }

    /// The host of the store leaves, having done its work.
    pub(super) fn end(&self) -> Result<()> {
        let text = format!("rank {} has come to its end", self.rank);
        self.tell(&Cause { event: Event::Ended, lost: Vec::new(), text })
    }

    /// This process stops at a signal; the others learn it unless the job has failed before.
    pub(super) fn stop(&self, signal: i32, name: &str) -> Result<()> {
        self.listen();
        if self.known.get().is_none() {
            let text = format!("rank {} was stopped by {name} (on {})", self.rank, this_machine());
            let cause = Cause { event: Event::Stopped(signal), lost: Vec::new(), text };
            self.tell(&cause)?;
            // Not to be learned once more.
            self.known.get_or_init(|| cause);
        }
        Ok(())
    }

    /// After a signal: all that rank 0 saves is saved, and nobody has to stay for it.
    pub(super) fn saved(&self) -> Result<()> {
        self.publish(SAVED, b"")
    }

    pub(super) fn has_saved(&self) -> Result<bool> {
        self.store.check(SAVED)
    }

    /// This process needs the store no more.
    pub(super) fn say_goodbye(&self) -> Result<()> {
        self.publish(&goodbye_key(self.rank), b"")
    }

    pub(super) fn has_said_goodbye(&self, rank: usize) -> Result<bool> {
        self.store.check(&goodbye_key(rank))
    }

    fn tell(&self, cause: &Cause) -> Result<()> {
        let ranks: Vec<_> = cause.lost.iter().map(usize::to_string).collect();
        self.publish(CAUSE, format!("{} {} {}", cause.event.to_word(), ranks.join(","), cause.text).as_bytes())
    }

    /// What another process has told.
    fn told(&self) -> Result<Option<Cause>> {
        if let Some(known) = self.known.get() {
            return Ok(Some(known.clone()));
        }
        let Some(told) = self.value(CAUSE)? else { return Ok(None) };
        let mut fields = told.splitn(3, ' ');
        let event = Event::parse(fields.next().unwrap_or_default());
        let lost = fields.next().unwrap_or_default().split(',').filter_map(|rank| rank.parse().ok()).collect();
        let text = fields.next().unwrap_or_default().into();
        Ok(Some(self.known.get_or_init(|| Cause { event, lost, text }).clone()))
    }

    /// What has been told and read so far.
    pub(super) fn known(&self) -> Option<&Cause> {
        self.known.get()
    }

    /// Reads what another process has told, after which the store may go if that ends the job.
    pub(super) fn listen(&self) {
        if self.known.get().is_some() {
            return;
        }
        if matches!(self.told(), Ok(Some(cause)) if cause.event != Event::Ended) {
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
            if self.has_left(rank)? {
                absent.push(rank);
            } else if is_silent(rank, &before, &now) {
                lost.push(rank);
            }
        }
        if !lost.is_empty() {
            let ranks = list(&lost, |rank| format!("rank {rank} is lost ({}{})", self.on(rank), last_sign(&now[rank])));
            let text =
                format!("{ranks}; its own log may say why; started again, a training goes on from its last checkpoint");
            let cause = Cause { event: Event::Lost, lost, text };
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
        Ok(Cause { event: Event::Unknown, lost, text })
    }

    /// The machine of a rank, as far as it is known, for a list of what is known of it.
    fn on(&self, rank: usize) -> String {
        self.value(&machine_key(rank)).ok().flatten().map_or(String::new(), |machine| format!("on {machine}, "))
    }
}

/// In the store when something has come over the job: the event, the ranks that are lost, and a sentence.
const CAUSE: &str = "cause";
/// See [`Signs::saved`].
const SAVED: &str = "saved";

fn sign_key(rank: usize) -> String {
    format!("sign/{rank}")
}

fn machine_key(rank: usize) -> String {
    format!("machine/{rank}")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::utils::comm::heartbeat::Heartbeat;

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
        let alive = Heartbeat::start(Signs { world_size: 3, ..job[1].clone() }, Duration::from_secs(60), None).unwrap();
        assert!(job[2].leave("").unwrap() && !job[2].leave("").unwrap());
        let cause = Signs { world_size: 3, ..job[0].clone() }.cause().unwrap();
        assert!(cause.text.starts_with("no process is lost, but rank 1 is late ("), "{}", cause.text);
        alive.stop();

        job[1].leave("").unwrap();
        set(3, "4 - iteration 2, forward");
        job[0].store.set(&machine_key(3), b"node5").unwrap();
        let expected = "rank 3 is lost (on node5, last sign: iteration 2, forward), rank 4 is lost (it never gave a \
                        sign); its own log may say why; started again, a training goes on from its last checkpoint";
        // The second one is told.
        for rank in [0, 1] {
            let cause = job[rank].cause().unwrap();
            assert_eq!((cause.event, &cause.lost[..], cause.text.as_str()), (Event::Lost, &[3, 4][..], expected));
        }
    }

    #[test]
    fn the_first_to_stop_is_known_to_all_and_does_not_hide_a_failure() {
        let stopped = job(2);
        stopped[1].stop(15, "SIGTERM").unwrap();
        stopped[0].stop(2, "SIGINT").unwrap();
        for signs in &stopped {
            signs.listen();
            let cause = signs.known().unwrap();
            assert_eq!(cause.event, Event::Stopped(15));
            assert!(cause.text.starts_with("rank 1 was stopped by SIGTERM (on "), "{}", cause.text);
        }
        assert!(!stopped[1].has_saved().unwrap());
        stopped[0].saved().unwrap();
        assert!(stopped[1].has_saved().unwrap() && stopped[0].has_said_goodbye(0).unwrap());

        let failed = job(2);
        failed[0].leave("no such image").unwrap();
        failed[1].stop(15, "SIGTERM").unwrap();
        assert_eq!(failed[1].known().unwrap().event, Event::Failed);

        let ended = job(2);
        ended[0].end().unwrap();
        ended[1].listen();
        assert_eq!(ended[1].known().unwrap().event, Event::Ended);
        assert!(!ended[0].has_said_goodbye(1).unwrap(), "it still needs the store");
    }

    #[test]
    fn an_error_is_known_after_the_store_has_gone() {
        let mut job = job(2);
        let other = job.pop().unwrap();
        let heartbeat = Heartbeat::start(other.clone(), Duration::from_secs(60), None).unwrap();
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
