//! Pools features of regions of interest, each from the pyramid level that fits its size.

use anyhow::{ensure, Context, Result};
use tch::{Kind, Tensor};

use crate::config::{Config, Tuple};
use crate::layers::{multi_scale_roi_align, roi_align};
use crate::structures::BoxList;

use super::batch::{all_boxes, Rows};
use super::registry::FeatureMaps;

/// Assigns boxes to pyramid levels by their area (Feature Pyramid Networks, equation 1).
#[derive(Clone, Debug, PartialEq)]
pub struct LevelMapper {
    k_min: i64,
    k_max: i64,
    canonical_scale: f64,
    canonical_level: i64,
    eps: f64,
}

impl LevelMapper {
    /// Levels `k_min..=k_max`; a box of 224×224 goes to level 4.
    pub fn new(k_min: i64, k_max: i64) -> Self {
        Self::with_canonical(k_min, k_max, 224.0, 4)
    }

    /// As [`new`](Self::new), with the box side `canonical_scale` going to `canonical_level`.
    pub fn with_canonical(k_min: i64, k_max: i64, canonical_scale: f64, canonical_level: i64) -> Self {
        Self { k_min, k_max, canonical_scale, canonical_level, eps: 1e-6 }
    }

    /// # Shapes
    /// `areas` `[R]` float32 → `[R]` int64, counted from `k_min`.
    pub fn levels(&self, areas: &Tensor) -> Tensor {
        let octaves = (areas.sqrt() / self.canonical_scale + self.eps).log2();
        let levels = (octaves + self.canonical_level as f64).floor();
        levels.clamp(self.k_min as f64, self.k_max as f64).to_kind(Kind::Int64) - self.k_min
    }
}

/// RoIAlign over one feature map or over the levels of a pyramid.
#[derive(Clone, Debug)]
pub struct Pooler {
    resolution: i64,
    scales: Vec<f64>,
    sampling_ratio: i64,
    map_levels: LevelMapper,
}

impl Pooler {
    /// A pooler to `resolution`×`resolution` from one map per scale (feature pixels per image pixel), finest first.
    ///
    /// # Errors
    /// No scale, or a scale that is not positive.
    pub fn new(resolution: i64, scales: &[f64], sampling_ratio: i64) -> Result<Self> {
        ensure!(
            !scales.is_empty() && scales.iter().all(|s| *s > 0.0),
            "POOLER_SCALES must be positive numbers, one per feature map, not {scales:?}"
        );
        ensure!(resolution > 0, "POOLER_RESOLUTION must be positive, not {resolution}");
        // The network halves the resolution at each level, so a scale is a power of two.
        let level = |scale: f64| -(scale as f32).log2() as i64;
        let map_levels = LevelMapper::new(level(scales[0]), level(scales[scales.len() - 1]));
        Ok(Self { resolution, scales: scales.to_vec(), sampling_ratio, map_levels })
    }

    /// The side of the pooled maps.
    pub fn resolution(&self) -> i64 {
        self.resolution
    }

    /// # Shapes
    /// `features`: one `[N, C, H, W]` per level (those beyond the scales are not used), `boxes`: one list per image →
    /// `[R, C, resolution, resolution]` in the order of the boxes and the memory format of the features.
    ///
    /// # Errors
    /// Fewer feature maps than scales.
    pub fn forward(&self, features: &[Tensor], boxes: &[BoxList]) -> Result<Tensor> {
        let (maps, scales) = (features.len(), self.scales.len());
        ensure!(maps >= scales, "a pooler of {scales} scales got {maps} feature maps");
        let rois = convert_to_roi_format(boxes);
        let (size, ratio) = ((self.resolution, self.resolution), self.sampling_ratio);
        if self.scales.len() == 1 {
            return Ok(roi_align(&features[0], &rois, size, self.scales[0], ratio));
        }
        let levels = self.map_levels.levels(&boxes[0].with_boxes(all_boxes(boxes)).area());
        Ok(multi_scale_roi_align(&features[..scales], &rois, &levels, size, &self.scales, ratio))
    }
}

/// The heads that pool regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoiHead {
    /// `MODEL.ROI_BOX_HEAD`
    Box,
    /// `MODEL.ROI_MASK_HEAD`
    Mask,
    /// `MODEL.ROI_KEYPOINT_HEAD`
    Keypoint,
}

impl RoiHead {
    /// The head's section of the configuration.
    pub fn section(self) -> &'static str {
        match self {
            Self::Box => "MODEL.ROI_BOX_HEAD",
            Self::Mask => "MODEL.ROI_MASK_HEAD",
            Self::Keypoint => "MODEL.ROI_KEYPOINT_HEAD",
        }
    }
}

/// The pooler of a head, from the `POOLER_…` keys of its section.
///
/// # Errors
/// Scales that do not fit the maps of the backbone, or numbers that are not positive.
pub fn make_pooler(cfg: &Config, head: RoiHead, maps: &FeatureMaps) -> Result<Pooler> {
    let model = &cfg.model;
    let (boxes, masks, keypoints) = (&model.roi_box_head, &model.roi_mask_head, &model.roi_keypoint_head);
    let (resolution, scales, sampling_ratio) = match head {
        RoiHead::Box => (boxes.pooler_resolution, &boxes.pooler_scales, boxes.pooler_sampling_ratio),
        RoiHead::Mask => (masks.pooler_resolution, &masks.pooler_scales, masks.pooler_sampling_ratio),
        RoiHead::Keypoint => (keypoints.pooler_resolution, &keypoints.pooler_scales, keypoints.pooler_sampling_ratio),
    };
    let pooler = Pooler::new(resolution, scales, sampling_ratio).context(head.section())?;
    let fits = |(scale, stride): (&f64, &i64)| (scale * *stride as f64 - 1.0).abs() < 1e-3;
    ensure!(
        scales.len() <= maps.strides.len() && scales.iter().zip(&maps.strides).all(fits),
        "{section}.POOLER_SCALES is {scales}, but MODEL.BACKBONE.CONV_BODY {:?} gives {maps}: the scales are one over the \
         strides of the maps to pool from, the finest first, so set {section}.POOLER_SCALES to {}",
        model.backbone.conv_body,
        usual_scales(maps),
        section = head.section(),
    );
    Ok(pooler)
}

/// The scales of C2 to C5, or of the only map. (P6 is for proposals only.)
fn usual_scales(maps: &FeatureMaps) -> Tuple<f64> {
    let pooled = maps.strides.iter().filter(|stride| maps.strides.len() == 1 || **stride <= 32);
    Tuple(pooled.map(|stride| 1.0 / *stride as f64).collect())
}

/// All boxes of a batch as `[R, 5]`: image index, x1, y1, x2, y2.
pub fn convert_to_roi_format(boxes: &[BoxList]) -> Tensor {
    let corners = all_boxes(boxes);
    let numbers: Vec<i64> = (0..).take(boxes.len()).collect();
    let image = Rows::of_boxes(boxes).spread(&numbers, corners.device()).to_kind(corners.kind());
    Tensor::cat(&[image.unsqueeze(1), corners], 1)
}
