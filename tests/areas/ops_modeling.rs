//! Golden tests of what the model does with boxes: anchors, box coding, matching, sampling, pooling over levels and
//! decoding of keypoints. (Masks are pasted in `structures`.)

use maskrcnn_benchmark::layers::Parameters;
use maskrcnn_benchmark::modeling::balanced_positive_negative_sampler::BalancedPositiveNegativeSampler;
use maskrcnn_benchmark::modeling::batch::Rows;
use maskrcnn_benchmark::modeling::box_coder::BoxCoder;
use maskrcnn_benchmark::modeling::matcher::Matcher;
use maskrcnn_benchmark::modeling::poolers::{LevelMapper, Pooler};
use maskrcnn_benchmark::modeling::roi_heads::keypoint_head::inference::heatmaps_to_keypoints;
use maskrcnn_benchmark::modeling::rpn::anchor_generator::{generate_anchors, octave_sizes, AnchorGenerator};
use maskrcnn_benchmark::structures::{BoxList, Mode};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::support::{area, generator, ints, json, numbers, Report, Tensors};

fn read(name: &str) -> Option<(Value, Tensors)> {
    let area = area("ops")?;
    Some((json(&area.join(format!("{name}.json"))), Tensors::read(&area.join(format!("{name}.safetensors")))))
}

fn table(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no table")).iter().filter(|(_, v)| v.is_object())
}

fn list(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.to_kind(Kind::Int64)).expect("a list of integers")
}

fn weights(parameters: &Value) -> BoxCoder {
    let weights: [f64; 4] = numbers(&parameters["weights"]).try_into().expect("four weights");
    BoxCoder::with_clip(weights, parameters["bbox_xform_clip"].as_f64().expect("a number"))
}

#[test]
fn box_coder() {
    let Some((golden, tensors)) = read("box_coder") else { return };
    let mut report = Report::new("ops/box_coder");
    for (case, parameters) in table(&golden["cases"]) {
        let coder = weights(parameters);
        let get = |name: &str| tensors.get(&format!("{case}/{name}"));
        let proposals = get("proposals");
        if tensors.find(&format!("{case}/targets")).is_some() {
            let encoded = coder.encode(get("targets"), proposals);
            report.close(case, "encoded", &encoded, get("encoded"), 1e-6, 1e-5);
            let decoded = coder.decode(get("encoded"), proposals);
            report.close(case, "decoded_of_encoded", &decoded, get("decoded_of_encoded"), 1e-3, 1e-4);
            let decoded = coder.decode(get("codes_3_classes"), proposals);
            report.close(case, "decoded_3_classes", &decoded, get("decoded_3_classes"), 1e-3, 1e-4);
        } else {
            report.close(case, "decoded", &coder.decode(get("codes"), proposals), get("decoded"), 1e-3, 1e-4);
        }
    }
    // Boxes without area, at the weights of the RPN or of the heads: infinities and nan must be the same.
    let encode =
        |w: [f64; 4]| BoxCoder::new(w).encode(tensors.get("malformed/reference"), tensors.get("malformed/proposals"));
    let fits = [[1.0; 4], [10.0, 10.0, 5.0, 5.0]]
        .iter()
        .any(|w| super::support::differs(&encode(*w), tensors.get("malformed/encoded"), 1e-6, 1e-5).is_none());
    report.check("malformed", "encoded", (!fits).then(|| format!("got {:?}", encode([1.0; 4]))));
    report.finish();
}

#[test]
fn matcher() {
    let Some((golden, tensors)) = read("matcher") else { return };
    let mut report = Report::new("ops/matcher");
    for (case, variants) in golden["cases"].as_object().expect("a table") {
        let quality = tensors.get(&format!("{case}/quality"));
        for variant in variants.as_array().expect("a list") {
            let number = |key: &str| variant[key].as_f64().expect("a number");
            let allow_low_quality = variant["allow_low_quality"].as_bool().expect("a boolean");
            let matcher = Matcher::new(number("high"), number("low"), allow_low_quality).expect("ordered thresholds");
            let want = list(tensors.get(variant["tensor"].as_str().expect("a name")));
            report.equal(case, "matches", list(&matcher.match_quality(quality)), want);
        }
    }
    // Empty lists are no errors here: images without ground truth take part in training.
    report.equal("errors", "low_above_high", Matcher::new(0.3, 0.7, false).is_err(), true);
    report.finish();
}

#[test]
fn balanced_sampler() {
    let Some((golden, tensors)) = read("balanced_sampler") else { return };
    let mut report = Report::new("ops/balanced_sampler");
    let _lock = generator();
    for (case, parameters) in table(&golden["cases"]) {
        let sampler = BalancedPositiveNegativeSampler::new(
            parameters["batch_size_per_image"].as_i64().expect("an integer"),
            parameters["positive_fraction"].as_f64().expect("a number"),
        );
        let images = parameters["images"].as_i64().expect("an integer");
        let get = |image: i64, name: &str| tensors.get(&format!("{case}/image{image}/{name}"));
        let labels: Vec<Tensor> = (0..images).map(|i| get(i, "labels").shallow_clone()).collect();
        tch::manual_seed(parameters["manual_seed"].as_i64().expect("an integer"));
        let sampled = sampler.sample(&labels).of_each(&Rows::of(&labels));
        for (image, [positive, negative]) in sampled.iter().enumerate() {
            let of_mask = |name: &str| list(&get(image as i64, name).nonzero().squeeze_dim(1));
            report.equal(case, "positive", list(positive), of_mask("pos_mask"));
            report.equal(case, "negative", list(negative), of_mask("neg_mask"));
        }
    }
    report.finish();
}

#[test]
fn anchors() {
    let Some((golden, tensors)) = read("anchors") else { return };
    let mut report = Report::new("ops/anchors");
    for (case, parameters) in table(&golden["generate_anchors"]) {
        let stride = parameters["stride"].as_i64().expect("an integer");
        let got = generate_anchors(stride, &numbers(&parameters["sizes"]), &numbers(&parameters["aspect_ratios"]));
        let got = Tensor::from_slice(&got.concat()).reshape([-1, 4]);
        report.close(case, "cell", &got, tensors.get(&format!("generate/{case}")), 1e-12, 1e-12);
    }
    for (case, grid) in table(&golden["grids"]) {
        let strides = ints(&grid["strides"]);
        let levels: Vec<(i64, i64)> = grid["feature_sizes_hw"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|size| (ints(size)[0], ints(size)[1]))
            .collect();
        let (sizes, ratios) = grid_sizes(case, grid, strides.len());
        let threshold = grid["straddle_thresh"].as_i64().expect("an integer");
        let parameters = Parameters::new(Device::Cpu);
        let generator =
            AnchorGenerator::new(&parameters.root(), &sizes, &ratios, &strides, threshold).expect("anchors");
        report.equal(
            case,
            "per location",
            generator.num_anchors_per_location(),
            ints(&grid["num_anchors_per_location"]),
        );
        for (level, cell) in parameters.state().iter().enumerate() {
            report.equal(case, "name", cell.name.clone(), format!("cell_anchors.{level}"));
            if let Some(want) = tensors.find(&format!("retina/{case}/cell{level}")) {
                report.close(case, "cell", &cell.tensor, want, 0.0, 1.2e-7);
            }
        }
        let features: Vec<Tensor> =
            levels.iter().map(|(h, w)| Tensor::zeros([1, 1, *h, *w], (Kind::Float, Device::Cpu))).collect();
        for (level, anchors) in generator.grid_anchors(&features).expect("anchors").iter().enumerate() {
            let name = format!("grid/{case}/level{level}");
            report.close(case, "anchors", anchors, tensors.get(&format!("{name}/anchors")), 0.0, 1.2e-7);
            for (image, size) in grid["image_sizes_hw"].as_array().expect("a list").iter().enumerate() {
                let size = ints(size);
                let got = generator.visibility(anchors, &[(7, 9), (size[0], size[1])]).get(1);
                if let Some(want) = tensors.find(&format!("{name}/visibility_image{image}")) {
                    report.equal(case, "visibility", list(&got), list(want));
                }
            }
        }
    }
    let mismatch = AnchorGenerator::new(&Parameters::new(Device::Cpu).root(), &[vec![32.0]], &[1.0], &[4, 8], 0);
    report.equal("errors", "fpn_sizes_strides_mismatch", mismatch.is_err(), true);
    report.finish();
}

/// The anchor sizes of each level and the aspect ratios: given for RetinaNet, the defaults' otherwise.
fn grid_sizes(case: &str, grid: &Value, levels: usize) -> (Vec<Vec<f64>>, Vec<f64>) {
    if let Some(octave) = grid.get("octave") {
        let octave = octave.as_f64().expect("a number");
        let scales = grid["scales_per_octave"].as_i64().expect("an integer");
        let sizes = numbers(&grid["sizes"]).iter().map(|size| octave_sizes(*size, octave, scales)).collect();
        return (sizes, numbers(&grid["aspect_ratios"]));
    }
    let ratios = vec![0.5, 1.0, 2.0];
    if case.starts_with("c4") {
        (vec![vec![32.0, 64.0, 128.0]], ratios)
    } else {
        ([32.0, 64.0, 128.0, 256.0, 512.0].iter().take(levels).map(|s| vec![*s]).collect(), ratios)
    }
}

#[test]
fn poolers() {
    let Some((golden, tensors)) = read("poolers") else { return };
    let mut report = Report::new("ops/poolers");
    let boxes = |name: &str| {
        let bbox = tensors.get(name).shallow_clone();
        BoxList::new(bbox, (1333, 800), Mode::Xyxy).expect("boxes")
    };
    for (case, parameters) in table(&golden["level_mapper"]) {
        let number = |key: &str| parameters[key].as_i64().expect("an integer");
        let scale = parameters["canonical_scale"].as_f64().expect("a number");
        let mapper = LevelMapper::with_canonical(number("k_min"), number("k_max"), scale, number("canonical_level"));
        report.equal(case, "levels", list(&mapper.levels(&boxes("level_boxes").area())), list(tensors.get(case)));
    }
    let rois = [boxes("pooler/boxes_image0"), boxes("pooler/boxes_image1")];
    for (case, parameters) in table(&golden["pooler"]) {
        let number = |key: &str| parameters[key].as_i64().expect("an integer");
        let scales = numbers(&parameters["scales"]);
        let names: Vec<String> = match parameters["input"].as_str() {
            Some(input) => vec![input.into()],
            None => (0..scales.len()).map(|level| format!("{case}/feature_{level}")).collect(),
        };
        let features: Vec<Tensor> = names.iter().map(|name| tensors.get(name).copy().set_requires_grad(true)).collect();
        let pooler = Pooler::new(number("output_size"), &scales, number("sampling_ratio")).expect("a pooler");
        let output = pooler.forward(&features, &rois).expect("features");
        report.close(case, "output", &output, tensors.get(&format!("{case}/output")), 1e-5, 0.0);
        if let Some(gradient) = tensors.find(&format!("{case}/grad_output")) {
            (output * gradient).sum(Kind::Float).backward();
            for (level, feature) in features.iter().enumerate() {
                let want = tensors.get(&format!("{case}/grad_feature_{level}"));
                report.close(case, "gradient", &feature.grad(), want, 1e-4, 0.0);
            }
        }
    }
    report.finish();
}

#[test]
fn keypoint_heatmaps() {
    let Some((golden, tensors)) = read("keypoint_heatmaps") else { return };
    let mut report = Report::new("ops/keypoint_heatmaps");
    for (case, _) in table(&golden["cases"]) {
        let get = |name: &str| tensors.get(&format!("{case}/{name}"));
        let (keypoints, scores) = heatmaps_to_keypoints(get("maps"), get("boxes")).expect("heat maps");
        report.close(case, "scores", &scores, get("scores"), 1e-4, 0.0);
        // Where two pixels are almost equally high, the other may win.
        let certain = get("best_minus_second").ge(1e-4);
        let rows = |t: &Tensor| t.flatten(0, 1).index_select(0, &certain.flatten(0, -1).nonzero().squeeze_dim(1));
        report.close(case, "keypoints", &rows(&keypoints), &rows(get("keypoints")), 1e-3, 0.0);
        report.equal(case, "certain keypoints", certain.any().int64_value(&[]), 1);
    }
    report.finish();
}
