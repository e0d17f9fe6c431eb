//! The same files loaded into the models of their configurations.

use maskrcnn_benchmark::checkpoint::{DetectronCheckpointer, Loaded};
use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::layers::Parameters;
use maskrcnn_benchmark::modeling::detector::build_detection_model;
use maskrcnn_benchmark::modeling::registry::ModelRegistries;
use tch::{Device, Kind};

use super::{cases, data_file, strings};
use crate::support::{area, generator, json, number, Report};

/// The configuration file of a case.
fn config_of(case: &str) -> &'static str {
    match case {
        "c2_r50_c4" => "c2_c4.yaml",
        "c2_r50_fpn" => "c2_fpn.yaml",
        "c2_r50_fpn_dcn" => "c2_dcn.yaml",
        "c2_r50_fpn_gn" => "c2_gn.yaml",
        _ => "res2net.yaml",
    }
}

#[test]
fn models_are_filled() {
    let Some(area) = area("models") else { return };
    let folder = area.join("loading");
    let mut report = Report::new("loading into models");
    for case in cases(&folder) {
        let golden = json(&folder.join(format!("{case}.json")));
        let cfg = Config::load(Some(&folder.join(config_of(&case))), &[]).expect("a valid configuration");
        let parameters = Parameters::new(Device::Cpu);
        {
            let _lock = generator();
            build_detection_model(&cfg, &parameters.root(), &ModelRegistries::default()).expect("a model");
        }
        let before: Vec<f64> = parameters.state().iter().map(|e| norm(&e.tensor)).collect();
        let mut names: Vec<String> = strings(&golden["unmatched_model_keys"]);
        names.extend(golden["matched"].as_object().expect("an object").keys().cloned());
        names.sort();
        let mut here: Vec<String> = parameters.state().into_iter().map(|e| e.name).collect();
        here.sort();
        report.equal(&case, "names of the model", here, names);

        let checkpointer = DetectronCheckpointer::new(&cfg, &parameters, None);
        let outcome = checkpointer.load_file(&data_file(&folder, &case));
        if case == "res2net50_v1b_names" {
            let error = format!("{:#}", outcome.expect_err("v1b cannot be built"));
            let said = error.contains("Res2Net v1b") && error.contains("backbone.body.layer1.0.downsample.1.weight");
            report.check(&case, "named as v1b", (!said).then_some(error));
            let after: Vec<f64> = parameters.state().iter().map(|e| norm(&e.tensor)).collect();
            report.equal(&case, "untouched", after, before);
            continue;
        }
        let Loaded { report: found, .. } = outcome.unwrap_or_else(|e| panic!("{case}: {e:#}"));
        let found = found.expect("a report");
        let warned = found.warnings.join("\n");
        let (skipped, expected_warnings): (Vec<&str>, Vec<&str>) = match case.as_str() {
            "res2net50_missing_key" => (
                vec!["backbone.body.layer2.0.bn1.bias"],
                vec![
                    "backbone.body.layer1.0.bn1.weight from bn1.weight",
                    "backbone.body.layer2.0.bn1.bias from bn1.bias",
                ],
            ),
            "res2net50_partly_prefixed" => (vec![], vec!["96 of 97", "fc.weight"]),
            _ => (vec![], vec![]),
        };
        report.equal(&case, "skipped", found.skipped_names(), skipped.clone());
        report.equal(&case, "warned", warned.is_empty(), expected_warnings.is_empty());
        for part in &expected_warnings {
            report.check(&case, "warning", (!warned.contains(part)).then(|| warned.clone()));
        }
        for (index, entry) in parameters.state().iter().enumerate() {
            let want = match golden["loaded_norms"].get(&entry.name) {
                Some(want) if !skipped.contains(&entry.name.as_str()) => number(want),
                _ => before[index],
            };
            report.close_numbers(&case, "norm", &[norm(&entry.tensor)], &[want], 1e-6, 1e-5);
        }
        let strict = DetectronCheckpointer::new(&cfg, &parameters, None).strict(true);
        let strict = strict.load_file(&data_file(&folder, &case));
        report.equal(&case, "strict", strict.is_err(), !expected_warnings.is_empty());
    }
    report.finish();
}

fn norm(tensor: &tch::Tensor) -> f64 {
    tensor.detach().to_kind(Kind::Double).norm().double_value(&[])
}
