//! Narrow detectors of every kind: what must hold without the original's numbers.

mod contradictions;
mod fbnet;
mod memory;
mod own_parts;

use tch::{Device, Kind, Tensor};

use crate::config::Config;
use crate::layers::Parameters;
use crate::modeling::detector::{build_detection_model, GeneralizedRcnn, Losses};
use crate::modeling::registry::ModelRegistries;
use crate::structures::{to_image_list, BoxList, ImageList, Keypoints, Mode, SegmentationMask};
use crate::utils::testing::generator;

mod precision;

/// `KEY VALUE` pairs of a narrow network.
const NARROW: &str =
    "MODEL.RESNETS.STEM_OUT_CHANNELS 4 MODEL.RESNETS.WIDTH_PER_GROUP 2 MODEL.RESNETS.RES2_OUT_CHANNELS 8 \
    MODEL.RPN.BATCH_SIZE_PER_IMAGE 16 MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 8 MODEL.ROI_HEADS.DETECTIONS_PER_IMG 4 \
    MODEL.ROI_HEADS.SCORE_THRESH 0.0 MODEL.ROI_BOX_HEAD.NUM_CLASSES 4 MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM 8 \
    MODEL.RPN.POST_NMS_TOP_N_TRAIN 20 MODEL.RPN.POST_NMS_TOP_N_TEST 10 MODEL.GROUP_NORM.NUM_GROUPS 2 \
    MODEL.ROI_MASK_HEAD.CONV_LAYERS (8,8) MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS (8,8)";

pub(crate) const C4: &str =
    "MODEL.BACKBONE.CONV_BODY R-50-C4 MODEL.RESNETS.BACKBONE_OUT_CHANNELS 32 MODEL.RPN.ANCHOR_SIZES (16,32)";

pub(crate) const FPN: &str =
    "MODEL.BACKBONE.CONV_BODY R-50-FPN MODEL.RESNETS.BACKBONE_OUT_CHANNELS 8 MODEL.RPN.USE_FPN True \
    MODEL.RPN.ANCHOR_STRIDE (4,8,16,32,64) MODEL.RPN.ANCHOR_SIZES (8,16,32,64,128) MODEL.ROI_HEADS.USE_FPN True \
    MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR FPN2MLPFeatureExtractor MODEL.ROI_BOX_HEAD.PREDICTOR FPNPredictor \
    MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION 7 MODEL.ROI_BOX_HEAD.POOLER_SCALES (0.25,0.125,0.0625,0.03125) \
    DATALOADER.SIZE_DIVISIBILITY 32";

pub(crate) const FPN_MASK: &str = "MODEL.MASK_ON True MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR False \
    MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR MaskRCNNFPNFeatureExtractor MODEL.ROI_MASK_HEAD.RESOLUTION 28 \
    MODEL.ROI_MASK_HEAD.POOLER_SCALES (0.25,0.125,0.0625,0.03125)";

const FPN_KEYPOINT: &str = "MODEL.KEYPOINT_ON True MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR False \
    MODEL.ROI_KEYPOINT_HEAD.RESOLUTION 56 MODEL.ROI_KEYPOINT_HEAD.POOLER_SCALES (0.25,0.125,0.0625,0.03125)";

const RETINANET: &str = "MODEL.RETINANET_ON True MODEL.RPN_ONLY True MODEL.RETINANET.NUM_CLASSES 4 \
    MODEL.RETINANET.ANCHOR_SIZES (16,32,64,128,256) MODEL.RETINANET.NUM_CONVS 1 \
    MODEL.BACKBONE.CONV_BODY R-50-FPN-RETINANET MODEL.RESNETS.BACKBONE_OUT_CHANNELS 8";

/// One detector of every kind.
fn kinds() -> Vec<(&'static str, Vec<&'static str>)> {
    vec![
        ("fpn mask and keypoints", vec![FPN, FPN_MASK, FPN_KEYPOINT]),
        ("c4 with shared keypoints", vec![C4, "MODEL.KEYPOINT_ON True MODEL.ROI_KEYPOINT_HEAD.RESOLUTION 28"]),
        (
            "res2net c4 with its own conv5 head",
            vec![
                C4,
                "MODEL.MASK_ON True MODEL.BACKBONE.CONV_BODY R2-50-C4 \
             MODEL.RESNETS.TRANS_FUNC Bottle2neckWithFixedBatchNorm",
            ],
        ),
        ("c4 with shared masks", vec![C4, "MODEL.MASK_ON True"]),
        (
            "xconv1fc with group norm",
            vec![
                FPN,
                "MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR FPNXconv1fcFeatureExtractor MODEL.ROI_BOX_HEAD.USE_GN True \
             MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM 4 MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS 2",
            ],
        ),
        ("class-agnostic", vec![FPN, "MODEL.CLS_AGNOSTIC_BBOX_REG True"]),
        ("proposals only", vec![C4, "MODEL.RPN_ONLY True"]),
        ("retinanet", vec![RETINANET]),
    ]
}

pub(crate) fn config(parts: &[&str]) -> Config {
    let words = std::iter::once(&NARROW).chain(parts).flat_map(|part| part.split_whitespace().map(str::to_owned));
    Config::load(None, &words.collect::<Vec<_>>()).expect("a valid configuration")
}

/// The model with the same weights in every run.
pub(crate) fn model(cfg: &Config) -> (GeneralizedRcnn, Parameters) {
    let _generator = generator();
    let parameters = Parameters::new(Device::Cpu);
    let model = build_detection_model(cfg, &parameters.root(), &ModelRegistries::default()).expect("a model");
    (model, parameters)
}

fn image(width: i64, height: i64) -> Tensor {
    let ramp = Tensor::arange(3 * height * width, (Kind::Float, Device::Cpu)) * 0.37;
    (ramp.sin() * 60.0).reshape([3, height, width])
}

fn images() -> ImageList {
    to_image_list(&[image(96, 64), image(64, 96)], 32)
}

fn target(boxes: &[[f32; 4]], size: (i64, i64)) -> BoxList {
    let number = boxes.len() as i64;
    let bbox = Tensor::from_slice(&boxes.concat()).reshape([number, 4]);
    let polygon = |b: &[f32; 4]| {
        let [x1, y1, x2, y2] = b.map(f64::from);
        vec![vec![x1, y1, x2, y1, x2, y2, x1, y2]]
    };
    let points: Vec<f32> =
        boxes.iter().flat_map(|b| [(b[0] + b[2]) / 2.0, (b[1] + b[3]) / 2.0, 2.0].repeat(17)).collect();
    let keypoints = Tensor::from_slice(&points).reshape([number, 17, 3]);
    let mut target = BoxList::new(bbox, size, Mode::Xyxy).unwrap();
    target.add_field("labels", Tensor::ones([number], (Kind::Int64, Device::Cpu)));
    target.add_field("masks", SegmentationMask::from_polygons(boxes.iter().map(polygon).collect(), size));
    target.add_field("keypoints", Keypoints::person(keypoints, size).unwrap());
    target
}

fn total(losses: &Losses) -> Tensor {
    Tensor::stack(&losses.iter().map(|(_, loss)| loss).collect::<Vec<_>>(), 0).sum(Kind::Float)
}

#[test]
fn images_without_ground_truth_reach_every_parameter() {
    let _generator = generator();
    let some = [[8.0, 8.0, 40.0, 40.0], [30.0, 10.0, 60.0, 50.0]];
    for (kind, parts) in kinds() {
        let (model, parameters) = model(&config(&parts));
        for (what, first, second) in [("both", &some[..], &some[..]), ("one", &some[..], &[]), ("none", &[], &[])] {
            let targets = [target(first, (96, 64)), target(second, (64, 96))];
            let losses = model.losses(&images(), &targets).unwrap();
            for (name, loss) in &losses {
                let value = loss.double_value(&[]);
                assert!(value.is_finite(), "{kind}, {what}: {name} is {value}");
                let of_positives = ["loss_box_reg", "loss_mask", "loss_kp", "loss_rpn_box_reg", "loss_retina_reg"];
                if what == "none" && of_positives.contains(&name.as_str()) {
                    assert_eq!(value, 0.0, "{kind}: {name}");
                }
            }
            total(&losses).backward();
            for (name, parameter) in parameters.trainable() {
                let mut gradient = parameter.grad();
                assert!(gradient.defined(), "{kind}, {what}: no gradient for {name}");
                assert!(gradient.isfinite().all().int64_value(&[]) == 1, "{kind}, {what}: gradient of {name}");
                let _ = gradient.zero_();
            }
        }
    }
}

#[test]
fn every_kind_detects_within_the_image() {
    for (kind, parts) in kinds() {
        let (model, _) = model(&config(&parts));
        let found = model.detect(&images()).unwrap();
        assert_eq!(found.len(), 2, "{kind}");
        for (boxes, size) in found.iter().zip([(96, 64), (64, 96)]) {
            assert_eq!(boxes.size(), size, "{kind}");
            let far = boxes.bbox().narrow(1, 2, 2);
            let limit = Tensor::from_slice(&[size.0 as f32 - 1.0, size.1 as f32 - 1.0]);
            assert_eq!(far.gt_tensor(&limit).any().int64_value(&[]), 0, "{kind}");
        }
    }
}

#[test]
fn keypoints_of_a_batch_are_those_of_its_images() {
    let (model, _) = model(&config(&[FPN, FPN_KEYPOINT]));
    let batch = to_image_list(&[image(96, 64), image(96, 64).flip([2])], 32);
    let together = model.detect(&batch).unwrap();
    for (i, found) in together.iter().enumerate() {
        let single = to_image_list(&[batch.tensors.get(i as i64)], 32);
        let alone = model.detect(&single).unwrap().remove(0);
        assert!(!alone.is_empty());
        let difference = found.keypoints().unwrap().keypoints() - alone.keypoints().unwrap().keypoints();
        assert!(difference.abs().max().double_value(&[]) < 0.05);
        let logits = found.keypoints().unwrap().get_field("logits").unwrap();
        assert_eq!(logits.size(), [found.len() as i64, 17]);
    }
}

#[test]
fn masks_can_be_pasted_into_the_image() {
    let (model, _) = model(&config(&[FPN, FPN_MASK, "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS True"]));
    let found = model.detect(&images()).unwrap();
    for (boxes, (width, height)) in found.iter().zip([(96, 64), (64, 96)]) {
        let mask = boxes.tensor_field("mask").unwrap();
        assert_eq!(mask.size(), [boxes.len() as i64, 1, height, width]);
        assert_eq!(mask.kind(), Kind::Bool);
    }
}

#[test]
fn shared_extractors_are_listed_twice_and_trained_once() {
    let (_, parameters) = model(&config(&[C4, "MODEL.MASK_ON True"]));
    let (first, second) = ("roi_heads.box.feature_extractor.", "roi_heads.mask.feature_extractor.");
    let names = |prefix: &str| {
        let state = parameters.state();
        state.iter().filter_map(|e| e.name.strip_prefix(prefix).map(str::to_owned)).collect::<Vec<_>>()
    };
    assert!(!names(first).is_empty());
    assert_eq!(names(first), names(second));
    assert!(parameters.trainable().iter().all(|(name, _)| !name.starts_with(second)));
}

#[test]
fn a_batch_needs_one_target_per_image() {
    let (model, _) = model(&config(&[C4, "MODEL.RPN_ONLY True"]));
    let message = model.losses(&images(), &[target(&[], (96, 64))]).unwrap_err().to_string();
    assert!(message.contains("2 images") && message.contains("targets for 1"), "{message}");
}
