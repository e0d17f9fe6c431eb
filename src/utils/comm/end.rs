//! How a process leaves its job: when it has done its work, when it fails, and when it is told to stop.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{mpsc, PoisonError};
use std::time::{Duration, Instant};

use super::heartbeat::HEARTBEAT;
use super::phase::Here;
use super::signs::{Event, Signs, SILENCE};
use super::{get_rank, job, Job, JOB};
use crate::utils::atomic_file::write_atomically;
use crate::utils::miscellaneous::say_error;
use crate::utils::termination;

/// Time that the host of the store gives the others to leave.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);
/// Time for the end of NCCL's communicators.
const SHUTDOWN: Duration = Duration::from_secs(30);
/// How long a process that is told to stop stays for rank 0, which saves.
const STAY: Duration = Duration::from_secs(20);

/// Who tells why this process fails; the first one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Teller {
    Nobody,
    /// What calls the functions of this module.
    Main,
    /// A thread of this module, or of c10d.
    Other,
}

/// Leaves the job, if there is one; the host of the store goes last. For the end of a program that has succeeded.
pub fn destroy_process_group() {
    let Some(job) = JOB.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let members = job.clone();
    match within(SHUTDOWN, move || members.group.shutdown()) {
        Some(Ok(())) => {}
        Some(Err(error)) => log::warn!("all is done, but the processes did not part well: {error}"),
        None => log::warn!("all is done, but NCCL does not come to its end"),
    }
    if let Some((heartbeat, lookout)) = job.threads.lock().unwrap_or_else(PoisonError::into_inner).take() {
        lookout.stop();
        heartbeat.stop();
    }
    job.leave("");
    if job.hosts_store() {
        let signs = job.signs.clone();
        // Should the store not answer, nobody listens either.
        let _ = within(SILENCE, move || signs.end());
    }
    job.say_goodbye(&[], FAREWELL);
}

/// For the end of a program that has failed: leaves the error in the file that `TORCHELASTIC_ERROR_FILE` names, in the
/// form in which torchrun's agent reads it (of several it shows the earliest), leaves the job and tells the other
/// processes why. The host of the store waits a little until they have read it.
pub fn leave_with_error(error: &str) {
    if let Some(path) = std::env::var_os("TORCHELASTIC_ERROR_FILE") {
        write_error_file(path.as_ref(), error);
    }
    let Some(job) = JOB.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let is_told = job.leave(error);
    let (signs, hosts_store) = (job.signs.clone(), job.hosts_store());
    // Who waits for this process notices that its connections end, while the store goes on. NCCL's communicators with
    // lost processes may take long to give up.
    let _ = within(SILENCE, move || drop(job));
    if is_told && hosts_store {
        wait_for_goodbyes(&signs, &[], SILENCE + FAREWELL);
    }
}

/// Ends a process of a job that has failed, as [`leave_with_error`], with one message on stderr and status 1.
pub fn end_with_error(error: &str) -> ! {
    if let Some(job) = job() {
        job.tells_as(Teller::Main);
    }
    tell_and_end(error)
}

fn tell_and_end(error: &str) -> ! {
    say_error(format_args!("error: [rank {}] {error}", get_rank()));
    leave_with_error(error);
    // Without destructors: threads of libtorch may still wait for other processes.
    termination::end(1)
}

/// Ends the process for the main thread, which does not come to do so; at once if it has begun to and is late too.
pub(super) fn end_for_main_thread(is_late: bool) {
    let Some(job) = job() else { return };
    if job.claims(Teller::Other) {
        let text = format!("{} does not come to its end; {}", job.here(), job.cause());
        tell_and_end(&text);
    }
    if is_late {
        termination::end(1);
    }
}

/// A thread of c10d has failed; the process is aborted when this returns.
pub(super) fn thread_has_failed(error: &str) {
    match job() {
        Some(job) if job.claims(Teller::Other) => {
            let text = format!("{} failed; {}: {error}", job.here(), job.cause());
            tell_and_end(&text);
        }
        // The process is about to end, for a reason that is told.
        _ => std::thread::sleep(FAREWELL + SILENCE),
    }
}

/// Tells the others that a signal stops this process, which stops them too.
pub(in crate::utils) fn announce_stop(signal: i32, name: &'static str) {
    let Some(job) = job() else { return };
    let signs = job.signs.clone();
    // A store that does not answer must not keep rank 0 from saving.
    let _ = within(SILENCE, move || signs.stop(signal, name));
}

/// The last part of a stop, once this process has saved what it has to. Rank 0, which saves, lets the others go; they
/// stay until it does: what it reads from its GPU may have to wait for their part of an all-reduce.
pub(in crate::utils) fn finish_stop() {
    let Some(job) = job() else { return };
    let signs = job.signs.clone();
    if job.topology.rank > 0 {
        let _ = within(STAY, move || {
            stay_for_main_process(&signs);
            signs.say_goodbye()
        });
        return;
    }
    let saved = signs.clone();
    let _ = within(SILENCE, move || saved.saved());
    if job.hosts_store() {
        // Time to hear of it.
        wait_for_goodbyes(&signs, &[], 3 * HEARTBEAT);
    }
}

/// Until rank 0 has saved or gives no sign of life.
fn stay_for_main_process(signs: &Signs) {
    let (mut beat, mut since) = (None, Instant::now());
    while let (Ok(false), Ok(now)) = (signs.has_saved(), signs.beat(0)) {
        if now != beat {
            (beat, since) = (now, Instant::now());
        } else if since.elapsed() > SILENCE {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

impl Job {
    /// This process, and where it is.
    fn here(&self) -> String {
        format!("rank {} of {}: {}", self.topology.rank, self.topology.world_size, Here::now().place())
    }

    /// Whether `teller` is the one that tells why this process fails.
    fn claims(&self, teller: Teller) -> bool {
        let (nobody, own) = (Teller::Nobody as u8, teller as u8);
        self.teller.compare_exchange(nobody, own, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            || (teller == Teller::Main && self.teller.load(Ordering::SeqCst) == own)
    }

    /// Goes on as the one that tells; a thread that comes too late stays here until the process ends.
    pub(super) fn tells_as(&self, teller: Teller) {
        while !self.claims(teller) {
            std::thread::park();
        }
    }

    /// Finds out why an operation has failed, and leaves the job. At a loss rank 0 saves what it can.
    pub(super) fn cause(&self) -> String {
        // Who fails says so first, and is then silent without being lost.
        self.leave("");
        let signs = self.signs.clone();
        let host = self.topology.host();
        match within(SILENCE + FAREWELL, move || signs.cause()) {
            Some(Ok(cause)) => {
                // What is on a GPU may wait for the lost one's part of an all-reduce.
                if cause.event == Event::Lost && !self.has_nccl.load(Ordering::Relaxed) {
                    termination::act("the job has lost a process");
                }
                self.say_goodbye(&cause.lost, SILENCE + FAREWELL);
                cause.text
            }
            Some(Err(_)) => format!("{host} is lost, and with it the store"),
            None => format!("{host}, which hosts the store, does not answer"),
        }
    }

    fn hosts_store(&self) -> bool {
        self.topology.rank == 0 && !self.topology.agent_store
    }

    /// True if the others learn of it, and only now.
    fn leave(&self, error: &str) -> bool {
        let (signs, error) = (self.signs.clone(), error.to_string());
        // Should the store be gone, nobody waits for this.
        matches!(within(SILENCE, move || signs.leave(&error)), Some(Ok(true)))
    }

    /// This process needs the store no more; its host stays until all the others but `lost` have said so too.
    fn say_goodbye(&self, lost: &[usize], limit: Duration) {
        let signs = self.signs.clone();
        if self.hosts_store() {
            wait_for_goodbyes(&signs, lost, limit);
        } else {
            // As above.
            let _ = within(SILENCE, move || signs.say_goodbye());
        }
    }
}

fn wait_for_goodbyes(signs: &Signs, lost: &[usize], limit: Duration) {
    let deadline = Instant::now() + limit;
    let is_here = |rank: usize| !lost.contains(&rank) && matches!(signs.has_said_goodbye(rank), Ok(false));
    while (1..signs.world_size).any(is_here) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The result of what may never end; `None` after the limit.
pub(super) fn within<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let work = move || drop(sender.send(work()));
    std::thread::Builder::new().name("store".into()).spawn(work).ok()?;
    receiver.recv_timeout(limit).ok()
}

fn write_error_file(path: &Path, message: &str) {
    let seconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |time| time.as_secs());
    // torchrun shows the call stack alone where there is one; a reader may also rely on there being one.
    let extra = serde_json::json!({"py_callstack": message, "timestamp": seconds.to_string()});
    let content = serde_json::json!({"message": {"message": message, "extraInfo": extra}});
    // The message goes to stderr as well.
    let _ = write_atomically(path, content.to_string().as_bytes());
}
