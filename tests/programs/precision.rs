//! Mixed precision and the other ways to compute.

use maskrcnn_benchmark::checkpoint::Value;
use tempfile::tempdir;

use super::support::{different_tensors, entry, fails, logged, program, succeeds, train};

/// Names of the tensors of a checkpoint's model that are not of this type.
fn other_types(model: &Value, dtype: &str) -> Vec<String> {
    let dict = model.as_dict().expect("a dictionary");
    let tensors = dict.entries.iter().filter_map(|(name, value)| Some((name.as_str()?, value.as_tensor()?)));
    tensors.filter(|(_, tensor)| tensor.dtype().name() != dtype).map(|(name, _)| name.to_string()).collect()
}

#[test]
fn bfloat16_trains_and_tests_with_weights_in_float32() {
    let folder = tempdir().expect("a temporary folder");
    let output = folder.path();
    succeeds(&mut program("train_net", output, &["--seed", "5"], &["DTYPE", "bfloat16", "SOLVER.MAX_ITER", "2"]));
    let log = std::fs::read_to_string(output.join("log.txt")).expect("log.txt");
    assert!(logged(&log, "loss").iter().all(|loss| loss.parse::<f64>().is_ok_and(f64::is_finite)), "{log}");
    let file = output.join("model_final.pth");
    assert_eq!(other_types(&entry(&file, "model"), "float32"), [""; 0]);
    assert!(entry(&file, "training_state").as_dict().is_some_and(|state| state.get("loss_scaler").is_none()));
    assert!(output.join("inference/shapes_val/segm.json").is_file());

    let exact = output.join("exact");
    train(&exact, &["SOLVER.MAX_ITER", "2"]);
    assert!(!different_tensors(&file, &exact.join("model_final.pth"), "model").is_empty());
}

#[test]
fn float16_goes_on_with_the_loss_scale_that_it_had() {
    let folder = tempdir().expect("a temporary folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let half = |iterations| ["DTYPE", "float16", "SOLVER.MAX_ITER", iterations];
    train(&whole, &half("3"));
    train(&parts, &half("2"));
    let log = train(&parts, &half("3"));
    assert!(log.contains("Continuing after iteration 2, exactly as a run that never stopped"), "{log}");
    let (a, b) = (whole.join("model_final.pth"), parts.join("model_final.pth"));
    for key in ["model", "optimizer", "training_state"] {
        assert_eq!(different_tensors(&a, &b, key), [""; 0], "{key}");
    }
    let scaler = |file| {
        let state = entry(file, "training_state");
        let scaler = state.as_dict().and_then(|dict| dict.get("loss_scaler")).and_then(Value::as_dict).cloned();
        let scaler = scaler.expect("a loss scaler's state");
        let number = |key: &str| scaler.get(key).and_then(Value::as_float).expect("a number");
        (number("loss_scale"), number("unskipped"))
    };
    assert_eq!(scaler(&a), scaler(&b));
    assert!(scaler(&a).0 <= 65536.0 && scaler(&a).1 <= 3.0, "{:?}", scaler(&a));
}

#[test]
fn an_unknown_precision_is_refused_before_anything_is_done() {
    let folder = tempdir().expect("a temporary folder");
    let error = fails(&mut program("train_net", folder.path(), &[], &["DTYPE", "float8"]), 1);
    assert!(error.contains("DTYPE: \"float8\" is not known; known are bfloat16, float16, float32"), "{error}");
    assert!(!folder.path().join("log.txt").exists());
}

#[test]
fn switches_of_the_gpu_are_known_on_the_cpu() {
    let folder = tempdir().expect("a temporary folder");
    let options = ["--deterministic", "--tf32", "off", "--seed", "5", "--skip-test"];
    let deterministic = folder.path().join("deterministic");
    succeeds(&mut program("train_net", &deterministic, &options, &["SOLVER.MAX_ITER", "1"]));
    let plain = folder.path().join("plain");
    train(&plain, &["SOLVER.MAX_ITER", "1"]);
    let (a, b) = (deterministic.join("model_final.pth"), plain.join("model_final.pth"));
    assert_eq!(different_tensors(&a, &b, "model"), [""; 0]);

    for (name, choice) in [("train_net", "on"), ("test_net", "on"), ("test_net", "off")] {
        let error = fails(&mut program(name, folder.path(), &["--channels-last", choice], &[]), 1);
        assert!(error.contains("--channels-last: the format is a choice on a GPU only"), "{error}");
    }
    let error = fails(&mut program("train_net", folder.path(), &["--tf32", "maybe"], &[]), 2);
    assert!(error.contains("on, off"), "{error}");
}
