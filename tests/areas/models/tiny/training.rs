//! What each stage gives in training: samples and targets, losses and gradients, three steps of SGD.

use maskrcnn_benchmark::layers::parameters::Role;
use maskrcnn_benchmark::modeling::balanced_positive_negative_sampler::Sampled;
use maskrcnn_benchmark::modeling::batch::Rows;
use maskrcnn_benchmark::modeling::detector::{GeneralizedRcnn, Losses};
use maskrcnn_benchmark::modeling::roi_heads::mask_head::mask_head::keep_only_positive_boxes;
use maskrcnn_benchmark::modeling::rpn::{ProposalNetwork, RpnModule};
use maskrcnn_benchmark::solver::{make_lr_scheduler, make_optimizer};
use maskrcnn_benchmark::structures::{BoxList, ImageList, Keypoints, Mode, SegmentationMask};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::{cases, generator, Case, Expected, Report, PIXELS, RELATIVE, SCORE};

const SEED: i64 = 1234;

#[test]
fn training() {
    let mut report = Report::new("models/tiny training");
    let folders = cases();
    if folders.is_empty() {
        return; // said by `area`
    }
    for folder in folders {
        let case = Case::open(&folder);
        if !folder.join("expected_training.safetensors").is_file() {
            assert!(case.cfg.test.bbox_aug.enabled, "{} has no training", case.name);
            continue;
        }
        let mut expected = Expected::open(&case, "training");
        let images = images(&case, &mut expected);
        let targets = targets(&mut expected, &images);
        let _lock = generator();
        samples(&mut report, &case, &mut expected, &images, &targets);
        gradients(&mut report, &case, &mut expected, &images, &targets);
        steps(&mut report, &case, &expected, &images, &targets);
        expected.finish(&mut report, &case.name);
    }
    report.finish();
}

fn images(case: &Case, expected: &mut Expected) -> ImageList {
    if let Some(batch) = expected.batch("") {
        return batch;
    }
    assert_eq!(expected.facts["images_same_as_inference"], Value::Bool(true), "{}", case.name);
    let mut inference = Expected::open(case, "inference");
    let batch = inference.batch("").unwrap_or_else(|| case.batch_from_files());
    assert_eq!(batch.image_sizes, expected.image_sizes(""));
    batch
}

fn targets(expected: &mut Expected, images: &ImageList) -> Vec<BoxList> {
    let sizes = images.image_sizes.iter().enumerate();
    sizes
        .map(|(image, (height, width))| {
            let size = (*width, *height);
            let key = |what: &str| format!("targets.{image}.{what}");
            let mut target = BoxList::new(expected.find(&key("boxes")).unwrap(), size, Mode::Xyxy).unwrap();
            target.add_field("labels", expected.find(&key("labels")).unwrap());
            let polygons: Vec<Vec<Vec<f64>>> =
                serde_json::from_value(expected.facts[key("polygons")].clone()).expect("polygons");
            target.add_field("masks", SegmentationMask::from_polygons(polygons, size));
            if let Some(keypoints) = expected.find(&key("keypoints")) {
                target.add_field("keypoints", Keypoints::person(keypoints, size).unwrap());
            }
            target
        })
        .collect()
}

/// Proposals, samples and targets of the heads, drawn from the seed as the losses draw them.
fn samples(report: &mut Report, case: &Case, expected: &mut Expected, images: &ImageList, targets: &[BoxList]) {
    let (model, _) = case.model(report);
    let ProposalNetwork::Rpn(rpn) = model.rpn() else { return };
    let _no_grad = tch::no_grad_guard();
    let features = model.backbone().forward(&images.tensors, true);
    tch::manual_seed(SEED);
    let anchors = Tensor::cat(&rpn.anchor_generator().grid_anchors(&features).unwrap(), 0);
    let prepared = rpn.loss_evaluator().prepare_targets(images, rpn.anchor_generator(), &anchors, targets);
    let labels: Vec<Tensor> = prepared.iter().map(|p| p.labels.shallow_clone()).collect();
    let sampled = rpn.loss_evaluator().sample(&prepared);
    compare_samples(report, case, expected, "rpn", &labels, &sampled);

    let Some(heads) = model.roi_heads() else { return };
    let proposals = proposals(rpn, images, &features, targets);
    for (image, boxes) in proposals.iter().enumerate() {
        let key = |what: &str| format!("proposals.{image}.{what}");
        expected.absolute(report, &case.name, &key("boxes"), boxes.bbox(), PIXELS);
        expected.absolute(report, &case.name, &key("objectness"), boxes.tensor_field("objectness").unwrap(), SCORE);
    }
    let evaluator = heads.r#box.loss_evaluator();
    let prepared = evaluator.prepare_targets(&proposals, targets).unwrap();
    let labels: Vec<Tensor> = prepared.into_iter().map(|p| p.labels).collect();
    let sampled = evaluator.sampler().sample(&labels);
    compare_samples(report, case, expected, "box", &labels, &sampled);

    // The same state of the generator again.
    let proposals = self::proposals(rpn, images, &features, targets);
    let chosen = evaluator.subsample(&proposals, targets).unwrap();
    for (image, boxes) in chosen.iter().enumerate() {
        let key = |what: &str| format!("box_sample.{image}.{what}");
        expected.absolute(report, &case.name, &key("boxes"), boxes.bbox(), PIXELS);
        expected.exact(report, &case.name, &key("labels"), boxes.tensor_field("labels").unwrap());
        let codes = boxes.tensor_field("regression_targets").unwrap();
        expected.relative(report, &case.name, &key("regression_targets"), codes);
    }
    if let Some(mask) = &heads.mask {
        let (positives, _) = keep_only_positive_boxes(&chosen).unwrap();
        for (image, masks) in mask.loss_evaluator().prepare_targets(&positives, targets).unwrap().iter().enumerate() {
            if let Some(want) = expected.find(&format!("mask_targets.{image}")) {
                report.equal(&case.name, "mask targets", masks.size(), want.size());
                if masks.size() != want.size() {
                    continue;
                }
                let differing = masks.ne_tensor(&want).sum(Kind::Int64).int64_value(&[]);
                // Boxes differ in the last digits, so a pixel on the border may.
                let wrong = differing > 1 + want.numel() as i64 / 1000;
                report.check(&case.name, "mask targets", wrong.then(|| format!("{differing} pixels differ")));
            }
        }
    }
    if let Some(keypoint) = &heads.keypoint {
        let evaluator = keypoint.loss_evaluator();
        let prepared = evaluator.prepare_targets(&chosen, targets).unwrap();
        let labels: Vec<Tensor> = prepared.into_iter().map(|p| p.labels).collect();
        let sampled = evaluator.sampler().sample(&labels);
        compare_samples(report, case, expected, "keypoint", &labels, &sampled);
        let proposals = self::proposals(rpn, images, &features, targets);
        let chosen = heads.r#box.loss_evaluator().subsample(&proposals, targets).unwrap();
        let positives = evaluator.subsample(&chosen, targets).unwrap().proposals;
        for (image, (cells, valid)) in evaluator.heat_map_targets(&positives).unwrap().iter().enumerate() {
            expected.exact(report, &case.name, &format!("keypoint_targets.{image}.index"), cells);
            expected.exact(report, &case.name, &format!("keypoint_targets.{image}.valid"), valid);
        }
    }
}

/// The proposals for training, and the generator in the state that the heads find.
fn proposals(rpn: &RpnModule, images: &ImageList, features: &[Tensor], targets: &[BoxList]) -> Vec<BoxList> {
    tch::manual_seed(SEED);
    rpn.losses(images, features, targets).unwrap().0
}

fn compare_samples(
    report: &mut Report,
    case: &Case,
    expected: &mut Expected,
    sampler: &str,
    labels: &[Tensor],
    sampled: &Sampled,
) {
    let sampled = sampled.of_each(&Rows::of(labels));
    for (image, (labels, [positive, negative])) in labels.iter().zip(&sampled).enumerate() {
        let key = |what: &str| format!("sampler.{sampler}.{image}.{what}");
        expected.exact(report, &case.name, &key("labels"), labels);
        expected.exact(report, &case.name, &key("pos"), positive);
        expected.exact(report, &case.name, &key("neg"), negative);
    }
}

fn losses(model: &GeneralizedRcnn, images: &ImageList, targets: &[BoxList], seed: i64) -> (Losses, Tensor) {
    tch::manual_seed(seed);
    let losses = model.losses(images, targets).unwrap();
    let terms: Vec<&Tensor> = losses.iter().map(|(_, loss)| loss).collect();
    let total = Tensor::stack(&terms, 0).sum(Kind::Float);
    (losses, total)
}

fn gradients(report: &mut Report, case: &Case, expected: &mut Expected, images: &ImageList, targets: &[BoxList]) {
    let (model, parameters) = case.model(report);
    let (losses, total) = losses(&model, images, targets, SEED);
    let names: Vec<&str> = losses.iter().map(|(name, _)| name.as_str()).collect();
    let wanted = expected.facts["iterations"][0]["losses"].as_object().expect("losses");
    let wanted: Vec<String> = wanted.keys().cloned().collect();
    report.equal(&case.name, "loss names", names.join(" "), wanted.join(" "));
    for (name, loss) in &losses {
        expected.relative(report, &case.name, &format!("loss.{name}"), loss);
    }
    total.backward();

    let gradients: Vec<(String, Tensor)> =
        parameters.trainable().into_iter().map(|(name, parameter)| (name, parameter.grad())).collect();
    let golden: Vec<String> = expected.tensors.names().filter(|n| n.starts_with("grad.")).map(Into::into).collect();
    let largest = golden.iter().map(|n| expected.tensors.get(n).abs().max().double_value(&[])).fold(0.0, f64::max);
    for (name, gradient) in &gradients {
        let key = format!("grad.{name}");
        match expected.find(&key) {
            Some(want) if gradient.defined() => {
                report.close(&case.name, "grad", gradient, &want, 3e-3 * largest, 0.0);
            }
            want => {
                let (got, want) = (gradient.defined(), want.is_some());
                report.equal(&case.name, "grad", (name, got), (name, want));
            }
        }
    }
}

fn steps(report: &mut Report, case: &Case, expected: &Expected, images: &ImageList, targets: &[BoxList]) {
    let (model, parameters) = case.model(report);
    let mut optimizer = make_optimizer(&case.cfg, &parameters);
    let mut scheduler = make_lr_scheduler(&case.cfg, &mut optimizer).unwrap();
    let before: Vec<(String, Tensor)> =
        parameters.trainable().into_iter().map(|(name, parameter)| (name, parameter.detach().copy())).collect();
    for (iteration, golden) in expected.facts["iterations"].as_array().expect("iterations").iter().enumerate() {
        let number = |value: &Value| value.as_f64().expect("a number");
        let rate = |bias: bool| {
            let group = optimizer.groups().iter().find(|g| g.name.contains("bias") == bias).expect("a group");
            group.lr
        };
        let rates = [number(&golden["lr_weight"]), number(&golden["lr_bias"])];
        report.close_numbers(&case.name, "rates", &[rate(false), rate(true)], &rates, 0.0, 1e-12);
        let (losses, total) = losses(&model, images, targets, golden["seed"].as_i64().expect("a seed"));
        let quantity = format!("losses of iteration {}", iteration + 1);
        for (name, loss) in &losses {
            let want = number(&golden["losses"][name]);
            report.close_numbers(&case.name, &quantity, &[loss.double_value(&[])], &[want], 0.0, RELATIVE);
        }
        let want = number(&golden["total"]);
        report.close_numbers(&case.name, &quantity, &[total.double_value(&[])], &[want], 0.0, RELATIVE);
        optimizer.zero_grad();
        total.backward();
        optimizer.step();
        scheduler.step(&mut optimizer);
    }

    let norm = |t: &Tensor| t.detach().to_kind(Kind::Double).norm().double_value(&[]);
    let norms = expected.facts["state_norms_after"].as_object().expect("norms");
    let mut compared = 0;
    for entry in parameters.state() {
        match norms.get(&entry.name) {
            Some(want) => {
                compared += 1;
                let want = want.as_f64().expect("a norm");
                report.close_numbers(&case.name, "state norms", &[norm(&entry.tensor)], &[want], 1e-6, 1e-4);
            }
            // The counters of batch norm.
            None => {
                let counter = entry.role == Role::Buffer && entry.tensor.kind() != Kind::Float;
                report.check(&case.name, "state norms", (!counter).then(|| format!("{} has no norm", entry.name)));
            }
        }
    }
    report.equal(&case.name, "state norms", compared, norms.len());

    let updates = expected.facts["update_norms"].as_object().expect("norms");
    let largest = updates.values().map(|v| v.as_f64().expect("a norm")).fold(0.0, f64::max);
    report.equal(&case.name, "updates", before.len(), updates.len());
    for (name, before) in before {
        let after = parameters.get(&name).expect("a parameter");
        let got = norm(&(after.detach() - before));
        let want = updates.get(&name).and_then(Value::as_f64).unwrap_or(f64::NAN);
        report.close_numbers(&case.name, "updates", &[got], &[want], 3e-3 * largest, 3e-3);
    }
}
