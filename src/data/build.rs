//! From the configuration to data loaders (the original's `data/build.py`).

use std::path::Path;
use std::sync::Arc;

use anyhow::{bail, ensure, Context, Result};
use serde_json::{Map, Value};
use tch::Device;

use super::collate_batch::Collator;
use super::datasets::{ConcatDataset, Dataset, DatasetOptions, DatasetRegistry, TargetFields};
use super::loader::{DataLoader, LoaderState, Order};
use super::samplers::{
    BatchSampler, DistributedSampler, GroupedBatchSampler, IterationBasedBatchSampler, Pass, PlainBatchSampler,
    RandomSampler, Sampler, SequentialSampler,
};
use super::transforms::{build_transforms, Compose, Normalize, TransformRegistry};
use crate::config::paths_catalog::DatasetCatalog;
use crate::config::Config;
use crate::structures::{Flip, Keypoints};
use crate::utils::atomic_file::write_atomically;
use crate::utils::miscellaneous::mkdir;

/// Worker threads of a process that a slip of the pen goes beyond, not a machine.
const MAX_WORKERS: i64 = 1024;

/// What decides how data are loaded, beside the configuration.
#[derive(Clone)]
pub struct LoaderOptions<'a> {
    /// `DATASETS.TRAIN`, shuffled and augmented, until `SOLVER.MAX_ITER`; or `DATASETS.TEST`, once.
    pub is_train: bool,
    /// For validation during training (`SOLVER.TEST_PERIOD`): `DATASETS.TEST` together, without images that have no
    /// annotation, as upstream.
    pub is_for_period: bool,
    /// Where batches will go: those for a GPU lie in pinned memory.
    pub device: Device,
    /// This process, from 0.
    pub rank: usize,
    /// The number of processes.
    pub world_size: usize,
    /// The iteration that training begins or resumes at.
    pub start_iter: u64,
    /// A resumed run's state of the loader: the order goes on as if the run had never stopped. Without it a new
    /// permutation is begun at `start_iter`, as in the original.
    pub state: Option<LoaderState>,
    /// The run's seed, the same in all processes.
    pub seed: u64,
    /// The kinds of data sets that a catalog's entry can have.
    pub datasets: &'a DatasetRegistry,
    /// The steps from a decoded image to the network's input.
    pub transforms: &'a TransformRegistry,
}

/// Makes the loaders: for training (and for validation during training) one, with all data sets concatenated, whose
/// categories are also written to `OUTPUT_DIR/labels.json` where there is such a folder; for testing one a data set.
/// Targets have the fields that the model is trained on, and in testing, where nobody looks at them, only labels.
///
/// # Errors
/// If a data set cannot be read or has no image, the images of a batch cannot be shared equally by the processes, the
/// model has too few classes for the data set, instances lack masks or keypoints that its heads are trained on, or a
/// value of the configuration cannot be used. Keys and files are named.
pub fn make_data_loader(cfg: &Config, options: &LoaderOptions) -> Result<Vec<DataLoader>> {
    let images_per_gpu = images_per_gpu(cfg, options.is_train, options.world_size)?;
    let (key, names) = if options.is_train { ("TRAIN", &cfg.datasets.train) } else { ("TEST", &cfg.datasets.test) };
    if names.is_empty() {
        bail!("DATASETS.{key} names no data set: give at least one, for example DATASETS.{key} \"('coco_2017_val',)\"");
    }
    let mut datasets = build_datasets(cfg, options, names)?;
    if (options.is_train || options.is_for_period) && datasets.len() > 1 {
        datasets = vec![Arc::new(ConcatDataset::new(datasets)?)];
    }
    if options.is_train && options.rank == 0 && !cfg.output_dir.is_empty() {
        save_labels(datasets[0].as_ref(), Path::new(&cfg.output_dir))?;
    }
    datasets.into_iter().map(|dataset| make_loader(cfg, options, dataset, images_per_gpu)).collect()
}

/// Builds the transforms, reads the data sets of `DATASETS.TEST` and their ground truth and drops them again, so that
/// what keeps them from being evaluated is known before the training and not after it.
///
/// # Errors
/// See [`make_data_loader`] and [`Evaluator::check`](crate::data::evaluation::Evaluator::check).
pub fn check_test_data(cfg: &Config, options: &LoaderOptions) -> Result<()> {
    from_image_to_batch(cfg, options)?;
    for dataset in build_datasets(cfg, options, &cfg.datasets.test)? {
        dataset.evaluator().check(dataset.as_ref())?;
    }
    Ok(())
}

fn build_datasets(cfg: &Config, options: &LoaderOptions, names: &[String]) -> Result<Vec<Arc<dyn Dataset>>> {
    let catalog = DatasetCatalog::load(&cfg.paths_catalog)?;
    let keep_annotated = options.is_train || options.is_for_period;
    let fields = if keep_annotated { trained_fields(cfg) } else { TargetFields::NONE };
    let mut datasets = Vec::with_capacity(names.len());
    for name in names {
        let dataset =
            options.datasets.build(&catalog.get(name)?, DatasetOptions { is_train: keep_annotated, fields })?;
        check_not_empty(dataset.as_ref(), name, keep_annotated)?;
        check_num_classes(cfg, dataset.as_ref(), options.is_train)?;
        if keep_annotated {
            check_fields(cfg, dataset.as_ref(), fields, options.is_train)?;
        }
        datasets.push(dataset);
    }
    Ok(datasets)
}

fn make_loader(
    cfg: &Config,
    options: &LoaderOptions,
    dataset: Arc<dyn Dataset>,
    images_per_gpu: usize,
) -> Result<DataLoader> {
    let state = options.state.clone().filter(|state| state.begun_at <= options.start_iter);
    let state = state.unwrap_or(LoaderState { seed: options.seed, begun_at: options.start_iter });
    let sampler = make_data_sampler(dataset.len(), options, &state)?;
    let batches = make_batch_data_sampler(
        dataset.as_ref(),
        sampler,
        if cfg.dataloader.aspect_ratio_grouping { &[1.0] } else { &[] },
        images_per_gpu,
    )?;
    let (order, len) = if options.is_train {
        let iterations = u64::try_from(cfg.solver.max_iter).context("SOLVER.MAX_ITER cannot be negative")?;
        let skip = (options.start_iter - state.begun_at) as usize;
        let sampler = IterationBasedBatchSampler::new(batches, iterations, state.begun_at);
        (Order::Iterations { sampler, skip }, iterations as usize)
    } else {
        let len = batches.batches(Pass::default())?.len();
        (Order::OnePass(batches), len)
    };
    let (transforms, collator) = from_image_to_batch(cfg, options)?;
    let workers = cfg.dataloader.num_workers;
    ensure!((0..=MAX_WORKERS).contains(&workers), "DATALOADER.NUM_WORKERS is {workers}, not from 0 to {MAX_WORKERS}");
    let seed = state.seed.wrapping_add(options.rank as u64);
    Ok(DataLoader::new(dataset, transforms, collator, order, len, workers as usize, seed).with_state(state))
}

/// What happens to an image before its batch is put together, and how that is done.
fn from_image_to_batch(cfg: &Config, options: &LoaderOptions) -> Result<(Compose, Collator)> {
    // Validation during training needs the network's input for its losses, so it detects without augmentation.
    if cfg.test.bbox_aug.enabled && !options.is_train && !options.is_for_period {
        return Ok((Compose::default(), Collator::Originals));
    }
    let normalize = Normalize::from_config(cfg)?;
    let size_divisible = cfg.dataloader.size_divisibility;
    let transforms = build_transforms(cfg, options.is_train, options.transforms)?;
    let pinned_for = match options.device {
        Device::Cuda(index) => Some(index),
        _ => None,
    };
    Ok((transforms, Collator::Images { normalize, size_divisible, pinned_for }))
}

/// The images of a batch that one of `world_size` processes takes.
///
/// # Errors
/// The batch cannot be shared equally; names the key.
pub fn images_per_gpu(cfg: &Config, is_train: bool, world_size: usize) -> Result<usize> {
    let (key, images) = if is_train {
        ("SOLVER.IMS_PER_BATCH", cfg.solver.ims_per_batch)
    } else {
        ("TEST.IMS_PER_BATCH", cfg.test.ims_per_batch)
    };
    let world_size = world_size.max(1);
    let images = usize::try_from(images).unwrap_or(0);
    ensure!(images > 0, "{key} must be positive");
    let below = images / world_size * world_size;
    ensure!(
        images == below,
        "{key} ({images}) must be divisible by the number of processes ({world_size}): set it to {}, for example",
        if below > 0 { below } else { world_size }
    );
    Ok(images / world_size)
}

/// The order of images: random for training, a share of it where several processes work together.
///
/// # Errors
/// See [`DistributedSampler::new`].
pub fn make_data_sampler(len: usize, options: &LoaderOptions, state: &LoaderState) -> Result<Box<dyn Sampler>> {
    if options.world_size > 1 {
        return Ok(Box::new(DistributedSampler::new(len, options.world_size, options.rank, true)?));
    }
    if options.is_train {
        Ok(Box::new(RandomSampler::new(len, state.seed.wrapping_add(state.begun_at))))
    } else {
        Ok(Box::new(SequentialSampler::new(len)))
    }
}

/// Batches of images whose height/width lies in the same interval between `aspect_grouping`'s limits; of all images
/// where there are no limits.
///
/// # Errors
/// If an image's size cannot be read.
pub fn make_batch_data_sampler(
    dataset: &dyn Dataset,
    sampler: Box<dyn Sampler>,
    aspect_grouping: &[f64],
    images_per_batch: usize,
) -> Result<Arc<dyn BatchSampler>> {
    if aspect_grouping.is_empty() {
        return Ok(Arc::new(PlainBatchSampler::new(sampler, images_per_batch)?));
    }
    let ratio = |index| {
        let info = dataset.image_info(index)?;
        Ok(info.height as f64 / info.width as f64)
    };
    let ratios = (0..dataset.len()).map(ratio).collect::<Result<Vec<f64>>>()?;
    let groups = quantize(&ratios, aspect_grouping);
    Ok(Arc::new(GroupedBatchSampler::new(sampler, groups, images_per_batch, false)?))
}

/// The interval of each value between the sorted `bins`; a value equal to a limit lies above it (`bisect_right`).
pub fn quantize(values: &[f64], bins: &[f64]) -> Vec<usize> {
    let mut bins = bins.to_vec();
    bins.sort_by(f64::total_cmp);
    values.iter().map(|value| bins.partition_point(|bin| bin <= value)).collect()
}

fn check_not_empty(dataset: &dyn Dataset, name: &str, keep_annotated: bool) -> Result<()> {
    if dataset.is_empty() && keep_annotated {
        bail!(
            "data set {name} has no image to train on: none has an annotation that counts (a box more than a pixel wide \
             and high, and for keypoints at least 10 visible points). It is {}",
            dataset.describe()
        );
    }
    ensure!(!dataset.is_empty(), "data set {name} has no images. It is {}", dataset.describe());
    Ok(())
}

/// Compares the data set's classes with those the model tells apart. Testing goes on with a warning, since the
/// predictions that a smaller model makes can still be evaluated; training does, if nothing has a label beyond them.
///
/// # Errors
/// In training, if a target has a label that the model has no class for; the key and the value it needs are named.
pub fn check_num_classes(cfg: &Config, dataset: &dyn Dataset, is_train: bool) -> Result<()> {
    if cfg.model.rpn_only && !cfg.model.retinanet_on {
        return Ok(());
    }
    let (key, classes) = if cfg.model.retinanet_on {
        ("MODEL.RETINANET.NUM_CLASSES", cfg.model.retinanet.num_classes)
    } else {
        ("MODEL.ROI_BOX_HEAD.NUM_CLASSES", cfg.model.roi_box_head.num_classes)
    };
    let needed = dataset.class_names().len();
    if usize::try_from(classes).unwrap_or(0) >= needed {
        return Ok(());
    }
    let message = format!(
        "{key} is {classes}, but the data set has {} classes and the background: set {key} to {needed}. It is {}",
        needed.saturating_sub(1),
        dataset.describe()
    );
    if is_train && dataset.largest_label() >= classes {
        bail!(message);
    }
    log::warn!("{message}");
    Ok(())
}

/// The fields of targets that the model's heads are trained on.
fn trained_fields(cfg: &Config) -> TargetFields {
    let model = &cfg.model;
    let has_heads = !(model.rpn_only || model.retinanet_on);
    TargetFields { masks: has_heads && model.mask_on, keypoints: has_heads && model.keypoint_on }
}

/// Checks that the data set has what the model's heads are trained on: all of its instances, as far as they are known,
/// and the first image with an instance.
fn check_fields(cfg: &Config, dataset: &dyn Dataset, fields: TargetFields, is_train: bool) -> Result<()> {
    const LOOKED_AT: usize = 100;
    if fields == TargetFields::NONE {
        return Ok(());
    }
    for (key, field) in [
        ("MODEL.MASK_ON", TargetFields { keypoints: false, ..fields }),
        ("MODEL.KEYPOINT_ON", TargetFields { masks: false, ..fields }),
    ] {
        if let Err(error) = dataset.check_fields(field) {
            bail!(
                "{key} is True, but the data set is not complete: {error:#}. Complete these annotations, take them out \
                 of the file, or set {key} to False. It is {}",
                dataset.describe()
            );
        }
    }
    for index in 0..dataset.len().min(LOOKED_AT) {
        let target = dataset.ground_truth(index)?;
        if target.is_empty() {
            continue;
        }
        if fields.masks && !target.has_field("masks") {
            bail!(
                "MODEL.MASK_ON is True, but the data set has no masks: set it to False. It is {}",
                dataset.describe()
            );
        }
        if fields.keypoints {
            if !target.has_field("keypoints") {
                bail!(
                    "MODEL.KEYPOINT_ON is True, but the data set has no keypoints: set it to False. It is {}",
                    dataset.describe()
                );
            }
            let keypoints = target.keypoints()?;
            let (found, wanted) = (keypoints.keypoints().size()[1], cfg.model.roi_keypoint_head.num_classes);
            ensure!(
                found == wanted,
                "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES is {wanted}, but the data set has {found} keypoints for an instance: \
                 set it to {found}. It is {}",
                dataset.describe()
            );
            if is_train {
                check_flips(cfg, dataset, keypoints)?;
            }
        }
        return Ok(());
    }
    Ok(())
}

/// Checks that keypoints can be mirrored where the configuration mirrors images.
fn check_flips(cfg: &Config, dataset: &dyn Dataset, keypoints: &Keypoints) -> Result<()> {
    for (key, probability, flip) in [
        ("INPUT.HORIZONTAL_FLIP_PROB_TRAIN", cfg.input.horizontal_flip_prob_train, Flip::LeftRight),
        ("INPUT.VERTICAL_FLIP_PROB_TRAIN", cfg.input.vertical_flip_prob_train, Flip::TopBottom),
    ] {
        if probability > 0.0 {
            keypoints.transpose(flip).with_context(|| {
                let whose = dataset.describe();
                format!(
                    "{key} is {probability}, but the keypoints cannot be mirrored: set it to 0.0. They are of {whose}"
                )
            })?;
        }
    }
    Ok(())
}

/// Writes the category ids and names to `labels.json`.
fn save_labels(dataset: &dyn Dataset, output_dir: &Path) -> Result<()> {
    let labels: Map<String, Value> =
        dataset.categories().into_iter().map(|(id, name)| (id.to_string(), Value::String(name))).collect();
    if labels.is_empty() {
        log::warn!("{} has no categories, so labels.json is not written", dataset.describe());
        return Ok(());
    }
    let path = output_dir.join("labels.json");
    log::info!("Saving labels mapping into {}", path.display());
    mkdir(output_dir)?;
    write_atomically(&path, serde_json::to_string_pretty(&labels)?.as_bytes())
}

#[cfg(test)]
mod tests;
