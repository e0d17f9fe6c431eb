//! Pascal VOC data sets (the original's `datasets/voc.py`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;

use anyhow::{bail, ensure, Context, Result};
use quick_xml::events::Event;
use quick_xml::Reader;
use tch::Tensor;

use super::{Dataset, ImageId, ImageInfo, Sample, BACKGROUND};
use crate::data::evaluation::voc::VocEvaluator;
use crate::data::evaluation::Evaluator;
use crate::data::transforms::read_image;
use crate::structures::{BoxList, Mode};

/// Images with boxes in the layout of the VOC development kit: `JPEGImages`, `Annotations`, `ImageSets/Main`.
pub struct PascalVOCDataset {
    root: PathBuf,
    split: String,
    keep_difficult: bool,
    ids: Vec<String>,
    /// By label, the background included.
    classes: Vec<String>,
    /// Whether it was said that an annotation's size is not the image's.
    other_size: Once,
}

impl PascalVOCDataset {
    /// VOC's classes by label. The background's name ends in a blank, as in the original.
    pub const CLASSES: [&'static str; 21] = [
        "__background__ ",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ];

    /// The images that `ImageSets/Main/<split>.txt` lists, with VOC's classes. Without `use_difficult`, objects marked
    /// as difficult are left out, as in training.
    ///
    /// # Errors
    /// If the list cannot be read.
    pub fn new(data_dir: &Path, split: &str, use_difficult: bool) -> Result<Self> {
        let list = data_dir.join("ImageSets/Main").join(format!("{split}.txt"));
        let text =
            fs::read_to_string(&list).with_context(|| format!("cannot read the list of images {}", list.display()))?;
        let ids = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        Ok(Self {
            root: data_dir.to_owned(),
            split: split.to_owned(),
            keep_difficult: use_difficult,
            ids,
            classes: Self::CLASSES.map(str::to_owned).to_vec(),
            other_size: Once::new(),
        })
    }

    /// The same images with other classes, without the background, in the order of their labels from 1. Case does not
    /// tell them apart: that of the names in the files does not count, as in the original.
    ///
    /// # Errors
    ///
    /// If there is no class, one twice, or the background among them.
    pub fn with_classes(self, classes: &[String]) -> Result<Self> {
        ensure!(!classes.is_empty(), "classes names no class");
        let spelled: Vec<String> = classes.iter().map(|class| normalized(class)).collect();
        for (at, class) in spelled.iter().enumerate() {
            ensure!(!class.is_empty(), "classes has an empty name");
            ensure!(class != BACKGROUND, "classes lists the background, which is always label 0: leave it out");
            ensure!(!spelled[..at].contains(class), "classes has {class:?} twice (upper and lower case are the same)");
        }
        let background = Self::CLASSES[0].to_owned();
        let classes = [background].into_iter().chain(classes.iter().map(|class| class.trim().to_owned())).collect();
        Ok(Self { classes, ..self })
    }

    /// The ids of the images, in the order of the list.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// The annotation file of an image.
    pub fn annotation_path(&self, index: usize) -> PathBuf {
        self.root.join("Annotations").join(format!("{}.xml", self.ids[index]))
    }

    fn annotation(&self, index: usize) -> Result<VocAnnotation> {
        let path = self.annotation_path(index);
        let text = fs::read_to_string(&path);
        let text = text.with_context(|| format!("cannot read annotation file {}", path.display()))?;
        VocAnnotation::parse(&text, &self.classes).with_context(|| format!("annotation file {}", path.display()))
    }

    /// Boxes with the fields `labels` and `difficult`, not clipped to the image.
    ///
    /// # Errors
    /// If the annotation file cannot be read or has an unknown class; the file is named.
    pub fn groundtruth(&self, index: usize) -> Result<BoxList> {
        let annotation = self.annotation(index)?;
        let objects: Vec<&VocObject> =
            annotation.objects.iter().filter(|object| self.keep_difficult || !object.difficult).collect();
        // Pixels count from 1 in the files.
        let boxes: Vec<f32> = objects.iter().flat_map(|object| object.bndbox.map(|side| side as f32 - 1.0)).collect();
        let boxes = Tensor::from_slice(&boxes).view([objects.len() as i64, 4]);
        let mut target = BoxList::new(boxes, annotation.size, Mode::Xyxy)?;
        let labels: Vec<i64> = objects.iter().map(|object| object.label).collect();
        target.add_field("labels", Tensor::from_slice(&labels));
        let difficult: Vec<bool> = objects.iter().map(|object| object.difficult).collect();
        target.add_field("difficult", Tensor::from_slice(&difficult));
        Ok(target)
    }
}

impl Dataset for PascalVOCDataset {
    fn len(&self) -> usize {
        self.ids.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let image = read_image(&self.image_path(index))?;
        let mut target = self.groundtruth(index)?.clip_to_image(true)?;
        if target.size() != image.size() {
            let (file, annotation) = (self.image_path(index), self.annotation_path(index));
            let sizes = format!(
                "image {} has {:?} pixels (width, height), but {} says {:?}",
                file.display(),
                image.size(),
                annotation.display(),
                target.size()
            );
            target = target.resize(image.size()).context(sizes.clone())?;
            self.other_size.call_once(|| log::warn!("{sizes}: boxes are scaled, here and where else this is so"));
        }
        Ok(Sample { image, target, index })
    }

    fn image_info(&self, index: usize) -> Result<ImageInfo> {
        let (width, height) = self.annotation(index)?.size;
        let id = self.ids[index].clone();
        Ok(ImageInfo { file_name: format!("{id}.jpg"), id: ImageId::Name(id), width, height })
    }

    fn image_path(&self, index: usize) -> PathBuf {
        self.root.join("JPEGImages").join(format!("{}.jpg", self.ids[index]))
    }

    fn ground_truth(&self, index: usize) -> Result<BoxList> {
        self.groundtruth(index)
    }

    fn class_names(&self) -> Vec<String> {
        self.classes.clone()
    }

    fn categories(&self) -> Vec<(i64, String)> {
        (0..).zip(self.class_names()).collect()
    }

    fn evaluator(&self) -> Box<dyn Evaluator> {
        Box::new(VocEvaluator::default())
    }

    fn describe(&self) -> String {
        format!("PascalVOCDataset {} of {}", self.split, self.root.display())
    }
}

/// A class's name as it is compared.
fn normalized(class: &str) -> String {
    class.trim().to_lowercase()
}

struct VocAnnotation {
    /// Width, height.
    size: (i64, i64),
    objects: Vec<VocObject>,
}

struct VocObject {
    label: i64,
    difficult: bool,
    /// xmin, ymin, xmax, ymax as written, from 1.
    bndbox: [f64; 4],
}

impl VocAnnotation {
    fn parse(xml: &str, classes: &[String]) -> Result<Self> {
        let root = Element::parse(xml)?;
        let size = root.child("size").context("there is no size")?;
        let objects = root.children.iter().filter(|child| child.name == "object");
        Ok(Self {
            size: (size.number("width")? as i64, size.number("height")? as i64),
            objects: objects.map(|object| VocObject::new(object, classes)).collect::<Result<_>>()?,
        })
    }
}

impl VocObject {
    fn new(object: &Element, classes: &[String]) -> Result<Self> {
        let name = object.child("name").context("an object has no name")?.text.trim();
        let same = |class: &String| normalized(class) == normalized(name);
        let Some(label) = classes.iter().skip(1).position(same).map(|position| position + 1) else {
            bail!(
                "an object is of the class {name:?}, but the data set has the classes {}. Classes of your own are \
                 listed in the data set's entry of a catalog (PATHS_CATALOG): classes: [{name}, …]",
                classes[1..].join(", ")
            );
        };
        let bndbox = object.child("bndbox").with_context(|| format!("an object ({name}) has no bndbox"))?;
        let [xmin, ymin, xmax, ymax] = ["xmin", "ymin", "xmax", "ymax"].map(|side| bndbox.number(side));
        let difficult = object.child("difficult").is_some_and(|mark| mark.text.trim() == "1");
        Ok(Self { label: label as i64, difficult, bndbox: [xmin?, ymin?, xmax?, ymax?] })
    }
}

/// An XML element with its own text and the elements directly inside it.
#[derive(Default)]
struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// The root element of a document.
    fn parse(xml: &str) -> Result<Self> {
        let mut reader = Reader::from_str(xml);
        let mut open = vec![Self::default()];
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        loop {
            match reader.read_event().with_context(|| format!("no XML at byte {}", reader.error_position()))? {
                Event::Start(start) => open.push(Self { name: name(start.name().as_ref()), ..Self::default() }),
                Event::Empty(empty) => {
                    let element = Self { name: name(empty.name().as_ref()), ..Self::default() };
                    open.last_mut().context("no root element")?.children.push(element);
                }
                Event::Text(text) => {
                    open.last_mut().context("no root element")?.text.push_str(&text.decode()?);
                }
                Event::End(_) => {
                    let closed = open.pop().context("no root element")?;
                    open.last_mut().context("an element is closed that was not opened")?.children.push(closed);
                }
                Event::Eof => break,
                _ => (),
            }
        }
        ensure!(open.len() == 1, "the file ends inside the element {}", open.last().map_or("", |e| e.name.as_str()));
        let document = open.pop().context("no root element")?;
        document.children.into_iter().next().context("no root element")
    }

    fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    fn number(&self, name: &str) -> Result<f64> {
        let child = self.child(name).with_context(|| format!("{} has no {name}", self.name))?;
        child.text.trim().parse().with_context(|| format!("{name} is {:?}, not a number", child.text.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str =
        "<annotation><size><width>30</width><height>20</height><depth>3</depth></size>OBJECTS</annotation>";
    const OBJECT: &str = "<object><name> Dog </name><part><name>head</name><bndbox><xmin>9</xmin></bndbox></part>\
                          <difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>9</xmax><ymax>12</ymax></bndbox></object>";

    fn voc_classes() -> Vec<String> {
        PascalVOCDataset::CLASSES.map(str::to_owned).to_vec()
    }

    fn error(xml: &str) -> String {
        format!("{:#}", VocAnnotation::parse(xml, &voc_classes()).err().expect("an error"))
    }

    #[test]
    fn objects_are_read() {
        let got = VocAnnotation::parse(&IMAGE.replace("OBJECTS", OBJECT), &voc_classes()).unwrap();
        assert_eq!(got.size, (30, 20));
        let dog = PascalVOCDataset::CLASSES.iter().position(|class| *class == "dog").unwrap() as i64;
        assert_eq!((got.objects[0].label, got.objects[0].difficult), (dog, false));
        assert_eq!(got.objects[0].bndbox, [2.0, 3.0, 9.0, 12.0]);
    }

    #[test]
    fn damaged_files_say_what_is_wrong() {
        let one = IMAGE.replace("OBJECTS", OBJECT);
        let unknown = error(&one.replace("Dog", "Unicorn"));
        assert!(unknown.contains("\"Unicorn\"") && unknown.contains("classes: [Unicorn, …]"), "{unknown}");
        assert!(unknown.contains("aeroplane, bicycle"), "{unknown}");
        assert!(error(&one.replace("<xmax>9</xmax>", "<xmax>wide</xmax>")).contains("wide"));
        assert!(error(&one.replace("<ymax>12</ymax>", "")).contains("bndbox has no ymax"));
        assert!(error(&one.replace("size>", "length>")).contains("no size"));
        assert!(error(one.trim_end_matches("</annotation>")).contains("ends inside the element annotation"));
        assert!(error(&one[..one.len() - 5]).contains("no XML at byte"));
        assert!(error("").contains("no root element"));
        let missing = PascalVOCDataset::new(Path::new("no/such/folder"), "train", false).err().unwrap();
        assert!(format!("{missing:#}").contains("no/such/folder/ImageSets/Main/train.txt"));
    }

    #[test]
    fn classes_can_be_ones_own() {
        let folder = tempfile::tempdir().unwrap();
        for part in ["Annotations", "ImageSets/Main"] {
            fs::create_dir_all(folder.path().join(part)).unwrap();
        }
        fs::write(folder.path().join("ImageSets/Main/train.txt"), "a\n").unwrap();
        let object = |name: &str| OBJECT.replace(" Dog ", name);
        let xml = IMAGE.replace("OBJECTS", &(object("hard HAT") + &object("vest")));
        fs::write(folder.path().join("Annotations/a.xml"), xml).unwrap();
        let with = |classes: &[&str]| {
            let classes: Vec<String> = classes.iter().map(|&class| class.to_owned()).collect();
            PascalVOCDataset::new(folder.path(), "train", false).unwrap().with_classes(&classes)
        };
        let dataset = with(&["vest", "Hard hat"]).unwrap();
        let labels = dataset.ground_truth(0).unwrap().tensor_field("labels").unwrap().shallow_clone();
        assert_eq!(Vec::<i64>::try_from(labels).unwrap(), [2, 1]);
        assert_eq!(dataset.class_names(), ["__background__ ", "vest", "Hard hat"]);
        assert_eq!(dataset.categories()[2], (2, "Hard hat".to_owned()));
        assert_eq!(dataset.largest_label(), 2);
        let error = format!("{:#}", with(&["vest"]).unwrap().ground_truth(0).unwrap_err());
        assert!(error.contains("\"hard HAT\"") && error.contains("has the classes vest."), "{error}");
        for wrong in [&[][..], &["a", "A "], &["a", " "], &["__background__ ", "a"]] {
            assert!(with(wrong).err().expect("an error").to_string().contains("classes "), "{wrong:?}");
        }
    }

    #[test]
    fn boxes_of_another_size_are_scaled_to_the_image() {
        let folder = tempfile::tempdir().unwrap();
        for part in ["JPEGImages", "Annotations", "ImageSets/Main"] {
            fs::create_dir_all(folder.path().join(part)).unwrap();
        }
        fs::write(folder.path().join("ImageSets/Main/train.txt"), "a\n").unwrap();
        let annotation = folder.path().join("Annotations/a.xml");
        let xml = IMAGE.replace("OBJECTS", OBJECT);
        let picture = folder.path().join("JPEGImages/a.jpg");
        image::RgbImage::new(60, 40).save_with_format(picture, image::ImageFormat::Png).unwrap();
        let dataset = PascalVOCDataset::new(folder.path(), "train", false).unwrap();
        fs::write(&annotation, &xml).unwrap();
        let target = dataset.get(0).unwrap().target;
        assert_eq!(target.size(), (60, 40));
        let boxes = Vec::<f32>::try_from(target.bbox().flatten(0, -1)).unwrap();
        assert_eq!(boxes, [2.0, 4.0, 16.0, 22.0]);
        fs::write(&annotation, xml.replace("<width>30", "<width>0")).unwrap();
        assert!(format!("{:#}", dataset.get(0).err().expect("an error")).contains("a.xml"));
    }
}
