//! How the processes of a job find each other: which process this is (from the environment, as `torch.distributed` with
//! `init_method="env://"`), and the meeting in a key-value store.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use super::miscellaneous::say_error;
use crate::ffi::{ProcessGroup, Store};

/// The port of `torch.distributed.launch`, where a launcher names none.
pub const DEFAULT_PORT: u16 = 29500;

const SLURM: &str = "SLURM_PROCID and SLURM_STEP_NUM_TASKS";
const OPEN_MPI: &str = "OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE";

/// A process's place in a job of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// This process, from 0.
    pub rank: usize,
    /// This process among those of its machine, from 0.
    pub local_rank: usize,
    /// Number of processes, more than one.
    pub world_size: usize,
    /// Where the store is.
    pub master_addr: String,
    /// Its port there.
    pub master_port: u16,
    /// The launcher hosts the store (torchrun's agent); else rank 0 does.
    pub agent_store: bool,
    /// What all keys in the store begin with: a restarted job must not find the keys of the one before.
    pub prefix: String,
    /// The variables that this was read from.
    pub source: &'static str,
}

impl Topology {
    /// Reads the environment: torchrun's variables, else Open MPI's, else those that SLURM's `srun` sets. `None` for a
    /// job of one process.
    ///
    /// What SLURM sets for a job's script looks like task 0 of several (SLURM_PROCID, SLURM_NTASKS), but the script is
    /// alone, and so is a program that it starts without `srun`. The variables of a step are set by `srun` alone (see
    /// "OUTPUT ENVIRONMENT VARIABLES" of sbatch(1) and srun(1)).
    ///
    /// `local_rank` is what the command line says, as `torch.distributed.launch` does it.
    ///
    /// # Errors
    /// A variable that is missing or no number, a rank that does not exist.
    pub fn from_env(variable: impl Fn(&str) -> Option<String>, local_rank: Option<usize>) -> Result<Option<Topology>> {
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name) else { return Ok(None) };
            let number = text.trim().parse::<usize>();
            number
                .map(Some)
                .with_context(|| format!("the environment variable {name} must be a number, it is {text:?}"))
        };
        let (source, world_size, rank_name, local_name) = if let Some(size) = number("WORLD_SIZE")? {
            ("RANK and WORLD_SIZE", size, "RANK", "LOCAL_RANK")
        } else if let Some(size) = number("OMPI_COMM_WORLD_SIZE")? {
            (OPEN_MPI, size, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK")
        } else if let (Some(size), Some(_)) = (number("SLURM_STEP_NUM_TASKS")?, number("SLURM_PROCID")?) {
            (SLURM, size, "SLURM_PROCID", "SLURM_LOCALID")
        } else {
            return Ok(None);
        };
        ensure!(world_size > 0, "the number of processes is 0 (from {source})");
        if world_size == 1 {
            return Ok(None);
        }
        let missing = |name: &str| {
            format!(
                "the job has {world_size} processes (from {source}), but {name} is not set: start the program with \
                 launch, torchrun or torch.distributed.launch, or set it; for a single process unset the variables"
            )
        };
        let rank = number(rank_name)?.with_context(|| missing(rank_name))?;
        ensure!(rank < world_size, "rank {rank} does not exist among {world_size} processes (from {source})");
        let local_rank = match local_rank {
            Some(local_rank) => local_rank,
            None => number(local_name)?.unwrap_or(rank),
        };
        let master_addr = match variable("MASTER_ADDR") {
            Some(address) => address,
            None => default_address(&variable).with_context(|| missing("MASTER_ADDR"))?,
        };
        let master_port = match variable("MASTER_PORT") {
            Some(text) => text
                .trim()
                .parse::<u16>()
                .with_context(|| format!("the environment variable MASTER_PORT must be a port, it is {text:?}"))?,
            None if rank_name == "RANK" => bail!(missing("MASTER_PORT")),
            None => DEFAULT_PORT,
        };
        let agent_store = variable("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|value| value == "True");
        let word = |name: &str| variable(name).unwrap_or_else(|| "0".into());
        let prefix =
            format!("maskrcnn_benchmark/{}/{}", word("TORCHELASTIC_RUN_ID"), word("TORCHELASTIC_RESTART_COUNT"));
        Ok(Some(Topology { rank, local_rank, world_size, master_addr, master_port, agent_store, prefix, source }))
    }

    /// Who hosts the store.
    pub fn host(&self) -> &'static str {
        if self.agent_store {
            "the launcher"
        } else {
            "rank 0"
        }
    }

    /// What may help a process for which the others do not come.
    fn advice(&self) -> String {
        let (how, size) = match self.source {
            SLURM => ("by one srun", "SLURM_STEP_NUM_TASKS"),
            OPEN_MPI => ("by one mpirun", "OMPI_COMM_WORLD_SIZE"),
            _ => ("with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE", "WORLD_SIZE"),
        };
        format!(
            "All are to be started {how}, and must reach this address. For one process alone: `env -u {size} PROGRAM …`"
        )
    }

    fn place(&self) -> String {
        format!("{}:{}", self.master_addr, self.master_port)
    }

    /// Meets the other processes and connects with all of them. Gives the store too, which must live as long as others
    /// use it. A wait of `notice` is explained on stderr: the log is not open yet.
    ///
    /// # Errors
    /// The port is in use, nobody hosts the store, a process does not come within `timeout`, two processes have the
    /// same rank, or they disagree about their number. Address and rank are named.
    pub fn meet(&self, timeout: Duration, notice: Option<Duration>) -> Result<(Store, ProcessGroup)> {
        let Topology { rank, local_rank, world_size, master_addr, master_port, source, .. } = self;
        let place = self.place();
        let store = if *rank == 0 && !self.agent_store {
            Store::host(master_addr, *master_port, timeout).with_context(|| {
                format!(
                    "rank 0 of {world_size} cannot host the store at {place}; if the port is in use by another program, \
                     choose another MASTER_PORT for all processes"
                )
            })?
        } else {
            // Two of a machine are enough to say it, since one may be who is missing.
            let _done = notice.filter(|_| *local_rank < 2).and_then(|notice| {
                let host = self.host();
                let waits =
                    format!("rank {rank} of {world_size} (from {source}) has waited {notice:?} for the store at");
                say_after(notice, format!("{waits} {place}, which {host} hosts. {}", self.advice()))
            });
            Store::connect(master_addr, *master_port, timeout).with_context(|| {
                let host = self.host();
                format!(
                    "rank {rank} of {world_size} waited {timeout:?} for the store at {place}, which {host} hosts: is it \
                     running, and can it be reached from here?"
                )
            })?
        };
        let store = store.with_prefix(&self.prefix)?;
        self.check_in(&store, timeout, notice)
            .with_context(|| format!("rank {rank} of {world_size}, store at {place}"))?;
        let group = ProcessGroup::gloo(&store, *rank, *world_size, timeout).with_context(|| {
            format!(
                "rank {rank} of {world_size} could not connect with the others over Gloo; GLOO_SOCKET_IFNAME names the \
                 network interface to use"
            )
        })?;
        Ok((store, group))
    }

    /// Waits for every rank in the store.
    fn check_in(&self, store: &Store, timeout: Duration, mut notice: Option<Duration>) -> Result<()> {
        let Topology { rank, world_size, source, .. } = *self;
        ensure!(store.add(&format!("arrivals/{rank}"), 1)? == 1, "another process has rank {rank} too");
        store.set(&format!("world_size/{rank}"), world_size.to_string().as_bytes())?;
        let gone = || format!("the store is gone: {} has ended", self.host());
        let is_here = |rank: usize| store.check(&format!("world_size/{rank}")).with_context(gone);
        let absent = |from: usize| -> Result<Vec<usize>> {
            let mut absent = Vec::new();
            for late in from..world_size {
                if !is_here(late)? {
                    absent.push(late);
                }
            }
            Ok(absent)
        };
        let begin = Instant::now();
        for other in 0..world_size {
            let key = format!("world_size/{other}");
            while !is_here(other)? {
                if begin.elapsed() >= timeout {
                    bail!("waited {timeout:?} for rank {}, which did not come", join(&absent(other)?));
                }
                if let Some(waited) = notice.take_if(|notice| begin.elapsed() >= *notice) {
                    let absent = absent(0)?;
                    // The first of those who are here says it for all.
                    if (0..rank).all(|earlier| absent.contains(&earlier)) {
                        let waits = format!("rank {rank} of {world_size} (from {source}) has waited {waited:?} at");
                        say_error(format_args!(
                            "{waits} {} for rank {}. {}",
                            self.place(),
                            join(&absent),
                            self.advice()
                        ));
                    }
                }
                thread::sleep(Duration::from_millis(20));
            }
            let theirs = String::from_utf8_lossy(&store.get(&key).with_context(gone)?).into_owned();
            ensure!(
                theirs == world_size.to_string(),
                "the job has {world_size} processes here and {theirs} in rank {other}: WORLD_SIZE must be the same everywhere"
            );
        }
        Ok(())
    }
}

/// A sentence for a process in a SLURM job of several tasks that is none of them; `None` elsewhere.
pub fn tasks_without_srun(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let others = ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"];
    let tasks = variable("SLURM_NTASKS").filter(|tasks| tasks.trim() != "1" && variable("SLURM_PROCID").is_some())?;
    others.iter().all(|name| variable(name).is_none()).then(|| {
        format!("SLURM has given this job {tasks} tasks, but srun has not started this process: it works alone")
    })
}

fn join(ranks: &[usize]) -> String {
    ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
}

/// Says it after the delay unless the result is dropped before. (Without a thread for it nothing is said.)
fn say_after(delay: Duration, text: String) -> Option<Sender<()>> {
    let (done, end) = mpsc::channel();
    let wait = move || {
        if end.recv_timeout(delay) == Err(RecvTimeoutError::Timeout) {
            say_error(format_args!("{text}"));
        }
    };
    thread::Builder::new().name("rendezvous".into()).spawn(wait).ok()?;
    Some(done)
}

/// Where rank 0 is, as far as a launcher without MASTER_ADDR tells: the first of SLURM's nodes, or this machine when
/// all of Open MPI's processes are here.
fn default_address(variable: &impl Fn(&str) -> Option<String>) -> Option<String> {
    if variable("WORLD_SIZE").is_some() {
        return None;
    }
    if let Some(nodes) = variable("SLURM_STEP_NODELIST").or_else(|| variable("SLURM_JOB_NODELIST")) {
        return first_node(&nodes);
    }
    let all_here = variable("OMPI_COMM_WORLD_LOCAL_SIZE") == variable("OMPI_COMM_WORLD_SIZE");
    (variable("OMPI_COMM_WORLD_SIZE").is_some() && all_here).then(|| "127.0.0.1".into())
}

/// The first name of a SLURM node list: `gpu[03-07,12]-a,cpu1` gives `gpu03-a`.
fn first_node(nodes: &str) -> Option<String> {
    let (mut name, mut rest) = (String::new(), nodes.trim());
    loop {
        let end = rest.find(['[', ',']).unwrap_or(rest.len());
        name.push_str(&rest[..end]);
        if !rest[end..].starts_with('[') {
            return (!name.is_empty()).then_some(name);
        }
        let (numbers, after) = rest[end + 1..].split_once(']')?;
        name.push_str(numbers.split(['-', ',']).next()?);
        rest = after;
    }
}

#[cfg(test)]
mod tests;
