//! Models by the name of their meta-architecture.

use anyhow::Result;

use crate::config::registry::unknown_name;
use crate::config::Config;
use crate::layers::ParamPath;
use crate::modeling::registry::ModelRegistries;

use super::generalized_rcnn::GeneralizedRcnn;
use super::ranges::check_ranges;

/// Builds the model that the configuration describes, with its parameters below `root` under the original's names.
///
/// # Errors
/// An unknown name (the message lists the known ones), a number out of range, or keys that contradict each other.
pub fn build_detection_model(cfg: &Config, root: &ParamPath, registries: &ModelRegistries) -> Result<GeneralizedRcnn> {
    let name = &cfg.model.meta_architecture;
    if name != "GeneralizedRCNN" {
        return Err(unknown_name("MODEL.META_ARCHITECTURE", name, ["GeneralizedRCNN"]));
    }
    check_ranges(cfg)?;
    GeneralizedRcnn::new(cfg, root, registries)
}
