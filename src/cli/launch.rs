//! `launch`: starts the processes of a job on this machine, as `torchrun` and `torch.distributed.launch` do, for
//! machines without Python.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use clap::Parser;
use signal_hook::consts::{SIGINT, SIGKILL, SIGTERM};
use signal_hook::iterator::Signals;
use thiserror::Error;

use super::{parse, CommandLine};
use crate::ffi::system::send_signal_to_group;
use crate::utils::miscellaneous::say_error;
use crate::utils::rendezvous::DEFAULT_PORT;

/// Time that processes have to save and end after a signal, before they are killed.
const GRACE: Duration = Duration::from_secs(30);

/// Starts several processes of a program that work together, and ends them all when one fails.
#[derive(Debug, Parser)]
#[command(name = "launch", version)]
struct Args {
    /// Processes on this machine.
    #[arg(long = "nproc_per_node", alias = "nproc-per-node", value_name = "NUMBER", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    nproc_per_node: u32,

    /// Machines; launch is started on each.
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    nnodes: u32,

    /// Number of this machine, from 0.
    #[arg(long = "node_rank", alias = "node-rank", value_name = "NUMBER", default_value_t = 0)]
    node_rank: u32,

    /// Address of machine 0.
    #[arg(long = "master_addr", alias = "master-addr", value_name = "HOST", default_value = "127.0.0.1")]
    master_addr: String,

    /// Port on machine 0; by default a free one, or 29500 for several machines.
    #[arg(long = "master_port", alias = "master-port", value_name = "PORT")]
    master_port: Option<u16>,

    /// How often all processes are started again after one has failed.
    #[arg(long = "max-restarts", alias = "max_restarts", value_name = "NUMBER", default_value_t = 0)]
    max_restarts: u32,

    /// The program, looked for beside launch first, and its arguments.
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// A process of the job did not end well; `launch` ends with its status.
#[derive(Debug, Error)]
#[error("{message}")]
pub(super) struct JobFailed {
    pub(super) status: u8,
    message: String,
}

/// The program `launch`. The processes learn their places from torchrun's environment variables; each line they write
/// begins with their rank. SIGINT and SIGTERM are passed on.
///
/// # Errors
/// Wrong usage (a [`clap::Error`]), a program that cannot be started, or a process that failed: the exit status is then
/// that of the first one.
pub fn launch(args: impl CommandLine) -> Result<()> {
    let args: Args = parse(args)?;
    let Args { nnodes, node_rank, nproc_per_node, .. } = args;
    ensure!(node_rank < nnodes, "--node_rank {node_rank} does not exist: --nnodes is {nnodes}");
    ensure!(
        nnodes.checked_mul(nproc_per_node).is_some(),
        "--nnodes {nnodes} times --nproc_per_node {nproc_per_node} are more processes than can be counted"
    );
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot watch for SIGINT and SIGTERM")?;
    let mut attempt = 0;
    loop {
        let failure = match Job::start(&args, attempt)?.wait(&mut signals)? {
            End::Finished => return Ok(()),
            End::Signal(signal) => {
                let name = if signal == SIGINT { "SIGINT" } else { "SIGTERM" };
                let message = format!("{name}: all processes have been stopped");
                return Err(JobFailed { status: (128 + signal) as u8, message }.into());
            }
            End::Failed(failure) => failure,
        };
        if attempt == args.max_restarts {
            return Err(failure.into());
        }
        attempt += 1;
        say_error(format_args!("launch: {failure}; restart {attempt} of {}", args.max_restarts));
    }
}

/// How a job ended.
enum End {
    Finished,
    Failed(JobFailed),
    Signal(i32),
}

struct Job {
    processes: Vec<Process>,
}

struct Process {
    rank: u32,
    child: Child,
    output: Vec<JoinHandle<()>>,
    ended: bool,
    /// What it has started has ended too. (Its process group is then free for others.)
    group_ended: bool,
}

impl Job {
    fn start(args: &Args, attempt: u32) -> Result<Self> {
        let port = match args.master_port {
            Some(port) => port,
            None if args.nnodes == 1 => free_port().context("there is no free port")?,
            None => DEFAULT_PORT,
        };
        let mut job = Self { processes: Vec::new() };
        for local_rank in 0..args.nproc_per_node {
            job.processes.push(Process::start(args, attempt, port, local_rank)?);
        }
        Ok(job)
    }

    /// Waits until all processes have ended; ends the others, and what they have started, when one fails.
    fn wait(mut self, signals: &mut Signals) -> Result<End> {
        let mut end = None;
        let mut deadline = None;
        let mut killed = false;
        let goes_on = |process: &Process, ending: bool| !process.ended || ending && !process.group_ended;
        while self.processes.iter().any(|process| goes_on(process, end.is_some() && !killed)) {
            for signal in signals.pending() {
                if matches!(end, Some(End::Signal(_))) {
                    self.kill();
                    killed = true;
                } else {
                    self.signal(signal);
                    end = Some(End::Signal(signal));
                    deadline = Some(Instant::now() + GRACE);
                }
            }
            let mut failed = false;
            for at in 0..self.processes.len() {
                let process = &mut self.processes[at];
                let status = match process.poll() {
                    Ok(status) => status,
                    Err(error) => {
                        self.kill();
                        return Err(error).context("cannot wait for a process");
                    }
                };
                if let Some(status) = status.filter(|status| !status.success() && end.is_none()) {
                    end = Some(End::Failed(failure(process.rank, status)));
                    failed = true;
                }
            }
            if failed {
                self.signal(SIGTERM);
                deadline = Some(Instant::now() + GRACE);
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.kill();
                killed = true;
                deadline = None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        for output in self.processes.iter_mut().flat_map(|process| process.output.drain(..)) {
            // Such a thread only copies; its panic has been reported.
            let _ = output.join();
        }
        Ok(end.unwrap_or(End::Finished))
    }

    fn signal(&mut self, signal: i32) {
        for process in self.processes.iter().filter(|process| !process.group_ended) {
            // A process that has just ended is noticed soon enough.
            let _ = send_signal_to_group(process.child.id(), signal);
        }
    }

    fn kill(&mut self) {
        self.signal(SIGKILL);
    }
}

impl Process {
    fn start(args: &Args, attempt: u32, port: u16, local_rank: u32) -> Result<Self> {
        let rank = args.node_rank * args.nproc_per_node + local_rank;
        let (name, arguments) = args.command.split_first().context("no program is given")?;
        let program = find_program(name);
        let mut command = Command::new(&program);
        // A group of its own, so that a signal reaches what a script has started.
        command.process_group(0);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let variables = [
            ("RANK", rank.to_string()),
            ("LOCAL_RANK", local_rank.to_string()),
            ("WORLD_SIZE", (args.nnodes * args.nproc_per_node).to_string()),
            ("LOCAL_WORLD_SIZE", args.nproc_per_node.to_string()),
            ("GROUP_RANK", args.node_rank.to_string()),
            ("MASTER_ADDR", args.master_addr.clone()),
            ("MASTER_PORT", port.to_string()),
            ("TORCHELASTIC_RESTART_COUNT", attempt.to_string()),
            ("TORCHELASTIC_MAX_RESTARTS", args.max_restarts.to_string()),
        ];
        command.envs(variables).env_remove("TORCHELASTIC_USE_AGENT_STORE");
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        set_default(&mut command, "OMP_NUM_THREADS", (cores / args.nproc_per_node as usize).max(1).to_string());
        if args.nnodes == 1 && cfg!(target_os = "linux") {
            // What the machine's own name resolves to may be unreachable.
            set_default(&mut command, "GLOO_SOCKET_IFNAME", "lo".into());
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut process = Self { rank, child, output: Vec::new(), ended: false, group_ended: false };
        if let Some(from) = process.child.stdout.take() {
            process.output.push(pass_on(from, std::io::stdout(), rank)?);
        }
        if let Some(from) = process.child.stderr.take() {
            process.output.push(pass_on(from, std::io::stderr(), rank)?);
        }
        Ok(process)
    }

    /// The status of a process that has ended since the last look.
    fn poll(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let status = if self.ended { None } else { self.child.try_wait()? };
        self.ended |= status.is_some();
        self.group_ended |= self.ended && send_signal_to_group(self.child.id(), 0).is_err();
        Ok(status)
    }
}

impl Drop for Process {
    /// Nothing that runs is left behind, whatever ends the job.
    fn drop(&mut self) {
        if !self.ended {
            // It may have ended just now.
            let _ = send_signal_to_group(self.child.id(), SIGKILL);
        }
    }
}

fn set_default(command: &mut Command, name: &str, value: String) {
    if std::env::var_os(name).is_none() {
        command.env(name, value);
    }
}

/// A bare name means the program beside this one, if there is one.
fn find_program(name: &OsStr) -> PathBuf {
    let path = Path::new(name);
    if path.components().count() == 1 {
        let beside = std::env::current_exe().ok().map(|launch| launch.with_file_name(name));
        if let Some(beside) = beside.filter(|beside| beside.is_file()) {
            return beside;
        }
    }
    path.to_path_buf()
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Copies lines with the rank in front, until the process closes its end.
fn pass_on(from: impl Read + Send + 'static, mut to: impl Write + Send + 'static, rank: u32) -> Result<JoinHandle<()>> {
    let copy = move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            line.extend(format!("[rank {rank}] ").bytes());
            match from.read_until(b'\n', &mut line) {
                Ok(read) if read > 0 => {}
                _ => return,
            }
            if line.last() != Some(&b'\n') {
                line.push(b'\n');
            }
            // Whoever closed our output does not want it; the process must not be held up by a full pipe.
            let _ = to.write_all(&line).and_then(|()| to.flush());
        }
    };
    let thread = std::thread::Builder::new().name(format!("output of rank {rank}")).spawn(copy);
    thread.with_context(|| {
        format!("the system gives no thread for the output of rank {rank}: set --nproc_per_node lower")
    })
}

fn failure(rank: u32, status: ExitStatus) -> JobFailed {
    match (status.code(), status.signal()) {
        (Some(code), _) => {
            JobFailed { status: code as u8, message: format!("rank {rank} has ended with status {code}") }
        }
        (None, signal) => {
            let signal = signal.unwrap_or(0);
            JobFailed { status: (128 + signal) as u8, message: format!("rank {rank} was ended by signal {signal}") }
        }
    }
}
