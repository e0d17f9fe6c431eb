//! What `benchmark` reports.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::jobs::launch;
use super::support::{arguments, command, fails, shapes, succeeds};

fn benchmark(options: &[&str]) -> Command {
    let mut command = command(env!("CARGO_BIN_EXE_benchmark"));
    command.args(["--config-file", "tests/programs/tiny.yaml", "--runs", "3", "--warmup", "0"]);
    command.args(options);
    command
}

fn report(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).expect("the report")).expect("JSON")
}

#[test]
fn every_phase_is_timed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("report.json");
    let json = file.display().to_string();
    let image = std::fs::read_dir(shapes().join("val")).expect("images").next().expect("an image").expect("an image");
    let image = image.path().display().to_string();
    let text = succeeds(&mut benchmark(&["--image", &image, "--threads", "1", "--json", &json]));
    assert!(text.contains("random weights, 1 threads, median of 3 runs"), "{text}");
    let report = report(&file);
    let phases = ["decode", "resize, normalise", "backbone", "rpn", "box head", "mask head", "paste masks"];
    for phase in phases {
        assert!(report["phases"][phase].as_f64().is_some_and(|seconds| seconds > 0.0), "{phase}: {report}");
        assert!(text.contains(phase), "{text}");
    }
    let forward = report["forward_s"].as_array().expect("a list");
    assert_eq!(forward.len(), 3);
    assert!(forward.iter().all(|seconds| seconds.as_f64().is_some_and(|seconds| seconds > 0.0)), "{report}");
    // Every score passes this configuration's threshold, so the limit of detections is reached.
    assert!(report["detections"].as_u64().is_some_and(|number| number >= 10), "{report}");
    for quantity in ["gflop", "matrix_product_gflop_per_s", "peak_memory_mb"] {
        assert!(report[quantity].as_f64().is_some_and(|value| value > 0.0), "{quantity}: {report}");
    }
}

#[test]
fn noise_has_the_size_that_was_asked_for() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gflop = |size: &str| {
        let file = folder.path().join("report.json");
        let json = file.display().to_string();
        succeeds(&mut benchmark(&[
            "--image-size",
            size,
            "--json",
            &json,
            "MODEL.RPN_ONLY",
            "True",
            "MODEL.MASK_ON",
            "False",
        ]));
        let report = report(&file);
        assert!(report["phases"]["decode"].is_null(), "{report}");
        report["gflop"].as_f64().expect("a number")
    };
    let (small, large) = (gflop("64x64"), gflop("64x128"));
    assert!((large / small - 2.0).abs() < 0.01, "{small} and {large} GFLOP");
}

#[test]
fn training_is_timed_with_two_processes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("report.json");
    let mut command = launch(&[], &["benchmark", "--scaling", "3", "--warmup", "1", "--json"]);
    let seed = ["--seed", "18446744073709551615"];
    command.arg(&file).args(arguments(folder.path(), &seed, &["SOLVER.MAX_ITER", "100"]));
    let text = succeeds(&mut command);
    assert!(text.contains("2 processes, 1 threads and 1 images each, medians of 3 steps"), "{text}");
    let report = report(&file);
    let bytes = report["gradient_bytes"].as_f64().expect("a number");
    // Each of two processes sends as much as it has; the machine's other traffic comes on top.
    assert!(report["sent_bytes"].as_f64().is_some_and(|sent| sent >= bytes), "{report}");
    assert!(report["hidden"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{report}");
    for phase in ["data", "forward", "backward, averaging", "backward alone", "update", "all-reduce alone"] {
        assert!(report["phases"][phase].as_f64().is_some_and(|seconds| seconds > 0.0), "{phase}: {report}");
    }
}

#[test]
fn training_steps_are_timed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("report.json");
    let json = file.display().to_string();
    let size = ["--batch", "2", "--image-size", "128x128", "--seed", "1", "--json", &json];
    let text = succeeds(benchmark(&["--training", "--operators"]).args(size));
    assert!(text.contains("training step"), "{text}");
    let report = report(&file);
    for phase in ["losses", "gradients", "SGD"] {
        assert!(report["phases"][phase].as_f64().is_some_and(|seconds| seconds > 0.0), "{phase}: {report}");
    }
    assert_eq!(report["step_s"].as_array().map(Vec::len), Some(3), "{report}");
    let operators = report["operators"].as_object().expect("counts by name");
    let forward_and_backward = ["aten::max_pool2d_with_indices in aten::max_pool2d", "aten::mm in AddmmBackward0"];
    assert!(forward_and_backward.iter().all(|name| operators.contains_key(*name)), "{report}");
    let all: i64 = operators.values().filter_map(Value::as_i64).sum();
    assert!(text.lines().any(|line| line.starts_with("operators ") && line.ends_with(&format!(" {all}"))), "{text}");
    assert!(report["detections"].is_null() && report["batch"] == 2, "{report}");
}

#[test]
fn wrong_arguments_are_named() {
    let error = fails(&mut benchmark(&["--image-size", "800"]), 2);
    assert!(error.contains("800x1066"), "{error}");
    let error = fails(&mut benchmark(&["--image", "/nowhere/image.jpg"]), 1);
    assert!(error.contains("/nowhere/image.jpg"), "{error}");
    let error = fails(&mut benchmark(&["--scaling", "4294967295"]), 2);
    assert!(error.contains("--scaling") && error.contains("1000000"), "{error}");
    for option in [&["--seed", "1"][..], &["--tf32", "on"], &["--deterministic"]] {
        let error = fails(&mut benchmark(&[&["--loading"], option].concat()), 2);
        assert!(error.contains("'--loading' cannot be used with") && error.contains(option[0]), "{error}");
    }
}

#[test]
fn an_image_that_no_memory_holds_is_an_error() {
    let error = fails(&mut benchmark(&["--image-size", "10000000x10000000"]), 1);
    assert!(error.starts_with("error: DefaultCPUAllocator: can't allocate memory"), "{error}");
    assert!(error.contains("on the CPU. Less memory is needed with smaller values of "), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn loading_holds_one_tensor_beside_the_model() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("report.json");
    let json = file.display().to_string();
    // One layer that is most of the model, another that is a quarter of it.
    let text = succeeds(&mut benchmark(&["--loading", "--json", &json, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", "3000"]));
    assert!(text.contains("loading: ") && text.contains("memory beside the model"), "{text}");
    let report = report(&file);
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key}: {report}"));
    assert_eq!(report["load_s"].as_array().map(Vec::len), Some(3));
    assert!(
        number("file_mb") >= number("model_mb") && number("model_mb") > number("largest_tensor_mb") + 9.0,
        "{report}"
    );
    // What the allocator and the log hold meanwhile is a few megabytes.
    assert!(number("peak_beside_model_mib") < number("largest_tensor_mb") + 6.0, "{report}");
}
