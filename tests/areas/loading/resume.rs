//! golden/models/loading/resume: a run of the Python original goes on here.

use std::path::Path;

use maskrcnn_benchmark::checkpoint::{write_file, Contents, DetectronCheckpointer, Dict, Loaded, Value};
use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::layers::Parameters;
use maskrcnn_benchmark::modeling::detector::{build_detection_model, GeneralizedRcnn};
use maskrcnn_benchmark::modeling::registry::ModelRegistries;
use maskrcnn_benchmark::solver::{make_lr_scheduler, make_optimizer, Sgd, WarmupMultiStepLr};
use maskrcnn_benchmark::structures::{BoxList, ImageList, Mode, SegmentationMask};
use serde_json::Value as Json;
use tch::{Device, Kind, Tensor};

use crate::support::{area, generator, ints, json, number, numbers, Report, Tensors};

/// The batch that all iterations use.
fn batch(case: &Path) -> (ImageList, Vec<BoxList>) {
    let tensors = Tensors::read(&case.join("expected_training.safetensors"));
    let facts = json(&case.join("expected_training.json"));
    let inference = Tensors::read(&case.join("expected_inference.safetensors"));
    let images = tensors.find("images").unwrap_or_else(|| inference.get("images"));
    let sizes = tensors.find("image_sizes").unwrap_or_else(|| inference.get("image_sizes"));
    let sizes: Vec<(i64, i64)> =
        (0..sizes.size()[0]).map(|i| (sizes.int64_value(&[i, 0]), sizes.int64_value(&[i, 1]))).collect();
    let targets = sizes.iter().enumerate().map(|(i, (height, width))| {
        let boxes = tensors.get(&format!("targets.{i}.boxes")).shallow_clone();
        let mut target = BoxList::new(boxes, (*width, *height), Mode::Xyxy).expect("boxes");
        target.add_field("labels", tensors.get(&format!("targets.{i}.labels")).to_kind(Kind::Int64));
        let polygons = facts[format!("targets.{i}.polygons")].as_array().expect("a list");
        let polygons: Vec<Vec<Vec<f64>>> =
            polygons.iter().map(|parts| parts.as_array().expect("a list").iter().map(numbers).collect()).collect();
        target.add_field("masks", SegmentationMask::from_polygons(polygons, (*width, *height)));
        target
    });
    let targets = targets.collect();
    (ImageList { tensors: images.shallow_clone(), image_sizes: sizes }, targets)
}

/// A model with its solver, as `config.yaml` of the golden folder has them, after loading the last checkpoint there.
struct Run {
    parameters: Parameters,
    model: GeneralizedRcnn,
    optimizer: Sgd,
    scheduler: WarmupMultiStepLr,
}

impl Run {
    fn resumed(cfg: &Config, folder: &Path) -> (Self, Loaded) {
        let parameters = Parameters::new(Device::Cpu);
        let model = build_detection_model(cfg, &parameters.root(), &ModelRegistries::default()).expect("a model");
        let mut optimizer = make_optimizer(cfg, &parameters);
        let mut scheduler = make_lr_scheduler(cfg, &mut optimizer).expect("a schedule");
        // last_checkpoint wins over a weight that does not even exist.
        let checkpointer = DetectronCheckpointer::new(cfg, &parameters, Some(folder));
        let loaded = checkpointer.load(Some("/no/such/file.pth"), true).expect("a checkpoint");
        optimizer.load_state_dict(loaded.optimizer.as_ref().expect("the optimizer's state")).expect("the state fits");
        scheduler.load_state_dict(loaded.scheduler.as_ref().expect("the scheduler's state")).expect("the state fits");
        (Self { parameters, model, optimizer, scheduler }, loaded)
    }

    /// One iteration, compared with a golden one.
    fn step(&mut self, (images, targets): &(ImageList, Vec<BoxList>), golden: &Json, report: &mut Report) {
        let case = format!("iteration {}", golden["iteration"]);
        tch::manual_seed(golden["seed"].as_i64().expect("a seed"));
        report.close_numbers(&case, "rate", &[self.optimizer.lr()], &[number(&golden["lr_weight"])], 0.0, 1e-12);
        let losses = self.model.losses(images, targets).expect("losses");
        let wanted = golden["losses"].as_object().expect("an object");
        report.equal(&case, "number of losses", losses.len(), wanted.len());
        for (name, loss) in &losses {
            report.close_numbers(&case, name, &[loss.double_value(&[])], &[number(&wanted[name])], 0.0, 1e-3);
        }
        let terms: Vec<&Tensor> = losses.iter().map(|(_, loss)| loss).collect();
        self.optimizer.zero_grad();
        Tensor::stack(&terms, 0).sum(Kind::Float).backward();
        self.optimizer.step();
        self.scheduler.step(&mut self.optimizer);
    }

    fn compare_norms(&self, golden: &Json, report: &mut Report) {
        for entry in self.parameters.state() {
            let got = entry.tensor.detach().to_kind(Kind::Double).norm().double_value(&[]);
            report.close_numbers("end", "norm", &[got], &[number(&golden["final_norms"][&entry.name])], 1e-6, 1e-5);
        }
    }
}

#[test]
fn a_python_run_goes_on() {
    let Some(area) = area("models") else { return };
    let folder = area.join("loading/resume");
    let golden = json(&folder.join("expected.json"));
    let mut report = Report::new("loading/resume");
    let cfg = Config::load(Some(&folder.join("config.yaml")), &[]).expect("a valid configuration");
    let _lock = generator();
    let (mut run, loaded) = Run::resumed(&cfg, &folder);
    report.equal("load", "iteration", loaded.iteration, golden["extra_after_load"]["iteration"].as_i64());
    report.equal("load", "training state", loaded.training_state.is_none(), true);
    let state = run.scheduler.state_dict();
    let state = state.as_dict().expect("a dictionary");
    let floats = |name: &str| -> Vec<f64> {
        let list = state.get(name).expect("a field").as_list().expect("a list");
        list.iter().map(|v| v.as_float().expect("a number")).collect()
    };
    report.equal("load", "base rates", floats("base_lrs"), numbers(&golden["scheduler_state"]["base_lrs"]));
    let milestones: Vec<i64> = floats("milestones").iter().map(|m| *m as i64).collect();
    report.equal("load", "milestones", milestones, ints(&golden["scheduler_state"]["milestones"]));

    let batch = batch(&area.join(golden["images_from"].as_str().expect("a name")));
    for iteration in golden["resumed"].as_array().expect("a list") {
        run.step(&batch, iteration, &mut report);
    }
    run.compare_norms(&golden, &mut report);
    report.finish();
}

/// Two iterations in Python (the golden checkpoint), one here, one in Python: the losses of a run in Python alone. What
/// Python saves at the end is read here again.
#[test]
fn the_python_original_goes_on_from_here() {
    let Some(area) = area("models") else { return };
    let (Some(python), Some(original)) = (std::env::var_os("MRB_PYTHON"), std::env::var_os("MRB_ORIGINAL")) else {
        println!("SKIPPED: MRB_PYTHON and MRB_ORIGINAL name no Python with torch and no checkout of the original");
        return;
    };
    let folder = area.join("loading/resume");
    let golden = json(&folder.join("expected.json"));
    let mut report = Report::new("loading/resume in Python");
    let cfg = Config::load(Some(&folder.join("config.yaml")), &[]).expect("a valid configuration");
    let _lock = generator();
    let case = area.join(golden["images_from"].as_str().expect("a name"));
    let batch_here = batch(&case);
    let (mut run, _) = Run::resumed(&cfg, &folder);
    run.step(&batch_here, &golden["uninterrupted"][0], &mut report);

    let temporary = tempfile::tempdir().expect("a temporary folder");
    let output = temporary.path();
    let mut training_state = Dict::new();
    training_state.insert("what the original does not know", &Tensor::ones([3], (Kind::Float, Device::Cpu)));
    let contents = Contents {
        optimizer: Some(run.optimizer.state_dict()),
        scheduler: Some(run.scheduler.state_dict()),
        iteration: Some(3),
        training_state: Some(training_state),
    };
    let checkpointer = DetectronCheckpointer::new(&cfg, &run.parameters, Some(output));
    checkpointer.save("model_0000003", &contents).expect("a checkpoint");
    write_file(&output.join("batch.pth"), &as_value(&batch_here, &case)).expect("the batch");

    let mut command = std::process::Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/resume_original.py")).arg(original);
    command.arg(folder.join("config.yaml")).arg(output).arg(output.join("batch.pth"));
    let done = command.arg(golden["uninterrupted"][1]["seed"].to_string()).output().expect("Python runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said: Json = serde_json::from_slice(&done.stdout).expect("a report");
    report.equal("load", "iteration", said["iteration"].as_i64(), Some(3));
    let (step, wanted) = (&said["steps"][0], &golden["uninterrupted"][1]);
    report.close_numbers("python", "rate", &[number(&step["rate"])], &[number(&wanted["lr_weight"])], 0.0, 1e-12);
    for (name, loss) in wanted["losses"].as_object().expect("an object") {
        report.close_numbers("python", name, &[number(&step["losses"][name])], &[number(loss)], 0.0, 1e-3);
    }

    let (run, loaded) = Run::resumed(&cfg, output);
    report.equal("back", "iteration", loaded.iteration, Some(4));
    // It carried our state along, which is of iteration 3.
    report.equal("back", "training state", loaded.training_state.is_none(), true);
    run.compare_norms(&golden, &mut report);
    report.finish();
    println!("the Python original goes on from a checkpoint written here, and back");
}

/// A batch for Python.
fn as_value((images, targets): &(ImageList, Vec<BoxList>), case: &Path) -> Value {
    let facts = json(&case.join("expected_training.json"));
    let sizes = images.image_sizes.iter().map(|(h, w)| Value::List(vec![Value::Int(*h), Value::Int(*w)]));
    let target = |(i, target): (usize, &BoxList)| {
        let polygons = facts[format!("targets.{i}.polygons")].as_array().expect("a list");
        let flat = |part: &Json| Value::List(numbers(part).into_iter().map(Value::Float).collect());
        let parts = |parts: &Json| Value::List(parts.as_array().expect("a list").iter().map(flat).collect());
        let mut dict = Dict::new();
        dict.insert("boxes", target.bbox());
        dict.insert("labels", target.tensor_field("labels").expect("labels"));
        dict.insert("polygons", Value::List(polygons.iter().map(parts).collect()));
        Value::Dict(dict)
    };
    let mut dict = Dict::new();
    dict.insert("images", &images.tensors);
    dict.insert("image_sizes", Value::List(sizes.collect()));
    dict.insert("targets", Value::List(targets.iter().enumerate().map(target).collect()));
    Value::Dict(dict)
}
