//! Golden area `models`: what every configuration builds, and small detectors whole.

use maskrcnn_benchmark::config::Config;
use serde_json::Value;

use super::support;

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
