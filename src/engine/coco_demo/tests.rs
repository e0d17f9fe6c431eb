use super::test_model::{tiny_model, TINY_CONFIG};
use super::*;
use crate::structures::Keypoints;
use crate::utils::testing::generator;

fn tiny(options: CocoDemoOptions, more: &[&str]) -> (CocoDemo, tempfile::TempDir) {
    let _generator = generator();
    let (folder, overrides) = tiny_model(more);
    let cfg = Config::load(Some(Path::new(TINY_CONFIG)), &overrides).expect("valid");
    (CocoDemo::new(&cfg, options).expect("a demo"), folder)
}

fn options() -> CocoDemoOptions {
    CocoDemoOptions { confidence_threshold: 0.0, ..CocoDemoOptions::default() }
}

fn image(width: usize, height: usize) -> RgbImage {
    RgbImage::new(width, height, (0..width * height * 3).map(|i| (i * 7 % 251) as u8).collect())
}

fn predictions(size: (i64, i64)) -> BoxList {
    let boxes = Tensor::from_slice(&[5f32, 30.0, 40.0, 45.0, 20.0, 20.0, 50.0, 47.0, 0.0, 0.0, 9.0, 9.0]).view([3, 4]);
    let mut predictions = BoxList::new(boxes, size, Mode::Xyxy).expect("boxes");
    predictions.add_field("scores", Tensor::from_slice(&[0.75f32, 0.9, 0.5]));
    predictions.add_field("labels", Tensor::from_slice(&[1i64, 2, 3]));
    predictions
}

#[test]
fn detections_have_the_size_of_the_image() {
    let (demo, _folder) = tiny(options(), &[]);
    let image = image(90, 50);
    let found = demo.compute_prediction(&image).expect("runs");
    assert_eq!((found.size(), found.len()), ((90, 50), 7));
    assert_eq!(found.tensor_field("mask").expect("masks").size(), [7, 1, 50, 90]);
    let picture = demo.run_on_image(&image).expect("runs");
    assert_eq!(picture.size(), image.size());
    assert_ne!(picture.data, image.data);
    // one pixel, and a very long image
    for (width, height) in [(1, 1), (300, 2)] {
        let image = RgbImage::new(width, height, vec![7; width * height * 3]);
        assert_eq!(demo.run_on_image(&image).expect("runs").size(), image.size());
    }
}

#[test]
fn models_without_masks_and_empty_results() {
    let (demo, _folder) = tiny(CocoDemoOptions { confidence_threshold: 1.0, ..options() }, &["MODEL.MASK_ON", "False"]);
    let image = image(64, 64);
    assert_eq!(demo.run_on_image(&image).expect("runs"), image);
    let (demo, _folder) = tiny(CocoDemoOptions { confidence_threshold: 1.0, ..options() }, &[]);
    assert_eq!(demo.run_on_image(&image).expect("runs"), image);
}

#[test]
fn the_best_come_first() {
    let (demo, _folder) = tiny(CocoDemoOptions { confidence_threshold: 0.6, ..options() }, &[]);
    let top = demo.select_top_predictions(&predictions((60, 50))).expect("scores");
    assert_eq!(labels(&top).expect("labels"), [2, 1]);
}

#[test]
fn heat_maps_are_set_side_by_side() {
    let options = CocoDemoOptions { show_mask_heatmaps: true, masks_per_dim: 2, ..options() };
    let (demo, _folder) = tiny(options, &[]);
    let image = image(61, 50);
    assert_eq!(demo.run_on_image(&image).expect("runs").size(), (60, 50));
    let mut found = predictions((61, 50));
    let masks = Tensor::zeros([3, 1, 50, 61], (Kind::Uint8, Device::Cpu));
    let _ = masks.get(1).fill_(255);
    found.add_field("mask", masks);
    let montage = demo.create_mask_montage(&image, &found).expect("drawn");
    let pixel = |x: usize, y: usize| &montage.data[(y * 60 + x) * 3..][..3];
    assert_eq!((pixel(10, 10), pixel(40, 10), pixel(10, 40)), (&[0, 0, 128][..], &[128, 0, 0][..], &[0, 0, 128][..]));
    assert!(demo.create_mask_montage(&image, &predictions((61, 50))).is_err(), "there are no masks");
    found.add_field("mask", Tensor::zeros([3, 1, 28, 28], (Kind::Uint8, Device::Cpu)));
    let error = demo.create_mask_montage(&image, &found).expect_err("masks within boxes").to_string();
    assert!(error.contains("[3, 1, 50, 61]"), "{error}");
}

/// 588 is 12 times 49, but 588 · (1 / 49) is less than 12.
#[test]
fn many_heat_maps_fit_beside_each_other() {
    let with = |masks_per_dim| tiny(CocoDemoOptions { masks_per_dim, ..options() }, &[]);
    let (demo, _folder) = with(49);
    let image = image(588, 588);
    let mut found = predictions((588, 588));
    let masks = Tensor::zeros([3, 1, 588, 588], (Kind::Uint8, Device::Cpu));
    let _ = masks.get(2).get(0).get(49 * 11).fill_(255);
    found.add_field("mask", masks);
    let montage = demo.create_mask_montage(&image, &found).expect("drawn");
    assert_eq!(montage.size(), (588, 588));
    let drawn = |x: usize, y: usize| montage.data[(y * 588 + x) * 3..][..3] == [128, 0, 0];
    assert!(drawn(24, 11) && drawn(35, 11) && !drawn(36, 11) && !drawn(24, 10));
    let (demo, _folder) = with(i64::MAX);
    assert!(demo.create_mask_montage(&image, &found).is_err(), "nothing is that large");
}

#[test]
fn overlays_draw_in_the_colours_of_the_labels() {
    let (mut demo, _folder) = tiny(options(), &[]);
    let black = RgbImage::new(60, 50, vec![0; 60 * 50 * 3]);
    let mut found = predictions((60, 50));
    let at = |image: &RgbImage, x: usize, y: usize| image.data[(y * 60 + x) * 3..][..3].to_vec();
    let drawn = demo.overlay_boxes(black.clone(), &found).expect("boxes");
    assert_eq!(at(&drawn, 5, 40), [31, 127, 1]);

    let masks = Tensor::zeros([3, 1, 50, 60], (Kind::Bool, Device::Cpu));
    let _ = masks.get(1).get(0).narrow(0, 20, 10).narrow(1, 20, 10).fill_(1);
    found.add_field("mask", masks);
    let drawn = demo.overlay_mask(black.clone(), &found).expect("masks");
    assert_eq!((at(&drawn, 20, 25), at(&drawn, 25, 25)), (vec![62, 254, 2], vec![0, 0, 0]));
    found.add_field("mask", Tensor::zeros([3, 1, 28, 28], (Kind::Float, Device::Cpu)));
    assert!(demo.overlay_mask(black.clone(), &found).is_err(), "masks within boxes");

    let mut keypoints =
        Keypoints::person(Tensor::full([3, 17, 3], 25.0, (Kind::Float, Device::Cpu)), (60, 50)).expect("17");
    keypoints.add_field("logits", Tensor::full([3, 17], 4.0, (Kind::Float, Device::Cpu)));
    found.add_field("keypoints", keypoints);
    let drawn = demo.overlay_keypoints(black.clone(), &found).expect("keypoints");
    assert_ne!(at(&drawn, 25, 25), [0, 0, 0]);

    demo.set_categories(vec![Category { id: 9, name: "circle".into() }]);
    assert_eq!((demo.category(1).name, demo.category(2).name), ("circle".into(), "class 2".into()));
    let drawn = demo.overlay_class_names(black.clone(), &found).expect("names");
    assert_ne!(drawn, black);
}

#[test]
fn weights_are_required() {
    let _generator = generator();
    let overrides = ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", "no_such_folder"].map(String::from);
    let cfg = Config::load(None, &overrides).expect("valid");
    let error = CocoDemo::new(&cfg, options()).err().expect("no weights").to_string();
    assert!(error.contains("MODEL.WEIGHT"), "{error}");
    let zero = CocoDemoOptions { masks_per_dim: 0, ..options() };
    assert!(CocoDemo::new(&cfg, zero).is_err());
}

#[test]
fn sizes_that_cannot_be_used_say_where_they_come_from() {
    for (key, min_image_size) in [
        ("INPUT.MIN_SIZE_TEST", None),
        ("INPUT.MAX_SIZE_TEST", None),
        ("INPUT.MAX_SIZE_TEST", Some(64)),
        ("--min-image-size", Some(0)),
    ] {
        let name = if key.starts_with("INPUT") { key } else { "INPUT.MIN_SIZE_TEST" };
        let cfg = Config::load(None, &[name, "0"].map(String::from)).expect("valid");
        let error = CocoDemo::new(&cfg, CocoDemoOptions { min_image_size, ..options() }).err().expect("a size of 0");
        assert!(error.to_string().starts_with(key), "{error}");
    }
}

#[test]
fn coco_has_eighty_categories() {
    let categories = coco_categories();
    assert_eq!((categories.len(), categories[0].id, categories[79].id), (80, 1, 90));
    assert!(categories.windows(2).all(|pair| pair[0].id < pair[1].id));
    assert_eq!(categories[17].name, "horse");
}
