//! Keys that contradict each other are named when a model is built: before training, testing and demos begin.

use tch::Device;

use super::{config, C4, FPN, FPN_KEYPOINT, FPN_MASK, RETINANET};
use crate::layers::Parameters;
use crate::modeling::detector::build_detection_model;
use crate::modeling::registry::ModelRegistries;

pub(super) fn refused(parts: &[&str]) -> String {
    let parameters = Parameters::uninitialised(Device::Cpu);
    match build_detection_model(&config(parts), &parameters.root(), &ModelRegistries::default()) {
        Ok(_) => panic!("{parts:?} builds"),
        Err(error) => format!("{error:#}"),
    }
}

/// Fails unless the configuration is refused with a message that has all of these words.
#[track_caller]
fn assert_refused(parts: &[&str], words: &[&str]) {
    let message = refused(parts);
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn anchor_strides_are_those_of_the_maps() {
    let five = "5 feature maps, of strides 4, 8, 16, 32, 64";
    assert_refused(
        &[FPN, "MODEL.RPN.ANCHOR_STRIDE (4,8,16,32)"],
        &["MODEL.RPN.ANCHOR_STRIDE is (4, 8, 16, 32)", "\"R-50-FPN\"", five, "ANCHOR_STRIDE to (4, 8, 16, 32, 64)"],
    );
    assert_refused(&[FPN, "MODEL.RPN.ANCHOR_STRIDE (8,16,32,64,128)"], &["is (8, 16, 32, 64, 128)", five]);
    assert_refused(&[FPN, "MODEL.RPN.USE_FPN False"], &["MODEL.RPN.USE_FPN is False", five, "set it to True"]);
    let one = "one feature map, of stride 16";
    assert_refused(&[C4, "MODEL.RPN.ANCHOR_STRIDE (32,)"], &["ANCHOR_STRIDE is (32,)", one, "ANCHOR_STRIDE to (16,)"]);
    assert_refused(&[C4, "MODEL.RPN.USE_FPN True MODEL.RPN.ANCHOR_STRIDE (8,16)"], &["is (8, 16)", one]);
    // RetinaNet on a body whose pyramid begins at P2.
    let retinanet = [RETINANET, "MODEL.BACKBONE.CONV_BODY R-50-FPN"];
    let body = "set MODEL.BACKBONE.CONV_BODY to R-50-FPN-RETINANET, or";
    assert_refused(&retinanet, &["MODEL.RETINANET.ANCHOR_STRIDES is (8, 16, 32, 64, 128)", five, body]);
}

#[test]
fn there_is_an_anchor_size_for_each_map() {
    assert_refused(
        &[FPN, "MODEL.RPN.ANCHOR_SIZES (8,16)"],
        &["MODEL.RPN.ANCHOR_SIZES is (8, 16): 2 sizes", "5 feature maps", "ANCHOR_SIZES (32, 64, 128, 256, 512)"],
    );
    assert_refused(
        &[RETINANET, "MODEL.RETINANET.ANCHOR_SIZES (8,)"],
        &["MODEL.RETINANET.ANCHOR_SIZES is (8,)", "5 feature"],
    );
}

#[test]
fn pooler_scales_are_those_of_the_maps() {
    let heads = [FPN, FPN_MASK, FPN_KEYPOINT];
    for section in ["MODEL.ROI_BOX_HEAD", "MODEL.ROI_MASK_HEAD", "MODEL.ROI_KEYPOINT_HEAD"] {
        for scales in ["(0.0625,)", "(0.125, 0.0625)", "(0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125)"] {
            let keys = format!("{section}.POOLER_SCALES {}", scales.replace(' ', ""));
            let named = format!("{section}.POOLER_SCALES is {scales}");
            let fix = format!("set {section}.POOLER_SCALES to (0.25, 0.125, 0.0625, 0.03125)");
            assert_refused(&[&heads[..], &[&keys]].concat(), &[&named, "strides 4, 8, 16, 32, 64", &fix]);
        }
    }
    assert_refused(
        &[C4, "MODEL.ROI_BOX_HEAD.POOLER_SCALES (0.125,0.0625)"],
        &["MODEL.ROI_BOX_HEAD.POOLER_SCALES is (0.125, 0.0625)", "one feature map, of stride 16", "to (0.0625,)"],
    );
    assert_refused(&[C4, "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 0"], &["MODEL.ROI_BOX_HEAD", "POOLER_RESOLUTION", "0"]);
}

#[test]
fn maps_are_as_wide_as_their_targets() {
    assert_refused(
        &[C4, "MODEL.MASK_ON True MODEL.RESNETS.RES5_DILATION 2"],
        &["MODEL.ROI_MASK_HEAD.RESOLUTION is 14", "set it to 28", "MODEL.RESNETS.RES5_DILATION"],
    );
    assert_refused(
        &[FPN, FPN_MASK, "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION 7"],
        &["MODEL.ROI_MASK_HEAD.RESOLUTION is 28", "set it to 14", "POOLER_RESOLUTION"],
    );
    assert_refused(
        &[FPN, FPN_KEYPOINT, "MODEL.ROI_KEYPOINT_HEAD.RESOLUTION 14"],
        &["MODEL.ROI_KEYPOINT_HEAD.RESOLUTION is 14", "set it to 56"],
    );
    assert_refused(
        &[FPN, "MODEL.MASK_ON True MODEL.ROI_MASK_HEAD.RESOLUTION 28"],
        &["MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", "set it to False"],
    );
}

#[test]
fn what_needs_boxes_is_refused_without_a_box_head() {
    for (kind, key) in [(RETINANET, "MODEL.RETINANET_ON"), ("MODEL.RPN_ONLY True", "MODEL.RPN_ONLY")] {
        for wish in ["MODEL.MASK_ON", "MODEL.KEYPOINT_ON", "TEST.BBOX_AUG.ENABLED"] {
            assert_refused(&[C4, kind, &format!("{wish} True")], &[key, wish]);
        }
    }
}

#[test]
fn numbers_out_of_range_are_named() {
    assert_refused(&[FPN, "MODEL.ROI_BOX_HEAD.NUM_CLASSES 1"], &["MODEL.ROI_BOX_HEAD.NUM_CLASSES", "at least 2"]);
    assert_refused(&[RETINANET, "MODEL.RETINANET.NUM_CLASSES 1"], &["MODEL.RETINANET.NUM_CLASSES", "at least 2"]);
    assert_refused(&[FPN, "MODEL.ROI_HEADS.BG_IOU_THRESHOLD 0.6"], &["MODEL.ROI_HEADS", "0.6"]);
    assert_refused(&[FPN, "MODEL.ROI_HEADS.BBOX_REG_WEIGHTS (1.0,1.0)"], &["MODEL.ROI_HEADS.BBOX_REG_WEIGHTS"]);
    assert_refused(
        &[FPN, "MODEL.RESNETS.STAGE_WITH_DCN (False,True)"],
        &["MODEL.RESNETS.STAGE_WITH_DCN has 2 entries", "needs four"],
    );
    for (key, value, allowed) in [
        ("MODEL.RPN.PRE_NMS_TOP_N_TRAIN", "-1", "at least 0"),
        ("MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", "-1", "at least 0"),
        ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", "-256", "at least 1"),
        ("MODEL.RPN.POSITIVE_FRACTION", "1.5", "between 0 and 1"),
        ("MODEL.RPN.ANCHOR_SIZES", "()", "at least one size"),
        ("MODEL.RPN.ANCHOR_SIZES", "(8,16,0,64,128)", "above 0"),
        ("MODEL.RPN.ANCHOR_SIZES", "(8,16,32,64,(128,-8))", "above 0"),
        ("MODEL.RPN.ASPECT_RATIOS", "()", "at least one number"),
        ("MODEL.RPN.ASPECT_RATIOS", "(0.5,-1.0)", "above 0"),
        ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "0", "at least 1"),
        ("MODEL.ROI_HEADS.POSITIVE_FRACTION", "-0.5", "between 0 and 1"),
        ("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", "-1", "at least 1"),
        ("MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM", "-1", "at least 1"),
        ("MODEL.ROI_MASK_HEAD.CONV_LAYERS", "(8,-8)", "at least 1"),
        ("MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", "(0,)", "at least 1"),
        ("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", "-17", "at least 1"),
    ] {
        assert_refused(&[FPN, FPN_MASK, FPN_KEYPOINT, &format!("{key} {value}")], &[&format!("{key} is"), allowed]);
    }
    for (key, value) in [
        ("PRE_NMS_TOP_N", "-1"),
        ("NUM_CONVS", "-1"),
        ("SCALES_PER_OCTAVE", "0"),
        ("OCTAVE", "-2.0"),
        ("OCTAVE", "0.0"),
        ("ANCHOR_SIZES", "(32,64,-128,256,512)"),
        ("ASPECT_RATIOS", "()"),
        ("ASPECT_RATIOS", "(0.0,1.0)"),
    ] {
        let key = format!("MODEL.RETINANET.{key}");
        assert_refused(&[RETINANET, &format!("{key} {value}")], &[&format!("{key} is")]);
    }
}

#[test]
fn unknown_names_list_the_known_ones() {
    for (key, known) in [
        ("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
        ("MODEL.BACKBONE.CONV_BODY", "R2-50-FPN"),
        ("MODEL.RPN.RPN_HEAD", "SingleConvRPNHead"),
        ("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPN2MLPFeatureExtractor"),
        ("MODEL.ROI_BOX_HEAD.PREDICTOR", "FastRCNNPredictor"),
        ("MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR", "MaskRCNNFPNFeatureExtractor"),
        ("MODEL.ROI_MASK_HEAD.PREDICTOR", "MaskRCNNC4Predictor"),
        ("MODEL.ROI_KEYPOINT_HEAD.FEATURE_EXTRACTOR", "KeypointRCNNFeatureExtractor"),
        ("MODEL.ROI_KEYPOINT_HEAD.PREDICTOR", "KeypointRCNNPredictor"),
    ] {
        assert_refused(&[FPN, FPN_MASK, FPN_KEYPOINT, &format!("{key} Nothing")], &[key, "Nothing", known]);
    }
}
