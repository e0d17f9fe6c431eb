//! Golden area `models`: what every configuration builds, and small detectors whole.

use std::path::Path;

use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::layers::Parameters;
use serde_json::Value;

use super::support;

mod features;
mod state_dicts;
mod tiny;

#[test]
fn every_file_is_known() {
    let Some(area) = support::area("models") else { return };
    // `loading/` is compared in the area `loading`.
    support::all_files_known(&area, &["state_dicts/", "loading/"], tiny::NOT_YET);
}

/// A resolved configuration of the golden folder, on top of the defaults for the keys that its repository lacks.
pub fn typed(resolved: &Value) -> Config {
    fn merge(onto: &mut Value, from: &Value) {
        match (onto, from) {
            (Value::Object(onto), Value::Object(from)) => {
                for (key, value) in from {
                    merge(onto.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (onto, from) => *onto = from.clone(),
        }
    }
    let mut all = serde_json::to_value(Config::default()).expect("the defaults are JSON");
    merge(&mut all, resolved);
    // The models do not look at it, and its shape differs in files and here.
    all["TEST"]["EXPECTED_RESULTS"] = Value::Array(Vec::new());
    serde_json::from_value(all).unwrap_or_else(|e| panic!("a golden configuration is not typed: {e}"))
}

pub fn load_config(path: &Path) -> Config {
    fn tuples(value: &mut Value) {
        match value {
            Value::String(s) if s.starts_with('(') => {
                let inner = s.trim_matches(['(', ')']).trim_end_matches(',').to_lowercase();
                *value = serde_json::from_str(&format!("[{inner}]")).unwrap();
            }
            Value::Object(map) => map.values_mut().for_each(tuples),
            _ => {}
        }
    }
    let mut value: Value = serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    tuples(&mut value);
    typed(&value)
}

pub fn load_weights(parameters: &Parameters, path: &Path) {
    let reader = pytorch_reader::PytorchReader::with_top_level_key(path, "model").unwrap();
    for entry in parameters.state() {
        let tensor = reader.get(&entry.name).or_else(|| reader.get(&format!("module.{}", entry.name)));
        let tensor = tensor.unwrap_or_else(|| panic!("{} has no {}", path.display(), entry.name));
        let shape: Vec<i64> = tensor.shape().iter().map(|n| *n as i64).collect();
        let loaded = tch::Tensor::from_data_size(&tensor.read().unwrap(), &shape, entry.tensor.kind());
        tch::no_grad(|| entry.tensor.shallow_clone().copy_(&loaded));
    }
}
