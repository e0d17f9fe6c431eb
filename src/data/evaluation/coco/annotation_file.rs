//! Annotation files as the metrics need them. Nothing else is looked at, as in pycocotools: tools write all kinds of
//! values for `info`, `licenses` or an image's `date_captured` (a number in Datumaro, a year as a string in Roboflow).

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hotcoco::types::{Annotation, Category, Image, Segmentation};
use hotcoco::COCO;
use serde::Deserialize;

use crate::data::datasets::json::{self, bbox, drop_unpaired, flag, image_id, integer, optional_float, Float, Integer};
use crate::data::datasets::{numbers_for_names, Category as CategoryEntry, ImageEntry, ImageId, ImagePlaces};

#[derive(Deserialize)]
struct Content {
    images: Vec<ImageEntry>,
    #[serde(default)]
    annotations: Vec<AnnotationEntry>,
    #[serde(default)]
    categories: Vec<CategoryEntry>,
}

/// An entry of `annotations` in double precision and with its outline, also that of a crowd.
#[derive(Deserialize)]
struct AnnotationEntry {
    #[serde(deserialize_with = "integer")]
    id: i64,
    #[serde(deserialize_with = "image_id")]
    image_id: ImageId,
    #[serde(deserialize_with = "integer")]
    category_id: i64,
    #[serde(deserialize_with = "bbox")]
    bbox: [f64; 4],
    #[serde(default, deserialize_with = "optional_float")]
    area: Option<f64>,
    #[serde(default, deserialize_with = "flag")]
    iscrowd: bool,
    segmentation: Option<Segmentation>,
    keypoints: Option<Vec<Float>>,
    num_keypoints: Option<Integer>,
}

/// Reads the annotations of a file.
///
/// # Errors
/// The file cannot be read, lacks what the metrics need, or has a negative id; it is named.
pub(super) fn read(path: &Path) -> Result<COCO> {
    let read = || -> Result<COCO> {
        let bytes = fs::read(path)?;
        let content: Content = json::from_slice(&bytes)?;
        drop(bytes);
        Ok(COCO::from_dataset(content.into_dataset()?))
    };
    read().with_context(|| format!("reading the ground truth {}", path.display()))
}

impl Content {
    fn into_dataset(self) -> Result<hotcoco::Dataset> {
        let numbers = match numbers_for_names(&self.images) {
            Some(numbers) => numbers,
            None => self.images.iter().map(own_number).collect::<Result<_>>()?,
        };
        let places = ImagePlaces::new(&self.images);
        let image = |(entry, number): (ImageEntry, &u64)| {
            let ImageEntry { id, file_name, width, height } = entry;
            let side =
                |pixels| u32::try_from(pixels).with_context(|| format!("image {id} has the size {width}x{height}"));
            Ok(Image { id: *number, width: side(width)?, height: side(height)?, file_name, ..Image::default() })
        };
        // Those of images that the file does not list are compared with nothing.
        let annotation = |entry: AnnotationEntry| {
            let number = places.place(&entry.image_id).map(|place| numbers[place])?;
            Some(entry.into_annotation(number))
        };
        let category = |CategoryEntry { id, name }| {
            let number = u64::try_from(id).with_context(|| format!("category {name} has the negative id {id}"))?;
            Ok(Category { id: number, name, ..Category::default() })
        };
        Ok(hotcoco::Dataset {
            info: None,
            images: self.images.into_iter().zip(&numbers).map(image).collect::<Result<_>>()?,
            annotations: self.annotations.into_iter().filter_map(annotation).collect::<Result<_>>()?,
            categories: self.categories.into_iter().map(category).collect::<Result<_>>()?,
            licenses: Vec::new(),
        })
    }
}

fn own_number(image: &ImageEntry) -> Result<u64> {
    let number = image.id.number().and_then(|id| u64::try_from(id).ok());
    number.with_context(|| format!("an image has the negative id {}", image.id))
}

impl AnnotationEntry {
    fn into_annotation(self, image_id: u64) -> Result<Annotation> {
        let number = |what: &str, value: i64| {
            u64::try_from(value).with_context(|| format!("annotation {} has the negative {what} {value}", self.id))
        };
        let num_keypoints = self.num_keypoints.map(|Integer(points)| number("num_keypoints", points)).transpose()?;
        let mut segmentation = self.segmentation;
        if let Some(Segmentation::Polygon(polygons)) = &mut segmentation {
            polygons.iter_mut().for_each(drop_unpaired);
        }
        Ok(Annotation {
            id: number("id", self.id)?,
            image_id,
            category_id: number("category_id", self.category_id)?,
            bbox: Some(self.bbox),
            area: self.area,
            segmentation,
            iscrowd: self.iscrowd,
            keypoints: self.keypoints.map(|values| values.into_iter().map(|Float(value)| value).collect()),
            num_keypoints: num_keypoints.map(u32::try_from).transpose()?,
            ..Annotation::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, Value};

    use super::*;

    fn read_json(content: &Value) -> Result<COCO> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instances.json");
        fs::write(&path, content.to_string()).unwrap();
        read(&path)
    }

    fn annotation() -> Value {
        json!({"id": 1, "image_id": 4, "category_id": 2, "bbox": [1, 2, 3, 4.5], "area": 13.5, "iscrowd": 0})
    }

    #[test]
    fn metadata_can_be_anything() {
        let mut odd = annotation();
        odd["segmentation"] = json!([[1, 2, 4, 2, 4, 6, 9]]);
        odd["attributes"] = json!({"occluded": false});
        odd["score"] = json!("");
        let mut crowd = annotation();
        crowd["id"] = json!(2.0);
        crowd["image_id"] = json!("0004");
        crowd["iscrowd"] = json!(1);
        crowd["area"] = json!(null);
        crowd["num_keypoints"] = json!(3.0);
        crowd["segmentation"] = json!({"size": [8, 10], "counts": [1, 79]});
        let content = json!({
            "info": {"year": "", "date_created": 0, "version": 1.0},
            "licenses": null,
            "images": [{"id": 4, "file_name": "4.jpg", "width": 10.0, "height": 8, "license": "", "date_captured": 0,
                        "flickr_url": 0, "coco_url": null}],
            "annotations": [odd, crowd],
            "categories": [{"id": 2, "name": 7, "supercategory": null}],
        });
        let coco = read_json(&content).unwrap();
        assert_eq!((coco.dataset.images[0].width, coco.dataset.images[0].height), (10, 8));
        assert_eq!(coco.dataset.categories[0].name, "7");
        let first = coco.get_ann(1).unwrap();
        assert_eq!((first.image_id, first.bbox, first.area), (4, Some([1.0, 2.0, 3.0, 4.5]), Some(13.5)));
        let Some(Segmentation::Polygon(polygons)) = &first.segmentation else { panic!("polygons") };
        assert_eq!(polygons[..], [vec![1.0, 2.0, 4.0, 2.0, 4.0, 6.0]]);
        let second = coco.get_ann(2).unwrap();
        assert_eq!((second.image_id, second.iscrowd, second.area, second.num_keypoints), (4, true, None, Some(3)));
    }

    #[test]
    fn images_with_names_are_numbered_as_the_data_set_has_them() {
        let image = |id: &str| json!({"id": id, "file_name": id, "width": 10, "height": 8});
        let (mut second, mut lost) = (annotation(), annotation());
        second["image_id"] = json!("b");
        (lost["id"], lost["image_id"]) = (json!(9), json!("z"));
        second["segmentation"] = json!({"format": "rle", "size": [8, 10], "counts": [1, 79]});
        let content = json!({
            "images": [image("c"), image("b"), image("a")],
            "annotations": [second, lost],
            "categories": [{"id": 2, "name": "dog"}],
        });
        let coco = read_json(&content).unwrap();
        assert_eq!(coco.dataset.images.iter().map(|image| image.id).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!((coco.dataset.annotations.len(), coco.get_ann(1).unwrap().image_id), (1, 2));
    }

    #[test]
    fn what_the_metrics_need_must_be_there() {
        for (key, value, expected) in [
            ("id", json!(-5), "annotation -5 has the negative id -5"),
            ("image_id", json!(null), "annotations[0] (id 1), image_id: invalid type: null"),
            ("bbox", json!([1, 2]), "annotations[0] (id 1), bbox: invalid length 2"),
        ] {
            let mut wrong = annotation();
            wrong[key] = value;
            let image = json!({"id": 4, "file_name": "4.jpg", "width": 10, "height": 8});
            let error = read_json(&json!({"images": [image], "annotations": [wrong]})).err().expect("an error");
            let message = format!("{error:#}");
            assert!(message.contains(expected) && message.contains("instances.json"), "{message}");
        }
    }
}
