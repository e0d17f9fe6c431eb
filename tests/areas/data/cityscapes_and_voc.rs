//! Cityscapes and VOC.

use tch::Kind;

use super::datasets::check_boxes;
use super::golden;
use crate::support::{ints, json, list, Report};
use maskrcnn_benchmark::data::datasets::{CityScapesDataset, CityScapesMode, Dataset, ImageId, PascalVOCDataset};

#[test]
fn cityscapes() {
    let Some(root) = golden("data", "cityscapes") else { return };
    let golden = json(&root.with_file_name("cityscapes_dataset.json"));
    let dataset = |split: &str, mode: &str, min_area: i64, mini: Option<usize>| {
        let mode = CityScapesMode::parse(mode).expect("a mode");
        let (images, annotations) = (root.join("leftImg8bit"), root.join("gtFine"));
        CityScapesDataset::new(&images, &annotations, split, mode, min_area, mini).expect("a data set")
    };
    let mut report = Report::new("data/cityscapes");
    for case in list(&golden, "items") {
        let mode = case["mode"].as_str().expect("mode");
        let split = case["image"].as_str().expect("image").split('/').nth(1).expect("a split");
        let dataset = dataset(split, mode, case["min_area"].as_i64().expect("min_area"), None);
        let index = case["index"].as_u64().expect("index") as usize;
        let sample = dataset.get(index).expect("a sample");
        report.equal(mode, "index", sample.index as u64, case["returned_index"].as_u64().expect("index"));
        report.equal(mode, "image", dataset.image_path(index).ends_with(case["image"].as_str().expect("image")), true);
        let annotation = case["annotation"].as_str().expect("annotation");
        report.equal(mode, "annotation", dataset.annotation_path(index).ends_with(annotation), true);
        report.equal(mode, "size", vec![sample.image.size().0, sample.image.size().1], ints(&case["size_wh"]));
        for target in [sample.target, dataset.ground_truth(index).expect("the target alone")] {
            check_boxes(&mut report, mode, &target, case);
            let masks = target.masks().expect("masks").get_mask_tensor().expect("a tensor");
            let areas = masks.view([target.len() as i64, -1]).sum_dim_intlist(1i64, false, Kind::Int64);
            let areas = Vec::<i64>::try_from(areas).expect("integers");
            report.equal(mode, "mask areas", areas, ints(&case["mask_areas"]));
        }
    }
    for case in list(&golden, "mini") {
        let dataset = dataset("val", "mask", 0, Some(case["mini"].as_u64().expect("mini") as usize));
        let name = |index| dataset.image_path(index).file_name().expect("a name").to_string_lossy().into_owned();
        let wanted: Vec<String> =
            list(case, "images").iter().map(|name| name.as_str().expect("a name").to_owned()).collect();
        report.equal("mini", "images", (0..dataset.len()).map(name).collect(), wanted);
    }
    let all = dataset("val", "mask", 0, None);
    let (info, names) = (&golden["img_info"], list(&golden, "class_names"));
    let got = all.image_info(0).expect("an image");
    report.equal("img_info", "width", Some(got.width), info["width"].as_i64());
    report.equal("img_info", "height", Some(got.height), info["height"].as_i64());
    report.equal("img_info", "idx", got.id.number(), info["idx"].as_i64());
    let classes = all.class_names();
    report.equal(
        "classes",
        "names",
        classes.iter().map(String::as_str).collect(),
        names.iter().filter_map(|n| n.as_str()).collect::<Vec<_>>(),
    );
    report.check("modes", "error", CityScapesMode::parse("rle").ok().map(|mode| format!("{mode:?}")));
    report.finish();
}

#[test]
fn voc() {
    let Some(path) = golden("evaluation", "voc_dataset.json") else { return };
    let golden = json(&path);
    let root = path.with_file_name(golden["devkit"].as_str().expect("devkit"));
    let names = list(&golden, "class_names").iter().map(|name| name.as_str().expect("a name")).collect::<Vec<_>>();
    let mut report = Report::new("evaluation/voc_dataset");
    report.equal("classes", "names", PascalVOCDataset::CLASSES.to_vec(), names);
    for case in list(&golden, "datasets") {
        let (split, difficult) =
            (case["split"].as_str().expect("split"), case["use_difficult"].as_bool().expect("a flag"));
        let dataset = PascalVOCDataset::new(&root, split, difficult).expect("a data set");
        let name = format!("{split} {difficult}");
        report.equal(&name, "len", dataset.len(), list(case, "items").len());
        for (index, want) in list(case, "items").iter().enumerate() {
            let info = dataset.image_info(index).expect("an image");
            report.equal(&name, "id", info.id, ImageId::Name(want["id"].as_str().expect("id").to_owned()));
            report.equal(&name, "width", Some(info.width), want["img_info"]["width"].as_i64());
            report.equal(&name, "height", Some(info.height), want["img_info"]["height"].as_i64());
            let (truth, sample) = (dataset.groundtruth(index).expect("boxes"), dataset.get(index).expect("a sample"));
            if !want["item_error"].is_null() {
                // The original fails where all objects are difficult; here the image has none.
                report.equal(&name, "no objects", (truth.len(), sample.target.len()), (0, 0));
                continue;
            }
            check_boxes(&mut report, &name, &truth, &want["groundtruth"]);
            let marks = Vec::<bool>::try_from(truth.tensor_field("difficult").expect("difficult")).expect("flags");
            let wanted: Vec<bool> =
                list(&want["groundtruth"], "difficult").iter().filter_map(|m| m.as_bool()).collect();
            report.equal(&name, "difficult", marks, wanted);
            check_boxes(&mut report, &name, &sample.target, &want["item"]);
            let size = vec![sample.image.size().0, sample.image.size().1];
            report.equal(&name, "size", size, ints(&want["item"]["image_size_wh"]));
            report.equal(&name, "index", Some(sample.index as u64), want["item"]["index"].as_u64());
        }
    }
    report.finish();
}
