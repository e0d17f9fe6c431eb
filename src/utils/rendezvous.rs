//! How the processes of a job find each other: which process this is (from the environment, as `torch.distributed` with
//! `init_method="env://"`), and the meeting in a key-value store.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};

use crate::ffi::{ProcessGroup, Store};

/// The port of `torch.distributed.launch`, where a launcher names none.
pub const DEFAULT_PORT: u16 = 29500;

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
    /// Reads the environment: torchrun's variables, else SLURM's, else Open MPI's. `None` for a job of one process.
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
        } else if let (Some(size), Some(_)) = (number("SLURM_NTASKS")?, number("SLURM_PROCID")?) {
            ("SLURM_PROCID and SLURM_NTASKS", size, "SLURM_PROCID", "SLURM_LOCALID")
        } else if let Some(size) = number("OMPI_COMM_WORLD_SIZE")? {
            let names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK");
            ("OMPI_COMM_WORLD_RANK and OMPI_COMM_WORLD_SIZE", size, names.0, names.1)
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

    fn place(&self) -> String {
        format!("{}:{}", self.master_addr, self.master_port)
    }

    /// Meets the other processes and connects with all of them. Gives the store too, which must live as long as others
    /// use it.
    ///
    /// # Errors
    /// The port is in use, nobody hosts the store, a process does not come within `timeout`, two processes have the same
    /// rank, or they disagree about their number. Address and rank are named.
    pub fn meet(&self, timeout: Duration) -> Result<(Store, ProcessGroup)> {
        let Topology { rank, world_size, master_addr, master_port, .. } = self;
        let place = self.place();
        let store = if *rank == 0 && !self.agent_store {
            Store::host(master_addr, *master_port, timeout).with_context(|| {
                format!(
                    "rank 0 of {world_size} cannot host the store at {place}; if the port is in use by another program, \
                     choose another MASTER_PORT for all processes"
                )
            })?
        } else {
            Store::connect(master_addr, *master_port, timeout).with_context(|| {
                let host = self.host();
                format!(
                    "rank {rank} of {world_size} waited {timeout:?} for the store at {place}, which {host} hosts: is it \
                     running, and can it be reached from here?"
                )
            })?
        };
        let store = store.with_prefix(&self.prefix)?;
        self.check_in(&store, timeout).with_context(|| format!("rank {rank} of {world_size}, store at {place}"))?;
        let group = ProcessGroup::gloo(&store, *rank, *world_size, timeout).with_context(|| {
            format!(
                "rank {rank} of {world_size} could not connect with the others over Gloo; GLOO_SOCKET_IFNAME names the \
                 network interface to use"
            )
        })?;
        Ok((store, group))
    }

    /// Waits for every rank in the store.
    fn check_in(&self, store: &Store, timeout: Duration) -> Result<()> {
        let Topology { rank, world_size, .. } = *self;
        ensure!(store.add(&format!("arrivals/{rank}"), 1)? == 1, "another process has rank {rank} too");
        store.set(&format!("world_size/{rank}"), world_size.to_string().as_bytes())?;
        let gone = || format!("the store is gone: {} has ended", self.host());
        let deadline = Instant::now() + timeout;
        for other in 0..world_size {
            let key = format!("world_size/{other}");
            while !store.check(&key).with_context(gone)? {
                if Instant::now() >= deadline {
                    let mut absent = Vec::new();
                    for late in other..world_size {
                        if !store.check(&format!("world_size/{late}")).with_context(gone)? {
                            absent.push(late.to_string());
                        }
                    }
                    bail!("waited {timeout:?} for rank {}, which did not come", absent.join(", "));
                }
                std::thread::sleep(Duration::from_millis(20));
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
mod tests {
    use super::*;

    fn topology(variables: &[(&str, &str)], local_rank: Option<usize>) -> Result<Option<Topology>> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.to_string());
        Topology::from_env(find, local_rank)
    }

    const TORCHRUN: [(&str, &str); 5] =
        [("RANK", "3"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "node0"), ("MASTER_PORT", "29501")];

    #[test]
    fn one_process_needs_no_group() {
        assert_eq!(topology(&[], None).unwrap(), None);
        assert_eq!(topology(&[("WORLD_SIZE", "1")], Some(0)).unwrap(), None);
        assert_eq!(topology(&[("SLURM_NTASKS", "8")], None).unwrap(), None);
    }

    #[test]
    fn torchruns_variables_come_first() {
        let mut variables = TORCHRUN.to_vec();
        variables.extend([("SLURM_PROCID", "7"), ("SLURM_NTASKS", "9")]);
        let found = topology(&variables, None).unwrap().unwrap();
        assert_eq!((found.rank, found.local_rank, found.world_size), (3, 1, 4));
        assert_eq!((found.master_addr.as_str(), found.master_port, found.agent_store), ("node0", 29501, false));
        assert_eq!(topology(&variables, Some(2)).unwrap().unwrap().local_rank, 2);

        variables.extend([("TORCHELASTIC_USE_AGENT_STORE", "True"), ("TORCHELASTIC_RUN_ID", "job")]);
        variables.push(("TORCHELASTIC_RESTART_COUNT", "2"));
        let found = topology(&variables, None).unwrap().unwrap();
        assert_eq!((found.agent_store, found.prefix.as_str()), (true, "maskrcnn_benchmark/job/2"));
    }

    #[test]
    fn slurm_and_open_mpi_are_understood() {
        let slurm = [("SLURM_PROCID", "5"), ("SLURM_LOCALID", "1"), ("SLURM_NTASKS", "8")];
        let variables = [&slurm[..], &[("SLURM_JOB_NODELIST", "gpu[03-07,12]-a,cpu1")]].concat();
        let found = topology(&variables, None).unwrap().unwrap();
        assert_eq!((found.rank, found.local_rank, found.world_size), (5, 1, 8));
        assert_eq!((found.master_addr.as_str(), found.master_port), ("gpu03-a", DEFAULT_PORT));

        let mut variables = vec![("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")];
        variables.push(("OMPI_COMM_WORLD_LOCAL_SIZE", "2"));
        assert_eq!(topology(&variables, None).unwrap().unwrap().master_addr, "127.0.0.1");
        variables[2].1 = "1";
        assert!(topology(&variables, None).unwrap_err().to_string().contains("MASTER_ADDR"));
    }

    #[test]
    fn node_lists_begin_with_the_first_node() {
        for (list, first) in [("a,b", "a"), ("n[1-3]", "n1"), ("n[7]", "n7"), ("r[2,4]n[05-06],x", "r2n05")] {
            assert_eq!(first_node(list).as_deref(), Some(first), "{list}");
        }
        assert_eq!((first_node(""), first_node("n[1")), (None, None));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for missing in ["RANK", "MASTER_ADDR", "MASTER_PORT"] {
            let variables: Vec<_> = TORCHRUN.into_iter().filter(|(name, _)| *name != missing).collect();
            let error = topology(&variables, None).unwrap_err().to_string();
            assert!(error.contains(&format!("but {missing} is not set")), "{error}");
        }
        for (name, value, words) in
            [("RANK", "4", "rank 4"), ("WORLD_SIZE", "many", "\"many\""), ("MASTER_PORT", "1e6", "MASTER_PORT")]
        {
            let variables = TORCHRUN.map(|(n, v)| (n, if n == name { value } else { v }));
            let error = format!("{:#}", topology(&variables, None).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
    }

    fn member(rank: usize, world_size: usize, port: u16) -> Topology {
        let (rank, size, port) = (rank.to_string(), world_size.to_string(), port.to_string());
        let variables = [
            ("RANK", rank.as_str()),
            ("WORLD_SIZE", size.as_str()),
            ("MASTER_ADDR", "127.0.0.1"),
            ("MASTER_PORT", port.as_str()),
            ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ];
        topology(&variables, None).unwrap().unwrap()
    }

    #[test]
    fn processes_that_do_not_fit_together_say_so() {
        let timeout = Duration::from_millis(300);
        let agent = Store::host("127.0.0.1", 0, Duration::from_secs(20)).unwrap();
        let failure = |topology: Topology| format!("{:#}", topology.meet(timeout).err().expect("an error"));

        let error = failure(member(1, 3, agent.port()));
        assert!(error.contains("rank 1 of 3") && error.contains("for rank 0, 2, which did not come"), "{error}");
        assert!(error.contains(&format!("127.0.0.1:{}", agent.port())), "{error}");
        let error = failure(member(1, 3, agent.port()));
        assert!(error.contains("another process has rank 1 too"), "{error}");
        let error = failure(member(0, 2, agent.port()));
        assert!(error.contains("2 processes here and 3 in rank 1"), "{error}");
    }
}
