//! Whole detectors on the GPU, stage by stage.

use super::device;
use crate::models::tiny::inference::inference_on;

#[test]
fn golden_inference() {
    let Some(device) = device() else { return };
    inference_on(device);
}
