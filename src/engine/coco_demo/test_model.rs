//! A very small Mask R-CNN for tests.

use std::path::Path;

use tch::Device;

use crate::checkpoint::{Contents, DetectronCheckpointer};
use crate::config::Config;
use crate::layers::parameters::Parameters;
use crate::modeling::detector::build_detection_model;
use crate::modeling::registry::ModelRegistries;
use crate::utils::testing::generator;

pub(crate) const TINY_CONFIG: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/configs/pytorch_mask_rcnn_R2_50_s4_FPN_2x.yaml");

/// Random weights in a folder, and the overrides of [`TINY_CONFIG`] that they belong to.
pub(crate) fn tiny_model(more: &[&str]) -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("model_final.pth").to_string_lossy().into_owned();
    let settings = "MODEL.DEVICE cpu OUTPUT_DIR none INPUT.MIN_SIZE_TEST 64 INPUT.MAX_SIZE_TEST 96 \
                    MODEL.RESNETS.STEM_OUT_CHANNELS 8 MODEL.RESNETS.RES2_OUT_CHANNELS 16 \
                    MODEL.RESNETS.WIDTH_PER_GROUP 4 MODEL.RESNETS.BACKBONE_OUT_CHANNELS 16 \
                    MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM 16 MODEL.ROI_BOX_HEAD.NUM_CLASSES 4 \
                    MODEL.ROI_MASK_HEAD.CONV_LAYERS (8,) MODEL.ROI_HEADS.SCORE_THRESH 0.0 \
                    MODEL.ROI_HEADS.DETECTIONS_PER_IMG 7 MODEL.RPN.PRE_NMS_TOP_N_TEST 50";
    let words = settings.split_whitespace().chain(["MODEL.WEIGHT", &file]).chain(more.iter().copied());
    let overrides: Vec<String> = words.map(str::to_owned).collect();
    let cfg = Config::load(Some(Path::new(TINY_CONFIG)), &overrides).expect("valid");
    let _generator = generator();
    let parameters = Parameters::new(Device::Cpu);
    build_detection_model(&cfg, &parameters.root(), &ModelRegistries::default()).expect("a model");
    let checkpointer = DetectronCheckpointer::new(&cfg, &parameters, Some(folder.path()));
    checkpointer.save("model_final", &Contents::default()).expect("saved");
    (folder, overrides)
}
