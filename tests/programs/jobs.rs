//! Starting jobs of several processes.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use super::support::{arguments, different_tensors, program, succeeds};

/// `launch` with two processes of a program.
pub fn launch(options: &[&str], command: &[&str]) -> Command {
    let mut launch = super::support::command(env!("CARGO_BIN_EXE_launch"));
    launch.args(["--nproc_per_node", "2"]).args(options).args(command);
    launch
}

/// Two processes of one of our programs; see [`program`].
pub fn two(name: &str, output: &Path, options: &[&str], overrides: &[&str]) -> Command {
    let mut launch = launch(&[], &[name]);
    launch.args(["--dist-timeout", "60"]).args(arguments(output, options, overrides));
    launch
}

/// A port that nobody has, and that no other test is given. The system chooses from higher ones for itself, so that
/// none of its choices can come between.
pub fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        // Tests of another process begin elsewhere.
        let number = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = (FIRST + number % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port between {FIRST} and {} is free", FIRST + COUNT);
}

/// One of two processes of one of our programs, without a launcher; see [`program`].
pub fn member(name: &str, rank: usize, port: u16, output: &Path, options: &[&str], overrides: &[&str]) -> Command {
    let mut command = program(name, output, options, overrides);
    command.env("GLOO_SOCKET_IFNAME", "lo").env("WORLD_SIZE", "2").env("RANK", rank.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command
}

/// The output of a process that must end by itself within a minute.
pub fn ends(child: Child) -> Output {
    let id = child.id().to_string();
    let (ended, wait) = mpsc::channel::<()>();
    let kills = std::thread::spawn(move || {
        let is_late = wait.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout);
        is_late && Command::new("kill").args(["-KILL", &id]).status().is_ok()
    });
    let output = child.wait_with_output().expect("its output");
    drop(ended);
    assert!(!kills.join().expect("the watching thread"), "the process did not end by itself");
    output
}

/// The output of two processes that train from seed 5 without being disturbed.
pub fn undisturbed() -> &'static Path {
    static OUTPUT: OnceLock<TempDir> = OnceLock::new();
    let folder = OUTPUT.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        succeeds(&mut two("train_net", folder.path(), &["--seed", "5", "--skip-test"], &[]));
        folder
    });
    folder.path()
}

/// That a run has come to the same weights, optimizer and random numbers as the one that was not disturbed.
pub fn is_like_undisturbed(output: &Path) {
    for key in ["model", "optimizer", "training_state"] {
        let files = [undisturbed(), output].map(|folder| folder.join("model_final.pth"));
        assert_eq!(different_tensors(&files[0], &files[1], key), [""; 0], "{key}");
    }
}
