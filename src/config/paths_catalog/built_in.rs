//! The names of the original's `config/paths_catalog.py`.

use std::collections::BTreeMap;

use super::{DatasetCatalog, BUILT_IN};
use crate::config::Value;

/// Name, image folder, annotation file.
const COCO: [(&str, &str, &str); 18] = [
    ("coco_2017_train", "coco/train2017", "coco/annotations/instances_train2017.json"),
    ("coco_2017_val", "coco/val2017", "coco/annotations/instances_val2017.json"),
    ("coco_2014_train", "coco/train2014", "coco/annotations/instances_train2014.json"),
    ("coco_2014_val", "coco/val2014", "coco/annotations/instances_val2014.json"),
    ("coco_2014_minival", "coco/val2014", "coco/annotations/instances_minival2014.json"),
    ("coco_2014_valminusminival", "coco/val2014", "coco/annotations/instances_valminusminival2014.json"),
    ("keypoints_coco_2014_train", "coco/train2014", "coco/annotations/person_keypoints_train2014.json"),
    ("keypoints_coco_2014_val", "coco/val2014", "coco/annotations/person_keypoints_val2014.json"),
    ("keypoints_coco_2014_minival", "coco/val2014", "coco/annotations/person_keypoints_minival2014.json"),
    (
        "keypoints_coco_2014_valminusminival",
        "coco/val2014",
        "coco/annotations/person_keypoints_valminusminival2014.json",
    ),
    ("voc_2007_train_cocostyle", "voc/VOC2007/JPEGImages", "voc/VOC2007/Annotations/pascal_train2007.json"),
    ("voc_2007_val_cocostyle", "voc/VOC2007/JPEGImages", "voc/VOC2007/Annotations/pascal_val2007.json"),
    ("voc_2007_test_cocostyle", "voc/VOC2007/JPEGImages", "voc/VOC2007/Annotations/pascal_test2007.json"),
    ("voc_2012_train_cocostyle", "voc/VOC2012/JPEGImages", "voc/VOC2012/Annotations/pascal_train2012.json"),
    ("voc_2012_val_cocostyle", "voc/VOC2012/JPEGImages", "voc/VOC2012/Annotations/pascal_val2012.json"),
    (
        "cityscapes_fine_instanceonly_seg_train_cocostyle",
        "cityscapes/images",
        "cityscapes/annotations/instancesonly_filtered_gtFine_train.json",
    ),
    (
        "cityscapes_fine_instanceonly_seg_val_cocostyle",
        "cityscapes/images",
        "cityscapes/annotations/instancesonly_filtered_gtFine_val.json",
    ),
    (
        "cityscapes_fine_instanceonly_seg_test_cocostyle",
        "cityscapes/images",
        "cityscapes/annotations/instancesonly_filtered_gtFine_test.json",
    ),
];

/// Name, folder, split. The annotations of VOC 2012's test split are not public.
const VOC: [(&str, &str, &str); 6] = [
    ("voc_2007_train", "voc/VOC2007", "train"),
    ("voc_2007_val", "voc/VOC2007", "val"),
    ("voc_2007_test", "voc/VOC2007", "test"),
    ("voc_2012_train", "voc/VOC2012", "train"),
    ("voc_2012_val", "voc/VOC2012", "val"),
    ("voc_2012_test", "voc/VOC2012", "test"),
];

/// Name, split, mode, number of images where it is limited.
const CITYSCAPES: [(&str, &str, &str, Option<i64>); 6] = [
    ("cityscapes_poly_instance_train", "train", "poly", None),
    ("cityscapes_poly_instance_val", "val", "poly", None),
    ("cityscapes_poly_instance_minival", "val", "poly", Some(10)),
    ("cityscapes_mask_instance_train", "train", "mask", None),
    ("cityscapes_mask_instance_val", "val", "mask", None),
    ("cityscapes_mask_instance_minival", "val", "mask", Some(10)),
];

pub(super) fn catalog() -> DatasetCatalog {
    let mut datasets = BTreeMap::new();
    let mut add = |name: &str, pairs: &[(&str, &str)]| {
        let text = |text: &str| Value::Str(text.to_owned());
        let entry: BTreeMap<String, Value> = pairs.iter().map(|(k, v)| ((*k).to_owned(), text(v))).collect();
        datasets.insert(name.to_owned(), entry);
    };
    for (name, img_dir, ann_file) in COCO {
        add(name, &[("img_dir", img_dir), ("ann_file", ann_file)]);
    }
    for (name, data_dir, split) in VOC {
        add(name, &[("data_dir", data_dir), ("split", split)]);
    }
    for (name, split, mode, _) in CITYSCAPES {
        let (img_dir, ann_dir) = ("cityscapes/leftImg8bit", "cityscapes/gtFine");
        add(name, &[("img_dir", img_dir), ("ann_dir", ann_dir), ("split", split), ("mode", mode)]);
    }
    for (name, _, _, mini) in CITYSCAPES {
        if let (Some(entry), Some(mini)) = (datasets.get_mut(name), mini) {
            entry.insert("mini".to_owned(), Value::Int(mini));
        }
    }
    DatasetCatalog { origin: BUILT_IN.to_owned(), data_dir: "datasets".into(), datasets }
}
