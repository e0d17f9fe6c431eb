//! Cityscapes (the original's `datasets/cityscapes.py`).

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use image::{DynamicImage, ImageReader};
use serde::Deserialize;
use tch::{Kind, Tensor};

use super::{Dataset, ImageId, ImageInfo, Sample, TargetFields, BACKGROUND};
use crate::config::registry::unknown_name;
use crate::data::evaluation::cityscapes::CityscapesEvaluator;
use crate::data::evaluation::Evaluator;
use crate::data::transforms::read_image;
use crate::structures::{BoxList, Mode, SegmentationMask};

/// The names and ids of the classes that have instances, by label from 1.
const INSTANCE_CLASSES: [(&str, i64); 10] = [
    ("person", 24),
    ("rider", 25),
    ("car", 26),
    ("truck", 27),
    ("bus", 28),
    ("caravan", 29),
    ("trailer", 30),
    ("train", 31),
    ("motorcycle", 32),
    ("bicycle", 33),
];

/// From which annotation files masks are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CityScapesMode {
    /// `*_instanceIds.png`: pixels.
    Mask,
    /// `*_polygons.json`: polygons.
    Poly,
}

impl CityScapesMode {
    /// # Errors
    /// If the mode is neither `mask` nor `poly`.
    pub fn parse(mode: &str) -> Result<Self> {
        match mode {
            "mask" => Ok(Self::Mask),
            "poly" => Ok(Self::Poly),
            other => Err(unknown_name("the mode of Cityscapes", other, ["mask", "poly"])),
        }
    }
}

/// The instances of the fine annotations.
pub struct CityScapesDataset {
    split: String,
    ann_dir: PathBuf,
    mode: CityScapesMode,
    min_area: i64,
    image_paths: Vec<PathBuf>,
    annotation_paths: Vec<PathBuf>,
    fields: TargetFields,
}

/// The instances of one image: extents in whole pixels, masks and labels.
struct Instances {
    boxes: Vec<[i64; 4]>,
    masks: Masks,
    labels: Vec<i64>,
}

enum Masks {
    Polygons(Vec<Vec<f64>>),
    /// The image's instance ids, and the id of each instance.
    Ids(Vec<u16>, Vec<u16>),
}

#[derive(Deserialize)]
struct PolygonFile {
    #[serde(rename = "imgWidth")]
    width: i64,
    #[serde(rename = "imgHeight")]
    height: i64,
    objects: Vec<PolygonObject>,
}

#[derive(Deserialize)]
struct PolygonObject {
    label: String,
    polygon: Vec<[f64; 2]>,
}

impl CityScapesDataset {
    /// The images below `img_dir/split` with the annotations below `ann_dir/split`. Instances whose extent is smaller
    /// than `min_area` are left out; `mini` keeps about that many images, spread over the data set.
    ///
    /// # Errors
    /// If a folder is missing, or images and annotations differ in number.
    pub fn new(
        img_dir: &Path,
        ann_dir: &Path,
        split: &str,
        mode: CityScapesMode,
        min_area: i64,
        mini: Option<usize>,
    ) -> Result<Self> {
        ensure!(["train", "val", "test"].contains(&split), "Cityscapes has train, val and test, but no {split}");
        let (img_dir, ann_dir) = (img_dir.join(split), ann_dir.join(split));
        let ending = match mode {
            CityScapesMode::Mask => "_instanceIds.png",
            CityScapesMode::Poly => "_polygons.json",
        };
        let (mut images, mut annotations) = (files(&img_dir, "_leftImg8bit.png")?, files(&ann_dir, ending)?);
        if let Some(mini) = mini {
            ensure!(mini > 0, "a Cityscapes data set with mini = 0 has no images");
            images = images.iter().step_by(images.len() / mini + 1).cloned().collect();
            annotations = annotations.iter().step_by(annotations.len() / mini + 1).cloned().collect();
        }
        ensure!(
            images.len() == annotations.len(),
            "{} has {} images, but {} has {} annotations (*{ending})",
            img_dir.display(),
            images.len(),
            ann_dir.display(),
            annotations.len()
        );
        Ok(Self {
            split: split.to_owned(),
            ann_dir,
            mode,
            min_area,
            image_paths: images,
            annotation_paths: annotations,
            fields: TargetFields::ALL,
        })
    }

    /// The same data set whose targets have only these fields.
    pub fn with_fields(self, fields: TargetFields) -> Self {
        Self { fields, ..self }
    }

    /// From which annotation files masks are taken.
    pub fn mode(&self) -> CityScapesMode {
        self.mode
    }

    /// The annotation file of an image.
    pub fn annotation_path(&self, index: usize) -> &Path {
        &self.annotation_paths[index]
    }

    /// The first image from `index` on, around the end, that has instances, with its size (width, height): an image
    /// without any is silently replaced by the one that follows it, as in the original.
    fn annotated(&self, index: usize) -> Result<(usize, (i64, i64), Instances)> {
        for offset in 0..self.len() {
            let at = (index + offset) % self.len();
            let (size, instances) = self
                .instances(at)
                .with_context(|| format!("annotation file {}", self.annotation_paths[at].display()))?;
            if !instances.labels.is_empty() {
                return Ok((at, size, instances));
            }
            log::info!("EMPTY ENTRY: {}", self.annotation_paths[at].display());
        }
        bail!("no image of {} has an instance", self.describe())
    }

    fn instances(&self, index: usize) -> Result<((i64, i64), Instances)> {
        let bytes = fs::read(&self.annotation_paths[index])?;
        let (size, mut instances) = match self.mode {
            CityScapesMode::Mask => mask_instances(&bytes)?,
            CityScapesMode::Poly => polygon_instances(&bytes)?,
        };
        let large = |[x1, y1, x2, y2]: &[i64; 4]| (x2 - x1) * (y2 - y1) >= self.min_area;
        let keep: Vec<bool> = instances.boxes.iter().map(large).collect();
        instances.retain(&keep);
        Ok((size, instances))
    }

    fn target(instances: Instances, size: (i64, i64), fields: TargetFields) -> Result<BoxList> {
        let number = instances.boxes.len() as i64;
        let boxes: Vec<f32> = instances.boxes.iter().flatten().map(|&side| side as f32).collect();
        let mut target = BoxList::new(Tensor::from_slice(&boxes).view([number, 4]), size, Mode::Xyxy)?;
        target.add_field("labels", Tensor::from_slice(&instances.labels));
        if !fields.masks {
            return Ok(target);
        }
        let masks = match instances.masks {
            Masks::Polygons(polygons) => {
                SegmentationMask::from_polygons(polygons.into_iter().map(|polygon| vec![polygon]).collect(), size)
            }
            Masks::Ids(pixels, ids) => {
                let (width, plane) = (size.0 as usize, pixels.len());
                let mut planes = vec![0u8; ids.len() * plane];
                for ((id, extent), plane) in ids.iter().zip(&instances.boxes).zip(planes.chunks_exact_mut(plane.max(1)))
                {
                    let [x1, y1, x2, y2] = extent.map(|side| side as usize);
                    for y in y1..=y2 {
                        let row = y * width + x1..=y * width + x2;
                        for (pixel, value) in pixels[row.clone()].iter().zip(&mut plane[row]) {
                            *value = u8::from(pixel == id);
                        }
                    }
                }
                let planes = Tensor::from_slice(&planes).view([number, size.1, size.0]);
                SegmentationMask::from_binary(planes.to_kind(Kind::Bool), size)?
            }
        };
        target.add_field("masks", masks);
        Ok(target)
    }
}

impl Instances {
    fn retain(&mut self, keep: &[bool]) {
        fn kept<T>(list: &mut Vec<T>, keep: &[bool]) {
            let mut keep = keep.iter();
            list.retain(|_| keep.next().copied().unwrap_or(false));
        }
        kept(&mut self.boxes, keep);
        kept(&mut self.labels, keep);
        match &mut self.masks {
            Masks::Polygons(polygons) => kept(polygons, keep),
            Masks::Ids(_, ids) => kept(ids, keep),
        }
    }
}

/// All `folder/*/*ending`, sorted.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    ensure!(folder.is_dir(), "there is no folder {}", folder.display());
    let folder = glob::Pattern::escape(&folder.display().to_string());
    let mut paths = glob::glob(&format!("{folder}/*/*{ending}"))?.collect::<Result<Vec<_>, _>>()?;
    paths.sort();
    Ok(paths)
}

fn label_of(position: usize) -> i64 {
    position as i64 + 1
}

/// Instances in the order of their ids, which are 1000 × class id + number; smaller ids are groups.
fn mask_instances(bytes: &[u8]) -> Result<((i64, i64), Instances)> {
    let image = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?.decode()?;
    let (width, height) = (image.width() as usize, image.height() as usize);
    let pixels = match image {
        DynamicImage::ImageLuma16(image) => image.into_raw(),
        DynamicImage::ImageLuma8(image) => image.into_raw().into_iter().map(u16::from).collect(),
        other => bail!("instance ids are 16-bit grey pixels, not {:?}", other.color()),
    };
    let mut extents: std::collections::BTreeMap<u16, [i64; 4]> = std::collections::BTreeMap::new();
    for (y, row) in pixels.chunks_exact(width.max(1)).enumerate() {
        for (x, id) in row.iter().enumerate().filter(|(_, id)| **id >= 1000) {
            let (x, y) = (x as i64, y as i64);
            let extent = extents.entry(*id).or_insert([x, y, x, y]);
            *extent = [extent[0].min(x), extent[1].min(y), extent[2].max(x), extent[3].max(y)];
        }
    }
    let (mut boxes, mut ids, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for (id, extent) in extents {
        let class = i64::from(id) / 1000;
        if let Some(position) = INSTANCE_CLASSES.iter().position(|(_, known)| *known == class) {
            boxes.push(extent);
            ids.push(id);
            labels.push(label_of(position));
        }
    }
    Ok(((width as i64, height as i64), Instances { boxes, masks: Masks::Ids(pixels, ids), labels }))
}

/// Instances in the order of the file; extents are cut to whole pixels.
fn polygon_instances(bytes: &[u8]) -> Result<((i64, i64), Instances)> {
    let file: PolygonFile = serde_json::from_slice(bytes)?;
    let (mut boxes, mut polygons, mut labels) = (Vec::new(), Vec::new(), Vec::new());
    for PolygonObject { label, polygon } in file.objects {
        let Some(position) = INSTANCE_CLASSES.iter().position(|(name, _)| *name == label) else { continue };
        ensure!(polygon.len() >= 3, "an object ({label}) has a polygon of {} points", polygon.len());
        let bound = |side: usize, pick: fn(f64, f64) -> f64, start: f64| {
            polygon.iter().map(|point| point[side]).fold(start, pick) as i64
        };
        let (low, high) = (f64::INFINITY, f64::NEG_INFINITY);
        boxes.push([
            bound(0, f64::min, low),
            bound(1, f64::min, low),
            bound(0, f64::max, high),
            bound(1, f64::max, high),
        ]);
        polygons.push(polygon.concat());
        labels.push(label_of(position));
    }
    Ok(((file.width, file.height), Instances { boxes, masks: Masks::Polygons(polygons), labels }))
}

impl Dataset for CityScapesDataset {
    fn len(&self) -> usize {
        self.image_paths.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let (at, size, instances) = self.annotated(index)?;
        let image = read_image(&self.image_paths[at])?;
        let file = || format!("annotation file {}", self.annotation_paths[at].display());
        ensure!(
            size == image.size(),
            "{} is for an image of {} × {} pixels, but {} has {} × {}",
            file(),
            size.0,
            size.1,
            self.image_paths[at].display(),
            image.width,
            image.height
        );
        let target = Self::target(instances, size, self.fields).with_context(file)?;
        Ok(Sample { image, target, index })
    }

    /// The size is always 2048 × 1024, as in the original.
    fn image_info(&self, index: usize) -> Result<ImageInfo> {
        let file_name = self.image_paths[index].display().to_string();
        Ok(ImageInfo { id: ImageId::Number(index as i64), file_name, width: 2048, height: 1024 })
    }

    fn image_path(&self, index: usize) -> PathBuf {
        self.image_paths[index].clone()
    }

    fn ground_truth(&self, index: usize) -> Result<BoxList> {
        let (_, size, instances) = self.annotated(index)?;
        Self::target(instances, size, TargetFields::ALL)
    }

    fn class_names(&self) -> Vec<String> {
        [BACKGROUND].into_iter().chain(INSTANCE_CLASSES.map(|(name, _)| name)).map(str::to_owned).collect()
    }

    fn categories(&self) -> Vec<(i64, String)> {
        (0..).zip(self.class_names()).collect()
    }

    fn evaluator(&self) -> Box<dyn Evaluator> {
        Box::new(CityscapesEvaluator)
    }

    fn describe(&self) -> String {
        format!("CityScapesDataset {} with annotations in {}", self.split, self.ann_dir.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polygons_of_instances_only() {
        let text = r#"{"imgWidth": 50, "imgHeight": 40, "objects": [
            {"label": "road", "polygon": [[0, 0], [1, 0], [1, 1]]},
            {"label": "car", "polygon": [[3.7, 2], [9.2, 2.5], [5, 8.9]], "id": 4}]}"#;
        let (size, instances) = polygon_instances(text.as_bytes()).unwrap();
        assert_eq!(size, (50, 40));
        assert_eq!((instances.labels, instances.boxes), (vec![3], vec![[3, 2, 9, 8]]));
    }

    #[test]
    fn masks_are_sorted_by_id_and_groups_left_out() {
        let ids = [26_001u16, 24_000, 26, 24_000, 7_000, 24_000];
        let image = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(3, 2, ids.to_vec()).unwrap();
        let mut bytes = Cursor::new(Vec::new());
        DynamicImage::from(image).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
        let (size, instances) = mask_instances(bytes.get_ref()).unwrap();
        assert_eq!(instances.labels, [1, 3]);
        assert_eq!(instances.boxes, [[0, 0, 2, 1], [0, 0, 0, 0]]);
        let target = CityScapesDataset::target(instances, size, TargetFields::ALL).unwrap();
        let masks = target.masks().unwrap().get_mask_tensor().unwrap();
        assert_eq!(masks.sum_dim_intlist([1i64, 2].as_slice(), false, Kind::Int64), Tensor::from_slice(&[3i64, 1]));
    }

    #[test]
    fn an_annotation_of_another_size_than_its_image_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let city = folder.path().join("val/city");
        fs::create_dir_all(&city).unwrap();
        image::RgbImage::new(3, 2).save(city.join("a_leftImg8bit.png")).unwrap();
        let ids = image::ImageBuffer::<image::Luma<u16>, _>::from_raw(2, 3, vec![26_000u16; 6]).unwrap();
        DynamicImage::from(ids).save(city.join("a_gtFine_instanceIds.png")).unwrap();
        let polygon = r#"{"label": "car", "polygon": [[0, 0], [1, 0], [1, 1]]}"#;
        let text = format!(r#"{{"imgWidth": 30, "imgHeight": 2, "objects": [{polygon}]}}"#);
        fs::write(city.join("a_gtFine_polygons.json"), text).unwrap();
        for (mode, size) in [(CityScapesMode::Mask, "2 × 3"), (CityScapesMode::Poly, "30 × 2")] {
            let dataset = CityScapesDataset::new(folder.path(), folder.path(), "val", mode, 0, None).unwrap();
            let error = dataset.get(0).err().expect("an error").to_string();
            assert!(error.contains(&format!("is for an image of {size} pixels")), "{error}");
            assert!(error.contains("a_leftImg8bit.png has 3 × 2"), "{error}");
        }
    }

    #[test]
    fn missing_folders_and_modes_are_named() {
        let folder = Path::new("no/such/folder");
        let error = CityScapesDataset::new(folder, folder, "val", CityScapesMode::Poly, 0, None).err().unwrap();
        assert!(error.to_string().contains("no/such/folder/val"));
        assert!(CityScapesDataset::new(folder, folder, "valid", CityScapesMode::Poly, 0, None).is_err());
        let error = CityScapesMode::parse("poli").unwrap_err().to_string();
        assert!(error.contains("Did you mean poly?"), "{error}");
    }
}
