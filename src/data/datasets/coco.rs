//! COCO data sets (the original's `datasets/coco.py`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use tch::Tensor;

use super::{Annotation, CocoFile, Dataset, ImageEntry, ImageId, ImageInfo, Sample, Segmentation, BACKGROUND};
use crate::data::transforms::read_image;
use crate::structures::rle::{self, Rle};
use crate::structures::{BoxList, Keypoints, Mode, SegmentationMask};

/// With fewer visible keypoints than this, all its people together, an image of a keypoint data set is not trained on.
const MIN_KEYPOINTS_PER_IMAGE: usize = 10;

/// Whether an image is worth training on: it has an annotation, not all boxes are a pixel or less wide or high, and in
/// keypoint data sets at least ten points are visible. Crowd regions count like any other annotation.
pub fn has_valid_annotation(annotations: &[Annotation]) -> bool {
    let Some(first) = annotations.first() else { return false };
    let empty = |annotation: &Annotation| annotation.bbox[2] <= 1.0 || annotation.bbox[3] <= 1.0;
    if annotations.iter().all(empty) {
        return false;
    }
    if first.keypoints.is_none() {
        return true;
    }
    let points = annotations.iter().flat_map(|annotation| annotation.keypoints.iter().flatten().skip(2).step_by(3));
    points.filter(|&&visibility| visibility > 0.0).count() >= MIN_KEYPOINTS_PER_IMAGE
}

/// Images and annotations in COCO's format: instances with polygons, run lengths or boxes alone, persons with
/// keypoints.
pub struct COCODataset {
    root: PathBuf,
    file: CocoFile,
    /// Positions in the file of the images kept, by id.
    kept: Vec<usize>,
    ids: Vec<i64>,
    contiguous: HashMap<i64, i64>,
}

impl COCODataset {
    /// `root` is the folder of the images. `remove_images_without_annotations` keeps only images for which
    /// [`has_valid_annotation`] holds, as training does.
    ///
    /// # Errors
    ///
    /// If the annotation file cannot be used; see [`CocoFile::read`].
    pub fn new(ann_file: &Path, root: &Path, remove_images_without_annotations: bool) -> Result<Self> {
        let file = CocoFile::read(ann_file)?;
        let wanted = |&at: &usize| !remove_images_without_annotations || has_valid_annotation(file.annotations(at));
        let kept: Vec<usize> = (0..file.images().len()).filter(wanted).collect();
        let ids = kept.iter().map(|&at| file.images()[at].id).collect();
        let contiguous = file.categories().iter().zip(1..).map(|(category, label)| (category.id, label)).collect();
        Ok(Self { root: root.to_owned(), file, kept, ids, contiguous })
    }

    /// The ids of the images, ascending.
    pub fn ids(&self) -> &[i64] {
        &self.ids
    }

    /// The annotation file.
    pub fn ann_file(&self) -> &Path {
        self.file.path()
    }

    /// The annotations of an image in the order of the file, crowd regions included.
    pub fn annotations(&self, index: usize) -> &[Annotation] {
        self.file.annotations(self.kept[index])
    }

    /// The label (1 and up) of a category of the file.
    pub fn json_category_id_to_contiguous_id(&self, category: i64) -> Option<i64> {
        self.contiguous.get(&category).copied()
    }

    /// The file's category of a label.
    pub fn contiguous_category_id_to_json_id(&self, label: i64) -> Option<i64> {
        let position = usize::try_from(label).ok()?.checked_sub(1)?;
        self.file.categories().get(position).map(|category| category.id)
    }

    fn entry(&self, index: usize) -> &ImageEntry {
        &self.file.images()[self.kept[index]]
    }

    fn target(&self, index: usize, size: (i64, i64)) -> Result<BoxList> {
        let instances: Vec<&Annotation> = self.annotations(index).iter().filter(|a| !a.iscrowd).collect();
        self.build_target(&instances, size).with_context(|| {
            let ImageEntry { id, file_name, .. } = self.entry(index);
            format!("annotations of image {id} ({file_name}) in {}", self.file.path().display())
        })
    }

    fn build_target(&self, instances: &[&Annotation], size: (i64, i64)) -> Result<BoxList> {
        let boxes: Vec<f32> = instances.iter().flat_map(|a| a.bbox.map(|value| value as f32)).collect();
        let boxes = Tensor::from_slice(&boxes).view([instances.len() as i64, 4]);
        let mut target = BoxList::new(boxes, size, Mode::Xywh)?.convert(Mode::Xyxy);
        let labels: Vec<i64> = instances.iter().map(|a| self.contiguous[&a.category_id]).collect();
        target.add_field("labels", Tensor::from_slice(&labels));
        if let Some(masks) = masks(instances, size)? {
            target.add_field("masks", masks);
        }
        if let Some(keypoints) = keypoints(instances, size)? {
            target.add_field("keypoints", keypoints);
        }
        target.clip_to_image(true)
    }
}

impl Dataset for COCODataset {
    fn len(&self) -> usize {
        self.kept.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let image = read_image(&self.image_path(index))?;
        let target = self.target(index, image.size())?;
        Ok(Sample { image, target, index })
    }

    fn image_info(&self, index: usize) -> Result<ImageInfo> {
        let ImageEntry { id, file_name, width, height } = self.entry(index).clone();
        Ok(ImageInfo { id: ImageId::Number(id), file_name, width, height })
    }

    fn image_path(&self, index: usize) -> PathBuf {
        self.root.join(&self.entry(index).file_name)
    }

    fn ground_truth(&self, index: usize) -> Result<BoxList> {
        let entry = self.entry(index);
        self.target(index, (entry.width, entry.height))
    }

    fn class_names(&self) -> Vec<String> {
        let names = self.file.categories().iter().map(|category| category.name.clone());
        [BACKGROUND.to_owned()].into_iter().chain(names).collect()
    }

    fn largest_label(&self) -> i64 {
        let instances = (0..self.len()).flat_map(|index| self.annotations(index)).filter(|a| !a.iscrowd);
        instances.map(|annotation| self.contiguous[&annotation.category_id]).max().unwrap_or(0)
    }

    fn categories(&self) -> Vec<(i64, String)> {
        self.file.categories().iter().map(|category| (category.id, category.name.clone())).collect()
    }

    fn describe(&self) -> String {
        format!("COCODataset with annotations {} and images in {}", self.file.path().display(), self.root.display())
    }
}

/// The masks of the instances, or `None` if they have none. Polygons stay polygons; as soon as one instance has run
/// lengths, all become pixels.
fn masks(instances: &[&Annotation], size: (i64, i64)) -> Result<Option<SegmentationMask>> {
    let outlined = |annotation: &&Annotation| match &annotation.segmentation {
        None | Some(Segmentation::Crowd | Segmentation::Unreadable(_)) => false,
        Some(Segmentation::Polygons(polygons)) => polygons.iter().any(|polygon| polygon.len() >= 6),
        Some(Segmentation::Rle(_)) => true,
    };
    if !instances.iter().any(outlined) {
        return Ok(None);
    }
    if let Some(bare) = instances.iter().find(|annotation| !outlined(annotation)) {
        bail!(
            "annotation {} has no outline (a polygon of at least three points), but others of the image have",
            bare.id
        );
    }
    let polygons: Option<Vec<Vec<Vec<f64>>>> = instances.iter().map(|annotation| polygons(annotation)).collect();
    if let Some(polygons) = polygons {
        return Ok(Some(SegmentationMask::from_polygons(polygons, size)));
    }
    let rles: Vec<Rle> = instances.iter().map(|annotation| run_lengths(annotation, size)).collect::<Result<_>>()?;
    SegmentationMask::from_rle(&rles, size).map(Some)
}

fn polygons(annotation: &Annotation) -> Option<Vec<Vec<f64>>> {
    match &annotation.segmentation {
        Some(Segmentation::Polygons(polygons)) => {
            Some(polygons.iter().map(|polygon| polygon.iter().map(|&value| value.into()).collect()).collect())
        }
        _ => None,
    }
}

fn run_lengths(annotation: &Annotation, (width, height): (i64, i64)) -> Result<Rle> {
    let rle = match &annotation.segmentation {
        Some(Segmentation::Rle(rle)) => rle.clone(),
        _ => rle::from_polygons(&polygons(annotation).unwrap_or_default(), (height, width))?,
    };
    ensure!(
        (i64::from(rle.w), i64::from(rle.h)) == (width, height),
        "annotation {} has a mask of {}x{} pixels, but the image has {width}x{height}",
        annotation.id,
        rle.w,
        rle.h
    );
    Ok(rle)
}

fn keypoints(instances: &[&Annotation], size: (i64, i64)) -> Result<Option<Keypoints>> {
    let Some(points) = instances.first().and_then(|annotation| annotation.keypoints.as_ref()) else { return Ok(None) };
    let mut values: Vec<f32> = Vec::with_capacity(instances.len() * points.len());
    for annotation in instances {
        let found = annotation.keypoints.as_ref().map_or(0, |keypoints| keypoints.len());
        ensure!(
            found == points.len() && found % 3 == 0,
            "annotation {} has {found} keypoint values, but the first of the image has {} (x, y, visibility each)",
            annotation.id,
            points.len()
        );
        values.extend(annotation.keypoints.iter().flatten());
    }
    let shape = [instances.len() as i64, points.len() as i64 / 3, 3];
    Keypoints::person(Tensor::from_slice(&values).view(shape), size).map(Some)
}
