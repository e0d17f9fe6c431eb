use maskrcnn_benchmark::structures::{boxlist_iou, boxlist_nms, cat_boxlist, remove_small_boxes, BoxList, Flip, Mode};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::{flip, pair};
use crate::support::{area, json, numbers, Report, Tensors};

fn mode(value: &Value) -> Mode {
    value["mode"].as_str().expect("a mode").parse().expect("a known mode")
}

fn boxes(value: &Value) -> Tensor {
    let flat: Vec<f64> = value.as_array().expect("boxes").iter().flat_map(numbers).collect();
    Tensor::from_slice(&flat).view([-1, 4])
}

fn read(value: &Value) -> BoxList {
    let mut list = BoxList::new(boxes(&value["bbox"]), pair(&value["size_wh"]), mode(value)).expect("a box list");
    if let Some(fields) = value.get("fields").and_then(Value::as_object) {
        for (name, data) in fields {
            list.add_field(name, field(name, data));
        }
    }
    list
}

fn field(name: &str, data: &Value) -> Tensor {
    let data = Tensor::from_slice(&numbers(data));
    data.to_kind(if name == "labels" { Kind::Int64 } else { Kind::Float })
}

fn compare(report: &mut Report, case: &str, got: &BoxList, want: &Value) {
    report.close(case, "bbox", got.bbox(), &boxes(&want["bbox"]), 1e-5, 1e-5);
    report.equal(case, "mode", got.mode(), mode(want));
    let size = numbers(&want["size_wh"]);
    report.equal(case, "size", got.exact_size(), (size[0], size[1]));
    let Some(fields) = want.get("fields").and_then(Value::as_object) else { return };
    let mut names = got.fields();
    names.sort();
    let mut expected: Vec<&str> = fields.keys().map(String::as_str).collect();
    expected.sort();
    report.equal(case, "field names", names, expected);
    for (name, data) in fields {
        match got.tensor_field(name) {
            Ok(tensor) => report.close(case, "field", tensor, &field(name, data), 0.0, 0.0),
            Err(e) => report.check(case, "field", Some(format!("{e:#}"))),
        }
    }
}

/// `None` for operations that Rust's types rule out (an unknown mode, a flip that does not exist).
fn apply(list: &BoxList, case: &Value) -> Option<anyhow::Result<BoxList>> {
    let args = &case["args"];
    let number = list.len() as i64;
    let names = |value: &Value| -> Vec<String> {
        value.as_array().expect("names").iter().map(|n| n.as_str().expect("a name").to_owned()).collect()
    };
    let text = |key: &str| args[key].as_str().expect("text");
    Some(match case["op"].as_str().expect("an operation") {
        "convert" => text("mode").parse().map(|mode| list.convert(mode)),
        "resize" => list.resize(pair(&args["size_wh"])),
        "transpose" if args["method"].as_i64() == Some(2) => return None,
        "transpose" => list.transpose(flip(args["method"].as_i64().expect("a number"))),
        "crop" => list.crop(numbers(&args["box"]).try_into().expect("four corners")),
        "clip_to_image" => list.shallow_clone().clip_to_image(args["remove_empty"].as_bool().expect("a flag")),
        "remove_small_boxes" => remove_small_boxes(list, args["min_size"].as_f64().expect("a number")),
        "index_list" => list.select(&Tensor::from_slice(&crate::support::ints(&args["index"]))),
        "index_reverse" => list.select(&Tensor::from_slice(&(0..number).rev().collect::<Vec<_>>())),
        "index_mask_odd" => {
            let odd: Vec<bool> = (0..number).map(|i| i % 2 == 1).collect();
            list.select(&Tensor::from_slice(&odd))
        }
        "copy_with_fields" | "copy_with_fields_missing" | "copy_with_fields_skip_missing" => {
            let names = names(&args["fields"]);
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            list.copy_with_fields(&names, args["skip_missing"].as_bool().unwrap_or(false))
        }
        "boxlist_nms" => boxlist_nms(
            list,
            args["nms_thresh"].as_f64().expect("a number"),
            args["max_proposals"].as_i64().expect("a number"),
            text("score_field"),
        ),
        other => panic!("unknown operation {other}"),
    })
}

#[test]
fn operations() {
    let Some(area) = area("structures") else { return };
    let golden = json(&area.join("boxlist.json"));
    let mut report = Report::new("structures/boxlist");
    for case in golden["cases"].as_array().expect("cases") {
        let input = case["input"].as_str().expect("a name");
        let list = read(&golden["inputs"][input]);
        let name = format!("{} {input}", case["op"].as_str().expect("an operation"));
        if let Some(area) = case.get("output_tensor") {
            report.close(&name, "area", &list.area(), &Tensor::from_slice(&numbers(area)), 1e-5, 1e-5);
            continue;
        }
        let Some(result) = apply(&list, case) else {
            report.check(&name, "not expressible", None);
            continue;
        };
        match (result, case.get("error")) {
            (Ok(got), None) => compare(&mut report, &name, &got, &case["output"]),
            (Err(_), Some(_)) => report.check(&name, "error", None),
            (Ok(got), Some(error)) => report.check(&name, "error", Some(format!("got {got}, expected {error}"))),
            (Err(error), None) => report.check(&name, "error", Some(format!("{error:#}"))),
        }
        let unchanged = boxes(&golden["inputs"][input]["bbox"]);
        report.close(&name, "input left alone", list.bbox(), &unchanged, 0.0, 0.0);
    }
    report.finish();
}

#[test]
fn messages() {
    let Some(area) = area("structures") else { return };
    let golden = json(&area.join("boxlist.json"));
    let mut report = Report::new("structures/boxlist messages");
    for case in golden["cases"].as_array().expect("cases").iter().filter(|c| c["op"] == "copy_with_fields_missing") {
        let list = read(&golden["inputs"][case["input"].as_str().expect("a name")]);
        let message = list.copy_with_fields(&["nope"], false).expect_err("no such field").to_string();
        let expected = case["error"]["message"].as_str().expect("a message").trim_matches('"');
        report.equal("missing field", "message", message.as_str(), expected);
    }
    let expected = |name: &str| golden["constructor_errors"][name]["message"].as_str().expect("a message").to_owned();
    let three = BoxList::new(Tensor::zeros([2, 3], (Kind::Float, tch::Device::Cpu)), (4, 4), Mode::Xyxy);
    report.equal("three columns", "message", three.expect_err("3 columns").to_string(), expected("three_columns"));
    let flat = BoxList::new(Tensor::zeros([4], (Kind::Float, tch::Device::Cpu)), (4, 4), Mode::Xyxy);
    report.equal("one dimension", "message", flat.expect_err("1 dimension").to_string(), expected("one_dim"));
    let bad = "nope".parse::<Mode>().expect_err("no mode").to_string();
    report.check("mode", "message", (!bad.starts_with(&expected("bad_mode"))).then_some(bad));
    report.finish();
}

#[test]
fn pairs() {
    let Some(area) = area("structures") else { return };
    let golden = json(&area.join("boxlist.json"));
    let mut report = Report::new("structures/boxlist pairs");
    for case in golden["pairs"].as_array().expect("pairs") {
        let (a, b) = (read(&case["a"]), read(&case["b"]));
        let name = case["op"].as_str().expect("an operation");
        let error = case.get("error");
        if name == "cat_boxlist" {
            match cat_boxlist(&[a, b]) {
                Ok(joined) if error.is_none() => compare(&mut report, name, &joined, &case["output"]),
                result => report.equal(name, "error", result.is_err(), error.is_some()),
            }
            continue;
        }
        match boxlist_iou(&a, &b) {
            Ok(iou) if error.is_none() => {
                report.equal(name, "shape", iou.size(), vec![a.len() as i64, b.len() as i64]);
                if let Some(rows) = case.get("output").and_then(Value::as_array) {
                    let flat: Vec<f64> = rows.iter().flat_map(numbers).collect();
                    report.close(name, "iou", &iou.view(-1), &Tensor::from_slice(&flat), 1e-6, 1e-5);
                }
            }
            result => report.equal(name, "error", result.is_err(), error.is_some()),
        }
    }
    report.finish();
}

#[test]
fn large() {
    let Some(area) = area("structures") else { return };
    let golden = Tensors::read(&area.join("boxlist_large.safetensors"));
    let list = |name: &str| BoxList::new(golden.get(name).shallow_clone(), (1333, 800), Mode::Xyxy).expect("boxes");
    let mut report = Report::new("structures/boxlist large");
    let (a, b) = (list("iou_large/a"), list("iou_large/b"));
    report.close("iou", "iou", &boxlist_iou(&a, &b).expect("iou"), golden.get("iou_large/iou"), 1e-6, 1e-5);
    for (name, want, got) in [
        ("resize", "resize_large/out", a.resize((640, 427))),
        ("clip", "clip_large/out", a.shallow_clone().clip_to_image(true)),
        ("left-right", "flip_large/lr", a.transpose(Flip::LeftRight)),
        ("top-bottom", "flip_large/tb", a.transpose(Flip::TopBottom)),
    ] {
        report.close(name, "bbox", got.expect("boxes").bbox(), golden.get(want), 1e-4, 1e-5);
    }
    let mut scored = list("iou_large/a");
    scored.add_field("scores", golden.get("nms_large/scores").shallow_clone());
    let kept = boxlist_nms(&scored, 0.4, 50, "scores").expect("boxes");
    report.close("nms", "boxes", kept.bbox(), golden.get("nms_large/kept_boxes"), 0.0, 0.0);
    let scores = kept.tensor_field("scores").expect("scores");
    report.close("nms", "scores", scores, golden.get("nms_large/kept_scores"), 0.0, 0.0);
    report.finish();
}
