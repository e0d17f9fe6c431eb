//! Images, annotations and weights that are damaged or do not fit: one clear message that names the file, the key or
//! the id, and nothing already saved is lost.

use std::fs;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageBuffer, ImageFormat, Luma, Rgba};
use mozjpeg::{ColorSpace, Compress};
use serde_json::{json, Value};
use tempfile::TempDir;

use super::support::{fails, program, succeeds, train};

const SIDE: u32 = 80;

/// A data set on disk, for `DATASETS.TRAIN` and `DATASETS.TEST` alike.
struct OnDisk {
    folder: TempDir,
    content: Value,
}

impl OnDisk {
    /// Files with these names and contents; each image has a box of 40 by 30 pixels.
    fn new(images: &[(&str, Vec<u8>)]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut content = json!({"images": [], "annotations": [], "categories": [
            {"id": 1, "name": "circle"}, {"id": 2, "name": "box"}, {"id": 3, "name": "triangle"}]});
        for (index, (name, bytes)) in images.iter().enumerate() {
            fs::write(folder.path().join(name), bytes).expect("an image");
            let id = 10 + index;
            push(&mut content["images"], json!({"id": id, "file_name": name, "width": SIDE, "height": SIDE}));
            push(&mut content["annotations"], annotation(100 + index, id, [20.0, 25.0, 40.0, 30.0]));
        }
        let disk = Self { folder, content };
        disk.write();
        disk
    }

    fn write(&self) {
        fs::write(self.annotations(), self.content.to_string()).expect("annotations");
    }

    fn annotations(&self) -> PathBuf {
        self.folder.path().join("instances.json")
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("output")
    }

    /// The overrides that make it the data set of a program.
    fn overrides(&self) -> [String; 4] {
        let folder = self.folder.path().display();
        let name = format!("('made=coco:{}:{folder}',)", self.annotations().display());
        ["DATASETS.TRAIN".into(), name.clone(), "DATASETS.TEST".into(), name]
    }

    /// What a program says that must fail with this data set.
    fn error(&self, name: &str, more: &[&str]) -> String {
        let overrides = self.overrides();
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let options: &[&str] = if name == "train_net" { &["--skip-test"] } else { &[] };
        fails(&mut program(name, &self.output(), options, &overrides), 1)
    }

    /// Trains an iteration and tests.
    fn trains(&self) {
        self.trains_with(&[]);
    }

    fn trains_with(&self, more: &[&str]) {
        let overrides = self.overrides();
        let overrides = overrides.iter().map(String::as_str).chain(["SOLVER.MAX_ITER", "1"]);
        let overrides: Vec<&str> = overrides.chain(more.iter().copied()).collect();
        succeeds(&mut program("train_net", &self.output(), &["--seed", "5"], &overrides));
        assert!(self.output().join("inference/made/bbox.json").is_file());
        assert!(self.output().join("model_final.pth").is_file());
    }
}

fn push(list: &mut Value, item: Value) {
    list.as_array_mut().expect("a list").push(item);
}

fn annotation(id: usize, image: usize, [x, y, w, h]: [f64; 4]) -> Value {
    let outline = [x, y, x + w, y, x + w, y + h, x, y + h];
    json!({"id": id, "image_id": image, "category_id": 2, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0,
           "segmentation": [outline]})
}

fn jpeg(space: ColorSpace, channels: usize) -> Vec<u8> {
    let side = SIDE as usize;
    let mut encoder = Compress::new(space);
    encoder.set_size(side, side);
    let mut started = encoder.start_compress(Vec::new()).expect("an encoder");
    let pixels: Vec<u8> = (0..side * side * channels).map(|at| (at * at % 251) as u8).collect();
    started.write_scanlines(&pixels).expect("rows");
    started.finish().expect("a file")
}

fn color() -> Vec<u8> {
    jpeg(ColorSpace::JCS_RGB, 3)
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).expect("a file");
    bytes.into_inner()
}

fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
    encoded(image, ImageFormat::Png)
}

/// Where every file of a folder is, and what is in it.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("a file").path();
        if path.is_file() && !path.ends_with("log.txt") && !path.ends_with("config.yml") {
            found.push((path.clone(), fs::read(&path).expect("a file")));
        }
    }
    found.sort();
    found
}

#[test]
fn a_jpeg_that_ends_early_is_named_wherever_it_ends() {
    let whole = color();
    let disk = OnDisk::new(&[("whole.jpg", whole.clone()), ("cut.jpg", whole.clone())]);
    // Pillow refuses each of these, the last one too, which lacks nothing but half of the end marker.
    let cuts = (0..9).map(|tenth| whole.len() * tenth / 9).map(|cut| cut.min(whole.len() - 1));
    for cut in cuts {
        fs::write(disk.folder.path().join("cut.jpg"), &whole[..cut]).expect("an image");
        let error = disk.error("test_net", &[]);
        let reason = if cut == 0 { "empty" } else { "truncated" };
        assert!(error.contains("cut.jpg") && error.contains(reason), "{cut} of {}: {error}", whole.len());
    }
    fs::write(disk.folder.path().join("cut.jpg"), [&whole[..], b"more than the image"].concat()).expect("an image");
    disk.trains();
}

#[test]
fn images_of_other_kinds_are_used() {
    let pixels = (0..SIDE * SIDE).map(|at| (at * 13 % 65_536) as u16).collect();
    let gray: ImageBuffer<Luma<u16>, Vec<u16>> = ImageBuffer::from_raw(SIDE, SIDE, pixels).expect("pixels");
    let alpha = image::RgbaImage::from_fn(SIDE, SIDE, |x, y| Rgba([x as u8, y as u8, 90, 0]));
    let disk = OnDisk::new(&[
        ("cmyk.jpg", jpeg(ColorSpace::JCS_CMYK, 4)),
        ("gray.jpg", jpeg(ColorSpace::JCS_GRAYSCALE, 1)),
        ("sixteen_bits.png", png(gray)),
        ("a_png_with_alpha.jpg", png(alpha.clone())),
        ("aerial.tif", encoded(alpha.clone(), ImageFormat::Tiff)),
        ("a_webp.jpg", encoded(alpha, ImageFormat::WebP)),
    ]);
    disk.trains();
}

#[test]
fn a_listed_image_that_cannot_be_read_is_named() {
    let disk = OnDisk::new(&[("whole.jpg", color()), ("listed.jpg", b"<html>not found</html>".to_vec())]);
    let listed = disk.folder.path().join("listed.jpg");
    for name in ["train_net", "test_net"] {
        let error = disk.error(name, &[]);
        assert!(error.contains("listed.jpg") && error.contains("no JPEG, PNG, BMP"), "{error}");
    }
    fs::remove_file(&listed).expect("removed");
    let error = disk.error("train_net", &["DATALOADER.NUM_WORKERS", "0"]);
    assert!(error.contains("listed.jpg") && error.contains("No such file"), "{error}");
    fs::create_dir(&listed).expect("a folder");
    assert!(disk.error("test_net", &[]).contains("listed.jpg"));
}

#[test]
fn a_data_set_without_images_is_named() {
    let mut disk = OnDisk::new(&[("whole.jpg", color())]);
    disk.content["annotations"] = json!([annotation(100, 10, [20.0, 25.0, 1.0, 30.0])]);
    disk.write();
    let error = disk.error("train_net", &[]);
    assert!(error.contains("instances.json") && error.contains("no image to train on"), "{error}");
    disk.content["images"] = json!([]);
    disk.write();
    let error = disk.error("test_net", &[]);
    assert!(error.contains("instances.json") && error.contains("has no images"), "{error}");
    let error = disk.error("train_net", &["DATASETS.TRAIN", "()"]);
    assert!(error.contains("DATASETS.TRAIN"), "{error}");
}

#[test]
fn annotations_that_do_not_fit_are_named() {
    let disk = |change: fn(&mut Value)| {
        let mut disk = OnDisk::new(&[("whole.jpg", color())]);
        change(&mut disk.content);
        disk.write();
        disk
    };
    let unknown = disk(|content| content["annotations"][0]["category_id"] = json!(77)).error("train_net", &[]);
    assert!(unknown.contains("annotation 100 of image 10 has category 77"), "{unknown}");
    let twice = disk(|content| {
        let first = content["annotations"][0].clone();
        push(&mut content["annotations"], first);
    });
    assert!(twice.error("test_net", &[]).contains("two annotations have the id 100"));
    let bare = disk(|content| {
        let mut bare = annotation(101, 10, [1.0, 1.0, 9.0, 9.0]);
        bare["segmentation"] = json!([]);
        push(&mut content["annotations"], bare);
    });
    let error = bare.error("train_net", &[]);
    assert!(error.contains("annotation 101") && error.contains("image 10 (whole.jpg)"), "{error}");
    let cut = OnDisk::new(&[("whole.jpg", color())]);
    fs::write(cut.annotations(), &cut.content.to_string()[..200]).expect("annotations");
    for error in [unknown, twice.error("train_net", &[]), error, cut.error("test_net", &[])] {
        assert!(error.contains("instances.json"), "{error}");
    }
}

#[test]
fn boxes_without_area_or_outside_the_image_are_left_out() {
    let mut disk = OnDisk::new(&[("useful.jpg", color()), ("useless.jpg", color())]);
    for (id, bbox) in
        [[20.0, 25.0, 0.0, 30.0], [500.0, 500.0, 9.0, 9.0], [-90.0, -90.0, 9.0, 9.0]].into_iter().enumerate()
    {
        push(&mut disk.content["annotations"], annotation(200 + id, 10, bbox));
    }
    // Nothing is left of the second image's only box.
    disk.content["annotations"][1] = annotation(101, 11, [500.0, 500.0, 9.0, 9.0]);
    disk.write();
    disk.trains();
}

#[test]
fn too_few_classes_say_how_many_are_needed() {
    let error = OnDisk::new(&[("whole.jpg", color())]).error("train_net", &["MODEL.ROI_BOX_HEAD.NUM_CLASSES", "2"]);
    assert!(error.contains("instances.json"), "{error}");
    assert!(error.contains("set MODEL.ROI_BOX_HEAD.NUM_CLASSES to 4"), "{error}");
}

#[test]
fn weights_that_are_missing_or_of_another_model_are_named_and_nothing_is_lost() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    train(folder.path(), &["SOLVER.MAX_ITER", "1"]);
    let saved = files(folder.path());
    let checkpoint = folder.path().join("model_final.pth").display().to_string();

    let missing = ["MODEL.WEIGHT", "/home/somebody/weights.pth"];
    let error = fails(&mut program("train_net", &folder.path().join("new"), &["--skip-test"], &missing), 1);
    assert!(
        error.contains("/home/somebody/weights.pth") && error.contains("MODEL.WEIGHT /path/to/weights.pth"),
        "{error}"
    );

    let width = ["MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"];
    let wider = [&["MODEL.WEIGHT", &checkpoint], &width[..]].concat();
    let error = fails(&mut program("train_net", &folder.path().join("new"), &["--skip-test"], &wider), 1);
    assert!(error.contains("model_final.pth") && error.contains("backbone.body.layer1.0."), "{error}");
    let error = fails(&mut program("test_net", folder.path(), &["--ckpt", &checkpoint], &width), 1);
    assert!(error.contains("model_final.pth") && error.contains("backbone.body.layer1.0."), "{error}");
    // A run that goes on by itself finds the same file.
    let more = [&width[..], &["SOLVER.MAX_ITER", "3"]].concat();
    let error = fails(&mut program("train_net", folder.path(), &["--skip-test"], &more), 1);
    assert!(error.contains("backbone.body.layer1.0."), "{error}");

    assert_eq!(files(folder.path()), saved);
}

#[test]
fn weights_for_another_number_of_classes_name_the_key() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    train(folder.path(), &["SOLVER.MAX_ITER", "1"]);
    let checkpoint = folder.path().join("model_final.pth").display().to_string();
    let other = ["MODEL.WEIGHT", &checkpoint, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", "7", "SOLVER.MAX_ITER", "2"];
    let log = train(&folder.path().join("new"), &other);
    assert!(log.contains("The file's MODEL.ROI_BOX_HEAD.NUM_CLASSES is 4, the model's 7"), "{log}");
    assert!(log.contains("file [4, 32], model [7, 32]"), "{log}");
    let options = ["--skip-test", "--strict"];
    let error = fails(&mut program("train_net", &folder.path().join("strict"), &options, &other), 1);
    assert!(error.contains("To use them as they are: MODEL.ROI_BOX_HEAD.NUM_CLASSES 4"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_names_iteration_images_and_terms() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    train(folder.path(), &["SOLVER.MAX_ITER", "1"]);
    let saved = files(folder.path());
    // Pixels of infinite size.
    let overrides = ["INPUT.PIXEL_STD", "[1e-38, 1e-38, 1e-38]", "SOLVER.MAX_ITER", "3"];
    let error = fails(&mut program("train_net", folder.path(), &["--skip-test"], &overrides), 1);
    assert!(error.contains("iteration 2: the loss is not finite"), "{error}");
    for part in ["loss_objectness NaN", "loss_classifier", ".jpg), "] {
        assert!(error.contains(part), "{part} is missing: {error}");
    }
    assert_eq!(files(folder.path()), saved);
}

/// As Datumaro, Roboflow and FiftyOne write metadata and pandas writes numbers; category 3 does not occur.
#[test]
fn files_of_other_tools_are_trained_on_and_tested() {
    let mut disk = OnDisk::new(&[("whole.jpg", color())]);
    disk.content["info"] = json!({"year": "", "version": 1.0, "date_created": 0});
    disk.content["licenses"] = json!(null);
    let image = &mut disk.content["images"][0];
    for (key, value) in
        [("id", json!("0010")), ("width", json!(80.0)), ("license", json!("")), ("date_captured", json!(0))]
    {
        image[key] = value;
    }
    disk.content["annotations"][0]["image_id"] = json!(10.0);
    let mut crowd = annotation(101, 10, [1.0, 1.0, 9.0, 9.0]);
    crowd["iscrowd"] = json!(1);
    crowd["area"] = json!(null);
    push(&mut disk.content["annotations"], crowd);
    disk.content["categories"] = json!([{"id": 1, "name": 0}, {"id": 2, "name": 1}, {"id": 3, "name": 2}]);
    disk.write();
    disk.trains_with(&["MODEL.ROI_BOX_HEAD.NUM_CLASSES", "3"]);
}

#[test]
fn what_cannot_be_tested_is_known_before_the_training() {
    let disk = OnDisk::new(&[("whole.jpg", color())]);
    let mut content = disk.content.clone();
    content["annotations"][0]["id"] = json!(-7);
    let wrong = disk.folder.path().join("wrong.json");
    fs::write(&wrong, content.to_string()).expect("annotations");
    let overrides = disk.overrides();
    let named = |file: &Path| format!("('other=coco:{}:{}',)", file.display(), disk.folder.path().display());
    for (file, expected) in [(wrong, "annotation -7"), (disk.folder.path().join("none.json"), "none.json")] {
        let test = named(&file);
        let overrides = [&overrides[0], &overrides[1], "DATASETS.TEST", &test];
        let error = fails(&mut program("train_net", &disk.output(), &[], &overrides), 1);
        assert!(error.contains(expected) && error.contains("--skip-test"), "{error}");
        assert!(!disk.output().join("model_final.pth").exists());
    }
    let augmented = ["TEST.BBOX_AUG.ENABLED", "True", "TEST.BBOX_AUG.SCALES", "(48,0)"];
    for (changes, key) in [(&augmented[..], augmented[2]), (&["INPUT.MIN_SIZE_TEST", "0"], "INPUT.MIN_SIZE_TEST")] {
        let overrides = [&[overrides[0].as_str(), &overrides[1]], changes].concat();
        let error = fails(&mut program("train_net", &disk.output(), &[], &overrides), 1);
        assert!(error.contains(&format!("{key}: ")) && error.contains("--skip-test"), "{error}");
        assert!(!disk.output().join("model_final.pth").exists());
    }
}

#[test]
fn without_test_sets_nothing_is_tested() {
    let disk = OnDisk::new(&[("whole.jpg", color())]);
    let overrides = disk.overrides();
    let overrides = [&overrides[0], &overrides[1], "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "1"];
    for name in ["train_net", "test_net"] {
        let text = succeeds(&mut program(name, &disk.output(), &[], &overrides));
        assert!(text.contains("DATASETS.TEST names no data set"), "{text}");
    }
    assert!(disk.output().join("model_final.pth").is_file() && !disk.output().join("inference").exists());
}
