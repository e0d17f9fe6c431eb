//! Where weights come from and go to: downloads by several processes, full disks, fine-tuning.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use super::jobs::{ends, free_port, member, two};
use super::support::{command, fails, last_checkpoint, program, succeeds, train};

/// Serves `content` under every path, slowly; without content it answers 404. Counts the answers.
fn serve(content: Option<Vec<u8>>) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("its address"));
    let answers = Arc::new(AtomicUsize::new(0));
    let counter = answers.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            counter.fetch_add(1, Ordering::SeqCst);
            // A client that hangs up is no failure of the server.
            let _ = answer(stream.expect("a connection"), content.as_deref());
        }
    });
    (address, answers)
}

fn answer(mut stream: TcpStream, content: Option<&[u8]>) -> std::io::Result<()> {
    for line in BufReader::new(stream.try_clone()?).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let Some(content) = content else {
        return write!(stream, "HTTP/1.1 404 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len())?;
    let (first, rest) = content.split_at(content.len() / 2);
    stream.write_all(first)?;
    std::thread::sleep(Duration::from_millis(300));
    stream.write_all(rest)
}

/// The weights of a run of one iteration.
fn weights(folder: &Path) -> Vec<u8> {
    train(folder, &["SOLVER.MAX_ITER", "1"]);
    fs::read(folder.join("model_final.pth")).expect("weights")
}

#[test]
fn processes_that_share_a_cache_fetch_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (address, answers) = serve(Some(weights(&folder.path().join("made"))));
    let url = format!("{address}/weights.pth");
    let overrides = ["MODEL.WEIGHT", url.as_str(), "SOLVER.MAX_ITER", "2"];

    // Two processes of one job.
    let home = folder.path().join("job");
    let mut command = two("train_net", &folder.path().join("a"), &["--skip-test"], &overrides);
    let log = succeeds(command.env("TORCH_HOME", &home).env_remove("TORCH_MODEL_ZOO"));
    assert!(log.contains("Downloading: "), "{log}");
    assert!(log.contains("MODEL.WEIGHT is a checkpoint of iteration 1"), "{log}");
    assert!(home.join("models/weights.pth").is_file());
    assert_eq!(answers.load(Ordering::SeqCst), 1);

    // Two jobs at once: the second waits for the first one's file.
    let home = folder.path().join("jobs");
    let jobs = ["b", "c"].map(|name| {
        let mut command = program("train_net", &folder.path().join(name), &["--skip-test"], &overrides);
        command.env("TORCH_HOME", &home).env_remove("TORCH_MODEL_ZOO").stdout(Stdio::null());
        command.spawn().expect("train_net")
    });
    for job in jobs {
        assert!(ends(job).status.success());
    }
    assert_eq!(answers.load(Ordering::SeqCst), 2);
}

/// A job on two machines of one process each, which have their caches in `folder`: whether they succeed, and stderr.
fn on_two_machines(folder: &Path, output: &str, overrides: &[&str]) -> [(bool, String); 2] {
    let port = free_port();
    let machines = [0, 1].map(|rank| {
        let options = ["--skip-test", "--dist-timeout", "60"];
        let mut command = member("train_net", rank, port, &folder.join(output), &options, overrides);
        command.env("LOCAL_RANK", "0").env_remove("TORCH_MODEL_ZOO");
        command.env("TORCH_HOME", folder.join(format!("machine{rank}")));
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("train_net")
    });
    machines.map(|machine| {
        let output = ends(machine);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

#[test]
fn machines_with_their_own_caches_fetch_once_each() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (address, answers) = serve(Some(weights(&folder.path().join("made"))));
    let url = format!("{address}/weights.pth");
    let overrides = ["MODEL.WEIGHT", &url, "SOLVER.MAX_ITER", "2"];
    for (success, error) in on_two_machines(folder.path(), "output", &overrides) {
        assert!(success, "{error}");
    }
    assert_eq!(answers.load(Ordering::SeqCst), 2);
    for machine in ["machine0", "machine1"] {
        assert!(folder.path().join(machine).join("models/weights.pth").is_file(), "{machine}");
    }

    let (address, answers) = serve(None);
    let url = format!("{address}/absent.pth");
    let [(first, error), (second, other)] = on_two_machines(folder.path(), "new", &["MODEL.WEIGHT", &url]);
    assert!(!first && !second, "{error}\n{other}");
    let place = folder.path().join("machine0/models/absent.pth");
    assert!(error.contains("404") && error.contains(&format!("put it here: {}", place.display())), "{error}");
    assert!(other.contains("[rank 1]") && other.contains("fetching the weights failed"), "{other}");
    assert_eq!(answers.load(Ordering::SeqCst), 1);
}

/// A limit on the size of files is a full disk at a place that the test chooses.
#[test]
fn a_full_disk_keeps_the_checkpoint_before() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path();
    train(output, &["SOLVER.MAX_ITER", "2"]);
    let before = [last_checkpoint(output), output.join("last_checkpoint")].map(|path| {
        let content = fs::read(&path).expect("a file of the run");
        (path, content)
    });
    let kib = before[0].1.len() / 2048;
    let inner = program("train_net", output, &["--skip-test"], &[]);
    let mut limited = command("sh");
    // Ignored, the signal leaves the error EFBIG. Shells count in blocks of 512 or 1,024 bytes.
    limited.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {kib}; exec \"$0\" \"$@\""));
    limited.arg(inner.get_program()).args(inner.get_args());
    let error = fails(&mut limited, 1);
    assert!(error.contains("saving the checkpoint model_0000004 of iteration 4"), "{error}");
    assert!(error.contains(&output.join("model_0000004.pth").display().to_string()), "{error}");
    assert!(error.contains("an earlier file of that name is untouched: File too large"), "{error}");
    assert!(error.lines().count() == 1, "{error}");
    for (path, content) in before {
        assert!(fs::read(&path).expect("the same file") == content, "{} has changed", path.display());
    }
    let names = fs::read_dir(output).expect("the folder").map(|entry| entry.expect("an entry").file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().ends_with(".tmp")).collect();
    assert!(left.is_empty() && !output.join("model_0000004.pth").exists(), "{left:?}");

    let log = train(output, &[]);
    assert!(log.contains("Continuing after iteration 2, exactly as a run that never stopped"), "{log}");
}

#[test]
fn other_classes_are_for_fine_tuning_not_for_going_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("old");
    train(&output, &["SOLVER.MAX_ITER", "1"]);
    let classes = ["MODEL.ROI_BOX_HEAD.NUM_CLASSES", "7", "SOLVER.MAX_ITER", "2"];
    let error = fails(&mut program("train_net", &output, &["--skip-test"], &classes), 1);
    assert!(error.contains("roi_heads.box.predictor.cls_score.weight") && error.contains("MODEL.WEIGHT"), "{error}");

    let weight = output.join("model_final.pth").display().to_string();
    let overrides = [&classes[..], &["MODEL.WEIGHT", &weight]].concat();
    let log = train(&folder.path().join("new"), &overrides);
    assert!(log.contains("skipped, because their shapes differ"), "{log}");
    assert!(log.contains("file [4, 32], model [7, 32]"), "{log}");
    assert!(log.contains("Continuing after iteration 1, with a new order of the data"), "{log}");

    // The same with a file from which these layers are gone, but not what the optimizer knows of them.
    let trimmed = folder.path().join("trimmed.pth").display().to_string();
    let mut command = command(env!("CARGO_BIN_EXE_convert_weights"));
    succeeds(command.args([&weight, &trimmed, "--trim", "predictors"]));
    let overrides = [&classes[..], &["MODEL.WEIGHT", &trimmed]].concat();
    let log = train(&folder.path().join("trimmed"), &overrides);
    assert!(log.contains("keep their values: roi_heads.box.predictor.cls_score.weight"), "{log}");
    assert!(log.contains("Continuing after iteration 1, with a new order of the data"), "{log}");
}
