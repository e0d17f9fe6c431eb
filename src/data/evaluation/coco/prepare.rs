//! Predictions as a list of COCO's results, at the size of the original images.

use anyhow::{ensure, Context, Result};
use hotcoco::types::{Annotation, Segmentation};
use tch::{Kind, Tensor};

use super::ground_truth::{CocoGroundTruth, GroundTruthImage};
use crate::structures::rle::{self, Rle};
use crate::structures::{BoxList, Masker, Mode};

/// Calls `add` for every image with predictions, resized to the image; errors name the image.
fn for_each_image(
    ground_truth: &CocoGroundTruth,
    predictions: &[BoxList],
    mut add: impl FnMut(&GroundTruthImage, &BoxList) -> Result<()>,
) -> Result<()> {
    ground_truth.check_number(predictions.len())?;
    for (image, prediction) in ground_truth.images().iter().zip(predictions) {
        if prediction.is_empty() {
            continue;
        }
        let mut add_resized = || add(image, &prediction.resize(image.size)?);
        add_resized().with_context(|| format!("prediction for image {}", ground_truth.id_in_file(image.id)))?;
    }
    Ok(())
}

/// One result without geometry per box.
fn results(ground_truth: &CocoGroundTruth, image: &GroundTruthImage, list: &BoxList) -> Result<Vec<Annotation>> {
    let scores = Vec::<f32>::try_from(list.tensor_field("scores")?)?;
    let categories = ground_truth.category_ids(list.tensor_field("labels")?)?;
    ensure!(
        scores.len() == list.len() && categories.len() == list.len(),
        "{} scores and {} labels for {list}",
        scores.len(),
        categories.len()
    );
    let result = |(category_id, score): (u64, f32)| Annotation {
        image_id: image.id,
        category_id,
        score: Some(score.into()),
        ..Annotation::default()
    };
    Ok(categories.into_iter().zip(scores).map(result).collect())
}

/// Boxes `[x, y, width, height]`, inclusive corners.
///
/// # Errors
/// If a prediction lacks scores or labels, or a label is unknown.
pub fn prepare_for_coco_detection(ground_truth: &CocoGroundTruth, predictions: &[BoxList]) -> Result<Vec<Annotation>> {
    let mut all = Vec::new();
    for_each_image(ground_truth, predictions, |image, prediction| {
        let list = prediction.convert(Mode::Xywh);
        let boxes = Vec::<f32>::try_from(list.bbox().contiguous().view(-1))?;
        let with_box = |(mut result, b): (Annotation, &[f32])| {
            result.bbox = Some([b[0], b[1], b[2], b[3]].map(f64::from));
            result
        };
        all.extend(results(ground_truth, image, &list)?.into_iter().zip(boxes.chunks_exact(4)).map(with_box));
        Ok(())
    })?;
    Ok(all)
}

/// Masks as run lengths: the field `mask` is pasted at its box with threshold 0.5, unless it already has the size of
/// the image.
///
/// # Errors
/// If a prediction lacks masks, scores or labels, or a label is unknown.
pub fn prepare_for_coco_segmentation(
    ground_truth: &CocoGroundTruth,
    predictions: &[BoxList],
) -> Result<Vec<Annotation>> {
    let masker = Masker::new(0.5, 1);
    let mut all = Vec::new();
    for_each_image(ground_truth, predictions, |image, prediction| {
        let masks = prediction.tensor_field("mask")?;
        let shape = masks.size();
        let whole = shape.len() == 4 && (shape[3], shape[2]) == image.size;
        let encoded: Vec<Rle> = if whole {
            (0..shape[0]).map(|i| rle::encode(&masks.get(i).get(0))).collect::<Result<_>>()?
        } else {
            masker.encode(masks, prediction)?
        };
        let with_mask = |(mut result, rle): (Annotation, Rle)| {
            let counts = rle::to_string(&rle);
            result.segmentation = Some(Segmentation::CompressedRle { size: [rle.h, rle.w], counts });
            result
        };
        all.extend(results(ground_truth, image, prediction)?.into_iter().zip(encoded).map(with_mask));
        Ok(())
    })?;
    Ok(all)
}

/// Keypoints `x, y, visibility` of every instance in one list.
///
/// # Errors
/// If a prediction lacks keypoints, scores or labels, or a label is unknown.
pub fn prepare_for_coco_keypoint(ground_truth: &CocoGroundTruth, predictions: &[BoxList]) -> Result<Vec<Annotation>> {
    let mut all = Vec::new();
    for_each_image(ground_truth, predictions, |image, prediction| {
        let keypoints = prediction.keypoints()?.keypoints();
        let per_instance: Vec<Tensor> = (0..keypoints.size()[0]).map(|i| keypoints.get(i)).collect();
        for (mut result, points) in results(ground_truth, image, prediction)?.into_iter().zip(per_instance) {
            result.keypoints = Some(Vec::<f64>::try_from(points.to_kind(Kind::Double).contiguous().view(-1))?);
            all.push(result);
        }
        Ok(())
    })?;
    Ok(all)
}
