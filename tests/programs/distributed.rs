//! Several processes: starting them, and what happens when one is missing.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use maskrcnn_benchmark::ffi::Store;

use super::jobs::{ends, free_port, is_like_undisturbed, launch, member, two};
use super::support::{command, fails, program, succeeds};

#[test]
fn validation_during_training_does_not_change_it() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = ["--seed", "5", "--skip-test"];
    let log = succeeds(&mut two("train_net", folder.path(), &options, &["SOLVER.TEST_PERIOD", "2"]));
    let lines: Vec<_> = log.lines().filter(|line| line.contains("[Validation]:")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    for (line, iteration) in lines.iter().zip([2, 4]) {
        assert!(line.contains(&format!("iter: {iteration} ")) && line.contains("loss_mask: "), "{line}");
    }
    is_like_undisturbed(folder.path());
}

#[test]
fn an_indivisible_batch_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for key in ["SOLVER.IMS_PER_BATCH", "TEST.IMS_PER_BATCH"] {
        let output = two("train_net", folder.path(), &[], &[key, "3"]).output().expect("launch");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(&format!("{key} (3) must be divisible by the number of processes (2)")), "{error}");
    }
    assert!(!folder.path().join("last_checkpoint").exists(), "nothing is trained before");
}

#[test]
fn who_does_not_come_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (port, options) = (free_port(), ["--dist-timeout", "1"]);
    let error = fails(&mut member("train_net", 0, port, folder.path(), &options, &[]), 1);
    assert!(error.contains(&format!("rank 0 of 2, store at 127.0.0.1:{port}")), "{error}");
    assert!(error.contains("waited 1s for rank 1, which did not come"), "{error}");
    let error = fails(&mut member("train_net", 1, port, folder.path(), &options, &[]), 1);
    assert!(error.contains(&format!("for the store at 127.0.0.1:{port}, which rank 0 hosts")), "{error}");
    assert!(!error.contains("frame #"), "{error}");
    let _taken = TcpListener::bind(("0.0.0.0", port)).expect("the port is free again");
    let error = fails(&mut member("train_net", 0, port, folder.path(), &options, &[]), 1);
    assert!(error.contains(&format!("cannot host the store at 127.0.0.1:{port}")), "{error}");
}

/// On stderr, long before the time is up.
#[test]
fn who_is_waited_for_at_the_start_is_said() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (port, options) = (free_port(), ["--dist-timeout", "3", "--slow-after", "1"]);
    let error = fails(&mut member("train_net", 0, port, folder.path(), &options, &[]), 1);
    let expected = format!("rank 0 of 2 (from RANK and WORLD_SIZE) has waited 1s at 127.0.0.1:{port} for rank 1. ");
    assert!(error.contains(&expected) && error.contains("env -u WORLD_SIZE"), "{error}");
    let error = fails(&mut member("train_net", 1, port, folder.path(), &options, &[]), 1);
    let expected = format!("has waited 1s for the store at 127.0.0.1:{port}, which rank 0 hosts. ");
    assert!(error.contains(&expected), "{error}");

    let mut task = program("train_net", folder.path(), &options, &[]);
    task.env("GLOO_SOCKET_IFNAME", "lo").env("SLURM_STEP_NODELIST", "localhost").env("MASTER_PORT", port.to_string());
    let error = fails(task.env("SLURM_PROCID", "0").env("SLURM_STEP_NUM_TASKS", "3"), 1);
    assert!(error.contains("(from SLURM_PROCID and SLURM_STEP_NUM_TASKS) has waited 1s at localhost:"), "{error}");
    assert!(error.contains(" for rank 1, 2. All are to be started by one srun"), "{error}");
}

/// What SLURM sets for a job's script is no place in a job of several processes.
#[test]
fn without_srun_a_program_in_a_slurm_script_works_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let overrides = ["SOLVER.MAX_ITER", "1"];
    let mut command = program("train_net", folder.path(), &["--skip-test"], &overrides);
    for (name, value) in [("NTASKS", "4"), ("PROCID", "0"), ("LOCALID", "0"), ("JOB_NODELIST", "n[1-4]")] {
        command.env(format!("SLURM_{name}"), value);
    }
    let log = succeeds(&mut command);
    assert!(
        log.contains("Using 1 processes") && log.contains("WARNING: SLURM has given this job 4 tasks, but"),
        "{log}"
    );
}

/// torchrun's contract, with the store in this process; then one of the two is killed.
#[test]
fn an_agents_store_is_used_and_a_lost_process_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path();
    let agent = Store::host("127.0.0.1", 0, Duration::from_secs(60)).expect("a store");
    let overrides = ["SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "100000"];
    let report = output.join("error.json");
    let [first, mut second] = [0, 1].map(|rank| {
        let mut command =
            member("train_net", rank, agent.port(), output, &["--seed", "5", "--dist-timeout", "60"], &overrides);
        command.env("TORCHELASTIC_USE_AGENT_STORE", "True").env("TORCHELASTIC_RUN_ID", "test");
        command.env("TORCHELASTIC_RESTART_COUNT", "0").env("TORCHELASTIC_ERROR_FILE", &report);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("train_net")
    });
    let log = || std::fs::read_to_string(output.join("log.txt")).unwrap_or_default();
    let begin = Instant::now();
    while !log().contains("iter: 20 ") && begin.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(50));
    }
    second.kill().expect("an end");
    second.wait().expect("its status");
    let ended = ends(first);
    let error = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(log().contains("iter: 20 ") && log().contains("hosted by the launcher"), "{}\n{error}", log());
    assert_eq!(ended.status.code(), Some(1), "{error}");
    assert!(error.contains("error: [rank 0] ") && error.contains("rank 1 is lost"), "{error}");
    let report = std::fs::read_to_string(report).expect("the file for the agent");
    assert!(report.contains("rank 1 is lost"), "{report}");
    assert!(agent.check("maskrcnn_benchmark/test/0/world_size/1").expect("the store"));
}

/// `launch` with two shells.
fn shells(options: &[&str], script: &str) -> Command {
    launch(options, &["sh", "-c", script])
}

#[test]
fn launch_ends_the_others_when_one_dies() {
    let output = shells(&[], "echo here; if [ $RANK = 1 ]; then exit 7; fi; sleep 60; echo undisturbed")
        .output()
        .expect("launch");
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(7), "{error}");
    assert!(error.contains("error: rank 1 has ended with status 7"), "{error}");
    assert!(text.contains("[rank 1] here\n"), "{text}");
    assert!(!text.contains("undisturbed"), "{text}");
    let error = fails(&mut launch(&[], &["/nowhere/program"]), 1);
    assert!(error.contains("cannot start /nowhere/program"), "{error}");
}

/// The system has no room for a thread's stack of 2^50 bytes; the process that is started by then must not stay.
#[test]
fn launch_leaves_nothing_behind_when_it_cannot_start_all() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mark = format!("MRB_TEST_MARK={}", folder.path().display());
    let mut command = shells(&[], "exec sleep 600");
    command.env("RUST_MIN_STACK", (1u64 << 50).to_string()).env("MRB_TEST_MARK", folder.path());
    let error = fails(&mut command, 1);
    assert!(error.contains("no thread for the output of rank 0") && error.contains("--nproc_per_node"), "{error}");
    let is_left = || {
        let processes = std::fs::read_dir("/proc").expect("the processes").flatten();
        let environments = processes.filter_map(|entry| std::fs::read(entry.path().join("environ")).ok());
        environments.into_iter().any(|text| text.windows(mark.len()).any(|part| part == mark.as_bytes()))
    };
    let begin = Instant::now();
    while is_left() && begin.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(!is_left(), "a process is left");
}

#[test]
fn more_processes_than_can_be_counted_are_refused() {
    let options = ["--nnodes", "65536", "--nproc_per_node", "65536"];
    let error = fails(command(env!("CARGO_BIN_EXE_launch")).args(options).arg("true"), 1);
    assert!(error.contains("--nnodes 65536 times --nproc_per_node 65536"), "{error}");
}

#[test]
fn launch_ends_what_the_processes_have_started() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("pid");
    let script = format!(
        "if [ $RANK = 0 ]; then sleep 600 & echo $! > {file}.new; mv {file}.new {file}; wait; \
         else while [ ! -s {file} ]; do sleep 0.05; done; exit 7; fi",
        file = file.display()
    );
    let child = shells(&[], &script).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("launch");
    let output = ends(child);
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let pid = std::fs::read_to_string(&file).expect("the number of the shell's child");
    let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "it still runs: {state}");
}

#[test]
fn launch_starts_all_again_as_often_as_it_may() {
    let script = "echo $RANK of $WORLD_SIZE, attempt $TORCHELASTIC_RESTART_COUNT; [ $TORCHELASTIC_RESTART_COUNT = 1 ]";
    let text = succeeds(&mut shells(&["--max-restarts", "1"], script));
    for line in ["[rank 0] 0 of 2, attempt 1", "[rank 1] 1 of 2, attempt 1"] {
        assert!(text.contains(line), "{text}");
    }
    let output = shells(&["--max-restarts", "2"], "exit 3").output().expect("launch");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(error.contains("restart 2 of 2") && !error.contains("restart 3"), "{error}");
}

#[test]
fn launch_passes_signals_on() {
    let script = "trap 'echo stopped; exit 0' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = shells(&[], script).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("launch");
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("its output")));
    let mut read = |what: &str| lines.by_ref().take(2).map(|line| line.expect("a line")).all(|l| l.ends_with(what));
    assert!(read("ready"));
    let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
    assert!(status.success());
    assert!(read("stopped"));
    assert_eq!(child.wait().expect("its status").code(), Some(128 + 15));
}
