//! Anchors: the reference boxes at every position of the feature maps.

use anyhow::{ensure, Context, Result};
use tch::{Kind, Tensor};

use crate::config::{AnchorSizes, Config, Tuple};
use crate::layers::{Kept, ParamPath};
use crate::modeling::batch::Rows;
use crate::modeling::registry::FeatureMaps;
use crate::modeling::utils::cat;
use crate::structures::to_device;

/// The anchors of one cell, centred on a box of `stride`×`stride` pixels: ratios outside, sizes inside, in float64.
/// Widths and heights of a ratio are rounded half to even before scaling (Faster R-CNN's `generate_anchors`).
pub fn generate_anchors(stride: i64, sizes: &[f64], aspect_ratios: &[f64]) -> Vec<[f64; 4]> {
    let side = stride as f64;
    let centre = 0.5 * (side - 1.0);
    let mut anchors = Vec::with_capacity(sizes.len() * aspect_ratios.len());
    for ratio in aspect_ratios {
        let width = (side * side / ratio).sqrt().round_ties_even();
        let height = (width * ratio).round_ties_even();
        for size in sizes {
            let scale = size / side;
            let (half_width, half_height) = (0.5 * (width * scale - 1.0), 0.5 * (height * scale - 1.0));
            anchors.push([centre - half_width, centre - half_height, centre + half_width, centre + half_height]);
        }
    }
    anchors
}

/// Anchors of the feature maps of a batch, and which of them lie inside an image.
#[derive(Debug)]
pub struct AnchorGenerator {
    strides: Vec<i64>,
    cell_anchors: Vec<Tensor>,
    straddle_thresh: i64,
    /// The anchors that were last asked for: batches often have the same size.
    last: Kept<Grids>,
}

/// The anchors of maps of some sizes.
#[derive(Debug)]
struct Grids {
    /// Height and width of each map.
    sizes: Vec<(i64, i64)>,
    anchors: Vec<Tensor>,
}

impl AnchorGenerator {
    /// One entry of `sizes` (the sizes of that level's anchors) per stride. The cells are buffers `cell_anchors.N` of
    /// the state, as in the original.
    ///
    /// # Errors
    /// Numbers of sizes and strides that differ.
    pub fn new(
        path: &ParamPath,
        sizes: &[Vec<f64>],
        aspect_ratios: &[f64],
        strides: &[i64],
        straddle_thresh: i64,
    ) -> Result<Self> {
        ensure!(
            sizes.len() == strides.len(),
            "anchor sizes are given for {} feature maps and strides for {}",
            sizes.len(),
            strides.len()
        );
        let path = path.sub("cell_anchors");
        let cell_anchors = sizes
            .iter()
            .zip(strides)
            .enumerate()
            .map(|(level, (sizes, stride))| {
                let cell = generate_anchors(*stride, sizes, aspect_ratios).concat();
                let cell = Tensor::from_slice(&cell).reshape([-1, 4]).to_kind(Kind::Float);
                path.buffer_from(&level.to_string(), &cell)
            })
            .collect();
        Ok(Self { strides: strides.to_vec(), cell_anchors, straddle_thresh, last: Kept::default() })
    }

    /// The number of anchors at each position, per level.
    pub fn num_anchors_per_location(&self) -> Vec<i64> {
        self.cell_anchors.iter().map(|cell| cell.size()[0]).collect()
    }

    /// The anchors of each level in the order row, column, cell: the same for every image of a batch.
    ///
    /// # Shapes
    /// `features`: one `[N, C, H, W]` per level → one `[H·W·A, 4]` per level.
    ///
    /// # Errors
    /// Another number of feature maps than of strides (the original leaves out what is too much).
    pub fn grid_anchors(&self, features: &[Tensor]) -> Result<Vec<Tensor>> {
        ensure!(
            features.len() == self.strides.len(),
            "an anchor generator for {} feature maps got {}",
            self.strides.len(),
            features.len()
        );
        let size = |feature: &Tensor| {
            let size = feature.size();
            (size[size.len() - 2], size[size.len() - 1])
        };
        let sizes: Vec<(i64, i64)> = features.iter().map(size).collect();
        let make = || Grids { anchors: self.grids(&sizes), sizes: sizes.clone() };
        let grids = self.last.get_or_make(&self.cell_anchors, |grids| grids.sizes == sizes, make);
        Ok(grids.anchors.iter().map(Tensor::shallow_clone).collect())
    }

    /// Parts of one tensor, so that whoever needs all anchors joins them without a copy.
    fn grids(&self, sizes: &[(i64, i64)]) -> Vec<Tensor> {
        let levels: Vec<Tensor> = sizes
            .iter()
            .zip(self.strides.iter().zip(&self.cell_anchors))
            .map(|(&(height, width), (stride, cell))| {
                let options = (Kind::Float, cell.device());
                let x = Tensor::arange_start_step(0, width * stride, *stride, options).reshape([1, width, 1]);
                let y = Tensor::arange_start_step(0, height * stride, *stride, options).reshape([height, 1, 1]);
                let x = x.expand([height, width, 1], false);
                let y = y.expand([height, width, 1], false);
                let shifts = Tensor::cat(&[&x, &y, &x, &y], 2).reshape([-1, 1, 4]);
                (shifts + cell.unsqueeze(0)).reshape([-1, 4])
            })
            .collect();
        Rows::of(&levels).split(&cat(&levels, 0))
    }

    /// Whether each anchor lies inside each image, up to the straddle threshold (below 0: all do).
    ///
    /// # Shapes
    /// `anchors` `[K, 4]`, N sizes (height, width) before padding → `[N, K]` bool.
    pub fn visibility(&self, anchors: &Tensor, image_sizes: &[(i64, i64)]) -> Tensor {
        let device = anchors.device();
        if self.straddle_thresh < 0 {
            return Tensor::ones([image_sizes.len() as i64, anchors.size()[0]], (Kind::Bool, device));
        }
        let limits: Vec<f32> = image_sizes
            .iter()
            .flat_map(|(height, width)| [width, height].map(|side| (side + self.straddle_thresh) as f32))
            .collect();
        let limits = to_device(&Tensor::from_slice(&limits).view([-1, 1, 2]), device);
        let from_left_top = anchors.narrow(1, 0, 2).ge(-self.straddle_thresh).all_dim(1, false);
        let to_right_bottom = anchors.narrow(1, 2, 2).lt_tensor(&limits).all_dim(2, false);
        from_left_top.logical_and(&to_right_bottom)
    }
}

/// Fails where anchors would lie on another grid than the maps' positions.
fn check_strides(cfg: &Config, key: &str, strides: &Tuple<i64>, maps: &FeatureMaps) -> Result<()> {
    let body = &cfg.model.backbone.conv_body;
    let other_body = match cfg.model.retinanet_on && body.ends_with("-FPN") {
        true => format!("MODEL.BACKBONE.CONV_BODY to {body}-RETINANET, or "),
        false => String::new(),
    };
    ensure!(
        strides.0 == maps.strides,
        "{key} is {strides}, but MODEL.BACKBONE.CONV_BODY {body:?} gives {maps}: set {other_body}{key} to {}",
        Tuple(maps.strides.clone())
    );
    Ok(())
}

/// Fails where there is not one size for each map.
fn check_sizes(cfg: &Config, key: &str, sizes: &Tuple<AnchorSizes>, maps: &FeatureMaps) -> Result<()> {
    // As large in proportion as 32 pixels on the finest map of a pyramid.
    let usual: Tuple<i64> = Tuple(maps.strides.iter().map(|stride| 8 * stride).collect());
    let (given, wanted) = (sizes.len(), maps.strides.len());
    ensure!(
        given == wanted,
        "{key} is {sizes}: {given} sizes, but MODEL.BACKBONE.CONV_BODY {:?} gives {maps}: give one size for each map, \
         such as {key} {usual}",
        cfg.model.backbone.conv_body
    );
    Ok(())
}

/// The sides where each item is one.
fn single_sides(key: &str, sizes: &Tuple<AnchorSizes>) -> Result<Vec<f64>> {
    let sides: Option<Vec<f64>> = sizes.iter().map(AnchorSizes::side).collect();
    sides.with_context(|| {
        format!("{key} is {sizes}: a tuple of sizes as an item is for the levels of a pyramid (MODEL.RPN.USE_FPN) only")
    })
}

/// The anchor generator of the region proposal network (`MODEL.RPN`).
///
/// # Errors
/// Anchor sizes or strides that do not fit the maps or `MODEL.RPN.USE_FPN`.
pub fn make_anchor_generator(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<AnchorGenerator> {
    let rpn = &cfg.model.rpn;
    ensure!(
        rpn.use_fpn || maps.strides.len() == 1,
        "MODEL.RPN.USE_FPN is False, but MODEL.BACKBONE.CONV_BODY {:?} gives {maps}: set it to True, and \
         MODEL.RPN.ANCHOR_STRIDE to {}",
        cfg.model.backbone.conv_body,
        Tuple(maps.strides.clone())
    );
    check_strides(cfg, "MODEL.RPN.ANCHOR_STRIDE", &rpn.anchor_stride, maps)?;
    let per_level = if rpn.use_fpn {
        check_sizes(cfg, "MODEL.RPN.ANCHOR_SIZES", &rpn.anchor_sizes, maps)?;
        let per_level: Vec<Vec<f64>> = rpn.anchor_sizes.iter().map(AnchorSizes::sides).collect();
        ensure!(
            per_level.iter().all(|sides| !sides.is_empty() && sides.len() == per_level[0].len()),
            "MODEL.RPN.ANCHOR_SIZES is {}: give the same number of sizes for each level, since one head serves them all",
            rpn.anchor_sizes
        );
        per_level
    } else {
        vec![single_sides("MODEL.RPN.ANCHOR_SIZES", &rpn.anchor_sizes)?]
    };
    AnchorGenerator::new(path, &per_level, &rpn.aspect_ratios, &rpn.anchor_stride, rpn.straddle_thresh)
}

/// The anchor generator of RetinaNet (`MODEL.RETINANET`): per level several sizes within an octave.
///
/// # Errors
/// Anchor sizes or strides that do not fit the maps.
pub fn make_anchor_generator_retinanet(cfg: &Config, path: &ParamPath, maps: &FeatureMaps) -> Result<AnchorGenerator> {
    let retinanet = &cfg.model.retinanet;
    check_strides(cfg, "MODEL.RETINANET.ANCHOR_STRIDES", &retinanet.anchor_strides, maps)?;
    check_sizes(cfg, "MODEL.RETINANET.ANCHOR_SIZES", &retinanet.anchor_sizes, maps)?;
    let sides = single_sides("MODEL.RETINANET.ANCHOR_SIZES", &retinanet.anchor_sizes)?;
    let octave = |side: f64| octave_sizes(side, retinanet.octave, retinanet.scales_per_octave);
    let per_level: Vec<Vec<f64>> = sides.into_iter().map(octave).collect();
    AnchorGenerator::new(
        path,
        &per_level,
        &retinanet.aspect_ratios,
        &retinanet.anchor_strides,
        retinanet.straddle_thresh,
    )
}

/// `scales_per_octave` sizes from `size` up to (not including) `octave · size`, evenly spaced in the logarithm.
pub fn octave_sizes(size: f64, octave: f64, scales_per_octave: i64) -> Vec<f64> {
    (0..scales_per_octave).map(|step| octave.powf(step as f64 / scales_per_octave as f64) * size).collect()
}
