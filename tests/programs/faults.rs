//! Processes of a job that are killed, late or stopped at any point. The points are those of `src/utils/fault.rs`.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::jobs::{ends, free_port, is_like_undisturbed, launch, member, two, undisturbed};
use super::support::{arguments, entry, last_checkpoint, shapes, succeeds};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// Two members of a job under `MRB_FAULT`, with their output caught.
fn start(fault: &str, output: &Path, options: &[&str], overrides: &[&str]) -> [Child; 2] {
    let port = free_port();
    [0, 1].map(|rank| {
        let mut command = member("train_net", rank, port, output, &[&["--seed", "5"], options].concat(), overrides);
        command.env("MRB_FAULT", fault).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("train_net")
    })
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// One rank is killed at a point; the other must end by itself with an error that names it, and the checkpoint of
/// `iteration` must be whole.
fn survives(victim: usize, point: &str, at: i64, iteration: i64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path();
    let fault = format!("{victim}:{point}:{at}:kill");
    let ended = start(&fault, output, &["--dist-timeout", "60"], &[]).map(ends);
    let (killed, other) = (&ended[victim], &ended[1 - victim]);
    let error = stderr(other);
    assert_eq!(killed.status.signal(), Some(SIGKILL), "{}\n{error}", stderr(killed));
    assert_eq!(other.status.code(), Some(1), "{error}");
    assert!(error.contains(&format!("error: [rank {}] ", 1 - victim)), "{error}");
    assert!(error.contains(&format!("rank {victim} is lost")), "{error}");
    assert_eq!(entry(&last_checkpoint(output), "iteration").as_int(), Some(iteration));
}

/// An error as others: the one says what to do, the other that it was not the reason.
#[test]
fn a_process_without_memory_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ended = start("1:forward:3:exhaust", folder.path(), &["--dist-timeout", "60"], &[]).map(ends);
    let [other, failed] = ended.map(|output| (output.status.code(), stderr(&output)));
    assert_eq!((other.0, failed.0), (Some(1), Some(1)), "{}\n{}", other.1, failed.1);
    assert!(failed.1.contains("error: [rank 1] DefaultCPUAllocator: can't allocate memory"), "{}", failed.1);
    assert!(failed.1.contains("in iteration 3, forward. Less memory is needed"), "{}", failed.1);
    assert!(other.1.contains("error: [rank 0] "), "{}", other.1);
    assert!(other.1.contains("rank 1 has failed: DefaultCPUAllocator: can't allocate memory"), "{}", other.1);
    assert_eq!(other.1.matches("Less memory").count(), 1, "{}", other.1);
    assert_eq!(entry(&last_checkpoint(folder.path()), "iteration").as_int(), Some(2));
}

#[test]
fn a_process_killed_while_it_loads_data_is_named() {
    survives(1, "data loading", 3, 2);
}

#[test]
fn a_process_killed_in_the_forward_pass_is_named() {
    survives(0, "forward", 4, 2);
}

#[test]
fn a_process_killed_in_the_all_reduce_is_named() {
    survives(1, "all-reduce", 3, 2);
}

#[test]
fn a_process_killed_while_it_writes_a_checkpoint_leaves_the_one_before() {
    survives(0, "checkpoint file", 4, 2);
}

#[test]
fn a_process_killed_before_its_detections_are_gathered_is_named() {
    survives(1, "gather", 4, 4);
}

/// The bytes of which it has told the length do not come.
#[test]
fn a_process_killed_in_the_middle_of_a_gather_is_named() {
    survives(1, "gather of known lengths", 4, 4);
}

#[test]
fn rank_0_killed_in_the_middle_of_a_gather_is_named() {
    survives(0, "gather of known lengths", 4, 4);
}

#[test]
fn a_process_killed_while_it_evaluates_is_named() {
    survives(0, "evaluation", 4, 4);
}

/// Three processes, of which the host of the store must not leave before the third knows as well.
#[test]
fn all_the_others_name_the_one_that_is_lost() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let port = free_port();
    let processes = [0, 1, 2].map(|rank| {
        let overrides = ["SOLVER.IMS_PER_BATCH", "3", "TEST.IMS_PER_BATCH", "3"];
        let mut command = member("train_net", rank, port, folder.path(), &["--seed", "5"], &overrides);
        command.env("WORLD_SIZE", "3").env("MRB_FAULT", "1:backward:2:kill");
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("train_net")
    });
    let ended = processes.map(ends);
    for rank in [0, 2] {
        let error = stderr(&ended[rank]);
        assert!(error.contains(&format!("error: [rank {rank}] ")) && error.contains("rank 1 is lost"), "{error}");
    }
}

#[test]
fn a_process_that_fails_tells_the_others_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let port = free_port();
    let processes = [&[] as &[&str], &["DATASETS.TRAIN", "('nowhere',)"]].map(|overrides| {
        let rank = usize::from(!overrides.is_empty());
        let mut command = member("train_net", rank, port, folder.path(), &["--seed", "5"], overrides);
        command.env("TORCHELASTIC_ERROR_FILE", folder.path().join(format!("error{rank}.json")));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("train_net")
    });
    let errors = processes.map(ends).map(|output| stderr(&output));
    assert!(errors[1].contains("error: [rank 1] ") && errors[1].contains("nowhere"), "{}", errors[1]);
    assert!(errors[0].contains("rank 1 has failed: ") && errors[0].contains("nowhere"), "{}", errors[0]);
    let report = std::fs::read(folder.path().join("error1.json")).expect("the file for the agent");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
    assert!(report["message"]["message"].as_str().is_some_and(|text| text.contains("nowhere")), "{report}");
    assert_eq!(report["message"]["extraInfo"]["py_callstack"], report["message"]["message"], "what torchrun shows");
    let time = report["message"]["extraInfo"]["timestamp"].as_str().and_then(|text| text.parse::<u64>().ok());
    assert!(time.is_some_and(|seconds| seconds > 1_600_000_000), "{report}");
}

/// Rank 0, which hosts the store, cannot read its images; what the other one says in the end.
fn rank_0_fails(fault: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let images = folder.path().join("damaged");
    std::fs::create_dir(&images).expect("a folder");
    for image in std::fs::read_dir(shapes().join("train")).expect("the images") {
        std::fs::write(images.join(image.expect("an image").file_name()), "no image").expect("a file");
    }
    let annotations = shapes().join("annotations/instances_train.json");
    let damaged = format!("('damaged=coco:{}:{}',)", annotations.display(), images.display());
    let port = free_port();
    let processes = [&["DATASETS.TRAIN", &damaged] as &[&str], &[]].map(|overrides| {
        let rank = usize::from(overrides.is_empty());
        let mut command = member("train_net", rank, port, folder.path(), &["--seed", "5"], overrides);
        command.env("MRB_FAULT", fault).env("TORCHELASTIC_ERROR_FILE", folder.path().join(format!("error{rank}.json")));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("train_net")
    });
    let [first, second] = processes.map(ends);
    assert_eq!((first.status.code(), second.status.code()), (Some(1), Some(1)), "{}", stderr(&first));
    let (own, other) = (stderr(&first), stderr(&second));
    assert!(own.contains("error: [rank 0] ") && own.contains("damaged/"), "{own}");
    let report = std::fs::read_to_string(folder.path().join("error0.json")).expect("the file for the agent");
    assert!(report.contains("damaged/"), "{report}");
    other
}

#[test]
fn a_failing_host_of_the_store_stays_until_the_others_know_why() {
    let error = rank_0_fails("");
    assert!(error.contains("error: [rank 1] ") && error.contains("rank 0 has failed: "), "{error}");
    assert!(error.contains("damaged/") && !error.contains("is lost"), "{error}");
}

/// It reads the reason while it computes, and needs it long after the store has gone.
#[test]
fn a_process_that_is_busy_when_rank_0_fails_knows_why() {
    let error = rank_0_fails("1:forward:1:sleep=4");
    assert!(error.contains("error: [rank 1] ") && error.contains("rank 0 has failed: "), "{error}");
    assert!(error.contains("damaged/") && !error.contains("is lost"), "{error}");
}

#[test]
fn processes_with_different_checkpoints_do_not_train_together() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (port, options) = (free_port(), ["--seed", "5", "--skip-test"]);
    let outputs = [undisturbed(), folder.path()];
    let processes = [0, 1].map(|rank| {
        let mut command = member("train_net", rank, port, outputs[rank], &options, &["SOLVER.MAX_ITER", "5"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("train_net")
    });
    let errors = processes.map(ends).map(|output| stderr(&output));
    assert!(
        errors[1].contains("rank 0 finds one and rank 1 finds none at ")
            && errors[1].contains("last_checkpoint: OUTPUT_DIR must be one folder that all machines share"),
        "{}",
        errors[1]
    );
    assert!(errors[0].contains("rank 1 has failed: rank 0 finds one and rank 1 finds none"), "{}", errors[0]);
}

#[test]
fn the_watchdog_names_a_late_process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = ["--skip-test", "--slow-after", "1"];
    let ended = start("1:forward:2:sleep=7", folder.path(), &options, &[]).map(ends);
    let log = String::from_utf8_lossy(&ended[0].stdout).into_owned();
    assert!(ended.iter().all(|output| output.status.success()), "{log}\n{}", stderr(&ended[0]));
    // A slow start may be warned about before.
    let warns = |line: &str| line.contains("waited ") && line.ends_with("rank 1 is late (iteration 2, forward)");
    let line = log.lines().find(|line| warns(line)).unwrap_or_else(|| panic!("no warning: {log}"));
    assert!(line.contains("maskrcnn_benchmark.utils.comm") && line.contains(" WARNING: "), "{line}");
}

#[test]
fn the_watchdog_of_the_others_names_rank_0() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = ["--skip-test", "--slow-after", "1"];
    let ended = start("0:backward:3:sleep=7", folder.path(), &options, &[]).map(ends);
    let error = stderr(&ended[1]);
    assert!(ended.iter().all(|output| output.status.success()), "{error}");
    assert!(error.contains("[rank 1] WARNING: waited "), "{error}");
    assert!(error.contains("rank 0 is late (iteration 3, backward)"), "{error}");
    is_like_undisturbed(folder.path());
}

#[test]
fn a_process_that_is_too_late_is_named_by_the_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = ["--skip-test", "--dist-timeout", "15"];
    let [first, mut second] = start("1:forward:2:sleep=60", folder.path(), &options, &[]);
    let error = stderr(&ends(first));
    second.kill().and_then(|()| second.wait()).expect("an end");
    assert!(error.contains("no process is lost, but rank 1 is late (iteration 2, forward)"), "{error}");
}

/// A rank blocks for ever, as in a call that waits for a GPU, while the other one is lost: what it says in the end.
fn blocks(blocked: usize) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let victim = 1 - blocked;
    let fault = format!("{blocked}:update:3:sleep=600,{victim}:update:3:kill");
    let ended = start(&fault, folder.path(), &["--dist-timeout", "20"], &[]).map(ends);
    let error = stderr(&ended[blocked]);
    assert_eq!(ended[blocked].status.code(), Some(1), "{error}");
    assert_eq!(error.matches("error: ").count(), 1, "{error}");
    assert!(error.contains(&format!("error: [rank {blocked}] rank {blocked} of 2: iteration 3, update ")), "{error}");
    assert_eq!(entry(&last_checkpoint(folder.path()), "iteration").as_int(), Some(2));
    error
}

#[test]
fn a_process_that_never_comes_back_is_ended_and_names_the_lost_one() {
    let error = blocks(0);
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    assert!(error.contains(&format!("rank 1 is lost (on {}, last sign: ", machine.trim())), "{error}");
    assert!(error.contains("started again, a training goes on from its last checkpoint"), "{error}");
}

#[test]
fn a_process_that_never_comes_back_is_ended_when_the_host_of_the_store_is_lost() {
    let error = blocks(1);
    assert!(error.contains("does not come to its end; rank 0 is lost, and with it the store"), "{error}");
}

/// Throws in a thread of its own, as c10d's watchdog of NCCL does.
const THROWS: &str = r#"
#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <thread>
#include <unistd.h>
namespace {
const bool started = [] {
  const char* file = std::getenv("THROW_WHEN_THERE_IS");
  if (file != nullptr) {
    std::thread([file] {
      while (access(file, F_OK) != 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
      throw std::runtime_error("the watchdog has found an error");
    }).detach();
  }
  return true;
}();
}
"#;

#[test]
fn an_exception_in_a_thread_of_libtorch_ends_the_process_as_any_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (output, source, library) =
        (folder.path().join("run"), folder.path().join("throws.cpp"), folder.path().join("throws.so"));
    std::fs::write(&source, THROWS).expect("a source");
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let arguments = ["-std=c++17", "-shared", "-fPIC", "-pthread", "-o"];
    let compiled = Command::new(compiler).args(arguments).arg(&library).arg(&source).status().expect("a compiler");
    assert!(compiled.success());
    let port = free_port();
    let overrides = ["SOLVER.MAX_ITER", "100000"];
    let processes = [0, 1].map(|rank| {
        let mut command =
            member("train_net", rank, port, &output, &["--seed", "5", "--dist-timeout", "60"], &overrides);
        if rank == 1 {
            command.env("LD_PRELOAD", &library).env("THROW_WHEN_THERE_IS", output.join("model_0000002.pth"));
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("train_net")
    });
    let [first, second] = processes.map(ends);
    let (error, other) = (stderr(&second), stderr(&first));
    assert_eq!((first.status.code(), second.status.code()), (Some(1), Some(1)), "{error}\n{other}");
    assert_eq!(error.matches("error: ").count(), 1, "{error}");
    assert!(error.contains("error: [rank 1] rank 1 of 2: iteration "), "{error}");
    assert!(
        error.contains("failed; no process is lost") && error.contains("the watchdog has found an error"),
        "{error}"
    );
    assert!(other.contains("rank 1 has failed: ") && other.contains("the watchdog has found an error"), "{other}");
}

/// `launch` starts all again once; the end is that of a run that was not disturbed. Gives the log.
fn goes_on(fault: &str) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = launch(&["--max-restarts", "1"], &["train_net", "--dist-timeout", "60"]);
    command.args(arguments(folder.path(), &["--seed", "5", "--skip-test"], &[])).env("MRB_FAULT", fault);
    let log = succeeds(&mut command);
    assert!(log.contains("exactly as a run that never stopped"), "{log}");
    is_like_undisturbed(folder.path());
    let names = std::fs::read_dir(folder.path()).expect("the folder").map(|entry| entry.expect("an entry").file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().ends_with(".tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
    log
}

#[test]
fn a_restarted_job_ends_as_if_no_process_had_been_killed() {
    let log = goes_on("1:all-reduce:4:kill");
    assert!(!log.contains("Removed "), "{log}");
}

#[test]
fn a_restarted_job_goes_on_from_the_checkpoint_before_a_torn_one() {
    let log = goes_on("0:checkpoint file:4:kill");
    assert!(
        log.contains("model_0000004.pth.unfinished-") && log.contains(": its process ended while it wrote"),
        "{log}"
    );
}

/// Waits until the training in `output` has done 20 iterations; gives its log.
fn has_trained(output: &Path) -> String {
    let log = || std::fs::read_to_string(output.join("log.txt")).unwrap_or_default();
    let begin = Instant::now();
    while !log().contains("iter: 20 ") && begin.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(50));
    }
    log()
}

fn terminate(child: &Child) {
    let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
    assert!(status.success());
}

/// Without a checkpoint unless something happens.
const ENDLESS: [&str; 4] = ["SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "100000"];

/// That a training was stopped after at least 20 iterations, said why, and goes on from there.
fn was_saved(output: &Path, why: &str) {
    let log = std::fs::read_to_string(output.join("log.txt")).expect("the log");
    let iteration = entry(&last_checkpoint(output), "iteration").as_int().expect("an iteration");
    assert!(iteration >= 20 && log.contains(&format!("{why}: stopped; the next start goes on from")), "{log}");
    let end = (iteration + 1).to_string();
    let log = succeeds(&mut two("train_net", output, &["--skip-test"], &["SOLVER.MAX_ITER", &end]));
    assert!(log.contains(&format!("Continuing after iteration {iteration}, exactly")), "{log}");
}

#[test]
fn sigterm_to_the_launcher_saves_and_stops_all() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = two("train_net", folder.path(), &["--seed", "5", "--skip-test"], &ENDLESS);
    let launcher = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("launch");
    let log = has_trained(folder.path());
    terminate(&launcher);
    // The launcher ends after all of its processes, which hold its pipes.
    let ended = ends(launcher);
    let error = stderr(&ended);
    assert_eq!(ended.status.code(), Some(128 + SIGTERM), "{log}\n{error}");
    assert!(error.contains("SIGTERM: all processes have been stopped"), "{error}");
    was_saved(folder.path(), "SIGTERM");
}

/// As where one machine of several is taken away.
#[test]
fn sigterm_to_another_process_saves_and_stops_all() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [first, second] = start("", folder.path(), &[], &ENDLESS);
    let log = has_trained(folder.path());
    terminate(&second);
    let ended = [first, second].map(ends);
    let codes = ended.each_ref().map(|output| output.status.code());
    assert_eq!(codes, [Some(128 + SIGTERM); 2], "{log}\n{}\n{}", stderr(&ended[0]), stderr(&ended[1]));
    let log = std::fs::read_to_string(folder.path().join("log.txt")).expect("the log");
    assert!(log.contains("rank 1 was stopped by SIGTERM (on "), "{log}");
    was_saved(folder.path(), "SIGTERM");
}

#[test]
fn rank_0_saves_when_another_process_is_lost() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let [first, mut second] = start("", folder.path(), &[], &ENDLESS);
    let log = has_trained(folder.path());
    second.kill().and_then(|()| second.wait()).expect("an end");
    let ended = ends(first);
    assert_eq!(ended.status.code(), Some(1), "{log}\n{}", stderr(&ended));
    assert!(stderr(&ended).contains("rank 1 is lost"), "{}", stderr(&ended));
    was_saved(folder.path(), "the job has lost a process");
}
