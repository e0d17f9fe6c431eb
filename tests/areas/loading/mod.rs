//! golden/models/loading: which entry of a file fills which entry of a model, with which values, and what is refused.

mod models;
mod resume;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use maskrcnn_benchmark::checkpoint::c2_model_loading::{from_c2, rename_blob, stage_names};
use maskrcnn_benchmark::checkpoint::model_serialization::{match_keys, state_dict_of, strip_prefix_if_present};
use maskrcnn_benchmark::checkpoint::{read_file, to_tensor, write_file, StateDict, Value};
use serde_json::Value as Json;
use tch::Kind;

use crate::support::{all_files_known, area, json, number, Report};

/// The configuration of each case: body and deformable stages.
fn config(name: &str) -> (&'static str, &'static [bool]) {
    match name {
        "c2_r50_c4" => ("R-50-C4", &[]),
        "c2_r50_fpn_dcn" => ("R-50-FPN", &[false, true, true, true]),
        n if n.starts_with("c2_r50_fpn") => ("R-50-FPN", &[]),
        _ => ("R2-50-FPN", &[]),
    }
}

fn cases(folder: &Path) -> Vec<String> {
    let list = std::fs::read_dir(folder).expect("the folder can be listed");
    let names = list.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut cases: Vec<String> = names.filter_map(|n| n.strip_suffix(".json").map(String::from)).collect();
    cases.sort();
    cases
}

fn data_file(folder: &Path, case: &str) -> std::path::PathBuf {
    let extension = if case.starts_with("c2_") { "pkl" } else { "pth" };
    folder.join(format!("{case}.{extension}"))
}

fn strings(value: &Json) -> Vec<String> {
    value.as_array().expect("a list").iter().map(|v| v.as_str().expect("a string").to_string()).collect()
}

fn state_of(case: &str, file: &Value) -> StateDict {
    let (body, deformable) = config(case);
    match case.starts_with("c2_") {
        true => from_c2(file, body, deformable).expect("a Caffe2 file"),
        false => strip_prefix_if_present(state_dict_of(file).expect("a torch file")),
    }
}

fn norm(state: &StateDict, key: &str) -> f64 {
    let data = state.iter().rev().find(|(k, _)| k == key).map(|(_, data)| data).expect("the key is in the file");
    to_tensor(data).expect("a tensor").to_kind(Kind::Double).norm().double_value(&[])
}

#[test]
fn names_and_values() {
    let Some(area) = area("models") else { return };
    let folder = area.join("loading");
    let mut report = Report::new("loading");
    for case in cases(&folder) {
        let golden = json(&folder.join(format!("{case}.json")));
        let file = read_file(&data_file(&folder, &case)).expect("a readable file");
        if let Some(renamed) = golden["renamed"].as_object() {
            let stages = stage_names(config(&case).0).expect("a body with Caffe2 weights");
            for (blob, want) in renamed {
                report.equal(&case, "renamed", Some(rename_blob(blob, &stages).as_str()), want.as_str());
            }
            let blobs = file.as_dict().expect("a dictionary");
            let blobs = blobs.get("blobs").and_then(Value::as_dict).unwrap_or(blobs);
            let momentum: Vec<&str> =
                blobs.entries.iter().filter_map(|(k, _)| k.as_str()).filter(|k| k.contains("_momentum")).collect();
            let mut dropped = strings(&golden["dropped_before_matching"]);
            dropped.sort();
            let mut momentum: Vec<String> = momentum.into_iter().map(String::from).collect();
            momentum.sort();
            report.equal(&case, "dropped", momentum, dropped);
        }
        let state = state_of(&case, &file);
        let mut loaded: Vec<String> = state.iter().map(|(key, _)| key.clone()).collect();
        loaded.sort();
        report.equal(&case, "loaded keys", &loaded, &strings(&golden["loaded_keys"]));

        let matched: BTreeMap<String, String> = golden["matched"]
            .as_object()
            .expect("an object")
            .iter()
            .map(|(k, v)| (k.clone(), v.as_str().expect("a name").to_string()))
            .collect();
        let mut model: Vec<String> = matched.keys().cloned().collect();
        model.extend(strings(&golden["unmatched_model_keys"]));
        let found = match_keys(&model, &loaded);
        let mut used: HashMap<&str, bool> = HashMap::new();
        for (name, index) in model.iter().zip(&found) {
            let key = index.map(|i| loaded[i].as_str());
            report.equal(&case, "matched", key, matched.get(name).map(String::as_str));
            if let Some(key) = key {
                used.insert(key, true);
                // Of another shape than the model's: the original refuses these and keeps the first values. Its message
                // is cut off, the shortcut of the last stage is the fourth of four.
                let error = golden["error"].as_str();
                let fourth = |e: &str| e.ends_with("size mism") && name.ends_with("layer4.0.downsample.1.weight");
                if error.is_some_and(|e| e.contains(name.as_str()) || fourth(e)) {
                    let want = number(&golden["loaded_norms"][name]);
                    report.equal(&case, "refused", norm(&state, key) == want, false);
                    continue;
                }
                let want = number(&golden["loaded_norms"][name]);
                report.close_numbers(&case, "norm", &[norm(&state, key)], &[want], 1e-6, 1e-6);
            }
        }
        let unused: Vec<&String> = loaded.iter().filter(|key| !used.contains_key(key.as_str())).collect();
        let mut want = strings(&golden["unused_loaded_keys"]);
        want.sort();
        report.equal(&case, "unused", unused, want.iter().collect());
    }
    report.finish();
    let tested: Vec<String> = cases(&folder)
        .iter()
        .flat_map(|case| {
            [format!("{case}.json"), data_file(&folder, case).file_name().unwrap().to_string_lossy().into()]
        })
        .chain(["resume/", "c2_c4.yaml", "c2_dcn.yaml", "c2_fpn.yaml", "c2_gn.yaml", "res2net.yaml"].map(String::from))
        .collect();
    all_files_known(&folder, &tested.iter().map(String::as_str).collect::<Vec<_>>());
}

const COMPARE: &str = r#"
import sys, torch
def same(a, b, path=""):
    assert type(a) is type(b), (path, type(a), type(b))
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b), path
    elif isinstance(a, dict):
        assert list(a) == list(b), (path, list(a)[:5], list(b)[:5])
        for k in a: same(a[k], b[k], f"{path}.{k}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b)): same(x, y, f"{path}[{i}]")
    else:
        assert a == b, (path, a, b)
a, b = (torch.load(f, weights_only=True, map_location="cpu") for f in sys.argv[1:3])
same(a, b)
torch.load(sys.argv[2], weights_only=True, mmap=True)
print("same")
"#;

/// A checkpoint of the original, read and written here, is the same to Python.
#[test]
fn python_reads_what_is_written() {
    let Some(area) = area("models") else { return };
    let Some(python) = std::env::var_os("MRB_PYTHON") else {
        println!("SKIPPED: MRB_PYTHON names no Python with torch");
        return;
    };
    let original = area.join("loading/resume/model_0000002.pth");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = folder.path().join("copy.pth");
    write_file(&copy, &read_file(&original).expect("a checkpoint")).expect("a written file");
    let output = std::process::Command::new(python).arg("-c").arg(COMPARE).arg(&original).arg(&copy).output();
    let output = output.expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("{}", String::from_utf8_lossy(&output.stdout));
}
