//! What each stage gives at test time.

use maskrcnn_benchmark::engine::bbox_aug::{im_detect_bbox_aug, BboxAug};
use maskrcnn_benchmark::layers::Parameters;
use maskrcnn_benchmark::modeling::backbone::blocks::BlockFamily;
use maskrcnn_benchmark::modeling::backbone::resnet::ResNet;
use maskrcnn_benchmark::modeling::detector::GeneralizedRcnn;
use maskrcnn_benchmark::modeling::rpn::ProposalNetwork;
use maskrcnn_benchmark::structures::{rle, to_image_list, BoxList, ImageList, Masker, Mode};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{cases, Case, Expected, Report, PIXELS, RELATIVE, SCORE};

#[test]
fn inference() {
    inference_on(Device::Cpu);
}

/// Every case with its model on `device`.
pub fn inference_on(device: Device) {
    let mut report = Report::new("models/tiny inference");
    let folders = cases();
    if folders.is_empty() {
        return; // said by `area`
    }
    for folder in folders {
        let case = Case { device, ..Case::open(&folder) };
        if case.cfg.test.bbox_aug.enabled {
            continue; // test_time_augmentation
        }
        let _no_grad = tch::no_grad_guard();
        let mut expected = Expected::open(&case, "inference");
        let (model, parameters) = case.model(&mut report);
        let batch = match expected.batch("") {
            Some(batch) => Some(batch),
            None if expected.facts["images_from_png"] == Value::Bool(true) => {
                let batch = case.batch_from_files();
                let sizes = expected.image_sizes("");
                report.equal(&case.name, "image sizes", batch.image_sizes.clone(), sizes);
                norm(&mut report, &case, &expected, "images", &batch.tensors);
                Some(batch)
            }
            None => None,
        };
        if let Some(batch) = &batch {
            stages(&mut report, &case, &mut expected, &model, &parameters, "", &batch.to_device(device));
        }
        for image in 0..2 {
            let prefix = format!("single{image}.");
            let single = expected.batch(&prefix).or_else(|| batch.as_ref().map(|b| alone(&case, b, image)));
            let single = single.expect("an image");
            stages(&mut report, &case, &mut expected, &model, &parameters, &prefix, &single.to_device(device));
        }
        expected.finish(&mut report, &case.name);
    }
    report.finish();
}

#[test]
fn test_time_augmentation() {
    let mut report = Report::new("models/tiny test-time augmentation");
    let augmented: Vec<Case> =
        cases().iter().map(|folder| Case::open(folder)).filter(|case| case.cfg.test.bbox_aug.enabled).collect();
    for case in &augmented {
        let mut expected = Expected::open(case, "inference");
        let (model, _) = case.model(&mut report);
        let (_, identity) = model.detect_unfiltered(&case.batch_resized()).expect("boxes");
        for (image, boxes) in identity.iter().enumerate() {
            let key = |what: &str| format!("tta.identity.{image}.{what}");
            expected.absolute(&mut report, &case.name, &key("boxes"), boxes.bbox(), PIXELS);
            let scores = boxes.tensor_field("scores").expect("scores");
            expected.absolute(&mut report, &case.name, &key("scores"), scores, SCORE);
        }
        let aug = BboxAug::new(&case.cfg).expect("views");
        let found = im_detect_bbox_aug(&model, &aug, &case.images(), Device::Cpu).expect("detections");
        let sizes = expected.facts["network_sizes_wh"].as_array().expect("sizes").clone();
        for (image, boxes) in found.iter().enumerate() {
            let size = super::ints(&sizes[image]);
            report.equal(&case.name, "network sizes", boxes.size(), (size[0], size[1]));
            detections(&mut report, case, &mut expected, &format!("detections.{image}."), boxes, image);
        }
        expected.finish(&mut report, &case.name);
    }
    if !augmented.is_empty() {
        report.finish();
    }
}

/// One image of a batch with its own padding.
fn alone(case: &Case, batch: &ImageList, image: usize) -> ImageList {
    let (height, width) = batch.image_sizes[image];
    let tensor = batch.tensors.get(image as i64).narrow(1, 0, height).narrow(2, 0, width);
    to_image_list(&[tensor], case.cfg.dataloader.size_divisibility)
}

/// The norm of a tensor that the golden file leaves out for its size.
fn norm(report: &mut Report, case: &Case, expected: &Expected, name: &str, got: &Tensor) {
    if let Some(want) = expected.facts["left_out_norms"][name].as_f64() {
        let got = got.to_kind(Kind::Double).norm().double_value(&[]);
        report.close_numbers(&case.name, "left out norms", &[got], &[want], 0.0, RELATIVE);
    }
}

fn stages(
    report: &mut Report,
    case: &Case,
    expected: &mut Expected,
    model: &GeneralizedRcnn,
    parameters: &Parameters,
    prefix: &str,
    batch: &ImageList,
) {
    let name = &case.name;
    let key = |rest: &str| format!("{prefix}{rest}");
    for (level, map) in body(case, parameters, &batch.tensors).iter().enumerate() {
        expected.relative(report, name, &key(&format!("body.{level}")), map);
        norm(report, case, expected, &key(&format!("body.{level}")), map);
    }
    let features = model.features(batch);
    for (level, map) in features.iter().enumerate() {
        expected.relative(report, name, &key(&format!("features.{level}")), map);
        norm(report, case, expected, &key(&format!("features.{level}")), map);
    }
    let (section, classes, (scores, codes)) = match model.rpn() {
        ProposalNetwork::Rpn(rpn) => ("rpn", "objectness", rpn.head().forward(&features, false)),
        ProposalNetwork::RetinaNet(retinanet) => ("retina", "cls", retinanet.head().forward(&features, false)),
    };
    for (level, (scores, codes)) in scores.iter().zip(&codes).enumerate() {
        for (what, map) in [(classes, scores), ("bbox_reg", codes)] {
            let of_level = key(&format!("{section}.{what}.{level}"));
            expected.relative(report, name, &of_level, map);
            norm(report, case, expected, &of_level, map);
        }
    }
    let proposals = model.rpn().detect(batch, &features).expect("proposals");
    if let ProposalNetwork::Rpn(_) = model.rpn() {
        for (image, boxes) in proposals.iter().enumerate() {
            expected.absolute(report, name, &key(&format!("proposals.{image}.boxes")), boxes.bbox(), PIXELS);
            let objectness = boxes.tensor_field("objectness").expect("objectness");
            expected.absolute(report, name, &key(&format!("proposals.{image}.objectness")), objectness, SCORE);
            let in_file = in_file(case, boxes, original(prefix, image));
            let in_file = in_file.bbox();
            expected.absolute(report, name, &key(&format!("proposals.{image}.boxes_original")), in_file, PIXELS);
        }
    }
    if let Some(heads) = model.roi_heads() {
        let (logits, codes) = heads.r#box.predict(&features, &proposals).expect("predictions");
        expected.relative(report, name, &key("box_head.class_logits"), &logits);
        expected.relative(report, name, &key("box_head.box_regression"), &codes);
    }
    let found = model.detect(batch).expect("detections");
    if rpn_only(case) {
        // The proposals, already compared, are the detections.
        for (found, proposals) in found.iter().zip(&proposals) {
            report.equal(name, "detections", found.bbox() == proposals.bbox(), true);
        }
        return;
    }
    if let (Some(head), false) = (model.roi_heads().and_then(|h| h.keypoint.as_ref()), found[0].is_empty()) {
        let maps = head.predict(&features, &found).expect("heat maps");
        expected.relative(report, name, &key("keypoint_head.logits_first1"), &maps.narrow(0, 0, 1));
    }
    for (image, boxes) in found.iter().enumerate() {
        detections(report, case, expected, &key(&format!("detections.{image}.")), boxes, original(prefix, image));
    }
}

fn rpn_only(case: &Case) -> bool {
    case.cfg.model.rpn_only && !case.cfg.model.retinanet_on
}

/// The number of the image file: that of the prefix for single images.
fn original(prefix: &str, image: usize) -> usize {
    prefix.strip_prefix("single").and_then(|p| p.trim_end_matches('.').parse().ok()).unwrap_or(image)
}

/// The stages of the body alone, where the golden files have them.
fn body(case: &Case, parameters: &Parameters, images: &Tensor) -> Vec<Tensor> {
    let resnets = &case.cfg.model.resnets;
    if case.cfg.model.backbone.conv_body == "FBNet" {
        return Vec::new();
    }
    let family = if resnets.trans_func.starts_with("Bottle2neck") { BlockFamily::Res2Net } else { BlockFamily::ResNet };
    let own = Parameters::uninitialised(case.device);
    let body = ResNet::new(&case.cfg, &own.root().sub("backbone.body"), family).expect("a body");
    for entry in own.state() {
        let value = parameters.get(&entry.name).expect("the body of the model");
        let mut tensor = entry.tensor;
        tensor.copy_(&value);
    }
    body.forward(images, false)
}

fn detections(report: &mut Report, case: &Case, expected: &mut Expected, key: &str, boxes: &BoxList, file: usize) {
    let name = &case.name;
    let boxes = &boxes.to_device(Device::Cpu);
    let scores = boxes.tensor_field("scores").expect("scores");
    // RetinaNet picks candidates by an unsorted top-k, so its order is the implementation's.
    let by_score = |scores: &Tensor| scores.sort_stable(true, 0, true).1;
    let mut order = None;
    let mut sorted = boxes.shallow_clone();
    if case.cfg.model.retinanet_on {
        order = expected.find(&format!("{key}scores")).map(|want| by_score(&want));
        sorted = boxes.select(&by_score(scores)).expect("boxes");
    }
    let mut compare = |what: &str, got: &Tensor, limit: f64| {
        let name_of = format!("{key}{what}");
        if let Some(want) = expected.find(&name_of) {
            let want = order.as_ref().map_or(want.shallow_clone(), |order| want.index_select(0, order));
            report.close(name, super::quantity(&name_of), got, &want, limit, 0.0);
        }
    };
    compare("boxes", sorted.bbox(), PIXELS);
    compare("scores", sorted.tensor_field("scores").expect("scores"), SCORE);
    compare("labels", sorted.tensor_field("labels").expect("labels"), 0.0);
    compare("boxes_original", in_file(case, &sorted, file).bbox(), PIXELS);
    let in_file = in_file(case, boxes, file);
    if let Ok(masks) = boxes.tensor_field("mask") {
        expected.absolute(report, name, &format!("{key}mask_probs"), masks, SCORE);
        if key.starts_with("detections.") {
            // Corners are truncated to whole pixels: one that lies a hair beside a whole number, as the original's does
            // once, may move a mask by a pixel. The boxes are compared above; here it is about the masks.
            let corners =
                expected.find(&format!("{key}boxes_original")).unwrap_or_else(|| in_file.bbox().shallow_clone());
            let boxes = BoxList::new(corners, in_file.size(), Mode::Xyxy).expect("boxes");
            let wanted = &expected.facts[format!("masks.{file}")];
            pasted(report, name, masks, &boxes, wanted.as_array().expect("masks"));
        }
    }
    if let Ok(keypoints) = boxes.keypoints() {
        expected.absolute(report, name, &format!("{key}keypoints"), keypoints.keypoints(), PIXELS);
        let logits = keypoints.get_field("logits").expect("logits");
        expected.relative(report, name, &format!("{key}keypoint_scores"), logits);
        let keypoints = in_file.keypoints().expect("keypoints");
        expected.absolute(report, name, &format!("{key}keypoints_original"), keypoints.keypoints(), PIXELS);
    }
}

/// The detections in the pixels of the image file.
fn in_file(case: &Case, boxes: &BoxList, file: usize) -> BoxList {
    let size = case.images()[file].size();
    boxes.resize(size).expect("a size")
}

/// The masks of the image file: a few boundary pixels may differ.
fn pasted(report: &mut Report, case: &str, masks: &Tensor, boxes: &BoxList, wanted: &[Value]) {
    report.equal(case, "masks", masks.size()[0], wanted.len() as i64);
    if masks.size()[0] != wanted.len() as i64 {
        return;
    }
    let pasted = Masker::new(0.5, 1).forward_single_image(masks, boxes).expect("masks");
    for (i, wanted) in wanted.iter().enumerate() {
        let size = super::ints(&wanted["size"]);
        let counts = wanted["counts"].as_str().expect("counts");
        let want = rle::decode(&rle::from_string(counts, (size[0], size[1])).expect("run lengths"));
        let got = pasted.get(i as i64).get(0);
        let differing = got.to_kind(Kind::Bool).logical_xor(&want.to_kind(Kind::Bool)).sum(Kind::Int64);
        let (differing, area) = (differing.int64_value(&[]), wanted["area"].as_i64().expect("an area"));
        let wrong = (differing > 2 + area / 100).then(|| format!("{differing} pixels of a mask of {area} differ"));
        report.check(case, "mask pixels", wrong);
    }
}
