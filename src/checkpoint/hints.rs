//! Recognising files that belong to another model, and saying which override would fit.

use std::collections::HashMap;

use anyhow::{bail, Result};

use super::model_serialization::{LoadReport, Skipped};

/// The first few of many names.
pub(super) fn some(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Shapes by name.
type Shapes<'a> = HashMap<&'a str, &'a [i64]>;

/// Fails when a file was made for another architecture.
///
/// # Errors
/// Nothing fits, or less than half of the backbone's convolutions although the file has a backbone; a Res2Net v1b file,
/// or one of another width or scale (more than half of 26w × 6s fits into 26w × 4s). Says names, shapes, and overrides.
pub(super) fn check_architecture(
    model: &[(String, Vec<i64>)],
    loaded: &HashMap<&str, &[i64]>,
    report: &LoadReport,
) -> Result<()> {
    if is_v1b(loaded) && report.skipped.iter().any(|s| s.name.contains(".downsample.")) {
        bail!(
            "the file holds a Res2Net v1b (or v1d) backbone, whose shortcuts pool before they convolve (downsample.1 is a \
             convolution) and whose stem may be deeper. No configuration here builds it: use the v1 weights, \
             res2net50_26w_4s and its like.\nNames that do not fit:\n{}",
            report.table()
        );
    }
    let hint = match res2net_hint(model, loaded) {
        Some(Hint::Override(hint)) => bail!("{hint}{}", describe(report)),
        Some(Hint::Body(hint)) => format!("\n{hint}"),
        None => String::new(),
    };
    // One name without `module.` makes everything miss; that has its own warning.
    if report.loaded.is_empty() && report.warnings.is_empty() {
        bail!("the file belongs to another model: none of its names fits.{}{hint}", describe(report));
    }
    let fits: HashMap<&str, bool> = report
        .loaded
        .iter()
        .map(|(name, _)| (name.as_str(), true))
        .chain(report.skipped.iter().map(|s| (s.name.as_str(), false)))
        .collect();
    let convolutions: Vec<&str> = model
        .iter()
        .filter(|(name, shape)| shape.len() == 4 && name.contains("backbone.body."))
        .map(|(name, _)| name.as_str())
        .collect();
    let fitting = convolutions.iter().filter(|name| fits.get(*name) == Some(&true)).count();
    let touched = convolutions.iter().any(|name| fits.contains_key(name));
    if touched && fitting * 2 < convolutions.len() {
        bail!(
            "the file belongs to another backbone: {fitting} of {} convolutions fit.{}{hint}",
            convolutions.len(),
            describe(report)
        );
    }
    Ok(())
}

fn describe(report: &LoadReport) -> String {
    let mut out = String::new();
    let mut list = |title: &str, names: &[&str]| {
        if !names.is_empty() {
            out.push_str(&format!("\n{title}: {}", some(names)));
        }
    };
    list("In the file, but not in the model", &report.unused.iter().map(String::as_str).collect::<Vec<_>>());
    list("In the model, but not in the file", &report.untouched.iter().map(String::as_str).collect::<Vec<_>>());
    let shapes: Vec<String> =
        report.skipped.iter().map(|s| format!("{} (file {:?}, model {:?})", s.name, s.loaded_shape, s.shape)).collect();
    list("With other shapes", &shapes.iter().map(String::as_str).collect::<Vec<_>>());
    out
}

/// v1b pools, convolves and normalises in the shortcut: `downsample.1` has the convolution's four dimensions.
fn is_v1b(loaded: &Shapes) -> bool {
    loaded.iter().any(|(name, shape)| name.ends_with("layer1.0.downsample.1.weight") && shape.len() == 4)
}

/// Splits and width of a Res2Net, from the first block.
fn res2net<'a>(shapes: impl Iterator<Item = (&'a str, &'a [i64])>) -> Option<(usize, i64)> {
    let mut splits = 0;
    let mut width = None;
    for (name, shape) in shapes {
        let Some(at) = name.find("layer1.0.convs.") else { continue };
        if name[at..].ends_with(".weight") && shape.len() == 4 {
            splits += 1;
            width = Some(shape[0]);
        }
    }
    // With a scale of s, s - 1 splits are convolved (all of them for a scale of 1).
    width.map(|width| (splits + 1, width))
}

/// What would fit a file that belongs to another backbone.
#[derive(Debug, PartialEq)]
enum Hint {
    /// Another width or scale of the same kind.
    Override(String),
    /// Another kind.
    Body(String),
}

fn res2net_hint(model: &[(String, Vec<i64>)], loaded: &Shapes) -> Option<Hint> {
    let here = res2net(model.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())));
    let there = res2net(loaded.iter().map(|(name, shape)| (*name, *shape)));
    let ((scale, width), (file_scale, file_width)) = match (here, there) {
        (Some(here), Some(there)) => (here, there),
        (None, Some(_)) => {
            let hint = "The file holds a Res2Net, the model is none: see MODEL.BACKBONE.CONV_BODY R2-50-FPN";
            return Some(Hint::Body(hint.into()));
        }
        (Some(_), None) => {
            let hint = "The model is a Res2Net, the file holds none: see MODEL.BACKBONE.CONV_BODY R-50-FPN";
            return Some(Hint::Body(hint.into()));
        }
        (None, None) => return None,
    };
    ((scale, width) != (file_scale, file_width)).then(|| {
        Hint::Override(format!(
            "the file holds a Res2Net of width {file_width} and scale {file_scale}, the model has width {width} and scale \
             {scale}. To build what the file holds: MODEL.RESNETS.WIDTH_PER_GROUP {file_width} MODEL.RESNETS.SCALE {file_scale}"
        ))
    })
}

/// Which number of classes (or keypoints) the file has, where the model has another one, and the key for it.
pub(super) fn classes_hint(model: &[(String, Vec<i64>)], report: &LoadReport) -> Option<String> {
    let rows = |name: &str| model.iter().find(|(known, _)| known == name).map(|(_, shape)| shape[0]);
    let retinanet = model.iter().any(|(name, _)| name.starts_with("rpn.head.cls_tower."));
    report.skipped.iter().find_map(|Skipped { name, shape, loaded_shape, .. }| {
        let numbers = |dimension: usize| Some((*loaded_shape.get(dimension)?, *shape.get(dimension)?));
        let (key, (file, here)) = match name.as_str() {
            "roi_heads.box.predictor.cls_score.weight" => ("MODEL.ROI_BOX_HEAD.NUM_CLASSES", numbers(0)?),
            "roi_heads.keypoint.predictor.kps_score_lowres.weight" => {
                ("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", numbers(1)?)
            }
            "rpn.head.cls_logits.weight" if retinanet => {
                // Every anchor has four box codes, and a logit for every class but the background.
                let anchors = rows("rpn.head.bbox_pred.weight")? / 4;
                let (file, here) = numbers(0)?;
                ("MODEL.RETINANET.NUM_CLASSES", (file / anchors + 1, here / anchors + 1))
            }
            _ => return None,
        };
        Some(format!(
            "The file's {key} is {file}, the model's {here}: these layers begin anew, as fine-tuning on other classes \
             wants it. To use them as they are: {key} {file}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_numbers_of_classes_name_their_key() {
        let hint = |name: &str, file: &[i64], here: &[i64], model: &[(&str, &[i64])]| {
            let skipped = Skipped {
                name: name.into(),
                loaded_name: name.into(),
                shape: here.to_vec(),
                loaded_shape: file.to_vec(),
            };
            let model: Vec<_> = model.iter().map(|(name, shape)| (name.to_string(), shape.to_vec())).collect();
            classes_hint(&model, &LoadReport { skipped: vec![skipped], ..LoadReport::default() })
        };
        let boxes = hint("roi_heads.box.predictor.cls_score.weight", &[81, 1024], &[4, 1024], &[]).unwrap();
        assert!(boxes.contains("file's MODEL.ROI_BOX_HEAD.NUM_CLASSES is 81, the model's 4"), "{boxes}");
        let points =
            hint("roi_heads.keypoint.predictor.kps_score_lowres.weight", &[512, 17, 4, 4], &[512, 5, 4, 4], &[]);
        assert!(points.unwrap().ends_with("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES 17"));
        let head: [(&str, &[i64]); 2] = [("rpn.head.cls_tower.0.weight", &[]), ("rpn.head.bbox_pred.weight", &[36, 8])];
        let retinanet = hint("rpn.head.cls_logits.weight", &[720, 8], &[27, 8], &head).unwrap();
        assert!(retinanet.contains("MODEL.RETINANET.NUM_CLASSES is 81, the model's 4"), "{retinanet}");
        assert_eq!(hint("rpn.head.cls_logits.weight", &[15, 8], &[3, 8], &head[1..]), None);
    }

    #[test]
    fn a_res2net_of_another_width_or_scale_names_the_override() {
        let names = |splits: usize| (0..splits).map(|i| format!("layer1.0.convs.{i}.weight")).collect::<Vec<_>>();
        let model: Vec<(String, Vec<i64>)> =
            names(3).into_iter().map(|name| (format!("backbone.body.{name}"), vec![26, 26, 3, 3])).collect();
        // Width and scale of the published models other than the model's own, 26w × 4s.
        for (width, scale) in [(48, 2), (26, 6), (26, 8), (14, 8)] {
            let (names, shape) = (names(scale - 1), [width, width, 3, 3]);
            let loaded: Shapes = names.iter().map(|n| (n.as_str(), &shape[..])).collect();
            let Some(Hint::Override(hint)) = res2net_hint(&model, &loaded) else { panic!("{width}w × {scale}s") };
            let wanted = format!("MODEL.RESNETS.WIDTH_PER_GROUP {width} MODEL.RESNETS.SCALE {scale}");
            assert!(hint.ends_with(&wanted), "{hint}");
        }
        let (names, shape) = (names(3), [26, 26, 3, 3]);
        let same: Shapes = names.iter().map(|n| (n.as_str(), &shape[..])).collect();
        assert_eq!(res2net_hint(&model, &same), None);
        assert!(matches!(res2net_hint(&model, &Shapes::new()), Some(Hint::Body(hint)) if hint.contains("R-50-FPN")));
    }
}
