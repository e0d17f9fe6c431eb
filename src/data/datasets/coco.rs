//! COCO data sets (the original's `datasets/coco.py`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use tch::Tensor;

use super::coco_target::{
    complete_fields, instances, keypoints, masks, number_of_values, without_keypoints, without_outline,
};
use super::{
    numbers_for_names, Annotation, CocoFile, Dataset, ImageEntry, ImageId, ImageInfo, Sample, TargetFields, BACKGROUND,
};
use crate::data::transforms::read_image;
use crate::structures::{BoxList, Mode};

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
    ids: Vec<ImageId>,
    contiguous: HashMap<i64, i64>,
    fields: TargetFields,
}

impl COCODataset {
    /// `root` is the folder of the images. `remove_images_without_annotations` keeps only images for which
    /// [`has_valid_annotation`] holds, as training does. Targets have all fields.
    ///
    /// # Errors
    /// If the annotation file cannot be used; see [`CocoFile::read`].
    pub fn new(ann_file: &Path, root: &Path, remove_images_without_annotations: bool) -> Result<Self> {
        let file = CocoFile::read(ann_file)?;
        let wanted = |&at: &usize| !remove_images_without_annotations || has_valid_annotation(file.annotations(at));
        let kept: Vec<usize> = (0..file.images().len()).filter(wanted).collect();
        let ids = kept.iter().map(|&at| file.images()[at].id.clone()).collect();
        let contiguous = file.categories().iter().zip(1..).map(|(category, label)| (category.id, label)).collect();
        Ok(Self { root: root.to_owned(), file, kept, ids, contiguous, fields: TargetFields::ALL })
    }

    /// The same data set whose targets have only these fields: what others lack does not matter then.
    pub fn with_fields(self, fields: TargetFields) -> Self {
        Self { fields, ..self }
    }

    /// The ids of the images, ascending.
    pub fn ids(&self) -> &[ImageId] {
        &self.ids
    }

    /// The images' numbers in COCO's metrics, where the file has names for ids.
    pub(crate) fn numbers_for_names(&self) -> Option<Vec<u64>> {
        let numbers = numbers_for_names(self.file.images())?;
        Some(self.kept.iter().map(|&at| numbers[at]).collect())
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

    fn target(
        &self,
        index: usize,
        instances: &[&Annotation],
        size: (i64, i64),
        fields: TargetFields,
    ) -> Result<BoxList> {
        self.build_target(instances, size, fields).with_context(|| {
            let ImageEntry { id, file_name, .. } = self.entry(index);
            format!("annotations of image {id} ({file_name}) in {}", self.file.path().display())
        })
    }

    fn build_target(&self, instances: &[&Annotation], size: (i64, i64), fields: TargetFields) -> Result<BoxList> {
        let boxes: Vec<f32> = instances.iter().flat_map(|a| a.bbox.map(|value| value as f32)).collect();
        let boxes = Tensor::from_slice(&boxes).view([instances.len() as i64, 4]);
        let mut target = BoxList::new(boxes, size, Mode::Xywh)?.convert(Mode::Xyxy);
        let labels: Vec<i64> = instances.iter().map(|a| self.contiguous[&a.category_id]).collect();
        target.add_field("labels", Tensor::from_slice(&labels));
        if fields.masks {
            if let Some(masks) = masks(instances, size)? {
                target.add_field("masks", masks);
            }
        }
        if fields.keypoints {
            if let Some(keypoints) = keypoints(instances, size)? {
                target.add_field("keypoints", keypoints);
            }
        }
        target.clip_to_image(true)
    }

    /// The instances of an image by the size that the file gives it.
    fn instances(&self, index: usize) -> Vec<&Annotation> {
        let ImageEntry { width, height, .. } = *self.entry(index);
        instances(self.annotations(index), (width, height))
    }

    /// # Errors
    ///
    /// If `gap` says of an instance why it lacks `what`; the first of them are named.
    fn refuse_gaps(&self, what: &str, gap: impl Fn(&Annotation) -> Option<String>) -> Result<()> {
        const NAMED: usize = 10;
        let (mut all, mut gaps, mut images, mut named) = (0, 0, 0, Vec::new());
        for index in 0..self.len() {
            let before = gaps;
            for annotation in self.instances(index) {
                all += 1;
                let Some(why) = gap(annotation) else { continue };
                gaps += 1;
                if named.len() < NAMED {
                    let ImageEntry { id, file_name, .. } = self.entry(index);
                    let why = if why.is_empty() { why } else { format!(" ({why})") };
                    named.push(format!("annotation {} of image {id} ({file_name}){why}", annotation.id));
                }
            }
            images += usize::from(gaps > before);
        }
        if gaps > named.len() {
            named.push(format!("{} more", gaps - named.len()));
        }
        ensure!(gaps == 0 || gaps < all, "none of its {all} annotations has {what}");
        ensure!(
            gaps == 0,
            "{gaps} of its {all} annotations, in {images} of {} images, lack {what}: {}",
            self.len(),
            named.join(", ")
        );
        Ok(())
    }
}

impl Dataset for COCODataset {
    fn len(&self) -> usize {
        self.kept.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let image = read_image(&self.image_path(index))?;
        let size = image.size();
        let target = self.target(index, &instances(self.annotations(index), size), size, self.fields)?;
        Ok(Sample { image, target, index })
    }

    fn image_info(&self, index: usize) -> Result<ImageInfo> {
        let ImageEntry { id, file_name, width, height } = self.entry(index).clone();
        Ok(ImageInfo { id, file_name, width, height })
    }

    fn image_path(&self, index: usize) -> PathBuf {
        self.root.join(&self.entry(index).file_name)
    }

    fn ground_truth(&self, index: usize) -> Result<BoxList> {
        let (entry, instances) = (self.entry(index), self.instances(index));
        self.target(index, &instances, (entry.width, entry.height), complete_fields(&instances))
    }

    fn check_fields(&self, fields: TargetFields) -> Result<()> {
        if fields.masks {
            let what = "an outline (a polygon of at least three points, or run lengths)";
            self.refuse_gaps(what, |annotation| without_outline(annotation).map(str::to_owned))?;
        }
        if fields.keypoints {
            let mut numbers = (0..self.len()).flat_map(|index| self.instances(index)).map(number_of_values);
            let values = numbers.find(|&values| values > 0).unwrap_or(0);
            self.refuse_gaps("keypoints", |annotation| without_keypoints(annotation, values))?;
        }
        Ok(())
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
