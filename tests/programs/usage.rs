//! Command lines that are meant for other programs, or in another order.

use std::path::Path;

use super::support::{command, fails, program, succeeds};

#[test]
fn options_of_similar_programs_are_translated() {
    let programs = [
        ("train_net", env!("CARGO_BIN_EXE_train_net")),
        ("test_net", env!("CARGO_BIN_EXE_test_net")),
        ("demo", env!("CARGO_BIN_EXE_demo")),
        ("launch", env!("CARGO_BIN_EXE_launch")),
    ];
    for (name, arguments, tip) in [
        ("train_net", &["--num-gpus", "2"][..], "launch --nproc_per_node"),
        ("test_net", &["--num-gpus=2"], "launch --nproc_per_node"),
        ("train_net", &["--eval-only"], "use test_net"),
        ("train_net", &["--resume"], "goes on from OUTPUT_DIR/last_checkpoint by itself"),
        ("train_net", &["--opts", "MODEL.DEVICE", "cpu"], "leave it out"),
        ("train_net", &["--ckpt", "a.pth"], "give MODEL.WEIGHT FILE"),
        ("test_net", &["--weights", "a.pth"], "use --ckpt FILE"),
        ("demo", &["--ckpt", "a.pth", "a.jpg"], "use --weights FILE"),
        ("demo", &["--input", "a.jpg"], "images are named without an option"),
        ("launch", &["--use_env", "train_net"], "leave it out"),
        ("train_net", &["--skip-tests"], "--skip-test"),
    ] {
        let path = programs.iter().find(|(known, _)| *known == name).map(|(_, path)| path).expect("a program");
        let error = fails(command(path).args(arguments), 2);
        assert!(error.contains(arguments[0].split('=').next().unwrap()) && error.contains(tip), "{error}");
        assert!(!error.contains("as a value"), "{error}");
    }
}

#[test]
fn words_in_the_place_of_keys_are_told_where_they_belong() {
    for (overrides, expected) in [
        (&["x.yaml"][..], "as --config-file x.yaml"),
        (&["base.pth"], "MODEL.WEIGHT base.pth"),
        (&["MODEL.DEVICE=cpu"], "write MODEL.DEVICE cpu, with a space"),
        (&["MODEL.DEVICE", "cpu", "--skip-test"], "--skip-test stands behind OUTPUT_DIR: options come before"),
        (&["MODEL.DEVICE", "cpu", "--seed", "3"], "--seed stands behind OUTPUT_DIR: options come before"),
    ] {
        let error = fails(&mut program("train_net", Path::new("nowhere"), &[], overrides), 1);
        assert!(error.contains(expected), "{error}");
    }
}

/// As in argparse.
#[test]
fn of_an_option_that_is_given_twice_the_last_value_holds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = ["--seed", "1", "--seed", "2", "--skip-test", "--skip-test"];
    let mut command = command(env!("CARGO_BIN_EXE_train_net"));
    command.args(["--config-file", "nowhere.yaml"]);
    command.args(super::support::arguments(folder.path(), &options, &["SOLVER.MAX_ITER", "1"]));
    let log = succeeds(&mut command);
    assert!(log.contains("Seed: 2 (given)"), "{log}");
}
