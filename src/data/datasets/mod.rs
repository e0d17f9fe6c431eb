//! Datasets: what an image is and what is in it.
//!
//! A [`Dataset`] gives decoded images with their targets before any transform; the loader applies the transforms, so
//! that a user's data set is a handful of methods.

mod cityscapes;
mod coco;
mod coco_annotations;
mod coco_target;
mod concat_dataset;
mod fields;
mod image_places;
pub(crate) mod json;
mod registry;
mod voc;

use std::any::Any;
use std::fmt;
use std::path::PathBuf;

use anyhow::Result;

pub use cityscapes::{CityScapesDataset, CityScapesMode};
pub use coco::{has_valid_annotation, COCODataset};
pub use coco_annotations::{Annotation, Category, CocoFile, ImageEntry, Segmentation};
pub use concat_dataset::ConcatDataset;
pub use fields::{DatasetOptions, TargetFields};
pub(crate) use image_places::{numbers_for_names, ImagePlaces};
pub use registry::{BuildDataset, DatasetRegistry};
pub use voc::PascalVOCDataset;

use super::evaluation::coco::CocoEvaluator;
use super::evaluation::Evaluator;
use super::transforms::RgbImage;
use crate::structures::BoxList;

/// The name of the class with index 0.
pub const BACKGROUND: &str = "__background__";

/// One image and what is in it, before transforms.
pub struct Sample {
    /// The decoded picture.
    pub image: RgbImage,
    /// Boxes in xyxy at the image's size, with the field `labels` (int64; 0 is the background) and, where the data set
    /// has them and was asked for them ([`TargetFields`]), `masks` and `keypoints`.
    pub target: BoxList,
    /// The index that was asked for.
    pub index: usize,
}

/// How a data set itself calls an image.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageId {
    /// COCO's `id`.
    Number(i64),
    /// The name of a VOC or Cityscapes image, or an `id` of a COCO file that is text.
    Name(String),
}

impl ImageId {
    /// The number, where the id is one.
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(_) => None,
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What is known of an image without decoding it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// The data set's own id.
    pub id: ImageId,
    /// The file as the data set names it.
    pub file_name: String,
    /// In pixels.
    pub width: i64,
    /// In pixels.
    pub height: i64,
}

/// A data set. Loader threads share it; an evaluator may look for its own kind of data set with `downcast_ref`.
pub trait Dataset: Any + Send + Sync {
    /// The number of images.
    fn len(&self) -> usize;

    /// Whether there is no image.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads an image and its target.
    ///
    /// # Errors
    /// If the image or its annotation cannot be read; the file is named.
    fn get(&self, index: usize) -> Result<Sample>;

    /// What is known of an image without decoding it.
    ///
    /// # Errors
    /// If the annotation cannot be read; the file is named.
    fn image_info(&self, index: usize) -> Result<ImageInfo>;

    /// The image's file.
    fn image_path(&self, index: usize) -> PathBuf;

    /// The target alone, at the image's own size, as evaluation needs it: with all fields that its instances have.
    ///
    /// # Errors
    /// If the annotation cannot be read; the file is named.
    fn ground_truth(&self, index: usize) -> Result<BoxList>;

    /// Looks whether every instance that is trained on has these fields, as far as that is known without reading image
    /// by image. By default nothing is looked at.
    ///
    /// # Errors
    ///
    /// If one lacks a field: how many do, and the first of them by annotation and image.
    fn check_fields(&self, _fields: TargetFields) -> Result<()> {
        Ok(())
    }

    /// The classes by label; the first is the background.
    fn class_names(&self) -> Vec<String>;

    /// The largest label that a target has: that of the last class, unless the data set knows that fewer occur.
    fn largest_label(&self) -> i64 {
        self.class_names().len() as i64 - 1
    }

    /// The data set's own category ids and names in their order, as written to `labels.json`: the labels themselves,
    /// unless the data set has other numbers.
    fn categories(&self) -> Vec<(i64, String)> {
        (0..).zip(self.class_names()).skip(1).collect()
    }

    /// Who judges predictions for it: COCO's metrics, unless the data set has its own.
    fn evaluator(&self) -> Box<dyn Evaluator> {
        Box::new(CocoEvaluator)
    }

    /// What the data set is, for messages: its kind and annotation file.
    fn describe(&self) -> String {
        let first =
            if self.is_empty() { String::new() } else { format!(" beginning with {}", self.image_path(0).display()) };
        format!("a data set of {} images{first}", self.len())
    }
}
