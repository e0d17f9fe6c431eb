//! Stopping and going on.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::support::{dataset, different_tensors, entry, fails, last_checkpoint, program, train};

#[test]
fn a_run_that_was_stopped_ends_like_one_that_was_not() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    train(&whole, &[]);
    train(&parts, &["SOLVER.MAX_ITER", "2"]);
    // Without a seed on the command line the run keeps its own.
    let log = super::support::succeeds(&mut program("train_net", &parts, &["--skip-test"], &[]));
    assert!(log.contains("Continuing after iteration 2, exactly as a run that never stopped"), "{log}");
    assert!(log.contains("last_checkpoint names it"), "{log}");

    let (a, b) = (whole.join("model_final.pth"), parts.join("model_final.pth"));
    for key in ["model", "optimizer", "training_state"] {
        assert_eq!(different_tensors(&a, &b, key), [""; 0], "{key}");
    }
    assert_eq!(entry(&b, "iteration").as_int(), Some(4));

    let log = train(&parts, &[]);
    assert!(log.contains("nothing is left to train: 4 of 4 iterations are done"), "{log}");
}

#[test]
fn another_seed_starts_a_new_order() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    train(folder.path(), &["SOLVER.MAX_ITER", "1"]);
    let mut command = program("train_net", folder.path(), &["--seed", "6", "--skip-test"], &["SOLVER.MAX_ITER", "2"]);
    let log = super::support::succeeds(&mut command);
    assert!(log.contains("--seed 6 is not the seed 5 of the run so far"), "{log}");
}

#[test]
fn a_signal_saves_the_last_completed_iteration() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path();
    let overrides = ["SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "100000"];
    let mut command = program("train_net", output, &["--seed", "5", "--skip-test"], &overrides);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("train_net");
    // A first line of the log after 20 iterations.
    let log = || std::fs::read_to_string(output.join("log.txt")).unwrap_or_default();
    let begin = Instant::now();
    while !log().contains("iter: 20 ") {
        assert!(child.try_wait().expect("its status").is_none(), "train_net has ended: {}", log());
        assert!(begin.elapsed() < Duration::from_secs(120), "no line of the log: {}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill");
    assert!(status.success());
    let status = child.wait().expect("its status");
    assert_eq!(status.code(), Some(128 + 15), "{}", log());

    let file = last_checkpoint(output);
    let iteration = entry(&file, "iteration").as_int().expect("an iteration");
    assert!(iteration >= 20, "{iteration}");
    assert_eq!(file, output.join(format!("model_{iteration:07}.pth")));
    assert!(log().contains("SIGTERM: stopped; the next start goes on from"), "{}", log());

    let end = (iteration + 1).to_string();
    let log = train(output, &["SOLVER.MAX_ITER", &end]);
    assert!(log.contains(&format!("Continuing after iteration {iteration}, exactly")), "{log}");
    assert_eq!(entry(&output.join("model_final.pth"), "iteration").as_int(), Some(iteration + 1));
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_its_checkpoints() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path();
    // The third iteration's rate is beyond all bounds.
    let rates = ["SOLVER.STEPS", "(2,)", "SOLVER.GAMMA", "1e30", "SOLVER.MAX_ITER", "9"];
    let mut command = program("train_net", output, &["--seed", "5", "--skip-test"], &rates);
    let error = fails(&mut command, 1);
    assert!(error.contains("iteration 4: the loss is not finite (loss_classifier "), "{error}");
    assert!(error.contains("images: ") && error.contains(".jpg"), "{error}");
    assert_eq!(last_checkpoint(output), output.join("model_0000002.pth"));
    let log = train(output, &["SOLVER.MAX_ITER", "2"]);
    assert!(log.contains("nothing is left to train: 2 of 2 iterations are done"), "{log}");
}

/// The saved schedule wins, as in the original, and what is not as it was is said.
#[test]
fn what_has_changed_since_the_checkpoint_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path();
    train(output, &["SOLVER.MAX_ITER", "2"]);
    let rates = ["SOLVER.BASE_LR", "0.001", "SOLVER.STEPS", "(3,)", "SOLVER.WEIGHT_DECAY", "0.5"];
    let log = train(output, &[&rates[..], &["SOLVER.MAX_ITER", "3"]].concat());
    for (key, now, before) in
        [("BASE_LR", "0.001", "0.01"), ("STEPS", "(3,)", "(5,)"), ("WEIGHT_DECAY", "0.5", "0.0005")]
    {
        let expected = format!("WARNING: SOLVER.{key} is {now} in the configuration and {before} in the checkpoint");
        assert!(log.contains(&expected), "{expected} is missing: {log}");
    }
    assert_eq!(log.matches(" in the configuration and ").count(), 3, "{log}");
    assert!(
        log.contains("model_final.pth START.pth --trim optimizer, and MODEL.WEIGHT START.pth with another"),
        "{log}"
    );
    assert!(log.contains("Continuing after iteration 2, exactly as a run that never stopped"), "{log}");
    assert_eq!(super::support::logged(&log, "lr"), ["0.010000"]);

    let log = train(output, &["INPUT.MIN_SIZE_TRAIN", "(48,)", "SOLVER.MAX_ITER", "4"]);
    assert!(log.contains("INPUT.MIN_SIZE_TRAIN is (48,), in the run so far it was (64,)"), "{log}");
    assert!(log.contains("iteration 3, with the order of the data and the random numbers of the run so far"), "{log}");

    let size = ["INPUT.MIN_SIZE_TRAIN", "(48,)"];
    let log = train(output, &[&size[..], &["SOLVER.IMS_PER_BATCH", "1", "SOLVER.MAX_ITER", "5"]].concat());
    assert!(log.contains("SOLVER.IMS_PER_BATCH is 1, in the run so far it was 2"), "{log}");
    assert!(log.contains("iteration 4, with a new order of the data"), "{log}");

    let val = dataset("val");
    let data = ["SOLVER.IMS_PER_BATCH", "1", "DATASETS.TRAIN", &val, "SOLVER.MAX_ITER", "6"];
    let log = train(output, &[&size[..], &data].concat());
    assert!(log.contains("DATASETS.TRAIN is ") && log.contains("the number of training images is 3, in"), "{log}");
    assert!(log.contains("iteration 5, with a new order of the data"), "{log}");
}

#[test]
fn a_checkpoint_that_is_done_is_no_start_of_another_run() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    train(&folder.path().join("base"), &["SOLVER.MAX_ITER", "2"]);
    let weight = folder.path().join("base/model_final.pth").display().to_string();
    let overrides = ["MODEL.WEIGHT", &weight, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", "5", "SOLVER.MAX_ITER", "2"];
    let error = fails(&mut program("train_net", &folder.path().join("new"), &[], &overrides), 1);
    assert!(error.contains("a checkpoint of iteration 2") && error.contains("SOLVER.MAX_ITER is 2"), "{error}");
    assert!(error.contains(&format!("convert_weights {weight} START.pth --trim optimizer")), "{error}");
}
