//! Reading COCO annotation files: only what the program uses is kept, in single precision where the original computes
//! in single precision.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::json::{drop_unpaired, flag, integer, name};
use crate::structures::rle::{self, Rle};

/// An entry of `images`.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct ImageEntry {
    /// The image's id.
    #[serde(deserialize_with = "integer")]
    pub id: i64,
    /// The file, relative to the folder of the images.
    pub file_name: String,
    /// In pixels.
    #[serde(deserialize_with = "integer")]
    pub width: i64,
    /// In pixels.
    #[serde(deserialize_with = "integer")]
    pub height: i64,
}

/// An entry of `categories`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
pub struct Category {
    /// The id that annotations use; ids may have gaps.
    #[serde(deserialize_with = "integer")]
    pub id: i64,
    /// The class's name.
    #[serde(deserialize_with = "name")]
    pub name: String,
}

/// An entry of `annotations`.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Annotation {
    /// The annotation's id.
    #[serde(deserialize_with = "integer")]
    pub id: i64,
    /// The image it belongs to.
    #[serde(deserialize_with = "integer")]
    pub image_id: i64,
    /// What it is, one of the file's categories.
    #[serde(deserialize_with = "integer")]
    pub category_id: i64,
    /// x, y, width, height.
    pub bbox: [f64; 4],
    /// A crowd region: many instances in one, left out of training targets.
    #[serde(default, deserialize_with = "flag")]
    pub iscrowd: bool,
    /// `None` where the file has no such key.
    #[serde(default)]
    pub segmentation: Option<Segmentation>,
    /// x, y, visibility for each point; `None` where the file has no such key.
    #[serde(default)]
    pub keypoints: Option<Box<[f32]>>,
}

/// The outline of an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Segmentation {
    /// Each polygon as x0, y0, x1, y1, ..
    Polygons(Box<[Box<[f32]>]>),
    /// Run lengths of a mask.
    Rle(Rle),
    /// Run lengths that do not fit their size; why. Who needs the outline says so.
    Unreadable(String),
    /// A crowd region's, which is not kept: evaluation reads it from the file itself.
    Crowd,
}

/// A COCO annotation file, checked and indexed.
pub struct CocoFile {
    path: PathBuf,
    /// Sorted by id.
    images: Vec<ImageEntry>,
    /// Sorted by image, in the order of the file within an image.
    annotations: Vec<Annotation>,
    /// Where the annotations of each image begin; one more entry than images.
    begin: Vec<usize>,
    categories: Vec<Category>,
}

#[derive(serde::Deserialize)]
struct Content {
    images: Vec<ImageEntry>,
    #[serde(default)]
    annotations: Vec<Annotation>,
    #[serde(default)]
    categories: Vec<Category>,
}

impl CocoFile {
    /// Reads and checks an annotation file.
    ///
    /// # Errors
    /// If the file is missing or no COCO file, an id occurs twice, or an annotation has a category that the file does
    /// not list; the file and the id are named.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read annotation file {}", path.display()))?;
        let content =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is no COCO annotation file", path.display()))?;
        drop(bytes);
        Self::check(path, content).with_context(|| format!("annotation file {}", path.display()))
    }

    fn check(path: &Path, content: Content) -> Result<Self> {
        let Content { mut images, mut annotations, categories } = content;
        if let Some(id) = repeated(categories.iter().map(|category| category.id)) {
            bail!("two categories have the id {id}");
        }
        if let Some(id) = repeated(annotations.iter().map(|annotation| annotation.id)) {
            bail!("two annotations have the id {id}");
        }
        images.sort_by_key(|image| image.id);
        if let Some(pair) = images.windows(2).find(|pair| pair[0].id == pair[1].id) {
            let id = pair[0].id;
            bail!("two images have the id {id}: {} and {}", pair[0].file_name, pair[1].file_name);
        }
        if let Some(image) = images.iter().find(|image| image.width <= 0 || image.height <= 0) {
            bail!("image {} ({}) has the size {}x{}", image.id, image.file_name, image.width, image.height);
        }
        let known: HashSet<i64> = categories.iter().map(|category| category.id).collect();
        if let Some(annotation) = annotations.iter().find(|annotation| !known.contains(&annotation.category_id)) {
            let Annotation { id, category_id, image_id, .. } = annotation;
            bail!(
                "annotation {id} of image {image_id} has category {category_id}, but the file's categories have only {}",
                shortened(categories.iter().map(|category| category.id))
            );
        }
        let position: HashMap<i64, usize> = images.iter().enumerate().map(|(at, image)| (image.id, at)).collect();
        let all = annotations.len();
        annotations.retain(|annotation| position.contains_key(&annotation.image_id));
        if annotations.len() < all {
            let lost = all - annotations.len();
            log::warn!("{}: {lost} annotations belong to images that the file does not list", path.display());
        }
        annotations.sort_by_key(|annotation| position[&annotation.image_id]);
        annotations.shrink_to_fit();
        for crowd in annotations.iter_mut().filter(|annotation| annotation.iscrowd) {
            crowd.segmentation = crowd.segmentation.is_some().then_some(Segmentation::Crowd);
        }
        let mut begin = vec![0; images.len() + 1];
        for annotation in &annotations {
            begin[position[&annotation.image_id] + 1] += 1;
        }
        for image in 0..images.len() {
            begin[image + 1] += begin[image];
        }
        Ok(Self { path: path.to_owned(), images, annotations, begin, categories })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All images, sorted by id.
    pub fn images(&self) -> &[ImageEntry] {
        &self.images
    }

    /// The annotations of the image at a position of [`images`](Self::images), in the order of the file.
    pub fn annotations(&self, position: usize) -> &[Annotation] {
        &self.annotations[self.begin[position]..self.begin[position + 1]]
    }

    /// In the order of the file.
    pub fn categories(&self) -> &[Category] {
        &self.categories
    }
}

fn repeated(ids: impl Iterator<Item = i64>) -> Option<i64> {
    let mut seen = HashSet::new();
    ids.into_iter().find(|id| !seen.insert(*id))
}

fn shortened(ids: impl ExactSizeIterator<Item = i64>) -> String {
    let count = ids.len();
    let mut list: Vec<String> = ids.take(10).map(|id| id.to_string()).collect();
    if count > list.len() {
        list.push(format!("{} more", count - list.len()));
    }
    list.join(", ")
}

impl<'de> Deserialize<'de> for Segmentation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Outline;

        impl<'de> Visitor<'de> for Outline {
            type Value = Segmentation;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a list of polygons, or run lengths with size and counts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Segmentation, A::Error> {
                let mut polygons = Vec::new();
                while let Some(mut polygon) = list.next_element::<Vec<f32>>()? {
                    drop_unpaired(&mut polygon);
                    polygons.push(polygon.into_boxed_slice());
                }
                Ok(Segmentation::Polygons(polygons.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Segmentation, A::Error> {
                let (mut size, mut counts) = (None, None);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "size" => size = Some(map.next_value::<[i64; 2]>()?),
                        "counts" => counts = Some(map.next_value::<Counts>()?),
                        other => return Err(A::Error::unknown_field(other, &["size", "counts"])),
                    }
                }
                let [height, width] = size.ok_or_else(|| A::Error::missing_field("size"))?;
                let rle = match counts.ok_or_else(|| A::Error::missing_field("counts"))? {
                    Counts::Plain(counts) => rle::from_counts(counts, (height, width)),
                    Counts::Compressed(text) => rle::from_string(&text, (height, width)),
                };
                Ok(rle.map_or_else(|error| Segmentation::Unreadable(format!("{error:#}")), Segmentation::Rle))
            }
        }

        deserializer.deserialize_any(Outline)
    }
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Counts {
    Plain(Vec<u32>),
    Compressed(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{json, Value};

    fn read(content: &Value) -> Result<CocoFile> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instances.json");
        fs::write(&path, content.to_string()).unwrap();
        CocoFile::read(&path)
    }

    fn message(content: &Value) -> String {
        format!("{:#}", read(content).err().expect("an error"))
    }

    fn image(id: i64) -> Value {
        json!({"id": id, "file_name": format!("{id}.jpg"), "width": 10, "height": 8, "license": 3})
    }

    fn annotation(id: i64, image: i64, category: i64) -> Value {
        json!({"id": id, "image_id": image, "category_id": category, "bbox": [1, 2.5, 3, 4], "area": 12, "iscrowd": 0})
    }

    #[test]
    fn annotations_are_found_by_image() {
        let mut crowd = annotation(5, 9, 7);
        crowd["iscrowd"] = json!(1);
        crowd["segmentation"] = json!({"size": [8, 10], "counts": [1, 79]});
        let mut outlined = annotation(2, 4, 1);
        outlined["segmentation"] = json!([[0, 0, 5, 0, 5, 5.5], [1, 1, 2, 2, 3, 1]]);
        let mut run = annotation(3, 4, 1);
        run["segmentation"] = json!({"counts": [10, 70], "size": [8, 10]});
        let content = json!({
            "info": {"year": 2026},
            "images": [image(9), image(4), image(6)],
            "annotations": [crowd, outlined, annotation(1, 9, 1), run, annotation(8, 77, 1)],
            "categories": [{"id": 7, "name": "cat", "supercategory": "animal"}, {"id": 1, "name": "dog"}],
        });
        let file = read(&content).unwrap();
        let ids = |position| file.annotations(position).iter().map(|a| a.id).collect::<Vec<_>>();
        assert_eq!(file.images().iter().map(|image| image.id).collect::<Vec<_>>(), [4, 6, 9]);
        assert_eq!((ids(0), ids(1), ids(2)), (vec![2, 3], vec![], vec![5, 1]));
        assert_eq!(file.annotations(2)[0].segmentation, Some(Segmentation::Crowd));
        assert_eq!(file.annotations(2)[1].segmentation, None);
        let Some(Segmentation::Polygons(polygons)) = &file.annotations(0)[0].segmentation else { panic!("polygons") };
        assert_eq!(polygons[0][..], [0.0, 0.0, 5.0, 0.0, 5.0, 5.5]);
        assert!(matches!(&file.annotations(0)[1].segmentation, Some(Segmentation::Rle(rle)) if rle.counts == [10, 70]));
    }

    /// Run lengths that do not fit their size.
    fn long_run(iscrowd: i64) -> Value {
        let mut long = annotation(31, 4, 1);
        long["iscrowd"] = json!(iscrowd);
        long["segmentation"] = json!({"size": [8, 10], "counts": [1, 200]});
        long
    }

    #[test]
    fn what_python_reads_is_read() {
        let mut odd = annotation(30, 4, 1);
        odd["segmentation"] = json!([[0, 0, 5, 0, 5, 5.5, 9]]);
        odd["area"] = json!(null);
        odd["image_id"] = json!("0004");
        odd["category_id"] = json!(1.0);
        let mut image = image(4);
        image["id"] = json!("0004");
        image["width"] = json!(10.0);
        let categories = json!([{"id": "1", "name": 7}]);
        let file = json!({"images": [image], "annotations": [odd, long_run(1)], "categories": categories});
        let file = read(&file).unwrap();
        assert_eq!((file.images()[0].id, file.images()[0].width), (4, 10));
        assert_eq!(file.categories()[0].name, "7");
        let Some(Segmentation::Polygons(polygons)) = &file.annotations(0)[0].segmentation else { panic!("polygons") };
        assert_eq!(polygons[0][..], [0.0, 0.0, 5.0, 0.0, 5.0, 5.5]);
        assert_eq!(file.annotations(0)[1].segmentation, Some(Segmentation::Crowd));
    }

    #[test]
    fn errors_name_file_and_id() {
        let categories = json!([{"id": 1, "name": "dog"}]);
        let good = json!({"images": [image(4)], "annotations": [annotation(2, 4, 1)], "categories": categories});
        assert!(read(&good).is_ok());
        for (key, value, expected) in [
            ("annotations", json!([annotation(31, 4, 99)]), "annotation 31 of image 4 has category 99"),
            ("annotations", json!([annotation(31, 4, 1), annotation(31, 4, 1)]), "two annotations have the id 31"),
            ("images", json!([image(4), image(4)]), "two images have the id 4: 4.jpg and 4.jpg"),
            ("categories", json!([{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]), "two categories have the id 1"),
            ("annotations", json!([{"id": 31}]), "missing field `image_id`"),
            ("images", json!([{"id": 4, "file_name": "a", "width": 0, "height": 5}]), "has the size 0x5"),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            let message = message(&bad);
            assert!(message.contains(expected) && message.contains("instances.json"), "{message}");
        }
        assert!(message(&json!([1])).contains("no COCO annotation file"));
        let missing = CocoFile::read(Path::new("no/such/file.json")).err().unwrap();
        assert!(format!("{missing:#}").contains("cannot read annotation file no/such/file.json"));
    }
}
