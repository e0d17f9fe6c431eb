//! Running the programs on a data set that is made once.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use maskrcnn_benchmark::checkpoint::{read_file, Value};
use tempfile::TempDir;

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Variables that make a program a member of somebody's job, or lead it to somebody's proxy.
const FOREIGN: [&str; 12] = [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "MASTER_",
    "TORCHELASTIC_",
    "SLURM_",
    "OMPI_",
    "GLOO_",
    "NCCL_",
    "MRB_FAULT",
];

/// A program run in the repository with one thread, whatever the shell that runs the tests belongs to.
pub fn command(path: &str) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if FOREIGN.iter().any(|start| text.starts_with(start)) || text.to_lowercase().ends_with("_proxy") {
            command.env_remove(&name);
        }
    }
    command.env("OMP_NUM_THREADS", "1").current_dir(root());
    command
}

/// For tests that draw from libtorch's default generator in this process: one at a time.
pub fn generator() -> MutexGuard<'static, ()> {
    static GENERATOR: Mutex<()> = Mutex::new(());
    GENERATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A data set of 6 training and 3 validation images.
pub fn shapes() -> &'static Path {
    static SHAPES: OnceLock<TempDir> = OnceLock::new();
    let folder = SHAPES.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = command(env!("CARGO_BIN_EXE_make_shapes"));
        command.args(["--train", "6", "--val", "3", "--output"]).arg(folder.path());
        succeeds(&mut command);
        folder
    });
    folder.path()
}

/// `name=coco:…` of a split of [`shapes`], as the value of `DATASETS.TRAIN` or `DATASETS.TEST`.
pub fn dataset(split: &str) -> String {
    let folder = shapes().display();
    format!("('shapes_{split}=coco:{folder}/annotations/instances_{split}.json:{folder}/{split}',)")
}

/// A program with the tiny configuration, its results going to `output`, and these arguments after its own.
pub fn program(program: &str, output: &Path, options: &[&str], overrides: &[&str]) -> Command {
    let path = match program {
        "train_net" => env!("CARGO_BIN_EXE_train_net"),
        "test_net" => env!("CARGO_BIN_EXE_test_net"),
        "demo" => env!("CARGO_BIN_EXE_demo"),
        other => panic!("{other} is no program of these tests"),
    };
    let mut command = command(path);
    command.args(arguments(output, options, overrides));
    command
}

/// The arguments of [`program`].
pub fn arguments(output: &Path, options: &[&str], overrides: &[&str]) -> Vec<String> {
    let config = root().join("tests/programs/tiny.yaml").display().to_string();
    let mut arguments = vec!["--config-file".to_string(), config];
    arguments.extend(options.iter().map(|s| s.to_string()));
    let output = output.display().to_string();
    let own = ["OUTPUT_DIR", &output, "DATASETS.TRAIN", &dataset("train"), "DATASETS.TEST", &dataset("val")];
    arguments.extend(own.iter().chain(overrides).map(|s| s.to_string()));
    arguments
}

/// Trains without testing, from seed 5.
pub fn train(output: &Path, overrides: &[&str]) -> String {
    succeeds(&mut program("train_net", output, &["--seed", "5", "--skip-test"], overrides))
}

/// What a program that must succeed says on stdout.
pub fn succeeds(command: &mut Command) -> String {
    let (output, stdout, stderr) = run(command);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout
}

/// What a program that must fail with this status says on stderr; it must be one message and no trace of a panic.
pub fn fails(command: &mut Command, status: i32) -> String {
    let (output, stdout, stderr) = run(command);
    assert_eq!(output.status.code(), Some(status), "{command:?}:\n{stdout}\n{stderr}");
    assert_eq!(stderr.matches("error: ").count(), 1, "{stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("internal error"), "{stderr}");
    stderr
}

fn run(command: &mut Command) -> (Output, String, String) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    (output, stdout, stderr)
}

/// The file that `last_checkpoint` of a run names.
pub fn last_checkpoint(output: &Path) -> PathBuf {
    let text = std::fs::read_to_string(output.join("last_checkpoint")).expect("last_checkpoint");
    PathBuf::from(text.trim())
}

/// An entry of a checkpoint.
pub fn entry(file: &Path, key: &str) -> Value {
    let value = read_file(file).expect("a checkpoint");
    value.as_dict().and_then(|dict| dict.get(key)).unwrap_or_else(|| panic!("{} has no {key}", file.display())).clone()
}

/// Names of the tensors below `key` in two checkpoints that are not equal bit by bit; both must have the same names.
pub fn different_tensors(a: &Path, b: &Path, key: &str) -> Vec<String> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    collect(&entry(a, key), key, &mut left);
    collect(&entry(b, key), key, &mut right);
    assert!(!left.is_empty(), "{} has no tensors below {key}", a.display());
    assert_eq!(left.len(), right.len());
    left.into_iter().zip(right).filter(|(l, r)| l != r).map(|(l, _)| l.0).collect()
}

fn collect(value: &Value, name: &str, tensors: &mut Vec<(String, Vec<u8>)>) {
    match value {
        Value::Tensor(tensor) => tensors.push((name.into(), tensor.bytes().expect("a tensor's bytes").to_vec())),
        Value::Dict(dict) => {
            for (key, value) in &dict.entries {
                let key = key.as_str().map(String::from).or(key.as_int().map(|i| i.to_string())).unwrap_or_default();
                collect(value, &format!("{name}.{key}"), tensors);
            }
        }
        _ => {}
    }
}

/// The values of one quantity in the lines of the training log.
pub fn logged(log: &str, name: &str) -> Vec<String> {
    let value = |line: &str| {
        let (_, rest) = line.split_once(&format!("  {name}: "))?;
        rest.split_whitespace().next().map(String::from)
    };
    log.lines().filter(|line| line.contains("maskrcnn_benchmark.trainer INFO: eta: ")).filter_map(value).collect()
}
