//! The maps of bodies and pyramids of every small detector, at inference.

use std::path::Path;

use maskrcnn_benchmark::checkpoint::load_weights;
use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::data::transforms::{read_image, Normalize};
use maskrcnn_benchmark::layers::Parameters;
use maskrcnn_benchmark::modeling::backbone::build_backbone;
use maskrcnn_benchmark::modeling::backbone::resnet::{BlockFamily, ResNet};
use maskrcnn_benchmark::modeling::registry::ModelRegistries;
use maskrcnn_benchmark::structures::to_image_list;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::support::{area, differs, json, number, Report, Tensors};

/// The limit of the area: relative to the largest value of a map.
const RELATIVE: f64 = 1e-3;

#[test]
fn bodies_and_pyramids_give_the_original_maps() {
    let Some(area) = area("models/tiny") else { return };
    let mut report = Report::new("models/features");
    let mut cases: Vec<_> = std::fs::read_dir(&area).unwrap().map(|f| f.unwrap().path()).collect();
    cases.sort();
    let _guard = tch::no_grad_guard();
    for case in cases {
        compare(&mut report, &case);
    }
    report.finish();
}

fn compare(report: &mut Report, case: &Path) {
    let name = case.file_name().unwrap().to_string_lossy().into_owned();
    let expected = Tensors::read(&case.join("expected_inference.safetensors"));
    let facts = json(&case.join("expected_inference.json"));
    let config = Config::load(Some(&case.join("config.yaml")), &[]).unwrap();
    if config.model.resnets.stage_with_dcn.contains(&true) {
        println!("not yet: {name} – deformable convolution");
        return;
    }
    // Every case has its maps for the batch, for each image alone, or not at all.
    let prefixes: Vec<&str> = ["", "single0.", "single1."]
        .into_iter()
        .filter(|prefix| expected.names().any(|n| n.starts_with(&format!("{prefix}features."))))
        .collect();
    if prefixes.is_empty() {
        println!("{name}: no maps in the file");
        return;
    }

    let parameters = Parameters::uninitialised(Device::Cpu);
    let root = parameters.root();
    let backbone = build_backbone(&config, &root.sub("backbone"), &ModelRegistries::default()).unwrap();
    load_weights(&case.join("weights.pth"), &parameters).unwrap();
    // The body once more, alone: a pyramid does not show what is below it.
    let body_parameters = Parameters::uninitialised(Device::Cpu);
    let conv_body = config.model.backbone.conv_body.as_str();
    let family = if conv_body.starts_with("R2-") { BlockFamily::Res2Net } else { BlockFamily::ResNet };
    let body = conv_body.starts_with('R').then(|| {
        let body = ResNet::new(&config, &body_parameters.root().sub("backbone.body"), family).unwrap();
        load_weights(&case.join("weights.pth"), &body_parameters).unwrap();
        body
    });

    for prefix in prefixes {
        let images = match expected.find(&format!("{prefix}images")) {
            Some(images) => images.shallow_clone(),
            None => images_of(case, &config),
        };
        let maps = backbone.forward(&images, false);
        compare_maps(report, &name, prefix, "features", &maps, &expected, &facts["left_out_norms"]);
        if let Some(body) = &body {
            let maps = body.forward(&images, false);
            compare_maps(report, &name, prefix, "body", &maps, &expected, &facts["left_out_norms"]);
        }
    }
}

fn compare_maps(
    report: &mut Report,
    name: &str,
    prefix: &str,
    quantity: &str,
    maps: &[Tensor],
    expected: &Tensors,
    left_out_norms: &Value,
) {
    let known = expected.names().filter(|n| n.starts_with(&format!("{prefix}{quantity}."))).count();
    let mut compared = 0;
    for (i, map) in maps.iter().enumerate() {
        let key = format!("{prefix}{quantity}.{i}");
        if let Some(want) = expected.find(&key) {
            let largest = want.abs().max().double_value(&[]);
            report.check(name, quantity, differs(map, want, RELATIVE * largest, 0.0));
            compared += 1;
        } else if let Some(norm) = left_out_norms.get(&key) {
            let (got, want) = (map.to_kind(Kind::Double).norm().double_value(&[]), number(norm));
            report.close_numbers(name, quantity, &[got], &[want], 0.0, RELATIVE);
        }
    }
    report.equal(name, quantity, compared, known);
}

/// The images of a case whose files already have the size of the network.
fn images_of(case: &Path, config: &Config) -> Tensor {
    let normalize = Normalize::from_config(config).unwrap();
    let images: Vec<Tensor> = ["image.png", "image2.png"]
        .iter()
        .map(|file| normalize.to_tensor(&read_image(&case.join(file)).unwrap()))
        .collect();
    to_image_list(&images, config.dataloader.size_divisibility).tensors
}
