//! Models by the name of their meta-architecture.

use anyhow::{ensure, Result};

use crate::config::Config;
use crate::layers::ParamPath;
use crate::modeling::registry::ModelRegistries;

use super::generalized_rcnn::GeneralizedRcnn;

/// Builds the model that the configuration describes, with its parameters below `root` under the original's names.
///
/// # Errors
/// An unknown name (the message lists the known ones), or keys that contradict each other.
pub fn build_detection_model(cfg: &Config, root: &ParamPath, registries: &ModelRegistries) -> Result<GeneralizedRcnn> {
    let name = &cfg.model.meta_architecture;
    ensure!(name == "GeneralizedRCNN", "MODEL.META_ARCHITECTURE: {name:?} is not known; known are GeneralizedRCNN");
    GeneralizedRcnn::new(cfg, root, registries)
}
