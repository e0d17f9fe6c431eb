//! The processes of a job and what they do together (the original's `utils/comm.py`). In a job of one process every
//! function does what is left of its task then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use tch::Tensor;

use super::rendezvous::Topology;
use crate::ffi::{ProcessGroup, Reducer, Store};

/// Time between two signs of life.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// Time without one after which a process counts as lost.
const SILENCE: Duration = Duration::from_millis(2500);
/// Time that the host of the store gives the others to leave.
const FAREWELL: Duration = Duration::from_secs(5);

static JOB: Mutex<Option<Arc<Job>>> = Mutex::new(None);

/// The job of several processes that this one belongs to.
struct Job {
    topology: Topology,
    group: ProcessGroup,
    store: Arc<Store>,
    ended: Arc<AtomicBool>,
    heartbeat: Mutex<Option<JoinHandle<()>>>,
}

fn job() -> Option<Arc<Job>> {
    JOB.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Meets the other processes of the job that the environment tells of; nothing happens for a job of one process.
/// `local_rank` is what the command line says. `timeout` is for this and for every later collective operation.
///
/// # Errors
/// See [`Topology::from_env`] and [`Topology::meet`].
pub fn init_process_group(local_rank: Option<usize>, timeout: Duration) -> Result<()> {
    ensure!(!timeout.is_zero(), "the time to wait for other processes must be positive");
    let Some(topology) = Topology::from_env(|name| std::env::var(name).ok(), local_rank)? else {
        return Ok(());
    };
    let mut place = JOB.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(place.is_none(), "this process belongs to a job already");
    let (store, group) = topology.meet(timeout)?;
    let (store, ended) = (Arc::new(store), Arc::new(AtomicBool::new(false)));
    let beating = (store.clone(), ended.clone(), alive_key(topology.rank));
    let heartbeat = std::thread::Builder::new()
        .name("heartbeat".into())
        .spawn(move || {
            let (store, ended, key) = beating;
            // The host of the store may go before this process does.
            while !ended.load(Ordering::Relaxed) && store.add(&key, 1).is_ok() {
                std::thread::sleep(HEARTBEAT);
            }
        })
        .context("cannot start the thread that gives signs of life")?;
    *place = Some(Arc::new(Job { topology, group, store, ended, heartbeat: Mutex::new(Some(heartbeat)) }));
    Ok(())
}

/// Leaves the job, if there is one; the host of the store goes last. For the end of a program that has succeeded.
pub fn destroy_process_group() {
    let Some(job) = JOB.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    job.ended.store(true, Ordering::Relaxed);
    if let Some(heartbeat) = job.heartbeat.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // It has nothing to report.
        let _ = heartbeat.join();
    }
    let Topology { rank, world_size, agent_store, .. } = job.topology;
    if agent_store {
        return;
    }
    if rank > 0 {
        // Should the store be gone already, nobody waits for this.
        let _ = job.store.set(&left_key(rank), b"");
        return;
    }
    let deadline = Instant::now() + FAREWELL;
    let is_here = |rank: usize| matches!(job.store.check(&left_key(rank)), Ok(false));
    while (1..world_size).any(is_here) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn alive_key(rank: usize) -> String {
    format!("alive/{rank}")
}

fn left_key(rank: usize) -> String {
    format!("left/{rank}")
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
    Some(format!(
        "rank {rank} of {world_size} (local rank {local_rank}, from {source}), store at {master_addr}:{master_port} \
         hosted by {host}, backend Gloo"
    ))
}

/// The error of something done together, with the processes that were lost, if that is the cause.
///
/// # Errors
/// `result`'s, with context.
pub fn explain<T>(what: &str, result: Result<T>) -> Result<T> {
    let Some(job) = job() else { return result };
    if result.is_ok() {
        return result;
    }
    let Topology { rank, world_size, .. } = job.topology;
    let cause = job.who_is_lost();
    result.with_context(|| format!("rank {rank} of {world_size}: {what} failed; {cause}"))
}

impl Job {
    fn who_is_lost(&self) -> String {
        let Topology { rank, world_size, .. } = self.topology;
        let others = (0..world_size).filter(|&other| other != rank);
        let lost = || -> Result<Vec<String>> {
            // Who fails says so first, and is then silent without being lost.
            self.store.set(&left_key(rank), b"")?;
            let beats = |other| self.store.add(&alive_key(other), 0);
            let before = others.map(|other| Ok((other, beats(other)?))).collect::<Result<Vec<_>>>()?;
            std::thread::sleep(SILENCE);
            let mut lost = Vec::new();
            for (other, count) in before {
                if beats(other)? == count && !self.store.check(&left_key(other))? {
                    lost.push(other.to_string());
                }
            }
            Ok(lost)
        };
        match lost() {
            Ok(lost) if lost.is_empty() => "no process is lost: see what the others say".into(),
            Ok(lost) => format!("rank {} is lost", lost.join(", ")),
            Err(_) => format!("{} is lost, and with it the store", self.topology.host()),
        }
    }
}

/// Waits until every process has come here.
///
/// # Errors
/// A process is lost or does not come within the timeout. This holds for every function below.
pub fn synchronize() -> Result<()> {
    let Some(job) = job() else { return Ok(()) };
    explain("waiting for all processes", job.group.barrier())
}

/// Makes the tensors of all processes those of rank 0, in place.
///
/// # Errors
/// See [`synchronize`].
pub fn broadcast(tensors: &mut [Tensor]) -> Result<()> {
    let Some(job) = job() else { return Ok(()) };
    explain("sending out rank 0's values", job.group.broadcast(tensors))
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

/// All processes' bytes by rank, in rank 0; `None` elsewhere.
///
/// # Errors
/// See [`synchronize`].
pub fn gather_bytes(bytes: Vec<u8>) -> Result<Option<Vec<Vec<u8>>>> {
    let Some(job) = job() else { return Ok(Some(vec![bytes])) };
    explain("gathering results", job.group.gather_bytes(&bytes))
}

/// All processes' tensors, which have the same shape, side by side (`[world size, ..]`) in rank 0; the tensor itself
/// elsewhere and in a job of one process.
///
/// # Errors
/// See [`synchronize`].
pub fn gather(tensor: Tensor) -> Result<Tensor> {
    let Some(job) = job() else { return Ok(tensor) };
    Ok(explain("gathering states", job.group.gather(&tensor))?.unwrap_or(tensor))
}

/// The means of named values over the processes (the original's `reduce_loss_dict`), in the order given. They travel
/// as one vector, sorted by name, so that the order may differ between processes.
///
/// # Errors
/// See [`synchronize`].
pub fn reduce_dict(values: Vec<(&str, f64)>) -> Result<Vec<(&str, f64)>> {
    let Some(job) = job() else { return Ok(values) };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by_key(|&i| values[i].0);
    let stacked: Vec<f64> = order.iter().map(|&i| values[i].1).collect();
    let mut stacked = Tensor::from_slice(&stacked);
    explain("averaging the losses for the log", job.group.all_reduce_sum(&mut stacked))?;
    let sums: Vec<f64> = Vec::try_from(stacked)?;
    let mut means = values;
    for (&i, sum) in order.iter().zip(sums) {
        means[i].1 = sum / job.topology.world_size as f64;
    }
    Ok(means)
}

/// What averages the gradients of `parameters` over the processes; `None` in a job of one process.
///
/// # Errors
/// See [`synchronize`]; or the processes have different parameters.
pub fn reducer(parameters: &[(String, Tensor)]) -> Result<Option<Reducer>> {
    let Some(job) = job() else { return Ok(None) };
    explain("comparing parameters", Reducer::new(&job.group, parameters)).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_keeps_what_it_has() {
        init_process_group(None, Duration::from_secs(1)).unwrap();
        assert_eq!((get_rank(), get_world_size(), is_main_process(), describe()), (0, 1, true, None));
        synchronize().unwrap();
        assert_eq!(reduce_dict(vec![("loss", 2.0), ("a", 1.0)]).unwrap(), [("loss", 2.0), ("a", 1.0)]);
        assert_eq!(gather_bytes(vec![1, 2]).unwrap(), Some(vec![vec![1, 2]]));
        assert_eq!(gather(Tensor::from_slice(&[3i64])).unwrap(), Tensor::from_slice(&[3i64]));
        assert_eq!(broadcast_number(u64::MAX).unwrap(), u64::MAX);
        assert!(reducer(&[]).unwrap().is_none());
        assert!(init_process_group(None, Duration::ZERO).is_err());
        destroy_process_group();
    }
}
