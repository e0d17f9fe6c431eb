//! What `train_net` writes and obeys.

use std::process::Command;

use maskrcnn_benchmark::cli;
use maskrcnn_benchmark::config::Config;

use super::support::{arguments, different_tensors, logged, program, root, succeeds, train};

#[path = "../../examples/custom_head.rs"]
mod custom_head;

#[test]
fn a_training_leaves_what_the_original_leaves() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path();
    succeeds(&mut program("train_net", output, &["--seed", "5", "--local_rank=0"], &[]));

    for name in ["log.txt", "config.yml", "labels.json", "model_0000002.pth", "model_0000004.pth", "model_final.pth"] {
        assert!(output.join(name).is_file(), "{name} is missing");
    }
    for name in ["bbox.json", "segm.json", "coco_results.pth", "predictions.pth"] {
        assert!(output.join("inference/shapes_val").join(name).is_file(), "{name} is missing");
    }
    assert_eq!(super::support::last_checkpoint(output), output.join("model_final.pth"));
    let labels = std::fs::read_to_string(output.join("labels.json")).expect("labels.json");
    let labels: serde_json::Value = serde_json::from_str(&labels).expect("labels.json is JSON");
    assert_eq!(labels, serde_json::json!({"1": "circle", "2": "box", "3": "triangle"}));
    let saved = Config::load(Some(&output.join("config.yml")), &[]).expect("config.yml is a configuration");
    assert_eq!(saved.solver.max_iter, 4);
    assert_eq!(saved.output_dir, output.display().to_string());

    let log = std::fs::read_to_string(output.join("log.txt")).expect("log.txt");
    assert_eq!(logged(&log, "iter"), ["4"]);
    // The rate of scheduler position 4, which the next iteration would have: warm-up is over, no step was reached.
    assert_eq!(logged(&log, "lr"), ["0.010000"]);
    for name in ["loss", "loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"] {
        let values = logged(&log, name);
        assert!(values.len() == 1 && values[0].parse::<f64>().is_ok_and(f64::is_finite), "{name}: {values:?}");
    }
    for name in ["time", "data", "max mem"] {
        assert_eq!(logged(&log, name).len(), 1, "{name} is not logged");
    }
    // The tiny configuration says 2 images a batch: no advice about another number.
    assert!(!log.contains("linear scaling rule"), "{log}");
}

#[test]
fn the_seed_decides_everything() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let weights = |name: &str, seed: &str, workers: &str| {
        let output = folder.path().join(name);
        let overrides = ["DATALOADER.NUM_WORKERS", workers, "SOLVER.MAX_ITER", "2"];
        succeeds(&mut program("train_net", &output, &["--seed", seed, "--skip-test"], &overrides));
        output.join("model_final.pth")
    };
    let first = weights("first", "1", "1");
    assert_eq!(different_tensors(&first, &weights("same", "1", "3"), "model"), [""; 0]);
    assert!(!different_tensors(&first, &weights("other", "2", "1"), "model").is_empty());
}

#[test]
fn overrides_win_and_negative_numbers_are_values() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log =
        train(folder.path(), &["SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "1", "MODEL.RPN.STRADDLE_THRESH", "-1"]);
    let saved = Config::load(Some(&folder.path().join("config.yml")), &[]).expect("config.yml is a configuration");
    assert_eq!(saved.model.rpn.straddle_thresh, -1);
    assert!(log.contains("SOLVER.BASE_LR 0.005 SOLVER.STEPS \"(10,)\" SOLVER.MAX_ITER 8"), "{log}");
    assert!(log.contains("FPN_POST_NMS_TOP_N_TRAIN"), "{log}");
}

#[test]
fn periodic_tests_are_logged_and_change_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (plain, tested) = (folder.path().join("plain"), folder.path().join("tested"));
    train(&plain, &["SOLVER.MAX_ITER", "3"]);
    let log = train(&tested, &["SOLVER.MAX_ITER", "3", "SOLVER.TEST_PERIOD", "2"]);
    let line = log.lines().find(|line| line.contains("[Validation]:   eta: "));
    assert!(line.is_some_and(|line| line.contains("iter: 2  loss: ") && line.contains("loss_mask: ")), "{log}");
    assert!(log.contains("Start evaluation on [Validation] dataset(3 images)."), "{log}");
    assert_eq!(different_tensors(&plain.join("model_final.pth"), &tested.join("model_final.pth"), "model"), [""; 0]);
}

#[test]
fn a_predictor_of_ones_own_is_trained_by_its_name() {
    let _generator = super::support::generator();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let overrides = ["MODEL.ROI_BOX_HEAD.PREDICTOR", "CosinePredictor", "SOLVER.MAX_ITER", "2"];
    let arguments = arguments(folder.path(), &["--seed", "5"], &overrides);
    let line = std::iter::once("custom_head".into()).chain(arguments.into_iter().map(Into::into));
    let registries = custom_head::registries().expect("a new name");
    cli::train_net(line.collect::<Vec<_>>(), &registries).expect("a training");
    assert!(folder.path().join("inference/shapes_val/bbox.json").is_file());

    let error = super::support::fails(&mut program("train_net", folder.path(), &[], &overrides), 1);
    assert!(
        error.contains("\"CosinePredictor\" is not known; known are ") && error.contains("FPNPredictor"),
        "{error}"
    );
}

#[test]
fn the_python_names_of_the_programs_run_them() {
    for name in ["train_net", "test_net"] {
        let mut command = Command::new("python3");
        command.arg(root().join(format!("tools/{name}.py"))).arg("--help");
        let bin = std::path::Path::new(env!("CARGO_BIN_EXE_train_net"));
        let target = bin.parent().and_then(std::path::Path::parent).expect("target/<profile>/train_net");
        let help = succeeds(command.env("CARGO_TARGET_DIR", target));
        assert!(help.contains("--config-file") && help.contains(name), "{help}");
    }
}
