//! The data sets.

use serde_json::{json as literal, Value};
use tch::Tensor;

use super::golden;
use crate::support::{self, ints, json, list, numbers, Report};
use maskrcnn_benchmark::data::build::quantize;
use maskrcnn_benchmark::data::datasets::{has_valid_annotation, Annotation, COCODataset, Dataset};
use maskrcnn_benchmark::structures::BoxList;

pub fn check_boxes(report: &mut Report, case: &str, got: &BoxList, want: &Value) {
    let boxes: Vec<f64> = list(want, "boxes_xyxy").iter().flat_map(numbers).collect();
    let boxes = Tensor::from_slice(&boxes).view([boxes.len() as i64 / 4, 4]);
    report.close(case, "boxes", got.bbox(), &boxes, 0.0, 0.0);
    let labels = Vec::<i64>::try_from(got.tensor_field("labels").expect("labels")).expect("integers");
    report.equal(case, "labels", labels, ints(&want["labels"]));
}

#[test]
fn coco_datasets() {
    let Some(path) = golden("data", "coco_dataset.json") else { return };
    let golden = json(&path);
    let coco = support::root().join("../coco_mini");
    if !coco.is_dir() {
        println!("data/coco_dataset: {} is not there", coco.display());
        return;
    }
    let mut report = Report::new("data/coco_dataset");
    for case in list(&golden, "datasets") {
        let (annotations, images) =
            (case["annotations"].as_str().expect("path"), case["images"].as_str().expect("path"));
        let remove = case["remove_images_without_annotations"].as_bool().expect("a flag");
        let dataset = COCODataset::new(&coco.join(annotations), &coco.join(images), remove).expect("a data set");
        let name = format!("{annotations} {remove}");
        let ids = dataset.ids().iter().map(|id| id.number().expect("a number")).collect();
        report.equal(&name, "ids", ids, ints(&case["ids"]));
        let ratio = |index| {
            let info = dataset.image_info(index).expect("an image");
            info.height as f64 / info.width as f64
        };
        let ratios: Vec<f64> = (0..dataset.len()).map(ratio).collect();
        let groups = quantize(&ratios, &[1.0]).into_iter().map(|group| group as i64).collect();
        report.equal(&name, "aspect groups", groups, ints(&case["aspect_groups"]));
        if let Some(map) = case["json_category_id_to_contiguous_id"].as_object() {
            let (categories, names) = (dataset.categories(), dataset.class_names());
            report.equal(&name, "categories", categories.len(), map.len());
            for (id, category) in categories {
                let label = dataset.json_category_id_to_contiguous_id(id);
                report.equal(&name, "label", label, map[&id.to_string()].as_i64());
                let label = label.expect("a label");
                report.equal(&name, "category", dataset.contiguous_category_id_to_json_id(label), Some(id));
                report.equal(&name, "name", Some(category.as_str()), case["categories"][id.to_string()].as_str());
                report.equal(&name, "class", &names[label as usize], &category);
            }
        }
        for (index, want) in case["items"].as_array().into_iter().flatten().enumerate() {
            check_item(&mut report, &name, &dataset, index, want);
        }
    }
    report.finish();
}

fn check_item(report: &mut Report, name: &str, dataset: &COCODataset, index: usize, want: &Value) {
    let sample = dataset.get(index).expect("a sample");
    report.equal(name, "index", sample.index, index);
    report.equal(name, "id", dataset.ids()[index].number(), want["id"].as_i64());
    report.equal(name, "size", vec![sample.image.size().0, sample.image.size().1], ints(&want["size_wh"]));
    for target in [&sample.target, &dataset.ground_truth(index).expect("the target alone")] {
        report.equal(name, "target size", target.size(), sample.image.size());
        check_boxes(report, name, target, want);
        let polygons = target.has_field("masks").then(|| {
            let instances = target.masks().expect("masks").polygon_instances().expect("polygons");
            instances.iter().map(|instance| instance.polygons().len() as i64).collect::<Vec<i64>>()
        });
        report.equal(
            name,
            "polygons",
            polygons,
            want["polygons_per_instance"].as_array().map(|_| ints(&want["polygons_per_instance"])),
        );
        let visible = target.has_field("keypoints").then(|| {
            let keypoints = target.keypoints().expect("keypoints").keypoints();
            let visible = keypoints.select(2, 2).gt(0.0).sum_dim_intlist(1i64, false, tch::Kind::Int64);
            Vec::<i64>::try_from(visible).expect("integers")
        });
        report.equal(
            name,
            "keypoints",
            visible,
            want["visible_keypoints"].as_array().map(|_| ints(&want["visible_keypoints"])),
        );
    }
}

#[test]
fn valid_annotations() {
    let Some(path) = golden("data", "coco_dataset.json") else { return };
    let mut report = Report::new("data/has_valid_annotation");
    for case in list(&json(&path), "has_valid_annotation") {
        let complete = |annotation: &Value| -> Annotation {
            let mut annotation = annotation.clone();
            for key in ["id", "image_id", "category_id"] {
                annotation[key] = literal!(1);
            }
            serde_json::from_value(annotation).expect("an annotation")
        };
        let annotations: Vec<Annotation> = list(case, "annotations").iter().map(complete).collect();
        let name = case["name"].as_str().expect("a name");
        report.equal(name, "valid", Some(has_valid_annotation(&annotations)), case["valid"].as_bool());
    }
    report.finish();
}
