//! From the annotations of an image to its target.

use anyhow::{bail, ensure, Result};
use tch::Tensor;

use super::{Annotation, Segmentation, TargetFields};
use crate::structures::rle::{self, Rle};
use crate::structures::{Keypoints, SegmentationMask};

/// The annotations that a target has: no crowd regions, and no boxes of which nothing is left in an image of `size`
/// (width, height), so that nobody asks for their outlines.
pub(super) fn instances(annotations: &[Annotation], size: (i64, i64)) -> Vec<&Annotation> {
    annotations.iter().filter(|annotation| !annotation.iscrowd && is_inside(annotation.bbox, size)).collect()
}

/// Whether `BoxList::clip_to_image` keeps a box; in its precision.
fn is_inside(bbox: [f64; 4], size: (i64, i64)) -> bool {
    let [x, y, width, height] = bbox.map(|value| value as f32);
    let has_extent = |start: f32, side: f32, length: i64| {
        let (end, last) = (start + (side - 1.0).clamp(0.0, f32::INFINITY), (length - 1).max(0) as f32);
        end.clamp(0.0, last) > start.clamp(0.0, last)
    };
    has_extent(x, width, size.0) && has_extent(y, height, size.1)
}

/// The fields that every one of these instances has.
pub(super) fn complete_fields(instances: &[&Annotation]) -> TargetFields {
    let first = instances.first().map_or(0, |annotation| number_of_values(annotation));
    TargetFields {
        masks: instances.iter().all(|annotation| without_outline(annotation).is_none()),
        keypoints: instances.iter().all(|annotation| without_keypoints(annotation, first).is_none()),
    }
}

/// Why an annotation has no outline that could be trained on; empty if there just is none.
pub(super) fn without_outline(annotation: &Annotation) -> Option<&str> {
    match &annotation.segmentation {
        None | Some(Segmentation::Crowd) => Some(""),
        Some(Segmentation::Unreadable(why)) => Some(why),
        Some(Segmentation::Polygons(polygons)) if polygons.iter().any(|polygon| polygon.len() >= 6) => None,
        Some(Segmentation::Polygons(_)) => Some(""),
        Some(Segmentation::Rle(_)) => None,
    }
}

/// Why an annotation does not have as many values for its keypoints as others, which have `values`; empty if it has
/// none.
pub(super) fn without_keypoints(annotation: &Annotation, values: usize) -> Option<String> {
    match number_of_values(annotation) {
        0 => Some(String::new()),
        found if found == values && found % 3 == 0 => None,
        found => Some(format!("{found} values, the first has {values}: x, y, visibility of each point")),
    }
}

/// The length of `keypoints`, three times the number of points.
pub(super) fn number_of_values(annotation: &Annotation) -> usize {
    annotation.keypoints.as_ref().map_or(0, |keypoints| keypoints.len())
}

/// The masks of the instances, or `None` if they have none. Polygons stay polygons; as soon as one instance has run
/// lengths, all become pixels.
pub(super) fn masks(instances: &[&Annotation], size: (i64, i64)) -> Result<Option<SegmentationMask>> {
    let bare = |annotation: &&&Annotation| without_outline(annotation).is_some();
    let Some(first) = instances.iter().find(bare) else {
        return outlines(instances, size);
    };
    if let Some(why) = without_outline(first).filter(|why| !why.is_empty()) {
        bail!("annotation {}: {why}", first.id);
    }
    ensure!(
        instances.iter().all(|annotation| bare(&annotation)),
        "annotation {} has no outline (a polygon of at least three points), but others of the image have",
        first.id
    );
    Ok(None)
}

fn outlines(instances: &[&Annotation], size: (i64, i64)) -> Result<Option<SegmentationMask>> {
    if instances.is_empty() {
        return Ok(None);
    }
    let polygons: Option<Vec<Vec<Vec<f64>>>> = instances.iter().map(|annotation| polygons(annotation)).collect();
    if let Some(polygons) = polygons {
        return Ok(Some(SegmentationMask::from_polygons(polygons, size)));
    }
    let rles: Vec<Rle> = instances.iter().map(|annotation| run_lengths(annotation, size)).collect::<Result<_>>()?;
    SegmentationMask::from_rle(&rles, size).map(Some)
}

fn polygons(annotation: &Annotation) -> Option<Vec<Vec<f64>>> {
    match &annotation.segmentation {
        Some(Segmentation::Polygons(polygons)) => {
            Some(polygons.iter().map(|polygon| polygon.iter().map(|&value| value.into()).collect()).collect())
        }
        _ => None,
    }
}

fn run_lengths(annotation: &Annotation, (width, height): (i64, i64)) -> Result<Rle> {
    let rle = match &annotation.segmentation {
        Some(Segmentation::Rle(rle)) => rle.clone(),
        _ => rle::from_polygons(&polygons(annotation).unwrap_or_default(), (height, width))?,
    };
    ensure!(
        (i64::from(rle.w), i64::from(rle.h)) == (width, height),
        "annotation {} has a mask of {}x{} pixels, but the image has {width}x{height}",
        annotation.id,
        rle.w,
        rle.h
    );
    Ok(rle)
}

/// The keypoints of the instances, or `None` if the first has none.
pub(super) fn keypoints(instances: &[&Annotation], size: (i64, i64)) -> Result<Option<Keypoints>> {
    let points = instances.first().map_or(0, |first| number_of_values(first));
    if points == 0 {
        return Ok(None);
    }
    let mut values: Vec<f32> = Vec::with_capacity(instances.len() * points);
    for annotation in instances {
        ensure!(
            without_keypoints(annotation, points).is_none(),
            "annotation {} has {} keypoint values, but the first of the image has {points} (x, y, visibility each)",
            annotation.id,
            number_of_values(annotation)
        );
        values.extend(annotation.keypoints.iter().flatten());
    }
    let shape = [instances.len() as i64, points as i64 / 3, 3];
    Keypoints::person(Tensor::from_slice(&values).view(shape), size).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::structures::{BoxList, Mode};

    fn annotation(bbox: [f64; 4], segmentation: serde_json::Value) -> Annotation {
        let content =
            json!({"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 0], "segmentation": segmentation});
        Annotation { bbox, ..serde_json::from_value(content).unwrap() }
    }

    #[test]
    fn boxes_are_kept_as_clipping_keeps_them() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        let sides = [-9.0, -0.5, 0.0, 0.999_999_99, 1.0, 1.000_000_1, 1.5, 9.0, 19.0, 19.5, 20.0, 29.0, 30.0, inf, nan];
        let size = (30, 20);
        for (x, width) in sides.iter().flat_map(|&x| sides.map(|width| (x, width))) {
            for bbox in [[x, 3.0, width, 9.0], [3.0, x, 9.0, width]] {
                let row = bbox.map(|value| value as f32);
                let list = BoxList::new(Tensor::from_slice(&row).view([1, 4]), size, Mode::Xywh).unwrap();
                let clipped = list.convert(Mode::Xyxy).clip_to_image(true).unwrap();
                assert_eq!(instances(&[annotation(bbox, json!(null))], size).len(), clipped.len(), "{bbox:?}");
            }
        }
    }

    #[test]
    fn all_instances_have_an_outline_or_the_one_without_is_named() {
        let bbox = [1.0, 1.0, 5.0, 5.0];
        let outlined = annotation(bbox, json!([[1, 1, 6, 1, 6, 6]]));
        let bare = annotation(bbox, json!([]));
        let damaged = annotation(bbox, json!({"size": [8, 10], "counts": [1, 200]}));
        let size = (10, 8);
        assert!(masks(&[&outlined], size).unwrap().is_some());
        assert!(masks(&[&bare], size).unwrap().is_none());
        assert!(masks(&[], size).unwrap().is_none());
        let error = masks(&[&outlined, &bare], size).err().unwrap().to_string();
        assert!(error.contains("annotation 7 has no outline"), "{error}");
        assert!(masks(&[&outlined, &damaged], size).err().unwrap().to_string().starts_with("annotation 7: "));
        assert_eq!(complete_fields(&[&outlined, &bare]), TargetFields::NONE);
        let empty = Annotation { keypoints: Some(Box::default()), ..outlined.clone() };
        assert!(keypoints(&[&empty], size).unwrap().is_none());
        let odd = Annotation { keypoints: Some(Box::new([1.0, 2.0])), ..outlined.clone() };
        assert!(keypoints(&[&odd], size).err().unwrap().to_string().contains("annotation 7 has 2 keypoint values"));
        assert_eq!(complete_fields(&[&outlined, &outlined]), TargetFields { masks: true, keypoints: false });
    }
}
