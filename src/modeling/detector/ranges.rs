//! Numbers that no model can be built from, found before libtorch fails on them in other words or in mid-training.

use anyhow::{ensure, Result};

use crate::config::{AnchorSizes, Config, Tuple};
use crate::modeling::utils::at_least;

/// Fails on the first key whose value is out of range, of those parts that the model has. (Bodies check their own.)
pub(super) fn check_ranges(cfg: &Config) -> Result<()> {
    let model = &cfg.model;
    if model.retinanet_on {
        let retinanet = &model.retinanet;
        anchors("MODEL.RETINANET.ANCHOR_SIZES", &retinanet.anchor_sizes)?;
        all_positive("MODEL.RETINANET.ASPECT_RATIOS", &retinanet.aspect_ratios)?;
        let octave = retinanet.octave;
        ensure!(octave > 0.0 && octave.is_finite(), "MODEL.RETINANET.OCTAVE is {octave}; it must be above 0");
        at_least(1, &[("MODEL.RETINANET.SCALES_PER_OCTAVE", retinanet.scales_per_octave)])?;
        return at_least(
            0,
            &[
                ("MODEL.RETINANET.NUM_CONVS", retinanet.num_convs),
                ("MODEL.RETINANET.PRE_NMS_TOP_N", retinanet.pre_nms_top_n),
            ],
        );
    }
    let rpn = &model.rpn;
    all_positive("MODEL.RPN.ASPECT_RATIOS", &rpn.aspect_ratios)?;
    anchors("MODEL.RPN.ANCHOR_SIZES", &rpn.anchor_sizes)?;
    at_least(
        0,
        &[
            ("MODEL.RPN.PRE_NMS_TOP_N_TRAIN", rpn.pre_nms_top_n_train),
            ("MODEL.RPN.PRE_NMS_TOP_N_TEST", rpn.pre_nms_top_n_test),
            ("MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN", rpn.fpn_post_nms_top_n_train),
            ("MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", rpn.fpn_post_nms_top_n_test),
        ],
    )?;
    at_least(1, &[("MODEL.RPN.BATCH_SIZE_PER_IMAGE", rpn.batch_size_per_image)])?;
    fraction("MODEL.RPN.POSITIVE_FRACTION", rpn.positive_fraction)?;
    if model.rpn_only {
        return Ok(());
    }
    let head = &model.roi_box_head;
    at_least(
        1,
        &[
            ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", model.roi_heads.batch_size_per_image),
            ("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", head.mlp_head_dim),
            ("MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM", head.conv_head_dim),
            ("MODEL.ROI_BOX_HEAD.DILATION", head.dilation),
        ],
    )?;
    at_least(0, &[("MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS", head.num_stacked_convs)])?;
    fraction("MODEL.ROI_HEADS.POSITIVE_FRACTION", model.roi_heads.positive_fraction)?;
    if model.mask_on {
        let head = &model.roi_mask_head;
        widths("MODEL.ROI_MASK_HEAD.CONV_LAYERS", &head.conv_layers)?;
        at_least(1, &[("MODEL.ROI_MASK_HEAD.DILATION", head.dilation)])?;
    }
    if model.keypoint_on {
        let head = &model.roi_keypoint_head;
        widths("MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", &head.conv_layers)?;
        at_least(1, &[("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", head.num_classes)])?;
    }
    Ok(())
}

fn fraction(key: &str, value: f64) -> Result<()> {
    ensure!((0.0..=1.0).contains(&value), "{key} is {value}; it must lie between 0 and 1");
    Ok(())
}

fn widths(key: &str, values: &Tuple<i64>) -> Result<()> {
    ensure!(values.iter().all(|width| *width > 0), "{key} is {values}; every width must be at least 1");
    Ok(())
}

fn anchors(key: &str, sizes: &Tuple<AnchorSizes>) -> Result<()> {
    ensure!(!sizes.is_empty(), "{key} is empty; there must be at least one size");
    let good = sizes.iter().flat_map(AnchorSizes::sides).all(|side| side > 0.0 && side.is_finite());
    ensure!(good, "{key} is {sizes}; every side must be above 0");
    Ok(())
}

fn all_positive(key: &str, values: &Tuple<f64>) -> Result<()> {
    let good = !values.is_empty() && values.iter().all(|value| *value > 0.0 && value.is_finite());
    ensure!(good, "{key} is {values}; it must hold at least one number, and only numbers above 0");
    Ok(())
}
