//! Prints `docs/MODEL_ZOO.md`: for each configuration file (those given, or all below `configs/`) the parameters, the
//! work for one image of 800×1333, the time that this takes here, and the AP that the original reports.
//!
//! ```text
//! cargo run --release --example model_zoo > docs/MODEL_ZOO.md
//! cargo run --release --example model_zoo FILE …
//! ```
//!
//! What is being measured is said on stderr. One model is in memory at a time.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::ffi;
use maskrcnn_benchmark::layers::parameters::Role;
use maskrcnn_benchmark::layers::{FlopCounter, Parameters};
use maskrcnn_benchmark::modeling::detector::{build_detection_model, GeneralizedRcnn};
use maskrcnn_benchmark::modeling::registry::ModelRegistries;
use maskrcnn_benchmark::modeling::rpn::ProposalNetwork;
use maskrcnn_benchmark::structures::{to_image_list, BoxList, Mode};
use maskrcnn_benchmark::utils::collect_env::collect_env_info;
use tch::{Device, Kind, Tensor};

/// (height, width) of the image.
const IMAGE: (i64, i64) = (800, 1333);
/// Seen first, so that the libraries are loaded and their threads run.
const WARM_UP: (i64, i64) = (128, 192);

const ZOO: &str = "upstream MODEL_ZOO.md";
const DCN: &str = "upstream configs/dcn/README.md";
const GN: &str = "upstream configs/gn_baselines/README.md";
const FORK: &str = "Res2Net fork README.md";

/// Proposals that the box head sees together.
const PROPOSALS_AT_ONCE: usize = 250;

/// What stands above the table.
const EXPLANATION: &str = "\
Every file of `configs/` (its path without `.yaml`), except the two of the quickstart.

- **Parameters**: millions of values in weights and biases, shared ones once; batch norms with fixed statistics have none.
- **GFLOP**: convolutions and linear layers for one image of 800×1333 (padded as the configuration says), two operations per
  multiply-add, with as many proposals and detections as the configuration allows; one view for test-time augmentation.
- **s/image here**: one run of that work in float32 on the CPU, after a small one to warm up, on random weights, with RoIAlign,
  but without the selection of proposals and detections (`target/release/benchmark` times everything). Files that differ
  only in weights, data or schedule describe the same model, which is measured once.
- **AP**: what the originals *report* for this file after training, in per cent on COCO minival (val2017), with the place
  where they do (the last line of the table in upstream's `configs/dcn/README.md` repeats the name of the one before; it is
  taken for the modulated model here). Nothing was trained for this table. A file without AP has no report.
";

/// AP on COCO as the originals report it: file, box, mask, keypoints, source. An empty text is no report.
const REPORTED: [(&str, &str, &str, &str, &str); 25] = [
    ("e2e_faster_rcnn_R_50_C4_1x", "34.8", "", "", ZOO),
    ("e2e_faster_rcnn_R_50_FPN_1x", "36.8", "", "", ZOO),
    ("e2e_faster_rcnn_R_101_FPN_1x", "39.1", "", "", ZOO),
    ("e2e_faster_rcnn_X_101_32x8d_FPN_1x", "41.2", "", "", ZOO),
    ("e2e_mask_rcnn_R_50_C4_1x", "35.6", "31.5", "", ZOO),
    ("e2e_mask_rcnn_R_50_FPN_1x", "37.8", "34.2", "", ZOO),
    ("e2e_mask_rcnn_R_101_FPN_1x", "40.1", "36.1", "", ZOO),
    ("e2e_mask_rcnn_X_101_32x8d_FPN_1x", "42.2", "37.8", "", ZOO),
    ("e2e_keypoint_rcnn_R_50_FPN_1x", "53.7", "", "64.3", ZOO),
    ("e2e_faster_rcnn_fbnet_chamv1a_600", "33.5", "", "", ZOO),
    ("e2e_faster_rcnn_fbnet_600", "28.2", "", "", ZOO),
    ("e2e_mask_rcnn_fbnet_xirb16d_dsmask_600", "30.7", "26.9", "", ZOO),
    ("e2e_mask_rcnn_fbnet_600", "29.0", "26.1", "", ZOO),
    ("dcn/e2e_faster_rcnn_dconv_R_50_FPN_1x", "39.8", "", "", DCN),
    ("dcn/e2e_faster_rcnn_mdconv_R_50_FPN_1x", "40.0", "", "", DCN),
    ("dcn/e2e_mask_rcnn_dconv_R_50_FPN_1x", "40.8", "36.8", "", DCN),
    ("dcn/e2e_mask_rcnn_mdconv_R_50_FPN_1x", "40.7", "36.7", "", DCN),
    ("gn_baselines/scratch_e2e_mask_rcnn_R_50_FPN_3x_gn", "38.9", "35.1", "", GN),
    ("pytorch_mask_rcnn_R_50_FPN_2x", "37.5", "33.9", "", FORK),
    ("pytorch_mask_rcnn_R2_50_s2_FPN_2x", "38.0", "34.2", "", FORK),
    ("pytorch_mask_rcnn_R2_50_s4_FPN_2x", "39.6", "35.6", "", FORK),
    ("pytorch_mask_rcnn_R2_50_s6_FPN_2x", "39.9", "35.7", "", FORK),
    ("pytorch_mask_rcnn_R2_50_s8_FPN_2x", "39.1", "35.3", "", FORK),
    ("pytorch_mask_rcnn_R_101_FPN_2x", "39.6", "35.5", "", FORK),
    ("pytorch_mask_rcnn_R2_101_s4_FPN_2x", "41.8", "37.1", "", FORK),
];

/// What one model costs.
#[derive(Clone, Copy)]
struct Cost {
    parameters: usize,
    flop: u64,
    seconds: f64,
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").canonicalize()?;
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let given_names = arguments.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" ");
    let given = arguments.iter().map(|file| file.canonicalize().with_context(|| file.display().to_string()));
    let given = given.collect::<Result<Vec<PathBuf>>>()?;
    let files = if given.is_empty() { yaml_files(&root)? } else { given };

    // As the programs do.
    ffi::keep_freed_memory();
    let of_files = if given_names.is_empty() { " > docs/MODEL_ZOO.md".into() } else { format!(" {given_names}") };
    println!("# Model zoo\n\nPrinted by `cargo run --release --example model_zoo{of_files}`.\n\n{EXPLANATION}");
    println!("Machine:\n\n```\n{}\n```\n", collect_env_info());
    println!(
        "| configuration | parameters (M) | GFLOP | s/image here | box AP | mask AP | keypoint AP | AP reported in |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---|");
    let mut measured: HashMap<String, Cost> = HashMap::new();
    for file in files {
        let cfg = Config::load(Some(&file), &[])?;
        // Files that differ only in weights or schedules describe the same model.
        let mut model = cfg.model.clone();
        model.weight.clear();
        let key = format!("{model:?} {}", cfg.dataloader.size_divisibility);
        let cost = match measured.get(&key) {
            Some(cost) => *cost,
            None => {
                eprintln!("measuring {}", file.display());
                measure(&cfg).with_context(|| file.display().to_string())?
            }
        };
        measured.insert(key, cost);

        let name = file.strip_prefix(&root).unwrap_or(&file).with_extension("");
        let (_, r#box, mask, keypoint, source) =
            REPORTED.iter().find(|(reported, ..)| name == Path::new(reported)).copied().unwrap_or_default();
        println!(
            "| {} | {:.1} | {:.0} | {:.2} | {box} | {mask} | {keypoint} | {source} |",
            name.display(),
            cost.parameters as f64 / 1e6,
            cost.flop as f64 / 1e9,
            cost.seconds,
            r#box = r#box,
        );
    }
    Ok(())
}

/// Every `.yaml` file below `folder`, sorted; the quickstart is no model of the originals.
fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("quickstart") {
            files.extend(yaml_files(&path)?);
        } else if path.extension().is_some_and(|e| e == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn measure(cfg: &Config) -> Result<Cost> {
    let parameters = Parameters::new(Device::Cpu);
    let model = build_detection_model(cfg, &parameters.root(), &ModelRegistries::default())?;
    let count = parameters
        .state()
        .iter()
        .filter(|e| e.role == Role::Parameter && e.alias_of.is_none())
        .map(|e| e.tensor.numel())
        .sum();
    let _no_grad = tch::no_grad_guard();
    run(&model, cfg, WARM_UP)?;
    let counter = FlopCounter::start();
    let begin = Instant::now();
    run(&model, cfg, IMAGE)?;
    Ok(Cost { parameters: count, flop: counter.flop(), seconds: begin.elapsed().as_secs_f64() })
}

/// One image through every part of the model, with the largest numbers of proposals and detections.
fn run(model: &GeneralizedRcnn, cfg: &Config, (height, width): (i64, i64)) -> Result<()> {
    let image = Tensor::zeros([3, height, width], (Kind::Float, Device::Cpu));
    let images = to_image_list(&[image], cfg.dataloader.size_divisibility);
    let features = model.features(&images);
    match model.rpn() {
        ProposalNetwork::Rpn(rpn) => drop(rpn.head().forward(&features, false)),
        ProposalNetwork::RetinaNet(retinanet) => drop(retinanet.head().forward(&features, false)),
    }
    let Some(heads) = model.roi_heads() else { return Ok(()) };
    let rpn = &cfg.model.rpn;
    let proposals = if rpn.use_fpn { rpn.fpn_post_nms_top_n_test } else { rpn.post_nms_top_n_test };
    // In parts: the regions of a C4 model, all at once, would take 3 GB.
    for start in (0..proposals).step_by(PROPOSALS_AT_ONCE) {
        let number = (proposals - start).min(PROPOSALS_AT_ONCE as i64);
        let _ = heads.r#box.predict(&features, &[boxes(number, (height, width))?])?;
    }
    let mut detections = boxes(cfg.model.roi_heads.detections_per_img, (height, width))?;
    let number = detections.len() as i64;
    detections.add_field("labels", Tensor::ones([number], (Kind::Int64, Device::Cpu)));
    detections.add_field("scores", Tensor::ones([number], (Kind::Float, Device::Cpu)));
    heads.detect_from_boxes(&features, vec![detections])?;
    Ok(())
}

/// `number` boxes, from an eighth to half of the image's height, in its upper left part.
fn boxes(number: i64, (height, width): (i64, i64)) -> Result<BoxList> {
    let i = Tensor::arange(number, (Kind::Float, Device::Cpu));
    let corner = (&i * 7.0).fmod(height as f64 / 2.0);
    let side = (&i * 13.0).fmod(height as f64 * 3.0 / 8.0) + height as f64 / 8.0;
    let far = &corner + side - 1.0;
    BoxList::new(Tensor::stack(&[&corner, &corner, &far, &far], 1), (width, height), Mode::Xyxy)
}
