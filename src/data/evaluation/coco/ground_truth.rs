//! What predictions are compared with, in COCO's form.

use std::any::Any;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use anyhow::{bail, ensure, Context, Result};
use hotcoco::types::{Annotation, Category, Image, Segmentation};
use hotcoco::COCO;
use tch::Tensor;

use super::annotation_file;
use crate::data::datasets::{COCODataset, ConcatDataset, Dataset, ImageId};
use crate::structures::{rle, BoxList, Mode};

/// An image of the data set: its id in the ground truth and its size.
#[derive(Clone, Copy, Debug)]
pub struct GroundTruthImage {
    /// The id in the ground truth.
    pub id: u64,
    /// `(width, height)`.
    pub size: (i64, i64),
}

/// Annotations in COCO's form, the image of every index, and the category of every label.
pub struct CocoGroundTruth {
    annotations: Annotations,
    images: Vec<GroundTruthImage>,
    /// The ids of images of a file that has names for them, by number.
    names: HashMap<u64, String>,
    /// Category ids by label; the background (0) has none.
    categories: Vec<u64>,
    name: String,
}

enum Annotations {
    /// Made from a data set's targets.
    Made(Arc<COCO>),
    /// In a file that is read when the annotations are needed: results can be written before that.
    InFile { path: PathBuf, read: OnceLock<Arc<COCO>> },
}

impl CocoGroundTruth {
    /// The ground truth of a data set: the annotation file of a [`COCODataset`], else made from its targets.
    ///
    /// # Errors
    /// If the targets cannot be read, or ids of images or categories are negative or occur twice.
    pub fn of_dataset(dataset: &dyn Dataset) -> Result<CocoGroundTruth> {
        let own: &dyn Any = dataset;
        match own.downcast_ref::<COCODataset>() {
            Some(coco) => Self::of_file(coco, dataset),
            None => Self::of_targets(dataset),
        }
    }

    fn of_file(coco: &COCODataset, dataset: &dyn Dataset) -> Result<CocoGroundTruth> {
        let (ids, mut names) = (image_ids(dataset)?, HashMap::new());
        if !all_differ(&ids) {
            bail!("{} has two images of the same id: it cannot be evaluated as a whole", dataset.describe());
        }
        for (number, id) in ids.iter().zip(coco.ids()) {
            if let ImageId::Name(name) = id {
                names.insert(*number, name.clone());
            }
        }
        let in_file = Annotations::InFile { path: coco.ann_file().to_owned(), read: OnceLock::new() };
        Ok(CocoGroundTruth { names, ..Self::new(in_file, ids, dataset)? })
    }

    /// Reads the annotation file of a [`COCODataset`] and drops it again; other data sets have none.
    ///
    /// # Errors
    /// What would keep predictions from being evaluated.
    pub(super) fn check_file(dataset: &dyn Dataset) -> Result<()> {
        let own: &dyn Any = dataset;
        if own.is::<COCODataset>() {
            Self::of_dataset(dataset)?.coco()?;
        }
        Ok(())
    }

    /// The annotations in COCO's form (the original's `abs_to_coco.py`): instance masks become run lengths and their
    /// pixels the area; without masks the area is that of the box. Nothing is a crowd. Images are counted from 1 where
    /// two have the same id, as in several data sets that are validated together.
    fn of_targets(dataset: &dyn Dataset) -> Result<CocoGroundTruth> {
        let mut annotations = Vec::new();
        let mut images = Vec::new();
        let categories: Vec<(u64, String)> = categories(dataset)?;
        let mut ids = image_ids(dataset)?;
        if !all_differ(&ids) {
            ids = (1..).take(ids.len()).collect();
        }
        for (index, &id) in ids.iter().enumerate() {
            let info = dataset.image_info(index)?;
            let target = dataset.ground_truth(index).with_context(|| format!("ground truth of image {}", info.id))?;
            let (width, height) = target.size();
            images.push(Image {
                id,
                file_name: info.file_name,
                height: u32::try_from(height)?,
                width: u32::try_from(width)?,
                ..Image::default()
            });
            let found = instances(&target, id, &categories);
            annotations.extend(found.with_context(|| format!("ground truth of image {}", info.id))?);
        }
        for (id, annotation) in (1..).zip(&mut annotations) {
            annotation.id = id;
        }
        let category = |(id, name): (u64, String)| Category { id, name, ..Category::default() };
        let categories = categories.into_iter().map(category).collect();
        let dataset_in_coco = hotcoco::Dataset { info: None, images, annotations, categories, licenses: Vec::new() };
        Self::new(Annotations::Made(Arc::new(COCO::from_dataset(dataset_in_coco))), ids, dataset)
    }

    /// `ids` are those of the images in the annotations, which differ.
    fn new(annotations: Annotations, ids: Vec<u64>, dataset: &dyn Dataset) -> Result<CocoGroundTruth> {
        let image = |(index, id)| {
            let info = dataset.image_info(index)?;
            Ok(GroundTruthImage { id, size: (info.width, info.height) })
        };
        let images = ids.into_iter().enumerate().map(image).collect::<Result<Vec<_>>>()?;
        let categories = categories(dataset)?.into_iter().map(|(id, _)| id).collect();
        Ok(CocoGroundTruth { annotations, images, names: HashMap::new(), categories, name: dataset.describe() })
    }

    /// The annotations.
    ///
    /// # Errors
    /// If they are in a file that cannot be read.
    pub fn coco(&self) -> Result<&Arc<COCO>> {
        match &self.annotations {
            Annotations::Made(coco) => Ok(coco),
            Annotations::InFile { path, read } => match read.get() {
                Some(coco) => Ok(coco),
                None => {
                    let coco = Arc::new(annotation_file::read(path)?);
                    Ok(read.get_or_init(|| coco))
                }
            },
        }
    }

    /// The id of an image as its annotation file has it.
    pub(super) fn id_in_file(&self, image: u64) -> ImageId {
        let name = self.names.get(&image).cloned();
        name.map_or_else(|| ImageId::Number(image as i64), ImageId::Name)
    }

    /// The images, by the data set's index.
    pub fn images(&self) -> &[GroundTruthImage] {
        &self.images
    }

    /// The annotations of an image that are no crowd: `[x, y, width, height]` and area.
    ///
    /// # Errors
    /// See [`coco`](Self::coco).
    pub(super) fn boxes(&self, image: &GroundTruthImage) -> Result<Vec<([f64; 4], f64)>> {
        let coco = self.coco()?;
        let annotations = coco.load_anns(coco.get_ann_ids_for_img(image.id)).into_iter().filter(|a| !a.iscrowd);
        Ok(annotations.filter_map(|a| Some((a.bbox?, a.area?))).collect())
    }

    /// The ids of the categories of these labels.
    ///
    /// # Errors
    /// If a label is not one of the data set's classes.
    pub(super) fn category_ids(&self, labels: &Tensor) -> Result<Vec<u64>> {
        let labels = Vec::<i64>::try_from(labels.to_kind(tch::Kind::Int64))?;
        let category = |label: i64| {
            let position = usize::try_from(label - 1).ok();
            position.and_then(|p| self.categories.get(p)).copied().with_context(|| {
                format!(
                    "a detection has label {label}, but {} has the classes 1 to {}: is MODEL.ROI_BOX_HEAD.NUM_CLASSES \
                     that of this data set?",
                    self.name,
                    self.categories.len()
                )
            })
        };
        labels.into_iter().map(category).collect()
    }

    /// # Errors
    /// If there are more predictions than images.
    pub(super) fn check_number(&self, predictions: usize) -> Result<()> {
        let images = self.images.len();
        ensure!(predictions <= images, "there are {predictions} predictions for the {images} images of {}", self.name);
        Ok(())
    }
}

/// The ids of the images in the ground truth: the data set's numbers, or counted from 1 where it has names.
fn image_ids(dataset: &dyn Dataset) -> Result<Vec<u64>> {
    let own: &dyn Any = dataset;
    if let Some(numbers) = own.downcast_ref::<COCODataset>().and_then(COCODataset::numbers_for_names) {
        return Ok(numbers);
    }
    let id = |index| match dataset.image_info(index)?.id {
        ImageId::Number(number) => u64::try_from(number).with_context(|| {
            format!("image id {number} of {} is negative: it cannot be evaluated", dataset.describe())
        }),
        ImageId::Name(_) => Ok(index as u64 + 1),
    };
    (0..dataset.len()).map(id).collect()
}

fn all_differ(ids: &[u64]) -> bool {
    let mut seen = HashSet::new();
    ids.iter().all(|id| seen.insert(id))
}

/// Category ids and names by label, without the background; of several data sets together, those of the one
/// with the most.
fn categories(dataset: &dyn Dataset) -> Result<Vec<(u64, String)>> {
    let any: &dyn Any = dataset;
    let mut own = match any.downcast_ref::<ConcatDataset>() {
        Some(several) => several.richest().categories(),
        None => dataset.categories(),
    };
    let classes = dataset.class_names().len().saturating_sub(1);
    // Some data sets list the background among their categories.
    if own.len() == classes + 1 {
        own.remove(0);
    }
    ensure!(own.len() == classes, "{} has {} categories but {classes} classes", dataset.describe(), own.len());
    let category = |(id, name): (i64, String)| match u64::try_from(id) {
        Ok(id) => Ok((id, name)),
        Err(_) => bail!("category {name} of {} has the negative id {id}", dataset.describe()),
    };
    own.into_iter().map(category).collect()
}

fn instances(target: &BoxList, image_id: u64, categories: &[(u64, String)]) -> Result<Vec<Annotation>> {
    let boxes = target.convert(Mode::Xywh);
    let bbox = Vec::<f32>::try_from(boxes.bbox().contiguous().view(-1))?;
    let areas = Vec::<f32>::try_from(target.area())?;
    let labels = Vec::<i64>::try_from(target.tensor_field("labels")?)?;
    let encoded = target.has_field("masks").then(|| target.masks()?.encode()).transpose()?;
    if let Some(masks) = &encoded {
        ensure!(masks.len() == labels.len(), "{} masks for {} boxes", masks.len(), labels.len());
    }
    let annotation = |i: usize| {
        let position = usize::try_from(labels[i] - 1).ok();
        let category = position.and_then(|p| categories.get(p));
        let (category_id, _) = category.with_context(|| format!("label {} has no category", labels[i]))?;
        let mask = encoded.as_ref().map(|masks| &masks[i]);
        Ok(Annotation {
            image_id,
            category_id: *category_id,
            bbox: Some([0, 1, 2, 3].map(|c| f64::from(bbox[4 * i + c]))),
            area: Some(mask.map_or(f64::from(areas[i]), |mask| rle::area(mask) as f64)),
            segmentation: mask
                .map(|mask| Segmentation::CompressedRle { size: [mask.h, mask.w], counts: rle::to_string(mask) }),
            ..Annotation::default()
        })
    };
    (0..labels.len()).map(annotation).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::datasets::{ImageInfo, Sample};
    use crate::data::evaluation::EvaluationOptions;
    use crate::structures::SegmentationMask;

    /// Two images with one square each, as a user's own data set would have them.
    struct Squares {
        with_masks: bool,
    }

    impl Dataset for Squares {
        fn len(&self) -> usize {
            2
        }

        fn get(&self, _index: usize) -> Result<Sample> {
            anyhow::bail!("evaluation reads no images")
        }

        fn image_info(&self, index: usize) -> Result<ImageInfo> {
            let id = ImageId::Name(format!("square {index}"));
            Ok(ImageInfo { id, file_name: format!("{index}.png"), width: 40, height: 30 })
        }

        fn image_path(&self, index: usize) -> PathBuf {
            PathBuf::from(format!("{index}.png"))
        }

        fn ground_truth(&self, index: usize) -> Result<BoxList> {
            let (x, y) = (4.0 + index as f32, 5.0f32);
            let bbox = Tensor::from_slice(&[x, y, x + 9.0, y + 9.0]).view([1, 4]);
            let mut list = BoxList::new(bbox, (40, 30), Mode::Xyxy)?;
            list.add_field("labels", Tensor::from_slice(&[1 + index as i64]));
            if self.with_masks {
                let (x, y) = (f64::from(x), f64::from(y));
                let square = vec![x, y, x + 10.0, y, x + 10.0, y + 10.0, x, y + 10.0];
                list.add_field("masks", SegmentationMask::from_polygons(vec![vec![square]], (40, 30)));
            }
            Ok(list)
        }

        fn class_names(&self) -> Vec<String> {
            ["__background__", "left", "right"].map(String::from).to_vec()
        }

        fn categories(&self) -> Vec<(i64, String)> {
            vec![(7, "left".into()), (3, "right".into())]
        }

        fn describe(&self) -> String {
            "two squares".into()
        }
    }

    #[test]
    fn targets_become_annotations_with_the_data_sets_categories() {
        let truth = CocoGroundTruth::of_dataset(&Squares { with_masks: true }).unwrap();
        let annotation = truth.coco().unwrap().get_ann(2).unwrap();
        assert_eq!((annotation.image_id, annotation.category_id, annotation.area), (2, 3, Some(100.0)));
        assert_eq!(annotation.bbox, Some([5.0, 5.0, 10.0, 10.0]));
        let bare = CocoGroundTruth::of_dataset(&Squares { with_masks: false }).unwrap();
        assert!(bare.coco().unwrap().get_ann(1).unwrap().segmentation.is_none());
        assert_eq!(truth.category_ids(&Tensor::from_slice(&[2i64, 1])).unwrap(), [3, 7]);
        assert!(truth.category_ids(&Tensor::from_slice(&[3i64])).is_err());
    }

    #[test]
    fn several_data_sets_with_the_same_ids_are_judged_together() {
        struct Numbered(Squares, i64);
        impl Dataset for Numbered {
            fn len(&self) -> usize {
                self.0.len()
            }

            fn get(&self, index: usize) -> Result<Sample> {
                self.0.get(index)
            }

            fn image_info(&self, index: usize) -> Result<ImageInfo> {
                Ok(ImageInfo { id: ImageId::Number(index as i64), ..self.0.image_info(index)? })
            }

            fn image_path(&self, index: usize) -> PathBuf {
                self.0.image_path(index)
            }

            fn ground_truth(&self, index: usize) -> Result<BoxList> {
                self.0.ground_truth(index)
            }

            fn class_names(&self) -> Vec<String> {
                self.0.class_names()
            }

            fn categories(&self) -> Vec<(i64, String)> {
                self.0.categories().into_iter().map(|(id, name)| (id + self.1, name)).collect()
            }
        }
        let numbered = |shift| -> Arc<dyn Dataset> { Arc::new(Numbered(Squares { with_masks: false }, shift)) };
        let both = ConcatDataset::new(vec![numbered(0), numbered(100)]).unwrap();
        let truth = CocoGroundTruth::of_dataset(&both).unwrap();
        assert_eq!(truth.images().iter().map(|image| image.id).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(truth.categories, [7, 3]);
        assert_eq!(truth.boxes(&truth.images()[3]).unwrap(), [([5.0, 5.0, 10.0, 10.0], 100.0)]);
        let alone = CocoGroundTruth::of_dataset(numbered(0).as_ref()).unwrap();
        assert_eq!(alone.images().iter().map(|image| image.id).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn images_whose_ids_are_text_are_evaluated_and_written_under_them() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("instances.json");
        let text = r#"{"images": [{"id": "img_2", "file_name": "2.png", "width": 40, "height": 30},
                                   {"id": "img_10", "file_name": "10.png", "width": 40, "height": 30}],
                        "annotations": [{"id": 1, "image_id": "img_2", "category_id": 3, "iscrowd": 0,
                                         "bbox": [4, 5, 10, 10], "area": 100}],
                        "categories": [{"id": 3, "name": "square"}]}"#;
        std::fs::write(&file, text).unwrap();
        for remove_images_without_annotations in [false, true] {
            let dataset = COCODataset::new(&file, folder.path(), remove_images_without_annotations).unwrap();
            let mut predictions = Vec::new();
            for index in 0..dataset.len() {
                let mut list = dataset.ground_truth(index).unwrap();
                list.add_field("scores", Tensor::ones([list.len() as i64], (tch::Kind::Float, tch::Device::Cpu)));
                predictions.push(list);
            }
            let output_folder = Some(folder.path().join("out"));
            let options = EvaluationOptions { output_folder, ..EvaluationOptions::default() };
            let results = dataset.evaluator().evaluate(&dataset, &predictions, &options).unwrap();
            assert!(results.get("bbox", "AP").unwrap() > 1.0 - 1e-9);
            let written = std::fs::read_to_string(folder.path().join("out/bbox.json")).unwrap();
            assert!(written.starts_with("[{\"image_id\": \"img_2\", \"category_id\": 3"), "{written}");
        }
    }

    #[test]
    fn the_ground_truth_itself_is_a_perfect_prediction_for_any_data_set() {
        let squares = Squares { with_masks: false };
        let mut predictions = Vec::new();
        for index in 0..2 {
            let mut list = squares.ground_truth(index).unwrap();
            list.add_field("scores", Tensor::from_slice(&[0.9f32]));
            predictions.push(list.resize((80, 60)).unwrap());
        }
        let results = squares.evaluator().evaluate(&squares, &predictions, &EvaluationOptions::default()).unwrap();
        assert!(results.get("bbox", "AP").unwrap() > 1.0 - 1e-9);
        let names: Vec<&str> = results.per_category("bbox").iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["right", "left"]);
    }
}
