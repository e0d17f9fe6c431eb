//! The processes of a job and what they do together (the original's `utils/comm.py`). In a job of one process every
//! function does what is left of its task then.

mod end;
mod heartbeat;
mod lookout;
mod phase;
mod signs;
mod watchdog;

pub(super) use end::{announce_stop, finish_stop};
pub use end::{destroy_process_group, end_with_error, leave_with_error};
pub use phase::{all_reduce_wait, begin_iteration, enter, iteration, whereabouts, Phase};

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use tch::Tensor;

use self::end::{thread_has_failed, Teller, FAREWELL};
use self::heartbeat::Heartbeat;
use self::lookout::Lookout;
use self::phase::{gradients_computed, waiting};
use self::signs::{Signs, SILENCE};
use super::fault;
use super::out_of_memory::is_out_of_memory;
use super::rendezvous::Topology;
use crate::ffi::{on_uncaught_exception, ProcessGroup, Reducer};

/// Time between two looks into the store.
const POLL: Duration = Duration::from_millis(100);

/// How long a process waits for the others of its job before it says so.
const NOTICE: Duration = Duration::from_secs(10);

/// What rank 0 has said of its work, if anything, and its latest beat.
type WordAndBeat = (Option<String>, Option<u64>);

static JOB: Mutex<Option<Arc<Job>>> = Mutex::new(None);

/// The job of several processes that this one belongs to.
struct Job {
    topology: Topology,
    group: ProcessGroup,
    signs: Signs,
    threads: Mutex<Option<(Heartbeat, Lookout)>>,
    /// How often rank 0 has worked while the others waited.
    works: AtomicUsize,
    has_nccl: AtomicBool,
    /// A [`Teller`].
    teller: AtomicU8,
}

fn job() -> Option<Arc<Job>> {
    JOB.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Meets the other processes of the job that the environment tells of; nothing happens for a job of one process.
/// `local_rank` is what the command line says. `timeout` is for this and for every later collective operation; who
/// keeps the others waiting longer than `slow_after` is named in the log, and on stderr who does not come at the start
/// within this time or 10 seconds.
///
/// # Errors
/// See [`Topology::from_env`] and [`Topology::meet`].
pub fn init_process_group(local_rank: Option<usize>, timeout: Duration, slow_after: Option<Duration>) -> Result<()> {
    ensure!(!timeout.is_zero(), "the time to wait for other processes must be positive");
    let Some(topology) = Topology::from_env(|name| std::env::var(name).ok(), local_rank)? else {
        return Ok(());
    };
    let mut place = JOB.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(place.is_none(), "this process belongs to a job already");
    let (store, group) = topology.meet(timeout, slow_after.map(|slow| slow.min(NOTICE)))?;
    let signs = Signs::new(store, topology.rank, topology.world_size);
    let heartbeat = Heartbeat::start(signs.clone(), timeout, slow_after)?;
    let lookout = Lookout::start(signs.clone(), heartbeat.pulse.clone())?;
    let threads = Mutex::new(Some((heartbeat, lookout)));
    let (works, has_nccl, teller) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicU8::new(Teller::Nobody as u8));
    *place = Some(Arc::new(Job { topology, group, signs, threads, works, has_nccl, teller }));
    on_uncaught_exception(thread_has_failed);
    Ok(())
}

/// Lets the job exchange tensors on CUDA, over NCCL, once the process has chosen its GPU; nothing happens in a job of
/// one process. `timeout` is for each collective operation.
///
/// # Errors
/// This program was built without NCCL; or see [`synchronize`].
pub fn add_nccl(timeout: Duration) -> Result<()> {
    let Some(job) = job() else { return Ok(()) };
    explain("preparing NCCL", job.group.add_nccl(&job.signs.store, timeout))?;
    job.has_nccl.store(true, Ordering::Relaxed);
    Ok(())
}

/// Number of processes of the job.
pub fn get_world_size() -> usize {
    job().map_or(1, |job| job.topology.world_size)
}

/// This process's number, from 0.
pub fn get_rank() -> usize {
    job().map_or(0, |job| job.topology.rank)
}

/// True in the process that writes logs and files.
pub fn is_main_process() -> bool {
    get_rank() == 0
}

/// The job's layout in a sentence, for the log; `None` for one process.
pub fn describe() -> Option<String> {
    let job = job()?;
    let Topology { rank, local_rank, world_size, master_addr, master_port, source, .. } = &job.topology;
    let host = job.topology.host();
    let backend = if job.has_nccl.load(Ordering::Relaxed) { "NCCL (CPU: Gloo)" } else { "Gloo" };
    Some(format!(
        "rank {rank} of {world_size} (local rank {local_rank}, from {source}), store at {master_addr}:{master_port} \
         hosted by {host}, backend {backend}"
    ))
}

/// The error of something done together, with the processes that were lost, if that is the cause.
///
/// # Errors
/// `result`'s, with context.
pub fn explain<T>(what: &str, result: Result<T>) -> Result<T> {
    let (Some(job), Err(error)) = (job(), &result) else { return result };
    let Topology { rank, world_size, .. } = job.topology;
    if is_out_of_memory(&error.root_cause().to_string()) {
        // The reason is here, and the others learn it when this process ends.
        return result.with_context(|| format!("rank {rank} of {world_size}: {what} failed"));
    }
    job.tells_as(Teller::Main);
    let cause = job.cause();
    result.with_context(|| format!("rank {rank} of {world_size}: {what} failed; {cause}"))
}

/// Does something that ends only when the other processes do it too.
///
/// # Errors
/// Those of `operation`, as [`explain`] has them.
pub fn together<T>(what: &str, operation: impl FnOnce() -> Result<T>) -> Result<T> {
    explain(what, waiting(operation))
}

impl Job {
    fn together<T>(&self, what: &str, operation: impl FnOnce(&ProcessGroup) -> Result<T>) -> Result<T> {
        together(what, || operation(&self.group))
    }
}

/// Rank 0 works alone; the others wait for it however long it takes, as long as it lives. Gives rank 0 the result, the
/// others `None`.
///
/// # Errors
/// Rank 0's work fails (it gets the error itself), or rank 0 is lost.
pub fn main_process_works<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<Option<T>> {
    let Some(job) = job() else { return work().map(Some) };
    let key = format!("work/{}", job.works.fetch_add(1, Ordering::Relaxed));
    if job.topology.rank > 0 {
        return together(what, || job.wait_for_main_process(&key)).map(|()| None);
    }
    let result = work();
    let word: &[u8] = if result.is_ok() { b"done" } else { b"failed" };
    explain(what, job.signs.store.set(&key, word))?;
    result.map(Some)
}

impl Job {
    fn wait_for_main_process(&self, key: &str) -> Result<()> {
        let mut last = (None, Instant::now());
        let seen = self.watch_main_process(key)?;
        loop {
            let host = self.topology.host();
            let (word, beat) = seen
                .recv_timeout(SILENCE + FAREWELL)
                .with_context(|| format!("{host}, which hosts the store, does not answer"))??;
            if let Some(word) = word {
                ensure!(word == "done", "it failed in rank 0, which says why");
                return Ok(());
            }
            if beat != last.0 {
                last = (beat, Instant::now());
            } else if last.1.elapsed() > SILENCE {
                bail!("rank 0 gives no sign of life");
            }
        }
    }

    /// A thread that looks again and again at rank 0's word under this key and at its beat, until nobody listens: the
    /// store may take long to answer, or never do so.
    fn watch_main_process(&self, key: &str) -> Result<mpsc::Receiver<Result<WordAndBeat>>> {
        let (signs, wanted) = (self.signs.clone(), key.to_string());
        let (sender, seen) = mpsc::channel();
        let look = move || -> Result<WordAndBeat> { Ok((signs.value(&wanted)?, signs.beat(0)?)) };
        let watch = move || {
            while sender.send(look()).is_ok() {
                std::thread::sleep(POLL);
            }
        };
        let thread = std::thread::Builder::new().name("store".into()).spawn(watch);
        thread.context("the system gives no thread to wait for rank 0 with")?;
        Ok(seen)
    }
}

/// Waits until every process has come here.
///
/// # Errors
/// A process is lost or does not come within the timeout. This holds for every function below.
pub fn synchronize() -> Result<()> {
    let Some(job) = job() else { return Ok(()) };
    job.together("waiting for all processes", |group| group.barrier())
}

/// Makes the tensors of all processes those of rank 0, in place.
///
/// # Errors
/// See [`synchronize`].
pub fn broadcast(tensors: &mut [Tensor]) -> Result<()> {
    let Some(job) = job() else { return Ok(()) };
    job.together("sending out rank 0's values", |group| group.broadcast(tensors))
}

/// Replaces the tensor by the sum of all processes' tensors, in place.
///
/// # Errors
/// See [`synchronize`].
pub fn all_reduce_sum(tensor: &mut Tensor) -> Result<()> {
    let Some(job) = job() else { return Ok(()) };
    job.together("adding up tensors", |group| group.all_reduce_sum(tensor))
}

/// Rank 0's number.
///
/// # Errors
/// See [`synchronize`].
pub fn broadcast_number(number: u64) -> Result<u64> {
    let mut tensors = [Tensor::from(number as i64)];
    broadcast(&mut tensors)?;
    Ok(tensors[0].int64_value(&[]) as u64)
}

/// Whether it holds in any process.
///
/// # Errors
/// See [`synchronize`].
pub fn any(here: bool) -> Result<bool> {
    let mut count = Tensor::from(i64::from(here));
    all_reduce_sum(&mut count)?;
    Ok(count.int64_value(&[]) > 0)
}

/// All processes' bytes by rank, in rank 0; `None` elsewhere.
///
/// # Errors
/// See [`synchronize`].
pub fn gather_bytes(bytes: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>> {
    let Some(job) = job() else { return Ok(Some(vec![bytes])) };
    let what = "gathering results";
    let lengths = job.together(what, |group| group.gather_lengths(&bytes))?;
    fault::reach("gather of known lengths");
    job.together(what, |group| group.gather_bytes(&bytes, &lengths))
}

/// All processes' tensors, which have the same shape, side by side (`[world size, ..]`) in rank 0; the tensor itself
/// elsewhere and in a job of one process.
///
/// # Errors
/// See [`synchronize`].
pub fn gather(tensor: Tensor) -> Result<Tensor> {
    let Some(job) = job() else { return Ok(tensor) };
    Ok(job.together("gathering states", |group| group.gather(&tensor))?.unwrap_or(tensor))
}

/// The means of rows of named values over the processes (the original's `reduce_loss_dict`, for several iterations at
/// once), in the order given. All rows have the same names. They travel as one vector, sorted by name, so that the
/// order of the names may differ between processes.
///
/// # Errors
/// See [`synchronize`].
pub fn reduce_dicts<'a>(rows: &[Vec<(&'a str, f64)>]) -> Result<Vec<Vec<(&'a str, f64)>>> {
    let mut means = rows.to_vec();
    let (Some(job), Some(first)) = (job(), rows.first()) else { return Ok(means) };
    let mut order: Vec<usize> = (0..first.len()).collect();
    order.sort_by_key(|&i| first[i].0);
    let stacked: Vec<f64> = rows.iter().flat_map(|row| order.iter().map(|&i| row[i].1)).collect();
    let mut stacked = Tensor::from_slice(&stacked);
    job.together("averaging the losses for the log", |group| group.all_reduce_sum(&mut stacked))?;
    let sums: Vec<f64> = Vec::try_from(stacked)?;
    for (row, sums) in means.iter_mut().zip(sums.chunks_exact(order.len().max(1))) {
        for (&i, sum) in order.iter().zip(sums) {
            row[i].1 = sum / job.topology.world_size as f64;
        }
    }
    Ok(means)
}

/// This process's number on its machine, from 0, which is the number of its GPU.
pub fn get_local_rank() -> usize {
    job().map_or(0, |job| job.topology.local_rank)
}

/// What averages the gradients of `parameters` over the processes; `None` in a job of one process.
///
/// # Errors
/// See [`synchronize`]; or the processes have different parameters.
pub fn reducer(parameters: &[(String, Tensor)]) -> Result<Option<Reducer>> {
    let Some(job) = job() else { return Ok(None) };
    job.together("comparing parameters", |group| Reducer::new(group, parameters, gradients_computed)).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_keeps_what_it_has() {
        init_process_group(None, Duration::from_secs(1), None).unwrap();
        assert_eq!((get_rank(), get_world_size(), is_main_process(), describe()), (0, 1, true, None));
        synchronize().unwrap();
        let rows = [vec![("loss", 2.0), ("a", 1.0)], vec![("loss", 3.0), ("a", 0.0)]];
        assert_eq!(reduce_dicts(&rows).unwrap(), rows);
        assert_eq!(gather_bytes(vec![1, 2]).unwrap(), Some(vec![vec![1, 2]]));
        assert_eq!(gather(Tensor::from_slice(&[3i64])).unwrap(), Tensor::from_slice(&[3i64]));
        assert_eq!(main_process_works("work", || Ok(7)).unwrap(), Some(7));
        assert_eq!((any(false).unwrap(), any(true).unwrap(), get_local_rank()), (false, true, 0));
        assert_eq!(broadcast_number(u64::MAX).unwrap(), u64::MAX);
        assert!(reducer(&[]).unwrap().is_none());
        assert!(init_process_group(None, Duration::ZERO, None).is_err());
        destroy_process_group();
    }
}
