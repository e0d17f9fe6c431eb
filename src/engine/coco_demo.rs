//! Detections on single images: the original's `COCODemo` (`demo/predictor.py`).
//!
//! Images are RGB throughout (the original's are OpenCV's BGR); the colours that are drawn are the same.

mod categories;
mod upright;

use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use tch::{Device, Kind, Tensor};

use super::device::parse_device;
use super::drawing::{
    color_map_jet, compute_colors_for_labels, draw_box, draw_keypoints, draw_label, draw_mask_outline, Color,
};
use crate::checkpoint::DetectronCheckpointer;
use crate::config::Config;
use crate::data::transforms::{resize, Normalize, Resize, RgbImage};
use crate::layers::parameters::Parameters;
use crate::modeling::detector::{build_detection_model, GeneralizedRcnn};
use crate::modeling::registry::ModelRegistries;
use crate::structures::{paste_probabilities, to_image_list, BoxList, Masker, Mode, PERSON_KEYPOINTS};

pub use crate::data::datasets::Category;
pub use categories::coco_categories;
pub use upright::read_upright_image;

/// What is shown, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct CocoDemoOptions {
    /// Detections whose score is not above it are left out.
    pub confidence_threshold: f64,
    /// Show the probabilities of the best masks instead of the detections on the image.
    pub show_mask_heatmaps: bool,
    /// The number of heat maps beside each other, and below each other.
    pub masks_per_dim: i64,
    /// The shorter side of the image that the network sees, instead of `INPUT.MIN_SIZE_TEST`. `INPUT.MAX_SIZE_TEST`
    /// stays the limit of the longer one.
    pub min_image_size: Option<i64>,
    /// A file of weights to use instead of `OUTPUT_DIR/last_checkpoint` or `MODEL.WEIGHT`.
    pub weights: Option<String>,
}

impl Default for CocoDemoOptions {
    fn default() -> Self {
        Self {
            confidence_threshold: 0.7,
            show_mask_heatmaps: false,
            masks_per_dim: 2,
            min_image_size: None,
            weights: None,
        }
    }
}

/// A detector with everything that its use on single images needs.
///
/// ```no_run
/// use std::path::Path;
///
/// use maskrcnn_benchmark::config::Config;
/// use maskrcnn_benchmark::engine::coco_demo::{read_upright_image, CocoDemo, CocoDemoOptions};
///
/// let overrides = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHT", "model_final.pth"].map(String::from);
/// let cfg = Config::load(Some(Path::new("configs/pytorch_mask_rcnn_R2_50_s4_FPN_2x.yaml")), &overrides)?;
/// let demo = CocoDemo::new(&cfg, CocoDemoOptions::default())?;
/// let image = read_upright_image(Path::new("street.jpg"))?;
/// let predictions = demo.select_top_predictions(&demo.compute_prediction(&image)?)?;
/// println!("{} objects", predictions.len());
/// let picture = demo.run_on_image(&image)?;
/// # Ok::<(), anyhow::Error>(())
/// ```
pub struct CocoDemo {
    model: GeneralizedRcnn,
    device: Device,
    shorter_side: i64,
    resize: Resize,
    weights: PathBuf,
    normalize: Normalize,
    size_divisibility: i64,
    mask_on: bool,
    keypoint_on: bool,
    options: CocoDemoOptions,
    categories: Vec<Category>,
}

impl CocoDemo {
    /// Builds the model of the configuration and loads its weights.
    ///
    /// # Errors
    /// If the model cannot be built or its weights cannot be loaded; if there are no weights at all.
    pub fn new(cfg: &Config, options: CocoDemoOptions) -> Result<Self> {
        Self::with_registries(cfg, options, &ModelRegistries::default())
    }

    /// As [`new`](Self::new), with backbones and heads of one's own.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_registries(cfg: &Config, options: CocoDemoOptions, registries: &ModelRegistries) -> Result<Self> {
        let shorter = options.min_image_size.unwrap_or(cfg.input.min_size_test);
        let key = match options.min_image_size {
            Some(_) => "--min-image-size (CocoDemoOptions::min_image_size)",
            None => "INPUT.MIN_SIZE_TEST",
        };
        let longer = ("INPUT.MAX_SIZE_TEST", Some(cfg.input.max_size_test));
        let resize = Resize::of_keys((key, vec![shorter]), longer)?;
        ensure!(options.masks_per_dim > 0, "masks per dimension are {}; they must be positive", options.masks_per_dim);
        let threshold = options.confidence_threshold;
        ensure!(threshold <= 1.0, "the confidence threshold is {threshold}, but scores lie between 0 and 1");
        let device = parse_device(&cfg.model.device)?;
        let parameters = Parameters::new(device);
        let model = build_detection_model(cfg, &parameters.root(), registries)?;
        let checkpointer = DetectronCheckpointer::new(cfg, &parameters, Some(Path::new(&cfg.output_dir)));
        let loaded = match &options.weights {
            Some(weights) => checkpointer.weight_option("--weights").load(Some(weights), false)?,
            None => checkpointer.load(Some(&cfg.model.weight), true)?,
        };
        let weights =
            loaded.file.context("there are no weights to detect anything with; name a file as MODEL.WEIGHT")?;
        if loaded.resumed && names_detector(&cfg.model.weight) {
            log::warn!(
                "the weights are {}, which {} names, instead of MODEL.WEIGHT {weight}: as in the original last_checkpoint \
                 comes first. For the other: `demo --weights {weight}` (CocoDemoOptions::weights)",
                weights.display(),
                Path::new(&cfg.output_dir).join("last_checkpoint").display(),
                weight = cfg.model.weight
            );
        }
        Ok(Self {
            model,
            device,
            shorter_side: shorter,
            weights,
            resize,
            normalize: Normalize::from_config(cfg)?,
            size_divisibility: cfg.dataloader.size_divisibility,
            mask_on: cfg.model.mask_on,
            keypoint_on: cfg.model.keypoint_on,
            options,
            categories: coco_categories(),
        })
    }

    /// The classes of the labels from 1 on; COCO's at first.
    pub fn categories(&self) -> &[Category] {
        &self.categories
    }

    /// Gives other names to the labels: label `l` is `categories[l - 1]`.
    pub fn set_categories(&mut self, categories: Vec<Category>) {
        self.categories = categories;
    }

    /// The class of a label; a label without one is named by its number.
    pub fn category(&self, label: i64) -> Category {
        let known = usize::try_from(label - 1).ok().and_then(|i| self.categories.get(i));
        known.cloned().unwrap_or_else(|| Category { id: label, name: format!("class {label}") })
    }

    /// The file that the weights were loaded from.
    pub fn weights(&self) -> &Path {
        &self.weights
    }

    /// Detects and draws: boxes, outlines of masks, keypoints, names with scores on a copy of the image, or the heat
    /// maps of the masks ([`CocoDemoOptions::show_mask_heatmaps`]).
    ///
    /// # Errors
    /// If the model cannot run on the image.
    pub fn run_on_image(&self, image: &RgbImage) -> Result<RgbImage> {
        let top_predictions = self.select_top_predictions(&self.detect(image)?)?;
        self.draw(image, &top_predictions)
    }

    /// What [`run_on_image`](Self::run_on_image) draws, from the selected predictions of [`detect`](Self::detect).
    ///
    /// # Errors
    /// If the predictions lack a field.
    pub fn draw(&self, image: &RgbImage, top_predictions: &BoxList) -> Result<RgbImage> {
        let top_predictions = self.paste_masks(top_predictions)?;
        if self.options.show_mask_heatmaps {
            return self.create_mask_montage(image, &top_predictions);
        }
        let mut result = self.overlay_boxes(image.clone(), &top_predictions)?;
        if self.mask_on {
            result = self.overlay_mask(result, &top_predictions)?;
        }
        if self.keypoint_on {
            result = self.overlay_keypoints(result, &top_predictions)?;
        }
        self.overlay_class_names(result, &top_predictions)
    }

    /// All detections, in coordinates of the image, with their masks in the whole image.
    ///
    /// # Shapes
    /// Fields: `scores` and `labels` `[N]`; `mask` `[N, 1, height, width]`, bool (with heat maps probabilities, u8, 255
    /// being certain); `keypoints`.
    ///
    /// # Errors
    /// If the model cannot run on the image.
    pub fn compute_prediction(&self, image: &RgbImage) -> Result<BoxList> {
        self.paste_masks(&self.detect(image)?)
    }

    /// All detections, in coordinates of the image, with the masks as the model gives them: this takes much less memory
    /// than [`compute_prediction`](Self::compute_prediction) on a large image.
    ///
    /// # Shapes
    /// Field `mask`: `[N, 1, M, M]`, probabilities within the box.
    ///
    /// # Errors
    /// If the model cannot run on the image.
    pub fn detect(&self, image: &RgbImage) -> Result<BoxList> {
        ensure!(image.width > 0 && image.height > 0, "an image without pixels");
        let _no_grad = tch::no_grad_guard();
        let (height, width) = self.resize.get_size(image.size(), self.shorter_side);
        let resized = resize(image, (width as usize, height as usize));
        let tensor = self.normalize.to_tensor(&resized);
        let images = to_image_list(&[tensor], self.size_divisibility).to_device(self.device);
        let predictions = self.model.detect(&images)?;
        let prediction = predictions.into_iter().next().context("the model gives nothing for an image")?;
        prediction.to_device(Device::Cpu).resize(image.size())
    }

    /// Replaces the masks within boxes by masks of the whole image.
    fn paste_masks(&self, predictions: &BoxList) -> Result<BoxList> {
        let mut predictions = predictions.shallow_clone();
        if !predictions.has_field("mask") {
            return Ok(predictions);
        }
        let masks = predictions.tensor_field("mask")?.shallow_clone();
        let pasted = if self.options.show_mask_heatmaps {
            let (width, height) = predictions.size();
            let maps = corners(&predictions)?
                .into_iter()
                .enumerate()
                .map(|(i, corners)| paste_probabilities(&masks.get(i as i64).get(0), corners, (height, width)));
            let maps = maps.collect::<Result<Vec<_>>>()?;
            match maps.len() {
                0 => Tensor::zeros([0, 1, height, width], (Kind::Uint8, Device::Cpu)),
                _ => Tensor::stack(&maps, 0).unsqueeze(1),
            }
        } else {
            Masker::default().forward_single_image(&masks, &predictions)?
        };
        predictions.add_field("mask", pasted);
        Ok(predictions)
    }

    /// The detections whose score is above the confidence threshold, best first.
    ///
    /// # Errors
    /// If there is no field `scores`.
    pub fn select_top_predictions(&self, predictions: &BoxList) -> Result<BoxList> {
        let scores = predictions.tensor_field("scores")?;
        let keep = scores.gt(self.options.confidence_threshold).nonzero().squeeze_dim(1);
        let kept = predictions.select(&keep)?;
        let (_, order) = kept.tensor_field("scores")?.sort_stable(true, 0, true);
        kept.select(&order)
    }

    /// Draws the border of every box in the colour of its label.
    ///
    /// # Errors
    /// If there is no field `labels`.
    pub fn overlay_boxes(&self, mut image: RgbImage, predictions: &BoxList) -> Result<RgbImage> {
        for (corners, color) in corners(predictions)?.into_iter().zip(colors(predictions)?) {
            draw_box(&mut image, corners, color);
        }
        Ok(image)
    }

    /// Draws the outline of every mask in the colour of its label.
    ///
    /// # Errors
    /// If there is no field `labels`, or no field `mask` of the image's size.
    pub fn overlay_mask(&self, mut image: RgbImage, predictions: &BoxList) -> Result<RgbImage> {
        let masks = predictions.tensor_field("mask")?;
        if predictions.is_empty() {
            return Ok(image);
        }
        ensure_whole(masks, predictions, &image)?;
        for (i, color) in colors(predictions)?.into_iter().enumerate() {
            let mask = masks.get(i as i64).get(0).to_kind(Kind::Bool).contiguous();
            draw_mask_outline(&mut image, &Vec::<bool>::try_from(mask.view(-1))?, color);
        }
        Ok(image)
    }

    /// Draws the keypoints of every person and joins them.
    ///
    /// # Errors
    /// If there is no field `keypoints` with a field `logits`.
    pub fn overlay_keypoints(&self, mut image: RgbImage, predictions: &BoxList) -> Result<RgbImage> {
        let keypoints = predictions.keypoints()?;
        let logits = keypoints.get_field("logits")?.to_kind(Kind::Float);
        let points = keypoints.keypoints().to_kind(Kind::Float);
        for i in 0..predictions.len() as i64 {
            let xy = Vec::<f32>::try_from(points.get(i).narrow(1, 0, 2).contiguous().view(-1))?;
            let scores = Vec::<f32>::try_from(logits.get(i).contiguous().view(-1))?;
            let points: Vec<_> = xy.chunks_exact(2).zip(scores).map(|(xy, score)| (xy[0], xy[1], score)).collect();
            draw_keypoints(&mut image, &points, &PERSON_KEYPOINTS);
        }
        Ok(image)
    }

    /// Writes the name of every class with its score at the upper left corner of the box.
    ///
    /// # Errors
    /// If there are no fields `scores` and `labels`.
    pub fn overlay_class_names(&self, mut image: RgbImage, predictions: &BoxList) -> Result<RgbImage> {
        let scores = Vec::<f32>::try_from(predictions.tensor_field("scores")?.to_kind(Kind::Float))?;
        let labels = labels(predictions)?;
        // The best detection is written last, over the others.
        for ((corners, score), label) in corners(predictions)?.into_iter().zip(scores).zip(labels).rev() {
            let text = format!("{}: {score:.2}", self.category(label).name);
            draw_label(&mut image, (corners[0], corners[1]), &text);
        }
        Ok(image)
    }

    /// The probabilities of the first masks as heat maps side by side, each as large as the image divided by
    /// [`CocoDemoOptions::masks_per_dim`].
    ///
    /// # Errors
    /// If there is no field `mask` of the image's size, or the heat maps would have no pixels.
    pub fn create_mask_montage(&self, image: &RgbImage, predictions: &BoxList) -> Result<RgbImage> {
        ensure!(predictions.has_field("mask"), "heat maps need masks, which this model does not give (MODEL.MASK_ON)");
        let per_dim = self.options.masks_per_dim;
        let masks = predictions.tensor_field("mask")?;
        let (height, width) = (image.height as i64 / per_dim, image.width as i64 / per_dim);
        ensure!(height > 0 && width > 0, "{per_dim} heat maps do not fit beside each other in the image");
        ensure_whole(masks, predictions, image)?;
        let montage = Tensor::zeros([per_dim * height, per_dim * width], (Kind::Uint8, Device::Cpu));
        for i in 0..masks.size()[0].min(per_dim * per_dim) {
            // The pixels that the nearest of an interpolation by 1 / per_dim are, whatever that is rounded to.
            let small =
                masks.get(i).get(0).slice(0, 0, height * per_dim, per_dim).slice(1, 0, width * per_dim, per_dim);
            let (y, x) = (i / per_dim * height, i % per_dim * width);
            montage.narrow(0, y, height).narrow(1, x, width).copy_(&small);
        }
        let values = Vec::<u8>::try_from(montage.view(-1))?;
        let data = values.into_iter().flat_map(color_map_jet).collect();
        Ok(RgbImage::new((per_dim * width) as usize, (per_dim * height) as usize, data))
    }
}

/// Whether `MODEL.WEIGHT` may be meant for detecting: the catalog's backbones, which trainings start from, are not.
fn names_detector(weight: &str) -> bool {
    !weight.is_empty() && !weight.starts_with("catalog://ImageNetPretrained/")
}

fn ensure_whole(masks: &Tensor, predictions: &BoxList, image: &RgbImage) -> Result<()> {
    let expected = [predictions.len() as i64, 1, image.height as i64, image.width as i64];
    ensure!(masks.size() == expected, "masks of the whole image are {expected:?}, not {:?}", masks.size());
    Ok(())
}

/// The corners of every box.
fn corners(predictions: &BoxList) -> Result<Vec<[f32; 4]>> {
    let values = predictions.convert(Mode::Xyxy).bbox().to_device(Device::Cpu).contiguous();
    let values = Vec::<f32>::try_from(values.view(-1))?;
    Ok(values.chunks_exact(4).map(|c| [c[0], c[1], c[2], c[3]]).collect())
}

fn labels(predictions: &BoxList) -> Result<Vec<i64>> {
    Ok(Vec::<i64>::try_from(predictions.tensor_field("labels")?.to_kind(Kind::Int64))?)
}

fn colors(predictions: &BoxList) -> Result<Vec<Color>> {
    Ok(compute_colors_for_labels(&labels(predictions)?))
}

#[cfg(test)]
pub(crate) mod test_model;
#[cfg(test)]
mod tests;
