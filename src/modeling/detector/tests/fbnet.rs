//! FBNet detectors: what no configuration of the original covers.

use super::{config, image, model, target, total};
use crate::config::Config;
use crate::structures::{to_image_list, BoxList};

/// A narrow Faster R-CNN whose widths are multiples of 8.
const FBNET: &str = "MODEL.BACKBONE.CONV_BODY FBNet MODEL.FBNET.SCALE_FACTOR 0.25 MODEL.FBNET.WIDTH_DIVISOR 8 \
    MODEL.RPN.ANCHOR_SIZES (16,32) MODEL.RPN.RPN_HEAD FBNet.rpn_head \
    MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR FBNet.roi_head MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 6 \
    MODEL.FBNET.DET_HEAD_LAST_SCALE 0.0";

const MASK: &str = "MODEL.MASK_ON True MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR False \
    MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR FBNet.roi_head_mask MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION 6 \
    MODEL.ROI_MASK_HEAD.PREDICTOR MaskRCNNConv1x1Predictor MODEL.ROI_MASK_HEAD.RESOLUTION 12";

const KEYPOINT: &str = "MODEL.KEYPOINT_ON True MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR False \
    MODEL.ROI_KEYPOINT_HEAD.FEATURE_EXTRACTOR FBNet.roi_head_keypoints \
    MODEL.ROI_KEYPOINT_HEAD.POOLER_RESOLUTION 6 MODEL.ROI_KEYPOINT_HEAD.RESOLUTION 24";

/// Detects, and checks that a step of training reaches every parameter.
fn detect_and_train(name: &str, cfg: &Config) -> BoxList {
    let (model, parameters) = model(cfg);
    for entry in parameters.state().iter().filter(|e| e.name.starts_with("backbone.") && e.tensor.dim() == 4) {
        assert_eq!(entry.tensor.size()[0] % 8, 0, "{name}: {}", entry.name);
    }
    let images = to_image_list(&[image(96, 64)], 0);
    let found = model.detect(&images).unwrap().remove(0);
    assert_eq!(found.size(), (96, 64), "{name}");
    let losses = model.losses(&images, &[target(&[[8.0, 8.0, 60.0, 50.0]], (96, 64))]).unwrap();
    total(&losses).backward();
    for (parameter, tensor) in parameters.trainable() {
        let gradient = tensor.grad();
        assert!(gradient.defined(), "{name}: no gradient for {parameter}");
        assert!(gradient.isfinite().all().int64_value(&[]) == 1, "{name}: gradient of {parameter}");
    }
    found
}

#[test]
fn every_architecture_detects_and_trains_with_every_norm() {
    let _generator = crate::utils::testing::generator();
    let other_rpn = "MODEL.RPN.RPN_HEAD SingleConvRPNHead";
    for (arch, norm, more) in [
        ("default", "bn", MASK),
        ("xirb16d_dsmask", "af", MASK),
        ("mobilenet_v2", "bn", other_rpn),
        ("cham_v1a", "gn", ""),
        ("cham_v2", "bn", ""),
    ] {
        let own = format!("MODEL.FBNET.ARCH {arch} MODEL.FBNET.BN_TYPE {norm}");
        let found = detect_and_train(arch, &config(&[FBNET, more, &own]));
        assert_eq!(found.has_field("mask"), more == MASK, "{arch}");
    }
}

#[test]
fn an_architecture_of_ones_own_has_all_heads() {
    let _generator = crate::utils::testing::generator();
    let mut cfg = config(&[FBNET, MASK, KEYPOINT, "MODEL.FBNET.ARCH mine MODEL.RPN.ANCHOR_STRIDE (8,)"]);
    for scales in [
        &mut cfg.model.roi_box_head.pooler_scales,
        &mut cfg.model.roi_mask_head.pooler_scales,
        &mut cfg.model.roi_keypoint_head.pooler_scales,
    ] {
        scales.0 = vec![0.125];
    }
    cfg.model.fbnet.arch_def = r#"{
        "block_op_type": [["ir_k3", "ir_k5"], ["ir_k3"], ["ir_k1"], ["ir_k3"], ["ir_k3"]],
        "block_cfg": {
            "first": [32, 2], "last": [0, 0.0],
            "stages": [[[2, 32, 2, 2]], [[2, 64, 1, 2]], [[1, 64, 1, 1]], [[2, 64, 1, -2]], [[3, 64, 1, 1]]],
            "backbone": [0, 1], "rpn": [2], "bbox": [4], "mask": [3], "kpts": [4], "rpn_stride": 8
        }
    }"#
    .into();
    let found = detect_and_train("mine", &cfg);
    assert_eq!(found.len(), found.keypoints().unwrap().len());
    assert_eq!(found.tensor_field("mask").unwrap().size()[2..], [12, 12]);
}
