//! Reading COCO annotation files: only what the program uses is kept, in single precision where the original computes
//! in single precision.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::json::{self, bbox, drop_unpaired, flag, image_id, integer, name, Float};
use super::{ImageId, ImagePlaces};
use crate::structures::rle::{self, Rle};

/// An entry of `images`.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct ImageEntry {
    /// The image's id.
    #[serde(deserialize_with = "image_id")]
    pub id: ImageId,
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
    #[serde(deserialize_with = "image_id")]
    pub image_id: ImageId,
    /// What it is, one of the file's categories.
    #[serde(deserialize_with = "integer")]
    pub category_id: i64,
    /// x, y, width, height.
    #[serde(deserialize_with = "bbox")]
    pub bbox: [f64; 4],
    /// A crowd region: many instances in one, left out of training targets.
    #[serde(default, deserialize_with = "flag")]
    pub iscrowd: bool,
    /// `None` where the file has no such key.
    #[serde(default)]
    pub segmentation: Option<Segmentation>,
    /// x, y, visibility for each point; `None` where the file has no such key.
    #[serde(default, deserialize_with = "keypoints")]
    pub keypoints: Option<Box<[f32]>>,
}

/// The outline of an instance.
#[derive(Clone, Debug, PartialEq)]
pub enum Segmentation {
    /// Each polygon as x0, y0, x1, y1, ..
    Polygons(Box<[Box<[f32]>]>),
    /// Run lengths of a mask.
    Rle(Rle),
    /// Run lengths that do not fit their size, or coordinates that are no numbers; why. Who needs the outline says so.
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
        let bytes = fs::read(path).with_context(|| {
            let folder = std::env::current_dir().ok().filter(|_| path.is_relative());
            let below = folder.map(|folder| format!(" below {}", folder.display())).unwrap_or_default();
            format!("cannot read annotation file {}{below}", path.display())
        })?;
        let content =
            json::from_slice(&bytes).with_context(|| format!("{} is no COCO annotation file", path.display()))?;
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
        images.sort_by(|a, b| a.id.cmp(&b.id));
        if let Some(pair) = images.windows(2).find(|pair| pair[0].id == pair[1].id) {
            bail!("two images have the id {}: {} and {}", pair[0].id, pair[0].file_name, pair[1].file_name);
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
        let places = ImagePlaces::new(&images);
        let all = annotations.len();
        annotations.retain(|annotation| places.place(&annotation.image_id).is_some());
        if annotations.len() < all {
            let lost = all - annotations.len();
            log::warn!("{}: {lost} annotations belong to images that the file does not list", path.display());
        }
        annotations.sort_by_cached_key(|annotation| places.place(&annotation.image_id));
        annotations.shrink_to_fit();
        for crowd in annotations.iter_mut().filter(|annotation| annotation.iscrowd) {
            crowd.segmentation = crowd.segmentation.is_some().then_some(Segmentation::Crowd);
        }
        let mut begin = vec![0; images.len() + 1];
        for place in annotations.iter().filter_map(|annotation| places.place(&annotation.image_id)) {
            begin[place + 1] += 1;
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
                let mut finite = true;
                while let Some(mut polygon) = list.next_element::<Vec<Float>>()? {
                    drop_unpaired(&mut polygon);
                    finite &= polygon.iter().all(|Float(value)| value.is_finite());
                    polygons.push(polygon.into_iter().map(|Float(value)| value as f32).collect());
                }
                if !finite {
                    return Ok(Segmentation::Unreadable("a polygon has a coordinate that is no number".to_owned()));
                }
                Ok(Segmentation::Polygons(polygons.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Segmentation, A::Error> {
                let (mut size, mut counts) = (None, None);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "size" => size = Some(map.next_value::<[i64; 2]>()?),
                        "counts" => counts = Some(map.next_value::<Counts>()?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
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

fn keypoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<[f32]>>, D::Error> {
    let values = Option::<Vec<Float>>::deserialize(deserializer)?;
    Ok(values.map(|values| values.into_iter().map(|Float(value)| value as f32).collect()))
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Counts {
    Plain(Vec<u32>),
    Compressed(String),
}

#[cfg(test)]
mod tests;
