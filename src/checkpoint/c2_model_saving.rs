//! The other way from [`super::c2_model_loading`]: a model's entries as Caffe2 blobs.

use std::collections::HashMap;

use anyhow::{bail, ensure, Context, Result};
use tch::Kind;

use super::c2_model_loading::{rename_blob, stage_names};
use super::hints::some;
use super::model_serialization::StateDict;
use super::pickle::{Dict, TensorData, Value};
use super::to_tensor;

/// Convolution, affine or group-normal scale and shift of every block, with the stages' numbers of blocks.
fn body_blobs(stages: &[&str; 4]) -> Vec<String> {
    let mut blobs: Vec<String> = ["conv1_w", "conv1_b", "fc1000_w", "fc1000_b"].map(String::from).to_vec();
    let norms = ["bn_s", "bn_b", "gn_s", "gn_b"];
    blobs.extend(["s", "b"].map(|leaf| format!("res_conv1_bn_{leaf}")));
    blobs.extend(["s", "b"].map(|leaf| format!("conv1_gn_{leaf}")));
    for (stage, last) in (2..).zip(stages) {
        let last: usize = last.split('.').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
        for block in 0..=last {
            for branch in ["branch1", "branch2a", "branch2b", "branch2c"] {
                blobs.push(format!("res{stage}_{block}_{branch}_w"));
                blobs.extend(norms.map(|norm| format!("res{stage}_{block}_{branch}_{norm}")));
            }
        }
    }
    blobs
}

/// The pyramid's and the heads' blobs.
fn other_blobs(stages: &[&str; 4], pyramid: bool) -> Vec<String> {
    let mut layers: Vec<String> = Vec::new();
    for (stage, last) in (2..).zip(stages) {
        let block = last.split('.').nth(1).unwrap_or_default();
        let lateral = if stage < 5 { "_lateral" } else { "" };
        layers.push(format!("fpn_inner_res{stage}_{block}_sum{lateral}"));
        layers.push(format!("fpn_res{stage}_{block}_sum"));
    }
    // With a pyramid the proposals' blobs carry the name of the finest level that shares them.
    let level = if pyramid { "_fpn2" } else { "" };
    layers.extend(["conv_rpn", "rpn_cls_logits", "rpn_bbox_pred"].map(|layer| format!("{layer}{level}")));
    let heads = ["fc6", "fc7", "cls_score", "bbox_pred", "conv5_mask", "mask_fcn_logits", "kps_score_lowres"];
    layers.extend(heads.map(String::from));
    layers.extend((1..=4).map(|i| format!("_[mask]_fcn{i}")));
    layers.extend((1..=8).map(|i| format!("conv_fcn{i}")));
    layers.iter().flat_map(|layer| ["w", "b"].map(|leaf| format!("{layer}_{leaf}"))).collect()
}

/// A model's entries under Caffe2's names, as Detectron's `{"blobs": …}`. Batch norms become what Caffe2 has, a scale
/// and a shift, with their statistics worked in; buffers that Caffe2 computes (anchors) are left out.
///
/// # Errors
/// Names the entries that have no counterpart (a Res2Net's splits, for instance).
pub fn to_c2(state: &StateDict, conv_body: &str) -> Result<Value> {
    let stages = stage_names(conv_body)?;
    let pyramid = state.iter().any(|(name, _)| name.contains("fpn_inner"));
    // Frozen norms are Caffe2's affine channels, norms without statistics are group norms.
    let affine = state.iter().any(|(name, _)| name.ends_with("running_var"));
    let other_norm = if affine { "_gn_" } else { "_bn_" };
    let blobs = body_blobs(&stages).into_iter().chain(other_blobs(&stages, pyramid));
    let blobs = blobs.filter(|blob| !blob.contains(other_norm));
    let blob_of: HashMap<String, String> = blobs.map(|blob| (rename_blob(&blob, &stages), blob)).collect();
    let by_name: HashMap<&str, &TensorData> = state.iter().map(|(name, data)| (name.as_str(), data)).collect();
    let mut blobs = Dict::new();
    let mut homeless = Vec::new();
    for (name, data) in state {
        let computed = ["running_mean", "running_var", "num_batches_tracked"].iter().any(|leaf| name.ends_with(leaf));
        if computed || name.contains("anchor_generator") {
            continue;
        }
        let ending = name.char_indices().find_map(|(at, _)| blob_of.get(&name[at..]));
        let Some(blob) = ending else {
            homeless.push(name.as_str());
            continue;
        };
        let data = match name.strip_suffix(".weight").or(name.strip_suffix(".bias")) {
            Some(layer) if by_name.contains_key(format!("{layer}.running_var").as_str()) => {
                folded(&by_name, layer, name)?
            }
            _ => data.clone(),
        };
        if blobs.get(blob).is_none() {
            blobs.insert(blob.as_str(), data);
        }
    }
    if !homeless.is_empty() {
        bail!("Caffe2 has no names for {} entries: {}", homeless.len(), some(&homeless));
    }
    ensure!(!blobs.is_empty(), "there is nothing to write");
    let mut file = Dict::new();
    file.insert("blobs", blobs);
    Ok(Value::Dict(file))
}

/// The scale, or the shift, of a batch norm whose statistics are fixed: `s = w / sqrt(var)`, `b = b - mean * s`.
fn folded(by_name: &HashMap<&str, &TensorData>, layer: &str, name: &str) -> Result<TensorData> {
    let read = |leaf: &str| {
        let key = format!("{layer}.{leaf}");
        let data = by_name.get(key.as_str()).with_context(|| format!("{key} is missing"))?;
        Ok::<_, anyhow::Error>(to_tensor(data)?.to_kind(Kind::Double))
    };
    let scale = read("weight")? * read("running_var")?.rsqrt();
    let out = if name.ends_with(".weight") { scale } else { read("bias")? - read("running_mean")? * scale };
    TensorData::try_from(&out.to_kind(Kind::Float))
}
