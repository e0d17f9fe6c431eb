//! golden/models/loading/resume: a run of the Python original goes on here.

use std::path::Path;

use maskrcnn_benchmark::checkpoint::DetectronCheckpointer;
use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::layers::Parameters;
use maskrcnn_benchmark::modeling::detector::build_detection_model;
use maskrcnn_benchmark::modeling::registry::ModelRegistries;
use maskrcnn_benchmark::solver::{make_lr_scheduler, make_optimizer};
use maskrcnn_benchmark::structures::{BoxList, ImageList, Mode, SegmentationMask};
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

#[test]
fn a_python_run_goes_on() {
    let Some(area) = area("models") else { return };
    let folder = area.join("loading/resume");
    let golden = json(&folder.join("expected.json"));
    let mut report = Report::new("loading/resume");
    let cfg = Config::load(Some(&folder.join("config.yaml")), &[]).expect("a valid configuration");
    let _lock = generator();
    let parameters = Parameters::new(Device::Cpu);
    let model = build_detection_model(&cfg, &parameters.root(), &ModelRegistries::default()).expect("a model");
    let mut optimizer = make_optimizer(&cfg, &parameters);
    let mut scheduler = make_lr_scheduler(&cfg, &mut optimizer).expect("a schedule");

    // last_checkpoint wins over a weight that does not even exist.
    let checkpointer = DetectronCheckpointer::new(&cfg, &parameters, Some(&folder));
    let loaded = checkpointer.load(Some("/no/such/file.pth"), true).expect("a checkpoint");
    report.equal("load", "iteration", loaded.iteration, golden["extra_after_load"]["iteration"].as_i64());
    report.equal("load", "training state", loaded.training_state.is_none(), true);
    optimizer.load_state_dict(&loaded.optimizer.expect("the optimizer's state")).expect("the state fits");
    scheduler.load_state_dict(&loaded.scheduler.expect("the scheduler's state")).expect("the state fits");
    let state = scheduler.state_dict();
    let state = state.as_dict().expect("a dictionary");
    let floats = |name: &str| -> Vec<f64> {
        let list = state.get(name).expect("a field").as_list().expect("a list");
        list.iter().map(|v| v.as_float().expect("a number")).collect()
    };
    report.equal("load", "base rates", floats("base_lrs"), numbers(&golden["scheduler_state"]["base_lrs"]));
    let milestones: Vec<i64> = floats("milestones").iter().map(|m| *m as i64).collect();
    report.equal("load", "milestones", milestones, ints(&golden["scheduler_state"]["milestones"]));

    let images_from = golden["images_from"].as_str().expect("a name");
    let (images, targets) = batch(&area.join(images_from));
    for iteration in golden["resumed"].as_array().expect("a list") {
        let case = format!("iteration {}", iteration["iteration"]);
        tch::manual_seed(iteration["seed"].as_i64().expect("a seed"));
        report.close_numbers(&case, "rate", &[optimizer.lr()], &[number(&iteration["lr_weight"])], 0.0, 1e-12);
        let losses = model.losses(&images, &targets).expect("losses");
        let wanted = iteration["losses"].as_object().expect("an object");
        report.equal(&case, "number of losses", losses.len(), wanted.len());
        for (name, loss) in &losses {
            report.close_numbers(&case, name, &[loss.double_value(&[])], &[number(&wanted[name])], 0.0, 1e-3);
        }
        let terms: Vec<&Tensor> = losses.iter().map(|(_, loss)| loss).collect();
        optimizer.zero_grad();
        Tensor::stack(&terms, 0).sum(Kind::Float).backward();
        optimizer.step();
        scheduler.step(&mut optimizer);
    }
    for entry in parameters.state() {
        let got = entry.tensor.detach().to_kind(Kind::Double).norm().double_value(&[]);
        report.close_numbers("end", "norm", &[got], &[number(&golden["final_norms"][&entry.name])], 1e-6, 1e-5);
    }
    report.finish();
}
