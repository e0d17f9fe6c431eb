//! What a user can get wrong: one clear message and a status that is not 0.

use std::process::{Command, Stdio};

use maskrcnn_benchmark::engine::device::parse_device;

use super::jobs::launch;
use super::support::{command, fails, program};

fn train_net_fails(overrides: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fails(&mut program("train_net", folder.path(), &["--skip-test"], overrides), 1)
}

#[test]
fn wrong_usage_has_status_2() {
    let error = fails(command(env!("CARGO_BIN_EXE_train_net")).arg("--skip-tests"), 2);
    assert!(error.contains("--skip-test"), "{error}");
}

#[test]
fn every_program_tells_its_version() {
    for (name, path) in [
        ("benchmark", env!("CARGO_BIN_EXE_benchmark")),
        ("collect_env", env!("CARGO_BIN_EXE_collect_env")),
        ("convert_weights", env!("CARGO_BIN_EXE_convert_weights")),
        ("demo", env!("CARGO_BIN_EXE_demo")),
        ("launch", env!("CARGO_BIN_EXE_launch")),
        ("make_shapes", env!("CARGO_BIN_EXE_make_shapes")),
        ("test_net", env!("CARGO_BIN_EXE_test_net")),
        ("train_net", env!("CARGO_BIN_EXE_train_net")),
    ] {
        let output = command(path).arg("--version").output().expect("the program");
        assert!(output.status.success(), "{name}");
        let expected = format!("{name} {}\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
}

#[test]
fn a_missing_configuration_file_is_named() {
    let error = fails(command(env!("CARGO_BIN_EXE_train_net")).args(["--config-file", "nowhere.yaml"]), 1);
    assert!(error.contains("nowhere.yaml"), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_the_closest() {
    let error = train_net_fails(&["SOLVER.BASE_RL", "0.1"]);
    assert!(error.contains("SOLVER.BASE_RL") && error.contains("SOLVER.BASE_LR"), "{error}");
}

#[test]
fn a_value_of_the_wrong_type_names_its_key() {
    let error = train_net_fails(&["SOLVER.MAX_ITER", "many"]);
    assert!(error.contains("SOLVER.MAX_ITER") && error.contains("many"), "{error}");
}

#[test]
fn a_key_without_a_value_is_an_error() {
    let error = train_net_fails(&["SOLVER.MAX_ITER"]);
    assert!(error.contains("SOLVER.MAX_ITER") || error.contains("odd"), "{error}");
}

#[test]
fn a_missing_device_says_how_to_do_without() {
    // As the program finds out: libtorch's own answer is no until its library for CUDA has been opened.
    if parse_device("cuda").is_err() {
        let error = train_net_fails(&["MODEL.DEVICE", "cuda"]);
        assert!(error.contains("MODEL.DEVICE cpu"), "{error}");
    }
}

#[test]
fn an_unknown_data_set_is_named() {
    let error = train_net_fails(&["DATASETS.TRAIN", "('coco_2099_train',)"]);
    assert!(error.contains("coco_2099_train"), "{error}");
}

/// Before data are read, so before training: the data set does not exist.
#[test]
fn keys_that_contradict_each_other_are_named_first() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = ["DATASETS.TRAIN", "('coco_2099_train',)", "DATASETS.TEST", "('coco_2099_val',)"];
    for (key, value, fix) in [
        ("MODEL.RPN.ANCHOR_STRIDE", "(4, 8, 16, 32)", "(4, 8, 16, 32, 64)"),
        ("MODEL.ROI_BOX_HEAD.POOLER_SCALES", "(0.0625,)", "(0.25, 0.125, 0.0625, 0.03125)"),
        ("MODEL.ROI_MASK_HEAD.RESOLUTION", "14", "28"),
    ] {
        for name in ["train_net", "test_net"] {
            let overrides = [&data[..], &[key, value]].concat();
            let error = fails(&mut program(name, folder.path(), &[], &overrides), 1);
            assert!(error.contains(&format!("{key} is {value}")) && error.contains(fix), "{error}");
        }
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = command(env!("CARGO_BIN_EXE_collect_env")).stdout(writer).output().expect("collect_env");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// libtorch asks for more than there can be, in a call that panics: where it was is said, and what asks for less.
#[test]
fn a_lack_of_memory_is_no_bug() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let report = folder.path().join("error.json");
    let training = "SOLVER.IMS_PER_BATCH (and rates to fit), INPUT.MIN_SIZE_TRAIN and INPUT.MAX_SIZE_TRAIN";
    let testing = "TEST.IMS_PER_BATCH, INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST";
    for (name, point, place, keys) in [
        ("train_net", "forward:2", "iteration 2, forward", training),
        ("train_net", "testing:4", "iteration 4, testing", testing),
        ("test_net", "testing:0", "testing", testing),
    ] {
        let mut command = program(name, folder.path(), &[], &[]);
        command.env("MRB_FAULT", format!("0:{point}:exhaust")).env("TORCHELASTIC_ERROR_FILE", &report);
        let error = fails(&mut command, 1);
        assert!(error.starts_with("error: DefaultCPUAllocator: can't allocate memory"), "{error}");
        assert!(error.contains(&format!("; this was on the CPU, in {place}. ")) && error.contains(keys), "{error}");
        let report = std::fs::read_to_string(&report).expect("the file for the agent");
        assert!(report.contains(keys) && !report.contains("frame #"), "{report}");
    }
    let error = train_net_fails(&["MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", "1000000000000"]);
    assert!(error.contains("can't allocate memory") && error.contains("a smaller model"), "{error}");
}

/// Whoever reads stderr may be gone before the program: it still ends as it would, and what it leaves is there.
#[test]
fn messages_that_nobody_reads_change_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let report = folder.path().join("error.json");
    let status = |command: &mut Command| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        command.stdout(Stdio::null()).stderr(writer).status().expect("the program").code()
    };
    // The second one is a panic: this is no fault point.
    for (overrides, fault, expected, text) in [
        (&["DATASETS.TRAIN", "('coco_2099_train',)"][..], "", 1, "coco_2099_train"),
        (&[], "nowhere", 101, "internal error: MRB_FAULT"),
        (&[], "0:forward:1:exhaust", 1, "can't allocate memory"),
    ] {
        let mut command = program("train_net", folder.path(), &["--skip-test"], overrides);
        command.env("MRB_FAULT", fault).env("TORCHELASTIC_ERROR_FILE", &report);
        assert_eq!(status(&mut command), Some(expected), "{text}");
        let report = std::fs::read_to_string(&report).expect("the file for the agent");
        assert!(report.contains(text), "{report}");
    }
    let script = "[ $TORCHELASTIC_RESTART_COUNT = 1 ]";
    assert_eq!(status(&mut launch(&["--max-restarts", "1"], &["sh", "-c", script])), Some(0));
    assert_eq!(status(&mut launch(&[], &["sh", "-c", "exit 7"])), Some(7));
}

#[test]
fn more_loader_threads_than_any_machine_has_are_refused() {
    for number in ["-1", "1025", "10000000000"] {
        let error = train_net_fails(&["DATALOADER.NUM_WORKERS", number]);
        assert!(error.contains(&format!("DATALOADER.NUM_WORKERS is {number}, not from 0 to 1024")), "{error}");
    }
}

#[test]
fn a_job_without_ranks_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = fails(program("train_net", folder.path(), &[], &[]).env("WORLD_SIZE", "2"), 1);
    assert!(error.contains("2 processes (from RANK and WORLD_SIZE), but RANK is not set"), "{error}");
}
