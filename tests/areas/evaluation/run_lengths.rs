use maskrcnn_benchmark::structures::rle::{self, Rle};
use serde_json::Value;

use super::has;
use crate::support::{area, ints, json, number, numbers, Report, Tensors};

fn size_hw(value: &Value) -> (i64, i64) {
    let both = ints(value);
    (both[0], both[1])
}

fn read(value: &Value) -> Rle {
    rle::from_string(value["counts"].as_str().expect("counts"), size_hw(&value["size"])).expect("run lengths")
}

fn read_all(value: &Value) -> Vec<Rle> {
    value.as_array().expect("masks").iter().map(read).collect()
}

fn compare(report: &mut Report, case: &str, got: &Rle, want: &Value) {
    report.equal(case, "counts", rle::to_string(got).as_str(), want["counts"].as_str().expect("counts"));
    report.equal(case, "size", (i64::from(got.h), i64::from(got.w)), size_hw(&want["size"]));
}

fn matrix(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().expect("rows").iter().map(numbers).collect()
}

fn compare_matrix(report: &mut Report, case: &str, got: Vec<Vec<f64>>, want: &Value) {
    let want = matrix(want);
    // Where one side is empty pycocotools gives an empty list, whatever the other side.
    if want.is_empty() {
        report.equal(case, "empty", got.iter().map(Vec::len).sum::<usize>(), 0);
        return;
    }
    report.equal(case, "rows", got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        report.close_numbers(case, "iou", got, want, 1e-12, 0.0);
    }
}

fn flags(value: &Value) -> Vec<bool> {
    let flag = |v: &Value| v.as_bool().unwrap_or_else(|| v.as_i64() == Some(1));
    value.as_array().expect("flags").iter().map(flag).collect()
}

#[test]
fn masks() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "rle.json") {
        return;
    }
    let golden = json(&area.join("rle.json"));
    let tensors = Tensors::read(&area.join("rle_masks.safetensors"));
    let mut report = Report::new("evaluation/rle masks");
    for (i, case) in golden["masks"].as_array().expect("masks").iter().enumerate() {
        let mask = tensors.get(&format!("mask{i}"));
        let encoded = rle::encode(mask).expect("run lengths");
        compare(&mut report, "encode", &encoded, &case["rle"]);
        if !case["uncompressed_counts"].is_null() {
            let counts: Vec<i64> = encoded.counts.iter().map(|&c| i64::from(c)).collect();
            report.equal("encode", "uncompressed counts", counts, ints(&case["uncompressed_counts"]));
        }
        let read = read(&case["rle"]);
        report.equal("from_string", "run lengths", &read, &encoded);
        report.close("decode", "mask", &rle::decode(&read), mask, 0.0, 0.0);
        report.equal("area", "pixels", rle::area(&read), case["area"].as_u64().expect("an area"));
        report.equal("to_bbox", "box", rle::to_bbox(&read).to_vec(), numbers(&case["bbox_xywh"]));
    }
    report.finish();
}

#[test]
fn overlaps_and_merges() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "rle.json") {
        return;
    }
    let golden = json(&area.join("rle.json"));
    let mut report = Report::new("evaluation/rle overlaps");
    for case in golden["overlaps"].as_array().expect("cases") {
        let (dt, gt) = (read_all(&case["dt"]), read_all(&case["gt"]));
        let crowds = flags(&case["iscrowd"]);
        compare_matrix(&mut report, "iou", rle::iou(&dt, &gt, &crowds).expect("overlaps"), &case["iou"]);
        let none = vec![false; gt.len()];
        let plain = rle::iou(&dt, &gt, &none).expect("overlaps");
        compare_matrix(&mut report, "iou without crowds", plain, &case["iou_no_crowd"]);
        for (name, number, intersect) in [
            ("union_of_all", dt.len(), false),
            ("intersection_of_first_three", 3, true),
            ("union_of_first_two", 2, false),
        ] {
            let Some(want) = case.get(name) else { continue };
            let masks = &dt[..number.min(dt.len())];
            compare(&mut report, name, &rle::merge(masks, intersect).expect("a mask"), want);
        }
    }
    let boxes = &golden["box_overlaps"];
    let xywh = |key: &str| -> Vec<[f64; 4]> {
        matrix(&boxes[key]).into_iter().map(|b| b.try_into().expect("four numbers")).collect()
    };
    let got = rle::box_iou(&xywh("dt_xywh"), &xywh("gt_xywh"), &flags(&boxes["iscrowd"])).expect("overlaps");
    compare_matrix(&mut report, "boxes", got, &boxes["iou"]);
    report.finish();
}

#[test]
fn polygons_and_boxes() {
    let Some(area) = area("evaluation") else { return };
    if !has(&area, "rle.json") {
        return;
    }
    let golden = json(&area.join("rle.json"));
    let mut report = Report::new("evaluation/rle polygons");
    for case in golden["polygons"].as_array().expect("cases") {
        let got = rle::from_polygon(&numbers(&case["polygon"]), size_hw(&case["size_hw"])).expect("a mask");
        compare(&mut report, "polygon", &got, &case["rle"]);
        report.equal("polygon", "area", rle::area(&got) as f64, number(&case["area"]));
        report.equal("polygon", "box", rle::to_bbox(&got).to_vec(), numbers(&case["bbox_xywh"]));
    }
    for case in golden["multi_polygons"].as_array().expect("cases") {
        let size = size_hw(&case["size_hw"]);
        let polygons = matrix(&case["polygons"]);
        for (polygon, want) in polygons.iter().zip(case["rles"].as_array().expect("masks")) {
            compare(&mut report, "each polygon", &rle::from_polygon(polygon, size).expect("a mask"), want);
        }
        let union = rle::from_polygons(&polygons, size).expect("a mask");
        compare(&mut report, "several polygons", &union, &case["merged"]);
    }
    for case in golden["boxes"].as_array().expect("cases") {
        let bbox = numbers(&case["box_xywh"]).try_into().expect("four numbers");
        let got = rle::from_bbox(&bbox, size_hw(&case["size_hw"])).expect("a mask");
        compare(&mut report, "box", &got, &case["rle"]);
        report.equal("box", "area", rle::area(&got) as f64, number(&case["area"]));
    }
    report.finish();
}
