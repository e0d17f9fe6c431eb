//! Names of Caffe2 and Detectron blobs in terms of the original's modules (utils/c2_model_loading.py).

use anyhow::{ensure, Context, Result};

use super::model_serialization::StateDict;
use super::pickle::Value;

/// Blocks per stage of the backbones that Detectron published, deepest name first: (stage number, last block).
const STAGES: [(&str, [&str; 4]); 3] = [
    ("R-50", ["1.2", "2.3", "3.5", "4.2"]),
    ("R-101", ["1.2", "2.3", "3.22", "4.2"]),
    ("R-152", ["1.2", "2.7", "3.35", "4.2"]),
];

/// Replacements in order; a later one works on the result of the earlier ones.
const BASIC: [(&str, &str); 41] = [
    ("_", "."),
    (".w", ".weight"),
    (".bn", "_bn"),
    (".b", ".bias"),
    ("_bn.s", "_bn.scale"),
    (".biasranch", ".branch"),
    ("bbox.pred", "bbox_pred"),
    ("cls.score", "cls_score"),
    ("res.conv1_", "conv1_"),
    // RPN and Fast R-CNN
    (".biasbox", ".bbox"),
    ("conv.rpn", "rpn.conv"),
    ("rpn.bbox.pred", "rpn.bbox_pred"),
    ("rpn.cls.logits", "rpn.cls_logits"),
    // an affine channel is a batch norm
    ("_bn.scale", "_bn.weight"),
    // torchvision's names
    ("conv1_bn.", "bn1."),
    ("res2.", "layer1."),
    ("res3.", "layer2."),
    ("res4.", "layer3."),
    ("res5.", "layer4."),
    (".branch2a.", ".conv1."),
    (".branch2a_bn.", ".bn1."),
    (".branch2b.", ".conv2."),
    (".branch2b_bn.", ".bn2."),
    (".branch2c.", ".conv3."),
    (".branch2c_bn.", ".bn3."),
    (".branch1.", ".downsample.0."),
    (".branch1_bn.", ".downsample.1."),
    // group norm
    ("conv1.gn.s", "bn1.weight"),
    ("conv1.gn.bias", "bn1.bias"),
    ("conv2.gn.s", "bn2.weight"),
    ("conv2.gn.bias", "bn2.bias"),
    ("conv3.gn.s", "bn3.weight"),
    ("conv3.gn.bias", "bn3.bias"),
    ("downsample.0.gn.s", "downsample.1.weight"),
    ("downsample.0.gn.bias", "downsample.1.bias"),
    // the pyramid comes between these and the heads
    ("mask.fcn.logits", "mask_fcn_logits"),
    (".[mask].fcn", "mask_fcn"),
    ("conv5.mask", "conv5_mask"),
    ("kps.score.lowres", "kps_score_lowres"),
    ("kps.score", "kps_score"),
    ("conv.fcn", "conv_fcn"),
];
/// How many of [`BASIC`] precede the names of the pyramid.
const BEFORE_PYRAMID: usize = 35;

/// The last block of each stage of a `MODEL.BACKBONE.CONV_BODY`.
///
/// # Errors
/// Bodies for which Caffe2 weights do not exist.
pub fn stage_names(conv_body: &str) -> Result<[&'static str; 4]> {
    // The blocks of a Res2Net body are named and counted as a ResNet's.
    let arch = conv_body.replace("R2-", "R-");
    let arch = arch.split_inclusive('-').take(2).collect::<String>();
    let arch = arch.trim_end_matches('-');
    let found = STAGES.iter().find(|(name, _)| *name == arch).map(|(_, stages)| *stages);
    found.with_context(|| {
        format!(
            "MODEL.BACKBONE.CONV_BODY {conv_body} has no Caffe2 weights: .pkl files exist for R-50, R-101 and R-152"
        )
    })
}

/// Whether a pickle has the names of the modules already, below `model`, as Detectron2 and `convert_weights` write it.
pub fn has_own_names(file: &Value) -> bool {
    file.as_dict()
        .is_some_and(|dict| dict.get("blobs").is_none() && dict.get("model").is_some_and(|m| m.as_dict().is_some()))
}

/// The body whose third stage has as many blocks as the file's blobs.
///
/// # Errors
/// A file whose blobs show no such body.
pub fn body_of(file: &Value) -> Result<String> {
    let all = file.as_dict().context("the pickle holds no dictionary of blobs")?;
    let blobs = all.get("blobs").map_or(Some(all), Value::as_dict).context("`blobs` is no dictionary")?;
    let block =
        |(key, _): &(Value, Value)| key.as_str()?.strip_prefix("res4_")?.split('_').next()?.parse::<usize>().ok();
    let last = blobs.entries.iter().filter_map(block).max();
    let found = last.and_then(body_of_depth);
    found.map(str::to_owned).context("the blobs are not those of R-50, R-101 or R-152: name the body")
}

/// The body whose third stage ends with the block of this number.
pub fn body_of_depth(last: usize) -> Option<&'static str> {
    STAGES.iter().find(|(_, stages)| stages[2] == format!("3.{last}")).map(|(name, _)| *name)
}

/// The module name of one blob.
pub fn rename_blob(blob: &str, stages: &[&str; 4]) -> String {
    // X-101 calls its classifier `pred`, which would later look like a box predictor.
    let mut name = match blob {
        "pred_b" => "fc1000_b".to_string(),
        "pred_w" => "fc1000_w".to_string(),
        other => other.to_string(),
    };
    let apply = |name: &mut String, (from, to): &(&str, &str)| *name = name.replace(from, to);
    BASIC[..BEFORE_PYRAMID].iter().for_each(|pair| apply(&mut name, pair));
    for (level, stage) in (1..).zip(stages) {
        let lateral = if level < 4 { ".lateral" } else { "" };
        name = name.replace(&format!("fpn.inner.layer{stage}.sum{lateral}"), &format!("fpn_inner{level}"));
        name = name.replace(&format!("fpn.layer{stage}.sum"), &format!("fpn_layer{level}"));
    }
    for head in ["conv", "bbox_pred", "cls_logits"] {
        name = name.replace(&format!("rpn.{head}.fpn2"), &format!("rpn.{head}"));
    }
    BASIC[BEFORE_PYRAMID..].iter().for_each(|pair| apply(&mut name, pair));
    name.replace("rpn.", "rpn.head.")
}

/// Deformable stages hold their 3x3 convolution one level deeper.
fn rename_deformable(name: String, stage_with_dcn: &[bool]) -> String {
    let deformable = (1..).zip(stage_with_dcn).any(|(stage, dcn)| {
        let layer = format!("layer{stage}");
        *dcn && name.find(&layer).is_some_and(|at| name[at + layer.len()..].contains("conv2"))
    });
    if !deformable {
        return name;
    }
    name.replace("conv2.weight", "conv2.conv.weight").replace("conv2.bias", "conv2.conv.bias")
}

/// The blobs of a Caffe2 file under module names, sorted by blob name; momentum is left out.
///
/// # Errors
/// A file without arrays, a body without Caffe2 weights.
pub fn from_c2(file: &Value, conv_body: &str, stage_with_dcn: &[bool]) -> Result<StateDict> {
    let stages = stage_names(conv_body)?;
    let all = file.as_dict().context("the pickle holds no dictionary of blobs")?;
    let blobs = all.get("blobs").map_or(Some(all), Value::as_dict).context("`blobs` is no dictionary")?;
    let mut weights = Vec::new();
    for (key, value) in &blobs.entries {
        let key = key.as_str().context("a blob has no name")?;
        if key.contains("_momentum") {
            continue;
        }
        let tensor =
            value.as_tensor().with_context(|| format!("blob {key:?} is {}, not an array", value.type_name()))?;
        let name = rename_deformable(rename_blob(key, &stages), stage_with_dcn);
        weights.push((key.to_string(), name, tensor.clone()));
    }
    ensure!(!weights.is_empty(), "the pickle holds no arrays");
    weights.sort_by(|a, b| a.0.cmp(&b.0));
    for (blob, name, _) in &weights {
        log::info!("C2 name: {blob} mapped name: {name}");
    }
    Ok(weights.into_iter().map(|(_, name, tensor)| (name, tensor)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_stages() {
        assert_eq!(stage_names("R-50-FPN-RETINANET").unwrap()[2], "3.5");
        assert_eq!(stage_names("R-101-C4").unwrap()[2], "3.22");
        assert_eq!(stage_names("R2-50-FPN").unwrap()[2], "3.5");
        assert!(stage_names("FBNet").unwrap_err().to_string().contains("FBNet"));
    }

    #[test]
    fn blobs_are_renamed() {
        let stages = stage_names("R-50-FPN").unwrap();
        assert_eq!(rename_blob("res2_0_branch2a_bn_s", &stages), "layer1.0.bn1.weight");
        assert_eq!(rename_blob("fpn_inner_res4_5_sum_lateral_w", &stages), "fpn_inner3.weight");
        assert_eq!(rename_blob("conv_rpn_fpn2_b", &stages), "rpn.head.conv.bias");
        assert_eq!(rename_blob("pred_w", &stages), "fc1000.weight");
    }
}
