use anyhow::Result;
use maskrcnn_benchmark::structures::{rle, Flip, MaskMode, PolygonCrop, SegmentationMask};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{flip, pair};
use crate::support::{area, ints, json, numbers, Report, Tensors};

fn instances(value: &Value) -> Vec<Vec<Vec<f64>>> {
    let list = |v: &Value| v.as_array().expect("a list").clone();
    list(value).iter().map(|instance| list(instance).iter().map(numbers).collect()).collect()
}

fn corners(value: &Value) -> [f64; 4] {
    numbers(value).try_into().expect("four corners")
}

fn compare_polygons(report: &mut Report, case: &str, got: &SegmentationMask, want: &Value) {
    let want = instances(want);
    let got = got.polygon_instances().expect("polygons");
    report.equal(case, "instances", got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        report.equal(case, "polygons", got.polygons().len(), want.len());
        for (got, want) in got.polygons().iter().zip(want) {
            let got: Vec<f64> = got.iter().map(|&c| f64::from(c)).collect();
            report.close_numbers(case, "coordinates", &got, want, 1e-5, 1e-6);
        }
    }
}

/// One box for every instance, as a tensor, which is how the mask loss has them.
fn repeated(r#box: [f64; 4], number: usize) -> Tensor {
    Tensor::from_slice(&r#box).to_kind(Kind::Float).repeat([number as i64, 1])
}

fn index(values: &Value) -> Tensor {
    match values {
        Value::Number(one) => Tensor::from_slice(&[one.as_i64().expect("an integer")]),
        list => Tensor::from_slice(&ints(list)),
    }
}

/// Polygon operations; `rule` is that of the crops.
fn polygon_operation(mask: &SegmentationMask, case: &Value, rule: PolygonCrop) -> Result<SegmentationMask> {
    let args = &case["args"];
    let number = |key: &str| args[key].as_i64().expect("a number");
    match case["op"].as_str().expect("an operation") {
        "crop" => mask.crop_by(corners(&args["box"]), rule),
        // Upstream's box is here a row of a float32 tensor, the fork's a tuple.
        "crop_then_resize" if rule == PolygonCrop::Clamped => {
            let r#box = corners(&args["box"]).map(|c| f64::from(c as f32));
            mask.crop(r#box)?.resize(pair(&args["size_wh"]))
        }
        "crop_then_resize" | "per_instance_crop_then_resize" => {
            mask.crop_by(corners(&args["box"]), rule)?.resize(pair(&args["size_wh"]))
        }
        "resize" => mask.resize(pair(&args["size_wh"])),
        "transpose" => Ok(mask.transpose(flip(number("method")))),
        "transpose_twice_then_resize" => {
            let methods = ints(&args["methods"]);
            mask.transpose(flip(methods[0])).transpose(flip(methods[1])).resize(pair(&args["size_wh"]))
        }
        "index" | "index_int" => mask.select(&index(&args["index"])),
        "index_mask" => mask.select(&index(&args["mask"]).to_kind(Kind::Uint8)),
        other => panic!("unknown operation {other}"),
    }
}

#[test]
fn polygons() {
    let Some(area) = area("structures") else { return };
    let golden = json(&area.join("segmentation_polygon.json"));
    let tensors = Tensors::read(&area.join("segmentation_polygon.safetensors"));
    let mut report = Report::new("structures/polygons");
    for group in ["multi", "axis", "invalid"] {
        let input = &golden[group];
        let mask = SegmentationMask::from_polygons(instances(&input["input_polygons"]), pair(&input["size_wh"]));
        compare_polygons(&mut report, group, &mask, &input["constructed"]["polygons"]);
        let number = input["constructed"]["num_instances"].as_u64().expect("a number") as usize;
        report.equal(group, "number", mask.len(), number);
        let pixels = mask.convert(MaskMode::Mask).and_then(|m| m.get_mask_tensor()).expect("masks");
        compare_masks(&mut report, group, &pixels, tensors.get(&format!("{group}/mask")));
        for case in input["cases"].as_array().expect("cases") {
            let op = case["op"].as_str().expect("an operation");
            let name = format!("{group} {op}");
            let result = polygon_operation(&mask, case, PolygonCrop::Clamped);
            let target = (op == "crop_then_resize").then(|| {
                let boxes = repeated(corners(&case["args"]["box"]), mask.len());
                mask.crop_and_resize(&boxes, pair(&case["args"]["size_wh"]), PolygonCrop::Clamped)
            });
            if case.get("error").is_some() {
                report.equal(&name, "error", result.is_err(), true);
                report.equal(&name, "error of mask targets", target.is_none_or(|t| t.is_err()), true);
                continue;
            }
            let got = result.unwrap_or_else(|e| panic!("{name}: {e:#}"));
            compare_polygons(&mut report, &name, &got, &case["output"]["polygons"]);
            let size = numbers(&case["output"]["size_wh"]);
            report.equal(&name, "size", got.exact_size(), (size[0], size[1]));
            if case.get("convert_to_mask_error").is_some() {
                report.equal(&name, "no mask of fractional size", got.get_mask_tensor().is_err(), true);
            }
            let Some(want) = case["mask_tensor"].as_str().map(|n| tensors.get(n)) else { continue };
            compare_masks(&mut report, &name, &got.get_mask_tensor().expect("masks"), want);
            if let Some(target) = target {
                compare_masks(&mut report, &name, &target.expect("mask targets"), want);
            }
        }
    }
    let empty = SegmentationMask::from_polygons(Vec::new(), (64, 48));
    let shape = empty.get_mask_tensor().expect("no masks").size();
    report.equal("empty", "shape", shape, ints(&golden["empty"]["mask_shape"]));
    let one = SegmentationMask::from_polygons(vec![vec![vec![1.0, 1.0, 9.0, 1.0, 9.0, 9.0]]], (64, 48));
    let shape = one.get_mask_tensor().expect("a mask").size();
    report.equal("one", "shape", shape, ints(&golden["one_instance_mask_tensor_shape"]));
    report.finish();
}

/// Exact; a single mask has no leading dimension here but one in the golden file.
fn compare_masks(report: &mut Report, case: &str, got: &Tensor, want: &Tensor) {
    let got = if got.dim() == 2 { got.unsqueeze(0) } else { got.shallow_clone() };
    report.close(case, "mask", &got, want, 0.0, 0.0);
}

#[test]
fn polygons_of_the_fork() {
    let Some(area) = area("structures") else { return };
    let golden = json(&area.join("segmentation_polygon_fork.json"));
    let tensors = Tensors::read(&area.join("segmentation_polygon_fork.safetensors"));
    let size = pair(&golden["size_wh"]);
    let mask = SegmentationMask::from_polygons(instances(&golden["input_polygons"]), size);
    let mut report = Report::new("structures/polygons of the fork");
    for case in golden["cases"].as_array().expect("cases") {
        let name = case["op"].as_str().expect("an operation");
        let got = polygon_operation(&mask, case, PolygonCrop::Unclamped).expect("masks");
        compare_polygons(&mut report, name, &got, &case["polygons"]);
        let want = tensors.get(case["mask_tensor"].as_str().expect("a name"));
        compare_masks(&mut report, name, &got.get_mask_tensor().expect("masks"), want);
        let boxes = repeated(corners(&case["args"]["box"]), mask.len());
        let target = mask.crop_and_resize(&boxes, pair(&case["args"]["size_wh"]), PolygonCrop::Unclamped);
        compare_masks(&mut report, name, &target.expect("mask targets"), want);
    }
    report.finish();
}

/// Run lengths in COCO's two spellings.
fn rles(value: &Value) -> Vec<rle::Rle> {
    let one = |v: &Value| {
        let size = pair(&v["size"]);
        match &v["counts"] {
            Value::String(counts) => rle::from_string(counts, size),
            counts => rle::from_counts(ints(counts).into_iter().map(|c| c as u32).collect(), size),
        }
    };
    value.as_array().expect("masks").iter().map(|v| one(v).expect("run lengths")).collect()
}

#[test]
fn binary() {
    let Some(area) = area("structures") else { return };
    let golden = json(&area.join("segmentation_binary.json"));
    let tensors = Tensors::read(&area.join("segmentation_binary.safetensors"));
    let size = pair(&golden["size_wh"]);
    let input = tensors.get("input");
    let of = |tensor: Tensor| SegmentationMask::from_binary(tensor, size).expect("masks");
    let mask = of(input.shallow_clone());
    let mut report = Report::new("structures/binary masks");
    let cases = golden["cases"].as_array().expect("cases");
    for case in cases {
        let args = &case["args"];
        let op = case["op"].as_str().expect("an operation");
        let result = match op {
            "crop" => mask.crop(corners(&args["box"])),
            "crop_then_resize" => mask.crop(corners(&args["box"])).and_then(|m| m.resize(pair(&args["size_wh"]))),
            "resize" => mask.resize(pair(&args["size_wh"])),
            "transpose" => Ok(mask.transpose(flip(args["method"].as_i64().expect("a number")))),
            // Any number but 1 flips left-right there; here only flips that exist can be asked for.
            "transpose_2" => Ok(mask.transpose(Flip::LeftRight)),
            "index" => mask.select(&index(&args["index"])),
            "from_compressed_rle" => SegmentationMask::from_rle(&rles(&args["rles"]), size),
            "from_compressed_rle_other_size" => {
                let compressed = cases.iter().find(|c| c["op"] == "from_compressed_rle").expect("the masks");
                SegmentationMask::from_rle(&rles(&compressed["args"]["rles"]), pair(&args["size_wh"]))
            }
            "from_uncompressed_rle" => SegmentationMask::from_rle(&rles(&args["rles"]), pair(&args["size_wh"])),
            "from_list_of_tensors" => {
                let list: Vec<Tensor> = (0..input.size()[0]).map(|i| input.get(i)).collect();
                SegmentationMask::from_binary(Tensor::stack(&list, 0), size)
            }
            "resize_float_masks" => of(input.to_kind(Kind::Float)).resize(pair(&args["size_wh"])),
            "resize_bool_masks" => of(input.to_kind(Kind::Bool)).resize(pair(&args["size_wh"])),
            other => panic!("unknown operation {other}"),
        };
        let Some(tensor) = case["tensor"].as_str() else {
            report.equal(op, "error", result.is_err(), true);
            continue;
        };
        let got = result.unwrap_or_else(|e| panic!("{op}: {e:#}"));
        let want = tensors.get(tensor);
        report.equal(op, "size", got.size(), pair(&case["size_wh"]));
        let limit = if op == "resize_float_masks" { 1e-6 } else { 0.0 };
        report.close(op, "masks", &got.get_mask_tensor().expect("masks"), want, limit, 0.0);
        if op == "crop_then_resize" {
            let boxes = repeated(corners(&args["box"]), mask.len());
            let target = mask.crop_and_resize(&boxes, pair(&args["size_wh"]), PolygonCrop::Clamped);
            report.close(op, "mask targets", &target.expect("masks"), want, 0.0, 0.0);
        }
    }
    report.finish();
}

fn covered(mask: &SegmentationMask, instance: i64) -> Tensor {
    let one = mask.select(&Tensor::from_slice(&[instance])).and_then(|m| m.get_mask_tensor());
    one.expect("a mask").to_kind(Kind::Bool)
}

fn iou(a: &Tensor, b: &Tensor) -> f64 {
    let number = |t: Tensor| t.sum(Kind::Int64).int64_value(&[]) as f64;
    number(a.logical_and(b)) / number(a.logical_or(b)).max(1.0)
}

#[test]
fn contours() {
    let Some(area) = area("structures") else { return };
    let golden = json(&area.join("segmentation_binary.json"));
    let input = Tensors::read(&area.join("segmentation_binary.safetensors")).get("input").shallow_clone();
    let size = pair(&golden["size_wh"]);
    let golden = &golden["mask_to_polygon"];
    let chosen = input.index_select(0, &index(&golden["input_index"]).to_device(Device::Cpu));
    let mask = SegmentationMask::from_binary(chosen, size).expect("masks");
    let got = mask.convert(MaskMode::Poly).expect("polygons");
    let want = SegmentationMask::from_polygons(instances(&golden["polygons"]), size);
    let mut report = Report::new("structures/contours");
    report.equal("mask_to_polygon", "instances", got.len(), want.len());
    for i in 0..want.len() as i64 {
        // OpenCV simplifies its contours, ours keep every point: they agree in what they cover, not point by point.
        let (original, ours, pixels) = (covered(&want, i), covered(&got, i), covered(&mask, i));
        let (agreement, fidelity, fidelity_of_original) =
            (iou(&ours, &original), iou(&ours, &pixels), iou(&original, &pixels));
        println!(
            "instance {i}: IoU {agreement:.3}; with the mask {fidelity:.3}, the original's {fidelity_of_original:.3}"
        );
        let wrong = agreement < 0.75 || fidelity < fidelity_of_original - 0.05;
        report.check("mask_to_polygon", "IoU", wrong.then(|| format!("instance {i}: IoU {agreement}, {fidelity}")));
    }
    report.finish();
}
