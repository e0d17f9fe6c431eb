//! Detections on a whole data set and their evaluation (the original's `engine/inference.py`).

use std::path::Path;

use anyhow::{ensure, Context, Result};
use tch::Device;

use super::bbox_aug::{im_detect_bbox_aug, BboxAug};
use super::device;
use crate::config::Config;
use crate::data::datasets::Dataset;
use crate::data::evaluation::{
    check_expected_results, predictions, save_predictions, EvaluationOptions, IouType, Results,
};
use crate::data::DataLoader;
use crate::modeling::detector::GeneralizedRcnn;
use crate::structures::{boxlists_to_device, BoxList};
use crate::utils::comm::{enter, gather_bytes, get_world_size, main_process_works, synchronize, Phase};
use crate::utils::progress::Progress;
use crate::utils::timer::{time_str, Timer};

const TARGET: &str = "maskrcnn_benchmark.inference";

/// The kinds of results that the configuration's model gives.
pub fn iou_types(cfg: &Config) -> Vec<IouType> {
    let heads =
        [(true, IouType::Bbox), (cfg.model.mask_on, IouType::Segm), (cfg.model.keypoint_on, IouType::Keypoints)];
    heads.into_iter().filter_map(|(on, kind)| on.then_some(kind)).collect()
}

/// Detects on every image, saves `predictions.pth` in `output_folder` (where given) and evaluates. The processes of a
/// job share the images; rank 0 evaluates, the others wait and get `None`.
///
/// # Errors
/// An empty data set, an unreadable image, a result file that cannot be written, an entry of `TEST.EXPECTED_RESULTS`
/// that was not evaluated (everything is written then), or a process that is lost.
pub fn inference(
    cfg: &Config,
    model: &GeneralizedRcnn,
    data_loader: &DataLoader,
    dataset_name: &str,
    device: Device,
    output_folder: Option<&Path>,
) -> Result<Option<Results>> {
    let dataset = data_loader.dataset().as_ref();
    let devices = get_world_size();
    log::info!(target: TARGET, "Start evaluation on {dataset_name} dataset({} images).", dataset.len());
    ensure!(!dataset.is_empty(), "{dataset_name} ({}) has no images to evaluate on", dataset.describe());
    let (mut total_timer, mut inference_timer) = (Timer::new(), Timer::new());
    total_timer.tic();
    enter(Phase::Testing);
    let computed = compute_on_dataset(cfg, model, data_loader, device, &mut inference_timer)?;
    synchronize()?;
    total_timer.toc();
    for (what, seconds) in
        [("Total run time", total_timer.total_time()), ("Model inference time", inference_timer.total_time())]
    {
        log::info!(
            target: TARGET,
            "{what}: {} ({} s / img per device, on {devices} devices)",
            time_str(seconds),
            seconds * devices as f64 / dataset.len() as f64
        );
    }
    enter(Phase::Gather);
    let predictions = accumulate_predictions(dataset, computed)?;
    enter(Phase::Evaluation);
    main_process_works(&format!("evaluating {dataset_name}"), || {
        let predictions = predictions.context("rank 0 has the predictions of all processes")?;
        evaluate(cfg, dataset, &predictions, output_folder).with_context(|| format!("evaluating {dataset_name}"))
    })
}

fn evaluate(
    cfg: &Config,
    dataset: &dyn Dataset,
    predictions: &[BoxList],
    output_folder: Option<&Path>,
) -> Result<Results> {
    if let Some(folder) = output_folder {
        save_predictions(&folder.join("predictions.pth"), predictions)?;
    }
    let options = EvaluationOptions {
        box_only: cfg.model.rpn_only && !cfg.model.retinanet_on,
        iou_types: iou_types(cfg),
        output_folder: output_folder.map(Path::to_owned),
    };
    let results = dataset.evaluator().evaluate(dataset, predictions, &options)?;
    // After the results are written: a misspelt expectation must not cost them.
    check_expected_results(&results, &cfg.test.expected_results, cfg.test.expected_results_sigma_tol as f64)?;
    Ok(results)
}

/// The detections of this process's images on the CPU, with the images' numbers: with test-time augmentation where the
/// configuration asks for it, which has to be the loader's own. `timer` measures the model alone.
///
/// # Errors
/// An unreadable image, or sizes of `TEST.BBOX_AUG` that cannot be used.
pub fn compute_on_dataset(
    cfg: &Config,
    model: &GeneralizedRcnn,
    data_loader: &DataLoader,
    device: Device,
    timer: &mut Timer,
) -> Result<Vec<(usize, BoxList)>> {
    let aug = cfg.test.bbox_aug.enabled.then(|| BboxAug::new(cfg)).transpose()?;
    let mut results = Vec::new();
    let images = data_loader.dataset().len().div_ceil(get_world_size());
    let mut progress = Progress::new(TARGET, "images", images as u64, false);
    for batch in data_loader.iter() {
        let batch = batch?;
        timer.tic();
        let output = match &aug {
            Some(aug) => im_detect_bbox_aug(model, aug, &batch.originals, device)?,
            None => model.detect(&batch.images.to_device(device))?,
        };
        // As in the original: what a GPU still has to do belongs to the model's time.
        device::synchronize(device);
        timer.toc();
        results.extend(batch.indices.iter().copied().zip(boxlists_to_device(&output, Device::Cpu)));
        progress.inc(batch.indices.len() as u64);
    }
    Ok(results)
}

/// The detections of all processes in the order of the data set, in rank 0; `None` elsewhere. They travel over the CPU.
fn accumulate_predictions(dataset: &dyn Dataset, computed: Vec<(usize, BoxList)>) -> Result<Option<Vec<BoxList>>> {
    let mut parts = vec![computed];
    if get_world_size() > 1 {
        let Some(gathered) = gather_bytes(predictions::to_bytes(&parts[0])?)? else { return Ok(None) };
        parts = gathered.into_iter().map(predictions::from_bytes).collect::<Result<_>>()?;
    }
    let mut results: Vec<Option<BoxList>> = (0..dataset.len()).map(|_| None).collect();
    // Shares are filled up to the same size with images that another process has too.
    for (index, boxes) in parts.into_iter().flatten() {
        results[index] = Some(boxes);
    }
    let missing = |index: usize| format!("image number {index} of {} was not evaluated", dataset.describe());
    results.into_iter().enumerate().map(|(i, boxes)| boxes.with_context(|| missing(i))).collect::<Result<_>>().map(Some)
}
