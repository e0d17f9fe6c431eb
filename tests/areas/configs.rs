//! Golden area `configs`: yacs' merging, and every configuration file of the original repositories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use maskrcnn_benchmark::config::{CfgNode, Config, ErrorKind, Value};
use serde_json::{json, Value as Json};

use super::support::{all_files_known, area, json as read_json, root, Report};

/// Cases that the original refuses because it takes no integer where a float is expected, with what they give here.
fn accepted_here() -> BTreeMap<&'static str, Json> {
    let leaf = |value: f64| json!({"value": value, "type": "float"});
    BTreeMap::from([
        ("yaml_int_for_float", json!({"SOLVER.BASE_LR": leaf(1.0)})),
        ("yaml_int_for_float_gamma", json!({"SOLVER.GAMMA": leaf(0.0)})),
        ("opts_int_for_float", json!({"SOLVER.BASE_LR": leaf(1.0)})),
        ("opts_typed_int_for_float", json!({"SOLVER.BASE_LR": leaf(1.0)})),
        (
            "yaml_partial_merge_before_error",
            json!({
                "MODEL.MASK_ON": {"value": true, "type": "bool"},
                "SOLVER.MAX_ITER": {"value": 5, "type": "int"},
                "SOLVER.BASE_LR": leaf(1.0),
            }),
        ),
        (
            "opts_partial_before_error",
            json!({"SOLVER.MAX_ITER": {"value": 1, "type": "int"}, "SOLVER.BASE_LR": leaf(1.0)}),
        ),
    ])
}

/// Weights that name a path of the Res2Net authors' machine, with what the files in `configs/` name instead.
const OTHER_WEIGHTS: [(&str, &str); 7] = [
    ("pytorch_mask_rcnn_R2_101_s4_FPN_2x.yaml", "catalog://ImageNetPretrained/Res2Net/res2net101_26w_4s"),
    ("pytorch_mask_rcnn_R2_50_s2_FPN_2x.yaml", "catalog://ImageNetPretrained/Res2Net/res2net50_48w_2s"),
    ("pytorch_mask_rcnn_R2_50_s4_FPN_2x.yaml", "catalog://ImageNetPretrained/Res2Net/res2net50_26w_4s"),
    ("pytorch_mask_rcnn_R2_50_s6_FPN_2x.yaml", "models/res2net50_18w_6s-db17faaa.pth"),
    ("pytorch_mask_rcnn_R2_50_s8_FPN_2x.yaml", "catalog://ImageNetPretrained/Res2Net/res2net50_14w_8s"),
    ("pytorch_mask_rcnn_R_101_FPN_2x.yaml", "catalog://ImageNetPretrained/torchvision/resnet101"),
    ("pytorch_mask_rcnn_R_50_FPN_2x.yaml", "catalog://ImageNetPretrained/torchvision/resnet50"),
];

fn value_json(value: &Value) -> Json {
    match value {
        Value::None => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) if value.is_finite() => json!(value),
        Value::Float(value) if value.is_nan() => json!("nan"),
        Value::Float(value) => json!(if *value > 0.0 { "inf" } else { "-inf" }),
        Value::Str(text) => json!(text),
        Value::List(items) | Value::Tuple(items) => items.iter().map(value_json).collect(),
        other => panic!("{other} is no leaf"),
    }
}

fn type_json(value: &Value) -> Json {
    match value {
        Value::None => json!("none"),
        Value::List(items) | Value::Tuple(items) => {
            json!({"kind": value.type_name(), "items": items.iter().map(type_json).collect::<Vec<_>>()})
        }
        other => json!(other.type_name()),
    }
}

fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::None,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Value::Int(value),
            None => Value::Float(number.as_f64().expect("a float")),
        },
        Json::String(text) => Value::Str(text.clone()),
        other => panic!("no option has the value {other}"),
    }
}

fn category(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::UnknownKey => "unknown_key",
        ErrorKind::TypeMismatch => "type_mismatch",
        ErrorKind::OddLength => "odd_length",
        ErrorKind::InvalidLeafType => "invalid_leaf_type",
        ErrorKind::YamlSyntax => "yaml_syntax",
        ErrorKind::Other => "other",
    }
}

/// The leaves that differ from the defaults, in the form of the golden cases.
fn changed(node: &CfgNode) -> BTreeMap<String, Json> {
    let defaults = CfgNode::default();
    let leaves = node.leaves().into_iter().filter(|(key, value)| {
        let default = defaults.get(key).expect("merging adds no key");
        value_json(default) != value_json(value) || type_json(default) != type_json(value)
    });
    leaves.map(|(key, value)| (key, json!({"value": value_json(value), "type": type_json(value)}))).collect()
}

fn merge(case: &Json, node: &mut CfgNode) -> Result<(), ErrorKind> {
    if case["frozen_before_merge"] == json!(true) {
        node.freeze();
    }
    let mut merged = || {
        if let Some(yaml) = case["yaml"].as_str() {
            node.merge_from_str(yaml, "case.yaml")?;
        }
        let opts = case["opts"].as_array().map(Vec::as_slice).unwrap_or_default();
        if opts.iter().all(Json::is_string) {
            let words: Vec<&str> = opts.iter().filter_map(Json::as_str).collect();
            return node.merge_from_list(&words);
        }
        opts.chunks(2)
            .try_for_each(|pair| node.merge_override(pair[0].as_str().expect("a key is text"), from_json(&pair[1])))
    };
    merged().map_err(|error| {
        println!("  {error}");
        error.kind()
    })
}

#[test]
fn merge_cases() {
    let Some(area) = area("configs") else { return };
    let mut report = Report::new("configs/merge_cases");
    let different = accepted_here();
    for case in read_json(&area.join("merge_cases.json"))["cases"].as_array().expect("a list of cases") {
        let id = case["id"].as_str().expect("an id");
        let mut node = CfgNode::default();
        println!("{id}");
        let outcome = merge(case, &mut node);
        let changed = changed(&node);
        if let Some(expected) = different.get(id) {
            report.equal(id, "outcome", outcome, Ok(()));
            report.equal(id, "changed", json!(changed), expected.clone());
        } else if let Some(expected) = case["error"]["category"].as_str() {
            report.equal(id, "outcome", outcome.map_err(category), Err(expected));
            let before = case["leaves_already_changed_when_it_failed"].as_object().expect("a dict");
            let values: BTreeMap<_, _> = changed.into_iter().map(|(key, leaf)| (key, leaf["value"].clone())).collect();
            report.equal(id, "changed", json!(values), json!(before));
        } else {
            report.equal(id, "outcome", outcome, Ok(()));
            // Some cases also list leaves that they leave alone.
            let expected = case["result"].as_object().expect("a result");
            for (key, leaf) in expected {
                let value = node.get(key).expect("a known key");
                report.equal(id, key, json!({"value": value_json(value), "type": type_json(value)}), leaf.clone());
            }
            let unlisted: Vec<&String> = changed.keys().filter(|key| !expected.contains_key(*key)).collect();
            report.equal(id, "changed", unlisted, Vec::new());
        }
    }
    report.finish();
}

/// The leaves of a nested JSON configuration by dotted key.
fn json_leaves(config: &Json, above: &str, leaves: &mut BTreeMap<String, Json>) {
    for (key, value) in config.as_object().expect("a section") {
        let key = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        match value {
            Json::Object(_) => json_leaves(value, &key, leaves),
            value => {
                leaves.insert(key, value.clone());
            }
        }
    }
}

/// Compares every leaf of a golden configuration, except those whose value is given in `other`.
fn compare(report: &mut Report, case: &str, node: &CfgNode, golden: &Json, other: &[(&str, &str)]) {
    let mut leaves = BTreeMap::new();
    json_leaves(&golden["config"], "", &mut leaves);
    for (key, mut expected) in leaves {
        // The golden value stands for a path of the installation.
        if key == "PATHS_CATALOG" {
            continue;
        }
        if let Some((_, instead)) = other.iter().find(|(known, _)| *known == key) {
            expected = json!(instead);
        }
        let value = node.get(&key).map(|value| (value_json(value), value.type_name().to_owned()));
        let kind = golden["leaf_types"][&key].as_str().unwrap_or_else(|| panic!("{case}: no type of {key}"));
        report.equal(case, "leaf", value, Some((expected, kind.to_owned())));
    }
}

/// The golden configurations: file name, content, and the path of their YAML below `configs/`.
fn golden_configs(area: &Path) -> Vec<(String, Json, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(area).expect("the folder can be listed") {
        let path = entry.expect("the folder can be listed").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if name.contains("__") {
            let golden = read_json(&path);
            let source = golden["source"].as_str().expect("the name of the YAML");
            let below = source.strip_prefix("configs/").unwrap_or(source).to_owned();
            found.push((name, golden, below));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

#[test]
fn defaults() {
    let Some(area) = area("configs") else { return };
    let mut report = Report::new("configs/defaults");
    let ours = CfgNode::default();
    for name in ["defaults_union.json", "defaults_fork.json", "defaults_upstream.json"] {
        let golden = read_json(&area.join(name));
        compare(&mut report, name, &ours, &golden, &[]);
        let mut leaves = BTreeMap::new();
        json_leaves(&golden["config"], "", &mut leaves);
        let ours_alone: Vec<_> = ours.leaves().into_iter().filter(|(key, _)| !leaves.contains_key(key)).collect();
        report.check(
            name,
            "no other key",
            (name.contains("union") && !ours_alone.is_empty()).then(|| format!("{ours_alone:?}")),
        );
    }
    report.finish();
}

/// Every YAML file of the original repositories, and this project's file of the same name.
#[test]
fn configuration_files() {
    let Some(area) = area("configs") else { return };
    let reference = root().join("../reference_configs");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    if !reference.is_dir() {
        println!("configs: {} is missing, only this project's files are tested", reference.display());
    }
    let mut report = Report::new("configs/files");
    for (name, golden, below) in golden_configs(&area) {
        let resolve = |report: &mut Report, path: PathBuf, case: &str, other: &[(&str, &str)]| {
            let mut node = CfgNode::default();
            let merged = node.merge_from_file(&path).err().map(|error| error.to_string());
            report.check(case, "readable", merged);
            compare(report, case, &node, &golden, other);
            let typed = node.to_config();
            report.check(case, "typed", typed.as_ref().err().map(ToString::to_string));
            // The dump is the same configuration.
            let mut read = CfgNode::default();
            let merged = read.merge_from_str(&node.dump(), "config.yml").err().map(|error| error.to_string());
            report.check(case, "dump readable", merged);
            report.equal(case, "dump", &read, &node);
            report.equal(case, "typed again", typed.ok().as_ref().map(Config::to_node), Some(node));
        };
        if reference.is_dir() {
            let repository = name.split("__").next().expect("a prefix");
            resolve(&mut report, reference.join(repository).join(&below), &format!("original {below}"), &[]);
        }
        let weight = OTHER_WEIGHTS.iter().find(|(file, _)| *file == below).map(|(_, weight)| ("MODEL.WEIGHT", *weight));
        resolve(&mut report, ours.join(&below), &format!("configs/{below}"), weight.as_slice());
    }
    report.finish();
}

#[test]
fn files_are_known() {
    let Some(area) = area("configs") else { return };
    let configs = golden_configs(&area);
    let index = read_json(&area.join("index.json"));
    let listed = index.as_object().expect("a dict").values().flat_map(|list| list.as_array().expect("a list"));
    for file in listed.filter_map(Json::as_str) {
        assert!(configs.iter().any(|(name, ..)| name == file), "{file} is listed in index.json, but not there");
    }
    let mut tested: Vec<&str> = configs.iter().map(|(name, ..)| name.as_str()).collect();
    tested.extend(["defaults_union.json", "defaults_fork.json", "defaults_upstream.json"]);
    tested.extend(["merge_cases.json", "index.json"]);
    all_files_known(&area, &tested);
}
