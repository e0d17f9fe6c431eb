//! Every configuration of both repositories: names, shapes, order, kind and trainability of the whole state.

use std::path::{Path, PathBuf};

use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::layers::parameters::{Entry, Role};
use maskrcnn_benchmark::layers::Parameters;
use maskrcnn_benchmark::modeling::backbone::build_backbone;
use maskrcnn_benchmark::modeling::registry::ModelRegistries;
use maskrcnn_benchmark::solver::make_optimizer;
use serde_json::{json, Value};
use tch::{Device, Kind};

use super::support::{area, json as read, Report};

/// What a state dictionary may be compared on: the names that begin so.
const PART: &str = "backbone.";

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
        let deformable = config.model.resnets.stage_with_dcn.contains(&true);
        if deformable {
            println!("not yet: {name} – deformable convolution");
            continue;
        }
        compare(&mut report, &name, &area, &golden, &config);
    }
    report.finish();
}

fn compare(report: &mut Report, name: &str, area: &Path, golden: &Value, config: &Config) {
    let parameters = Parameters::uninitialised(Device::Cpu);
    let built = build_backbone(config, &parameters.root().sub("backbone"), &ModelRegistries::default());
    report.check(name, "builds", built.err().map(|e| format!("{e:#}")));

    let state = match golden["state_dict_same_as"].as_str() {
        Some(other) => read(&area.join(format!("{other}.json")))["state_dict"].clone(),
        None => golden["state_dict"].clone(),
    };
    let want: Vec<&Value> = of_part(&state).collect();
    let got: Vec<Value> = parameters.state().iter().map(described).collect();
    report.equal(name, "entries", got.len(), want.len());
    let first_difference = got.iter().zip(&want).find(|(got, want)| got != *want);
    report.check(name, "state", first_difference.map(|(got, want)| format!("got {got}, expected {want}")));

    let optimizer = make_optimizer(config, &parameters);
    let groups: Vec<Value> = optimizer.groups().iter().map(|g| json!([g.name, g.lr, g.weight_decay])).collect();
    let want: Vec<&Value> = of_part(&golden["optimizer"]["groups"]).collect();
    report.equal(name, "optimizer groups", groups.len(), want.len());
    let first_difference = groups.iter().zip(&want).find(|(got, want)| !same_group(got, want));
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

fn of_part(list: &Value) -> impl Iterator<Item = &Value> {
    let list = list.as_array().expect("a golden state is a list");
    list.iter().filter(|entry| entry[0].as_str().is_some_and(|name| name.starts_with(PART)))
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
