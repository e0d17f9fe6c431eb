//! Res2Net-C4 with a Conv5 head of Res2Net blocks: the original has no values for it, its head knows ResNet's only.

use maskrcnn_benchmark::config::CfgNode;
use maskrcnn_benchmark::layers::Parameters;
use maskrcnn_benchmark::modeling::detector::build_detection_model;
use maskrcnn_benchmark::modeling::registry::ModelRegistries;
use maskrcnn_benchmark::structures::{to_image_list, BoxList, Mode, SegmentationMask};
use tch::{Device, Kind, Tensor};

use super::support::generator;

const NARROW: &str = r#"
MODEL:
  BACKBONE: {CONV_BODY: "R2-50-C4"}
  RESNETS:
    TRANS_FUNC: "Bottle2neckWithFixedBatchNorm"
    STEM_OUT_CHANNELS: 4
    WIDTH_PER_GROUP: 2
    RES2_OUT_CHANNELS: 8
    BACKBONE_OUT_CHANNELS: 32
  MASK_ON: True
  RPN: {ANCHOR_SIZES: "(16, 32)", POST_NMS_TOP_N_TRAIN: 20, POST_NMS_TOP_N_TEST: 10}
  ROI_BOX_HEAD: {NUM_CLASSES: 3}
"#;

#[test]
fn the_conv5_head_is_made_of_the_blocks_of_the_body() {
    let mut node = CfgNode::default();
    node.merge_from_str(NARROW, "a narrow Res2Net-C4").unwrap();
    let config = node.to_config().unwrap();
    let _lock = generator();
    tch::manual_seed(7);
    let parameters = Parameters::new(Device::Cpu);
    let model = build_detection_model(&config, &parameters.root(), &ModelRegistries::default()).unwrap();

    // Four splits in the head as in the body; the mask head shares it.
    let weight = |name: &str| parameters.get(name).unwrap_or_else(|| panic!("there is no {name}"));
    assert_eq!(weight("backbone.body.layer3.0.convs.2.weight").size(), [8, 8, 3, 3]);
    assert_eq!(weight("roi_heads.box.feature_extractor.head.layer4.0.convs.2.weight").size(), [16, 16, 3, 3]);
    assert_eq!(weight("roi_heads.mask.feature_extractor.head.layer4.2.conv3.weight").size(), [64, 64, 1, 1]);

    let images = to_image_list(&[Tensor::randn([3, 96, 128], (Kind::Float, Device::Cpu))], 0);
    let corners = Tensor::from_slice(&[10f32, 10.0, 60.0, 70.0]).reshape([1, 4]);
    let mut target = BoxList::new(corners, (128, 96), Mode::Xyxy).unwrap();
    target.add_field("labels", Tensor::from_slice(&[1i64]));
    let polygon = vec![10.0, 10.0, 60.0, 10.0, 60.0, 70.0, 10.0, 70.0];
    target.add_field("masks", SegmentationMask::from_polygons(vec![vec![polygon]], (128, 96)));
    let losses = model.losses(&images, &[target]).unwrap();
    let total: Tensor = losses.iter().map(|(_, loss)| loss).sum();
    total.backward();
    for name in ["convs.0.weight", "conv3.weight", "downsample.0.weight"] {
        let grad = weight(&format!("roi_heads.box.feature_extractor.head.layer4.0.{name}")).grad();
        assert!(grad.abs().sum(Kind::Float).double_value(&[]) > 0.0, "{name} has no gradient");
    }
    for detections in model.detect(&images).unwrap() {
        assert_eq!(detections.tensor_field("mask").unwrap().size()[1..], [1, 14, 14]);
    }
}
