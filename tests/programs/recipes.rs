//! The recipes of docs/SCALING.md, with stand-ins for the cluster.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use maskrcnn_benchmark::config::Config;
use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Value};

use super::jobs::{ends, free_port};
use super::support::{arguments, command, entry, last_checkpoint, root};

/// The blocks of the page between lines of three backquotes, of which the first one ends with `language`.
fn blocks(language: &str) -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/SCALING.md")).expect("docs/SCALING.md");
    let mut parts = page.split("```");
    let mut blocks = Vec::new();
    while let (Some(_), Some(block)) = (parts.next(), parts.next()) {
        let (head, body) = block.split_once('\n').expect("a block of lines");
        if head == language {
            blocks.push(body.to_string());
        }
    }
    blocks
}

/// Splits a command of the page into words; quotes hold words together.
fn words(command: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (i, part) in command.replace("\\\n", " ").split('"').enumerate() {
        match i % 2 {
            0 => words.extend(part.split_whitespace().map(String::from)),
            _ => words.push(part.to_string()),
        }
    }
    words
}

/// That `train_net` accepts what comes after its name: the configuration is one of ours, with keys that exist.
fn is_accepted(arguments: &[String], processes: i64) {
    let arguments: Vec<&str> = arguments.iter().flat_map(|word| word.split('=')).collect();
    assert_eq!(arguments[0], "--config-file", "{arguments:?}");
    let config = arguments[1].trim_start_matches("/opt/maskrcnn/");
    let overrides: Vec<String> = arguments[2..].iter().map(|word| word.to_string()).collect();
    let cfg = Config::load(Some(&root().join(config)), &overrides).unwrap_or_else(|e| panic!("{arguments:?}: {e}"));
    assert_eq!(cfg.solver.ims_per_batch % processes, 0, "{arguments:?}");
    assert_eq!(cfg.test.ims_per_batch % processes, 0, "{arguments:?}");
}

/// Writes a program for the shell.
fn script(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a script");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
}

/// What `srun` does for two tasks on one machine: their variables, and the highest status at the end. The tasks get
/// SIGTERM before the end of the job's time, `srun` itself and the job's script do not.
const SRUN: &str = r#"#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=$SLURM_JOB_NODELIST SLURM_NPROCS=2
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 "$@" &
    tasks+=($!)
done
echo "${tasks[@]}" > "$CLUSTER/tasks"
status=0
for task in "${tasks[@]}"; do
    wait "$task" || { code=$?; ((code > status)) && status=$code; }
done
exit $status
"#;

/// The job's script as on the page, but with a small training.
fn slurm_script(cluster: &Path, output: &Path, max_iter: &str) -> PathBuf {
    let page = blocks("").into_iter().find(|block| block.contains("#SBATCH")).expect("the recipe");
    let begin = page.find("srun ").expect("srun");
    let end = page.find("status=$?").expect("what follows srun");
    let command = words(&page[begin..end]);
    let program = command.iter().position(|word| word == "target/release/train_net").expect("train_net");
    is_accepted(&command[program + 1..], 64);
    let overrides = ["SOLVER.MAX_ITER", max_iter, "SOLVER.CHECKPOINT_PERIOD", "100000"];
    let arguments = arguments(output, &["--seed", "5", "--skip-test", "--dist-timeout", "60"], &overrides);
    let quoted: Vec<String> = arguments.iter().map(|word| format!("\"{word}\"")).collect();
    let ours = format!("{} {}", env!("CARGO_BIN_EXE_train_net"), quoted.join(" "));
    let command = format!("{} {ours}\n", command[..program].join(" "));
    let path = cluster.join("job.sh");
    script(&path, &[&page[..begin], &command, &page[end..]].concat());
    path
}

/// A job of two tasks on this machine; its number decides the port.
fn sbatch(cluster: &Path, script: &Path, job: u32) -> Child {
    let mut command = command("bash");
    command.arg(script).current_dir(root()).env("GLOO_SOCKET_IFNAME", "lo").env("CLUSTER", cluster);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}", cluster.display()));
    for (name, value) in [("JOB_NODELIST", "localhost"), ("NNODES", "1"), ("NTASKS", "2"), ("PROCID", "0")] {
        command.env(format!("SLURM_{name}"), value);
    }
    command.env("SLURM_JOB_ID", job.to_string()).env("SLURM_JOB_NUM_NODES", "1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("bash")
}

#[test]
fn the_slurm_recipe_saves_at_sigterm_asks_for_another_start_and_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (cluster, output) = (folder.path().join("cluster"), folder.path().join("output"));
    std::fs::create_dir(&cluster).expect("a folder");
    script(&cluster.join("srun"), SRUN);
    script(&cluster.join("scontrol"), "#!/bin/sh\necho \"$@\" >> \"$CLUSTER/scontrol.log\"\n");
    // The recipe's port is 20000 + the job's number modulo 20000; those of free_port() are among them.
    let job = u32::from(free_port());
    let first = sbatch(&cluster, &slurm_script(&cluster, &output, "100000"), job);
    let log = || std::fs::read_to_string(output.join("log.txt")).unwrap_or_default();
    let begin = Instant::now();
    while !log().contains("iter: 20 ") && begin.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let tasks = std::fs::read_to_string(cluster.join("tasks")).expect("the tasks");
    assert!(Command::new("kill").arg("-TERM").args(tasks.split_whitespace()).status().is_ok_and(|s| s.success()));
    let ended = ends(first);
    assert_eq!(ended.status.code(), Some(143), "{}\n{}", log(), String::from_utf8_lossy(&ended.stderr));
    assert!(
        log().contains("rank 0 of 2 (local rank 0, from SLURM_PROCID and SLURM_STEP_NUM_TASKS), store at localhost:")
    );
    let iteration = entry(&last_checkpoint(&output), "iteration").as_int().expect("an iteration");
    assert!(iteration >= 20, "{iteration}");
    let requeued = || std::fs::read_to_string(cluster.join("scontrol.log")).expect("what scontrol was asked");
    assert_eq!(requeued(), format!("requeue {job}\n"));

    let ended = ends(sbatch(&cluster, &slurm_script(&cluster, &output, &(iteration + 1).to_string()), job));
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(log().contains(&format!("Continuing after iteration {iteration}, exactly")), "{}", log());
    assert_eq!(requeued(), format!("requeue {job}\n"), "nothing is left to do");
}

/// The documents of a YAML text. Plain words are numbers or booleans where they look so, as Kubernetes reads them.
fn documents(text: &str) -> Vec<Value> {
    fn value<'a>(event: Event<'a>, events: &mut impl Iterator<Item = Event<'a>>) -> Value {
        match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) => serde_json::from_str(&text)
                .ok()
                .filter(|value: &Value| value.is_number() || value.is_boolean())
                .unwrap_or_else(|| Value::from(text.as_ref())),
            Event::Scalar(text, ..) => Value::from(text.as_ref()),
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match events.next().expect("more") {
                        Event::SequenceEnd => return Value::from(items),
                        event => items.push(value(event, events)),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut map = Map::new();
                loop {
                    match events.next().expect("more") {
                        Event::MappingEnd => return Value::from(map),
                        event => {
                            let key = value(event, events).as_str().expect("a name").to_string();
                            let event = events.next().expect("a value");
                            assert!(map.insert(key.clone(), value(event, events)).is_none(), "{key} twice");
                        }
                    }
                }
            }
            other => panic!("{other:?} is nothing that a manifest needs"),
        }
    }
    let mut events = Parser::new_from_str(text).map(|event| event.expect("YAML").0);
    let mut documents = Vec::new();
    while let Some(event) = events.next() {
        if let Event::DocumentStart(_) = event {
            let event = events.next().expect("a document");
            documents.push(value(event, &mut events));
        }
    }
    documents
}

/// Two pods on loopback with one worker each instead of eight with eight.
#[test]
fn the_pods_of_the_kubernetes_recipe_train_together() {
    let documents = documents(&blocks("yaml").concat());
    let [service, job] = &documents[..] else { panic!("{documents:?}") };
    let name = service["metadata"]["name"].as_str().expect("a name");
    assert_eq!((&service["kind"], &job["kind"]), (&Value::from("Service"), &Value::from("Job")));
    // A pod of an indexed job is called NAME-INDEX, and found as NAME-INDEX.SUBDOMAIN through the headless service.
    assert_eq!(service["spec"]["clusterIP"], "None");
    assert_eq!(service["spec"]["selector"]["job-name"], job["metadata"]["name"]);
    assert_eq!(job["spec"]["template"]["spec"]["subdomain"], name);
    assert_eq!(job["spec"]["completionMode"], "Indexed");
    let machines = job["spec"]["completions"].as_i64().expect("a number");
    assert_eq!(job["spec"]["parallelism"], machines, "all at once");
    let container = &job["spec"]["template"]["spec"]["containers"][0];
    let gpus = container["resources"]["limits"]["nvidia.com/gpu"].as_i64().expect("a number");
    let indices = |variable: &&Value| variable["name"] == "JOB_COMPLETION_INDEX";
    let index = container["env"].as_array().expect("variables").iter().find(indices).expect("JOB_COMPLETION_INDEX");
    let annotation = "metadata.annotations['batch.kubernetes.io/job-completion-index']";
    assert_eq!(index["valueFrom"]["fieldRef"]["fieldPath"], annotation);
    assert_eq!(container["command"][0], "/opt/maskrcnn/bin/launch");

    let args = container["args"].as_array().expect("arguments");
    let args: Vec<String> = args.iter().map(|arg| arg.as_str().expect("a string").to_string()).collect();
    let program = args.iter().position(|arg| arg == "train_net").expect("train_net");
    is_accepted(&args[program + 1..], machines * gpus);
    let port = free_port();
    let here = |arg: &String, pod: usize| {
        let values = [
            (format!("--nnodes={machines}"), "--nnodes=2".to_string()),
            ("--node_rank=$(JOB_COMPLETION_INDEX)".into(), format!("--node_rank={pod}")),
            (format!("--nproc_per_node={gpus}"), "--nproc_per_node=1".into()),
            (format!("--master_addr={name}-0.{name}"), "--master_addr=127.0.0.1".into()),
            ("--master_port=29500".into(), format!("--master_port={port}")),
        ];
        let value = values.into_iter().find(|(page, _)| page == arg);
        value.unwrap_or_else(|| panic!("{arg} is not expected")).1
    };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pods = [0, 1].map(|pod| {
        let mut command = command(env!("CARGO_BIN_EXE_launch"));
        command.args(args[..program].iter().map(|arg| here(arg, pod))).arg("train_net");
        command.args(["--dist-timeout", "60"]).args(arguments(folder.path(), &["--seed", "5", "--skip-test"], &[]));
        // What an operator may have set for the pods is replaced.
        command.env("RANK", "7").env("WORLD_SIZE", "9").env("GLOO_SOCKET_IFNAME", "lo").env("OMP_NUM_THREADS", "1");
        command.current_dir(root()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("launch")
    });
    for (pod, output) in pods.map(ends).into_iter().enumerate() {
        let (log, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "pod {pod}: {log}\n{error}");
        let is_main = log.contains("[rank 0] ") && log.contains("rank 0 of 2 (local rank 0, from RANK and WORLD_SIZE)");
        assert_eq!(is_main, pod == 0, "{log}");
    }
    super::jobs::is_like_undisturbed(folder.path());
}

/// The command of the page that starts `torchrun` on several machines names options and keys that exist.
#[test]
fn the_recipe_for_torchrun_names_keys_that_exist() {
    let torchrun = blocks("").into_iter().find(|block| block.starts_with("torchrun ")).expect("the recipe");
    let command = words(&torchrun);
    let program = command.iter().position(|word| word == "target/release/train_net").expect("train_net");
    is_accepted(&command[program + 1..], 64);
}
