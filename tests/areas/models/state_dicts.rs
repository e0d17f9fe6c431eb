//! Every configuration of both repositories: names, shapes, order, kind and trainability of the whole state.

use std::path::{Path, PathBuf};

use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::layers::parameters::{Entry, Role};
use maskrcnn_benchmark::layers::Parameters;
use maskrcnn_benchmark::modeling::detector::build_detection_model;
use maskrcnn_benchmark::modeling::registry::ModelRegistries;
use maskrcnn_benchmark::solver::make_optimizer;
use serde_json::{json, Value};
use tch::{Device, Kind};

use super::support::{area, json as read, Report};

#[test]
fn every_configuration_builds_the_original_state() {
    let Some(area) = area("models/state_dicts") else { return };
    let mut report = Report::new("models/state_dicts");
    let mut files: Vec<_> = std::fs::read_dir(&area).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let golden = read(&file);
        let config = Config::load(Some(&yaml_of(&name)), &[]).unwrap();
        compare(&mut report, &name, &area, &golden, &config);
    }
    report.finish();
}

fn compare(report: &mut Report, name: &str, area: &Path, golden: &Value, config: &Config) {
    let parameters = Parameters::uninitialised(Device::Cpu);
    let built = build_detection_model(config, &parameters.root(), &ModelRegistries::default());
    report.check(name, "builds", built.err().map(|e| format!("{e:#}")));

    let state = match golden["state_dict_same_as"].as_str() {
        Some(other) => read(&area.join(format!("{other}.json")))["state_dict"].clone(),
        None => golden["state_dict"].clone(),
    };
    let want = list(&state);
    let got: Vec<Value> = parameters.state().iter().map(described).collect();
    report.equal(name, "entries", got.len(), want.len());
    let first_difference = got.iter().zip(want).find(|(got, want)| *got != *want);
    report.check(name, "state", first_difference.map(|(got, want)| format!("got {got}, expected {want}")));

    let numbers = (Some(numel(parameters.state(), false)), Some(numel(parameters.state(), true)));
    let want = (golden["num_parameters"].as_u64(), golden["num_trainable"].as_u64());
    report.equal(name, "parameters and trainable ones", numbers, want);

    let optimizer = make_optimizer(config, &parameters);
    let groups: Vec<Value> = optimizer.groups().iter().map(|g| json!([g.name, g.lr, g.weight_decay])).collect();
    let want = list(&golden["optimizer"]["groups"]);
    report.equal(name, "optimizer groups", groups.len(), want.len());
    let first_difference = groups.iter().zip(want).find(|(got, want)| !same_group(got, want));
    report.check(name, "optimizer groups", first_difference.map(|(got, want)| format!("got {got}, expected {want}")));
}

/// The configuration of a golden file: `upstream__folder__name` and `res2net__name`.
fn yaml_of(name: &str) -> PathBuf {
    let path = name.split("__").skip(1).collect::<Vec<_>>().join("/");
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs").join(format!("{path}.yaml"))
}

/// Equal names, rates and decays; 0 and 0.0 are the same.
fn same_group(got: &Value, want: &Value) -> bool {
    got[0] == want[0] && [1, 2].iter().all(|&i| got[i].as_f64() == want[i].as_f64())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().expect("a golden list")
}

/// The number of values in parameters, shared ones once.
fn numel(state: Vec<Entry>, only_trainable: bool) -> u64 {
    let counted =
        |e: &&Entry| e.role == Role::Parameter && e.alias_of.is_none() && (!only_trainable || e.tensor.requires_grad());
    state.iter().filter(counted).map(|e| e.tensor.numel() as u64).sum()
}

fn described(entry: &Entry) -> Value {
    let kind = match entry.tensor.kind() {
        Kind::Float => "float32",
        Kind::Int64 => "int64",
        other => panic!("{} is {other:?}", entry.name),
    };
    let trainable = entry.role == Role::Parameter && entry.tensor.requires_grad();
    json!([entry.name, entry.tensor.size(), kind, trainable])
}
