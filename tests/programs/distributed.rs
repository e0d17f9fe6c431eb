//! Several processes: what they compute together, and what happens when one is missing.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use maskrcnn_benchmark::checkpoint::load_weights;
use maskrcnn_benchmark::cli::Registries;
use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::data::{make_data_loader, LoaderOptions};
use maskrcnn_benchmark::ffi::{Generator, Store};
use maskrcnn_benchmark::layers::parameters::Parameters;
use maskrcnn_benchmark::modeling::detector::build_detection_model;
use maskrcnn_benchmark::solver::{make_lr_scheduler, make_optimizer};
use tch::{Device, Tensor};

use super::jobs::{ends, free_port, is_like_undisturbed, launch, member, two};
use super::support::{arguments, different_tensors, fails, program, root, succeeds};

/// The weights after `iterations` of one process that runs the batches of both ranks in turn, each with the random
/// numbers that it would have, and averages the gradients.
fn in_turn(output: &Path, seed: u64, overrides: &[&str], iterations: usize) -> Vec<(String, Tensor)> {
    let overrides = arguments(output, &[], overrides).split_off(2);
    let config = root().join("tests/programs/tiny.yaml");
    let cfg = Config::load(Some(&config), &overrides).expect("the tiny configuration");
    let registries = Registries::default();
    let build = |rank: u64| {
        tch::manual_seed((seed + rank) as i64);
        let parameters = Parameters::new(Device::Cpu);
        let model = build_detection_model(&cfg, &parameters.root(), &registries.models).expect("a model");
        (parameters, model, Generator::default_cpu().and_then(|generator| generator.state()).expect("a state"))
    };
    let (_, _, second) = build(1);
    let (parameters, model, first) = build(0);
    let mut states = [first, second];
    let mut batches = [0, 1].map(|rank| {
        let options = LoaderOptions {
            is_train: true,
            is_for_period: false,
            rank,
            world_size: 2,
            start_iter: 0,
            state: None,
            seed,
            datasets: &registries.datasets,
            transforms: &registries.transforms,
        };
        make_data_loader(&cfg, &options).expect("a loader").remove(0).iter()
    });
    let mut optimizer = make_optimizer(&cfg, &parameters);
    let mut scheduler = make_lr_scheduler(&cfg, &mut optimizer).expect("a schedule");
    for _ in 0..iterations {
        optimizer.zero_grad();
        for (batches, state) in batches.iter_mut().zip(&mut states) {
            let batch = batches.next().expect("a batch").expect("images");
            let mut generator = Generator::default_cpu().expect("the generator");
            generator.set_state(state).expect("its state");
            let losses = model.losses(&batch.images, &batch.targets).expect("losses");
            let loss = losses.into_iter().map(|(_, loss)| loss).reduce(|sum, loss| sum + loss).expect("a loss");
            (loss / 2.0).backward();
            *state = generator.state().expect("its state");
        }
        optimizer.step();
        scheduler.step(&mut optimizer);
    }
    parameters.state().into_iter().map(|entry| (entry.name, entry.tensor.detach().copy())).collect()
}

#[test]
fn two_processes_train_like_one_that_averages_and_go_on_exactly() {
    let _generator = super::support::generator();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let seed = ["--seed", "5", "--skip-test"];
    let length = ["SOLVER.MAX_ITER", "20", "SOLVER.STEPS", "(15,)", "SOLVER.CHECKPOINT_PERIOD", "10"];
    let text = succeeds(&mut two("train_net", &whole, &seed, &length));
    assert!(text.contains("Using 2 processes") && text.contains("rank 0 of 2 (local rank 0"), "{text}");
    assert!(!text.contains("[rank 1]"), "only rank 0 logs: {text}");

    let expected = in_turn(&whole, 5, &length, 20);
    let trained = Parameters::new(Device::Cpu);
    let config = root().join("tests/programs/tiny.yaml");
    let cfg = Config::load(Some(&config), &[]).expect("the tiny configuration");
    build_detection_model(&cfg, &trained.root(), &Registries::default().models).expect("a model");
    load_weights(&whole.join("model_final.pth"), &trained).expect("the trained weights");
    let mut moved = 0;
    for (name, tensor) in &expected {
        let found = trained.get(name).expect("a tensor of that name");
        let difference = (&found - tensor).abs().max().double_value(&[]);
        assert!(difference <= 1e-5, "{name} differs by {difference}");
        moved += 1;
    }
    assert!(moved > 50, "only {moved} tensors");

    // Stopped after ten iterations, the run goes on with the random numbers of both processes.
    succeeds(&mut two("train_net", &parts, &seed, &[&length[2..], &["SOLVER.MAX_ITER", "10"]].concat()));
    let log = succeeds(&mut two("train_net", &parts, &["--skip-test"], &length));
    assert!(log.contains("Continuing after iteration 10, exactly as a run that never stopped"), "{log}");
    let (a, b) = (whole.join("model_final.pth"), parts.join("model_final.pth"));
    for key in ["model", "optimizer", "training_state"] {
        assert_eq!(different_tensors(&a, &b, key), [""; 0], "{key}");
    }
    let log = succeeds(&mut program("train_net", &parts, &["--skip-test"], &["SOLVER.MAX_ITER", "21"]));
    assert!(log.contains("the run so far had 2 processes, now there are 1"), "{log}");

    // Testing: each process sees one image at a time, as one process alone.
    let alone = folder.path().join("alone");
    let weights = b.display().to_string();
    succeeds(&mut program("test_net", &alone, &["--ckpt", &weights], &["TEST.IMS_PER_BATCH", "1"]));
    let text = succeeds(&mut two("test_net", &parts, &["--ckpt", &weights], &[]));
    assert!(text.contains("s / img per device, on 2 devices)"), "{text}");
    for name in ["bbox.json", "segm.json"] {
        let read = |output: &Path| std::fs::read(output.join("inference/shapes_val").join(name)).expect(name);
        assert!(read(&alone) == read(&parts), "{name} differs");
    }
}

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
    let output = two("train_net", folder.path(), &[], &["SOLVER.IMS_PER_BATCH", "3"]).output().expect("launch");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("SOLVER.IMS_PER_BATCH (3) must be divisible by the number of processes (2)"), "{error}");
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
    let begin = Instant::now();
    let output = shells(&[], "echo here; if [ $RANK = 1 ]; then exit 7; fi; exec sleep 60").output().expect("launch");
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(7), "{error}");
    assert!(error.contains("error: rank 1 has ended with status 7"), "{error}");
    assert!(text.contains("[rank 1] here\n"), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    let error = fails(&mut launch(&[], &["/nowhere/program"]), 1);
    assert!(error.contains("cannot start /nowhere/program"), "{error}");
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
