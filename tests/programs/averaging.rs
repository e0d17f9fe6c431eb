//! What two processes compute together: the same as one process that runs the batches of both in turn.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use maskrcnn_benchmark::checkpoint::{load_weights, Value};
use maskrcnn_benchmark::cli::Registries;
use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::data::{make_data_loader, Batches, LoaderOptions};
use maskrcnn_benchmark::ffi::{Generator, ProcessGroup, Reducer, Store};
use maskrcnn_benchmark::layers::parameters::Parameters;
use maskrcnn_benchmark::layers::Precision;
use maskrcnn_benchmark::modeling::detector::{build_detection_model, GeneralizedRcnn};
use maskrcnn_benchmark::solver::{make_lr_scheduler, make_optimizer, GradScaler, Sgd, WarmupMultiStepLr};
use tch::{Device, Tensor};

use super::jobs::two;
use super::support::{arguments, different_tensors, entry, generator, program, root, succeeds};

/// What a training has come to.
#[derive(Debug, PartialEq)]
struct Outcome {
    weights: Vec<(String, Tensor)>,
    /// The iterations whose gradients overflowed.
    skipped: Vec<usize>,
    /// With `DTYPE float16`.
    scale: Option<f64>,
}

/// The configuration of [`program`] with these overrides.
fn config(output: &Path, overrides: &[&str]) -> Config {
    let overrides = arguments(output, &[], overrides).split_off(2);
    Config::load(Some(&root().join("tests/programs/tiny.yaml")), &overrides).expect("the tiny configuration")
}

/// The images and random numbers of one of two processes.
struct Source {
    batches: Batches,
    state: Tensor,
}

impl Source {
    /// The loss of the next batch. Draws from libtorch's default generator.
    fn loss(&mut self, model: &GeneralizedRcnn) -> Tensor {
        let batch = self.batches.next().expect("a batch").expect("images");
        let mut generator = Generator::default_cpu().expect("the generator");
        generator.set_state(&self.state).expect("its state");
        let losses = model.losses(&batch.images, &batch.targets).expect("losses");
        self.state = generator.state().expect("its state");
        losses.into_iter().map(|(_, loss)| loss).reduce(|sum, loss| sum + loss).expect("a loss")
    }
}

/// What the process of a rank makes first.
fn member(cfg: &Config, seed: u64, rank: usize) -> (Parameters, GeneralizedRcnn, Source) {
    let registries = Registries::default();
    tch::manual_seed((seed + rank as u64) as i64);
    let parameters = Parameters::new(Device::Cpu);
    let model = build_detection_model(cfg, &parameters.root(), &registries.models).expect("a model");
    let state = Generator::default_cpu().and_then(|generator| generator.state()).expect("a state");
    let options = LoaderOptions {
        is_train: true,
        is_for_period: false,
        device: Device::Cpu,
        rank,
        world_size: 2,
        start_iter: 0,
        state: None,
        seed,
        datasets: &registries.datasets,
        transforms: &registries.transforms,
    };
    let batches = make_data_loader(cfg, &options).expect("a loader").remove(0).iter();
    (parameters, model, Source { batches, state })
}

/// What a process changes its weights with.
struct Solver {
    optimizer: Sgd,
    scheduler: WarmupMultiStepLr,
    scaler: Option<GradScaler>,
    iteration: usize,
    skipped: Vec<usize>,
}

impl Solver {
    fn new(cfg: &Config, parameters: &Parameters, model: &GeneralizedRcnn) -> Self {
        let mut optimizer = make_optimizer(cfg, parameters);
        let scheduler = make_lr_scheduler(cfg, &mut optimizer).expect("a schedule");
        let scaler = (model.precision() == Precision::Float16).then(GradScaler::default);
        Self { optimizer, scheduler, scaler, iteration: 0, skipped: Vec::new() }
    }

    fn scale(&self) -> Option<f64> {
        self.scaler.as_ref().map(GradScaler::scale)
    }

    fn step(&mut self) {
        self.iteration += 1;
        let finite = self.scaler.as_ref().is_none_or(|scaler| scaler.unscale(&self.optimizer).expect("gradients"));
        if let Some(scaler) = &mut self.scaler {
            scaler.update(finite).expect("a scale");
        }
        if finite {
            self.optimizer.step();
        } else {
            self.skipped.push(self.iteration);
        }
        self.scheduler.step(&mut self.optimizer);
    }

    fn outcome(self, parameters: &Parameters) -> Outcome {
        let scale = self.scale();
        let weights = parameters.state().into_iter().map(|entry| (entry.name, entry.tensor.detach().copy())).collect();
        Outcome { weights, skipped: self.skipped, scale }
    }
}

/// One process that runs the batches of both ranks in turn, each with the random numbers that it would have, and
/// averages the gradients. Gives the mean of all losses too.
fn in_turn(cfg: &Config, seed: u64, iterations: usize) -> (Outcome, f64) {
    let (_, _, second) = member(cfg, seed, 1);
    let (parameters, model, first) = member(cfg, seed, 0);
    let mut sources = [first, second];
    let mut solver = Solver::new(cfg, &parameters, &model);
    let mut losses = Vec::new();
    for _ in 0..iterations {
        let mut of_first: Vec<Tensor> = Vec::new();
        for source in &mut sources {
            solver.optimizer.zero_grad();
            let loss = source.loss(&model);
            losses.push(loss.double_value(&[]));
            (loss * solver.scale().unwrap_or(1.0)).backward();
            let mut gradients: Vec<_> = solver.optimizer.groups().iter().map(|group| group.tensor.grad()).collect();
            if of_first.is_empty() {
                of_first = gradients.iter().map(Tensor::copy).collect();
                continue;
            }
            for (gradient, of_first) in gradients.iter_mut().zip(&of_first) {
                let mean = of_first / 2.0 + &*gradient / 2.0;
                gradient.copy_(&mean);
            }
        }
        solver.step();
    }
    (solver.outcome(&parameters), losses.iter().sum::<f64>() / losses.len() as f64)
}

extern "C" fn ignore() {}

/// Two members of a group as threads of this process, which share its random generator: only one computes losses at a
/// time.
fn side_by_side(cfg: &Config, seed: u64, iterations: usize) -> Vec<Outcome> {
    const TIMEOUT: Duration = Duration::from_secs(60);
    let server = Store::host("127.0.0.1", 0, TIMEOUT).expect("a store");
    let draws = Mutex::new(());
    let alone = || draws.lock().unwrap_or_else(PoisonError::into_inner);
    let run = |rank| {
        let store = Store::connect("127.0.0.1", server.port(), TIMEOUT).expect("the store");
        let group = ProcessGroup::gloo(&store, rank, 2, TIMEOUT).expect("a group");
        let (parameters, model, mut source) = {
            let _alone = alone();
            member(cfg, seed, rank)
        };
        let mut weights: Vec<_> = parameters.state().into_iter().map(|entry| entry.tensor).collect();
        group.broadcast(&mut weights).expect("rank 0's weights");
        let mut solver = Solver::new(cfg, &parameters, &model);
        let mut reducer = Reducer::new(&group, &solver.optimizer.parameters(), ignore).expect("a reducer");
        for _ in 0..iterations {
            reducer.prepare_for_forward().expect("the other");
            let loss = {
                let _alone = alone();
                source.loss(&model)
            };
            solver.optimizer.zero_grad();
            reducer.prepare_for_backward().expect("an averaged step before");
            (loss * solver.scale().unwrap_or(1.0)).backward();
            reducer.check_finalized().expect("all gradients");
            solver.step();
        }
        solver.outcome(&parameters)
    };
    std::thread::scope(|scope| {
        let run = &run;
        let threads = [0, 1].map(|rank| scope.spawn(move || run(rank)));
        threads.into_iter().map(|thread| thread.join().expect("a member")).collect()
    })
}

/// That the weights of a training's end differ by no more than `limit`.
fn is_near(output: &Path, expected: &[(String, Tensor)], limit: f64) {
    let trained = Parameters::new(Device::Cpu);
    build_detection_model(&config(output, &[]), &trained.root(), &Registries::default().models).expect("a model");
    load_weights(&output.join("model_final.pth"), &trained).expect("the trained weights");
    assert!(expected.len() > 50, "only {} tensors", expected.len());
    for (name, tensor) in expected {
        let found = trained.get(name).expect("a tensor of that name");
        let difference = (&found - tensor).abs().max().double_value(&[]);
        assert!(difference <= limit, "{name} differs by {difference}");
    }
}

#[test]
fn two_processes_train_like_one_that_averages_and_go_on_exactly() {
    let _generator = generator();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let seed = ["--seed", "5", "--skip-test"];
    let length = ["SOLVER.MAX_ITER", "20", "SOLVER.STEPS", "(15,)", "SOLVER.CHECKPOINT_PERIOD", "10"];
    let text = succeeds(&mut two("train_net", &whole, &seed, &length));
    assert!(text.contains("Using 2 processes") && text.contains("rank 0 of 2 (local rank 0"), "{text}");
    assert!(!text.contains("[rank 1]"), "only rank 0 logs: {text}");

    let (expected, loss) = in_turn(&config(&whole, &length), 5, 20);
    assert_eq!(expected.scale, None);
    // Beside the median, the log has the mean over all iterations, here of the means over the processes.
    let logged = text.split_once("iter: 20  loss: ").and_then(|(_, rest)| rest.split(['(', ')']).nth(1));
    let logged: f64 = logged.and_then(|mean| mean.parse().ok()).expect("the mean loss in the log");
    assert!((logged - loss).abs() <= 1e-4, "{logged} is not {loss}");
    is_near(&whole, &expected.weights, 1e-5);

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

/// In this process all is equal bit by bit. The program may use another number of threads, with which sums have another
/// order: its weights have the limit of float32, which is theirs too.
#[test]
fn two_processes_in_float16_leave_out_the_same_steps() {
    let _generator = generator();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path();
    let overrides = ["DTYPE", "float16", "SOLVER.MAX_ITER", "20", "SOLVER.STEPS", "(15,)"];
    let cfg = config(output, &overrides);
    let (expected, _) = in_turn(&cfg, 5, 20);
    assert!((1..20).contains(&expected.skipped.len()), "{:?}", expected.skipped);

    let members = side_by_side(&cfg, 5, 20);
    assert!(members[0] == members[1], "weights, scale and steps are the same bit by bit");
    assert!(members[0] == expected, "halves of gradients, and sums of two, are the same wherever they are formed");

    let log = succeeds(&mut two("train_net", output, &["--seed", "5", "--skip-test"], &overrides));
    let skipped = log.lines().filter_map(|line| line.split_once("Gradient overflow: iteration ")?.1.split(' ').next());
    assert_eq!(skipped.map(|number| number.parse().expect("a number")).collect::<Vec<usize>>(), expected.skipped);
    let state = entry(&output.join("model_final.pth"), "training_state");
    let scaler = state.as_dict().and_then(|state| state.get("loss_scaler")?.as_dict()?.get("loss_scale"));
    assert_eq!(scaler.and_then(Value::as_float), expected.scale);
    is_near(output, &expected.weights, 1e-5);
}
