//! The detections as JSON.

use std::path::Path;

use anyhow::Result;
use serde_json::{json, Value};
use tch::Kind;

use crate::engine::coco_demo::CocoDemo;
use crate::structures::{rle, BoxList, Masker, Mode};

/// One entry a detection, in the form of COCO's results with the name of the image instead of an id: `file_name`,
/// `bbox` (x, y, width, height), `score`, `category_id`, `category_name`, and where the model gives them `segmentation`
/// (compressed run lengths) and `keypoints` (x, y, score of each).
pub(super) fn entries(coco_demo: &CocoDemo, path: &Path, top_predictions: &BoxList) -> Result<Vec<Value>> {
    let boxes = Vec::<f32>::try_from(top_predictions.convert(Mode::Xywh).bbox().contiguous().view(-1))?;
    let scores = Vec::<f32>::try_from(top_predictions.tensor_field("scores")?.to_kind(Kind::Float))?;
    let labels = Vec::<i64>::try_from(top_predictions.tensor_field("labels")?.to_kind(Kind::Int64))?;
    let masks = match top_predictions.has_field("mask") {
        true => Masker::default().encode(top_predictions.tensor_field("mask")?, top_predictions)?,
        false => Vec::new(),
    };
    let mut entries = Vec::new();
    for (i, label) in labels.into_iter().enumerate() {
        let category = coco_demo.category(label);
        let mut entry = json!({
            "file_name": path.to_string_lossy(),
            "bbox": boxes[4 * i..4 * i + 4],
            "score": scores[i],
            "category_id": category.id,
            "category_name": category.name,
        });
        if let Some(mask) = masks.get(i) {
            entry["segmentation"] = json!({"size": [mask.h, mask.w], "counts": rle::to_string(mask)});
        }
        if top_predictions.has_field("keypoints") {
            let keypoints = top_predictions.keypoints()?;
            let points = keypoints.keypoints().get(i as i64).to_kind(Kind::Float);
            let mut points: Vec<Vec<f32>> = points.try_into()?;
            let logits = Vec::<f32>::try_from(keypoints.get_field("logits")?.get(i as i64).to_kind(Kind::Float))?;
            for (point, logit) in points.iter_mut().zip(logits) {
                point[2] = logit;
            }
            entry["keypoints"] = json!(points.concat());
        }
        entries.push(entry);
    }
    Ok(entries)
}
