use maskrcnn_benchmark::structures::{
    keypoints_to_heat_map, to_image_list, BoxList, Flip, ImageList, Keypoints, Mode, PERSON_KEYPOINTS,
};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{flip, pair};
use crate::support::{area, ints, json, Report, Tensors};

#[test]
fn image_lists() {
    let Some(area) = area("structures") else { return };
    let golden = json(&area.join("image_list.json"));
    let tensors = Tensors::read(&area.join("image_list.safetensors"));
    let input = |i: i64| tensors.get(&format!("input{i}")).shallow_clone();
    let mut report = Report::new("structures/image_list");
    for case in golden["cases"].as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        let divisible = case["size_divisible"].as_i64().expect("a number");
        let list = match &case["inputs"] {
            Value::Array(_) => {
                let images: Vec<Tensor> = ints(&case["inputs"]).into_iter().map(input).collect();
                to_image_list(&images, divisible)
            }
            Value::Number(i) if divisible > 0 => to_image_list(&[input(i.as_i64().expect("a number"))], divisible),
            Value::Number(i) => ImageList::from_batch(input(i.as_i64().expect("a number"))),
            Value::String(_) => ImageList::from_batch(Tensor::stack(&[input(2), input(2)], 0)),
            other => panic!("unknown inputs {other}"),
        };
        report.close(name, "tensors", &list.tensors, tensors.get(name), 0.0, 0.0);
        let sizes = case["image_sizes_hw"].as_array().expect("sizes").iter().map(pair).collect();
        report.equal(name, "sizes", list.image_sizes, sizes);
    }
    report.finish();
}

#[test]
fn keypoints() {
    let Some(area) = area("structures") else { return };
    let golden = json(&area.join("keypoints.json"));
    let tensors = Tensors::read(&area.join("keypoints.safetensors"));
    let size = pair(&golden["size_wh"]);
    let person = |tensor: &Tensor| Keypoints::person(tensor.shallow_clone(), size).expect("keypoints");
    let input = person(tensors.get("input"));
    let mut report = Report::new("structures/keypoints");
    for case in golden["cases"].as_array().expect("cases") {
        let op = case["op"].as_str().expect("an operation");
        if op == "keypoints_to_heat_map" {
            let cells = case["heatmap_size"].as_i64().expect("a number");
            let get = |name: &str| tensors.get(&format!("hm{cells}/{name}"));
            let (index, valid) = keypoints_to_heat_map(get("keypoints"), get("rois"), cells);
            report.close(op, "valid", &valid, get("valid"), 0.0, 0.0);
            report.close(op, "index", &index, get("heatmap_index"), 0.0, 0.0);
            continue;
        }
        let result = match op {
            "resize" => input.resize(pair(&case["size_wh"])),
            "transpose" => input.transpose(flip(case["method"].as_i64().expect("a number"))),
            "crop" => input.crop([0.0, 0.0, 10.0, 10.0]),
            other => panic!("unknown operation {other}"),
        };
        match (result, case["tensor"].as_str()) {
            (Ok(got), Some(tensor)) => report.close(op, "keypoints", got.keypoints(), tensors.get(tensor), 1e-5, 1e-5),
            (result, want) => report.equal(op, "error", result.is_err(), want.is_none()),
        }
    }

    let index = Tensor::from_slice(&[4i64, 0]);
    let selected = input.select(&index).expect("instances");
    report.close("index", "keypoints", selected.keypoints(), tensors.get("index"), 0.0, 0.0);
    let mut list = BoxList::new(Tensor::zeros([6, 4], (Kind::Float, Device::Cpu)), size, Mode::Xyxy).expect("boxes");
    list.add_field("keypoints", input);
    let resized = list.resize(pair(&golden["via_boxlist"]["resize"])).expect("a list");
    let flipped = list.transpose(Flip::LeftRight).expect("a list");
    for (list, name) in [(resized, "via_boxlist_resize"), (flipped, "via_boxlist_flip")] {
        let got = list.keypoints().expect("keypoints").keypoints();
        report.close("boxlist", name, got, tensors.get(name), 1e-5, 1e-5);
    }
    let flat = person(&tensors.get("input").view([6, -1]));
    report.equal("flat", "shape", flat.keypoints().size(), ints(&golden["flat_list_shape"]));
    let empty = person(&Tensor::zeros([0, 51], (Kind::Float, Device::Cpu)));
    report.equal("empty", "shape", empty.keypoints().size(), ints(&golden["empty_shape"]));
    let nothing = Tensor::zeros([0, 4], (Kind::Float, Device::Cpu));
    let (index, valid) = keypoints_to_heat_map(&Tensor::zeros([0, 17, 3], (Kind::Float, Device::Cpu)), &nothing, 56);
    let shapes = golden["heat_map_no_rois_shapes"].as_array().expect("shapes").iter().map(ints).collect();
    report.equal("no rois", "shapes", vec![index.size(), valid.size()], shapes);
    report.finish();
}

#[test]
fn person_keypoints() {
    let Some(area) = area("structures") else { return };
    let golden = json(&area.join("keypoints.json"));
    let mut report = Report::new("structures/person keypoints");
    let names: Vec<&str> = golden["names"].as_array().expect("names").iter().filter_map(Value::as_str).collect();
    report.equal("person", "names", PERSON_KEYPOINTS.names.to_vec(), names);
    report.equal("person", "flip", PERSON_KEYPOINTS.flip_indices(), ints(&golden["flip_inds"]));
    let connections: Vec<(i64, i64)> = golden["connections"].as_array().expect("pairs").iter().map(pair).collect();
    let got: Vec<(i64, i64)> =
        PERSON_KEYPOINTS.connection_indices().into_iter().map(|(a, b)| (a as i64, b as i64)).collect();
    report.equal("person", "connections", got, connections);
    report.finish();
}
