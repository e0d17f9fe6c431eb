//! `demo`: pictures with the detections of a model (the original's `demo/`, for files instead of a webcam).

mod inputs;
mod names;
mod report;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{bail, Context, Result};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::output::say;
use super::usage::check_keys;
use super::{parse, CommandLine, Registries};
use crate::config::{CfgNode, Config};
use crate::data::transforms::RgbImage;
use crate::engine::coco_demo::{read_upright_image, CocoDemo, CocoDemoOptions};
use crate::ffi;
use crate::utils::atomic_file::write_atomically;
use crate::utils::miscellaneous::{mkdir, say_error};

const JPEG_QUALITY: u8 = 95;

const KEYS_HELP: &str = "KEY VALUE … change the configuration, for example: MODEL.DEVICE cpu. \
                         From the first KEY on everything belongs to them.";

/// Draws the detections of a model on images: boxes, outlines of masks, names with scores.
#[derive(Debug, Parser)]
#[command(name = "demo", version, override_usage = "demo [OPTIONS] IMAGES… [KEY VALUE …]", after_help = KEYS_HELP)]
struct Args {
    /// Path to the configuration file.
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Weights to use instead of OUTPUT_DIR/last_checkpoint or MODEL.WEIGHT.
    #[arg(long, value_name = "FILE")]
    weights: Option<String>,

    /// Minimum score for a detection to be shown.
    #[arg(long, value_name = "SCORE", default_value_t = 0.7)]
    confidence_threshold: f64,

    /// Show the probabilities of the best masks as heat maps instead.
    #[arg(long)]
    show_mask_heatmaps: bool,

    /// Number of heat maps per dimension.
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    masks_per_dim: i64,

    /// Shorter side of the image that the model sees, instead of INPUT.MIN_SIZE_TEST.
    #[arg(long, value_name = "PIXELS")]
    min_image_size: Option<i64>,

    /// Folder of the pictures.
    #[arg(long, value_name = "DIR", default_value = "demo_output")]
    output: PathBuf,

    /// File for the detections: image, box (x, y, width, height), score, category, mask in run lengths.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Images, folders of images, or patterns such as 'photos/*.jpg'.
    #[arg(required = true, value_name = "IMAGES")]
    images: Vec<String>,
}

/// The program `demo`.
///
/// Every image is tried; those that cannot be read are named in the error at the end.
///
/// # Errors
/// Wrong usage (a [`clap::Error`]), a configuration or weights that cannot be used, images that cannot be read,
/// pictures that cannot be written.
pub fn demo(args: impl CommandLine, registries: &Registries) -> Result<()> {
    let (own, overrides) = split_at_first_key(args.into_iter().collect());
    let args: Args = parse(own).map_err(|error| images_after_keys(error, &overrides))?;
    // Warnings only: what was loaded from where is of no interest here (RUST_LOG=info shows it).
    let _ = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn")).try_init();
    ffi::keep_freed_memory();
    check_keys(&overrides)?;
    let cfg = Config::load(args.config_file.as_deref(), &overrides)?;
    let images = inputs::expand(&args.images)?;
    let originals: BTreeSet<PathBuf> = images.iter().map(|image| canonical(image)).collect();
    if let Some(file) = args.json.as_deref().filter(|file| originals.contains(&canonical(file))) {
        bail!("--json {} is one of the images; give it another name", file.display());
    }
    let options = CocoDemoOptions {
        confidence_threshold: args.confidence_threshold,
        show_mask_heatmaps: args.show_mask_heatmaps,
        masks_per_dim: args.masks_per_dim,
        min_image_size: args.min_image_size,
        weights: args.weights.clone(),
    };
    let mut coco_demo = CocoDemo::with_registries(&cfg, options, &registries.models)?;
    coco_demo.set_categories(names::categories(&cfg, coco_demo.weights())?);
    mkdir(&args.output)?;

    let mut used = BTreeSet::new();
    let mut detections = Vec::new();
    let mut failed = Vec::new();
    for path in &images {
        let picture_path = picture_path(&args.output, path, &originals, &mut used);
        match one_image(&coco_demo, path, &picture_path) {
            Ok(found) => detections.extend(found),
            Err(error) => {
                say_error(format_args!("error: {error:#}"));
                failed.push(path.display().to_string());
            }
        }
    }
    if let Some(file) = &args.json {
        write_atomically(file, &serde_json::to_vec_pretty(&detections)?)?;
        say!("{}", file.display());
    }
    if !failed.is_empty() {
        bail!("{} of {} images gave no picture: {}", failed.len(), images.len(), failed.join(", "));
    }
    Ok(())
}

/// Detects, draws and writes; gives the entries for the JSON file.
fn one_image(coco_demo: &CocoDemo, path: &Path, picture_path: &Path) -> Result<Vec<serde_json::Value>> {
    let image = read_upright_image(path)?;
    let start = Instant::now();
    let found = || {
        let predictions = coco_demo.detect(&image)?;
        let top_predictions = coco_demo.select_top_predictions(&predictions)?;
        let picture = coco_demo.draw(&image, &top_predictions)?;
        Ok::<_, anyhow::Error>((top_predictions, picture))
    };
    let (top_predictions, picture) = found().with_context(|| format!("image {}", path.display()))?;
    write_picture(picture_path, &picture)?;
    say!(
        "{}: {} objects in {:.2} s, drawn in {}",
        path.display(),
        top_predictions.len(),
        start.elapsed().as_secs_f64(),
        picture_path.display()
    );
    report::entries(coco_demo, path, &top_predictions)
}

/// The arguments before the first configuration key, and those from it on.
///
/// A word is a key if its first part is a key of the configuration, it has capitals only, it is not the value of an
/// option, and no file has this name.
fn split_at_first_key(args: Vec<OsString>) -> (Vec<OsString>, Vec<String>) {
    let command = Args::command();
    let takes_value = |word: &str| {
        let Some(name) = word.strip_prefix("--").filter(|name| !name.contains('=')) else { return false };
        let known = |arg: &&clap::Arg| arg.get_long().is_some_and(|long| !name.is_empty() && long.starts_with(name));
        command.get_arguments().find(known).is_some_and(|arg| arg.get_action().takes_values())
    };
    let defaults = CfgNode::default();
    let is_key = |word: &str| {
        let first = word.split('.').next().unwrap_or(word);
        let capitals = word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_' || c == '.');
        capitals && defaults.entries().any(|(key, _)| key == first) && !Path::new(word).exists()
    };
    let words: Vec<String> = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut at = 1;
    while at < words.len() && !is_key(&words[at]) {
        at += if takes_value(&words[at]) { 2 } else { 1 };
    }
    let at = at.min(words.len());
    (args[..at].to_vec(), words[at..].to_vec())
}

/// Says that images come first where they were taken for overrides.
fn images_after_keys(error: anyhow::Error, overrides: &[String]) -> anyhow::Error {
    let usage = error.downcast_ref::<clap::Error>().map(clap::Error::kind);
    match overrides.first().filter(|_| usage == Some(ErrorKind::MissingRequiredArgument)) {
        Some(key) => {
            let message = format!("there is no image before {key}: images come before the first KEY VALUE\n");
            clap::Error::raw(ErrorKind::MissingRequiredArgument, message).with_cmd(&Args::command()).into()
        }
        None => error,
    }
}

/// The one path of a file that may be named in several ways; the path itself where there is no file.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// Where the picture of an image goes: a JPEG for a JPEG, else a PNG. A number keeps apart images of the same name, and
/// pictures from the images themselves (`originals`, canonical).
fn picture_path(folder: &Path, image: &Path, originals: &BTreeSet<PathBuf>, used: &mut BTreeSet<PathBuf>) -> PathBuf {
    let extension = image.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let extension = if matches!(extension.as_str(), "jpg" | "jpeg") { "jpg" } else { "png" };
    let stem = image.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let mut path = folder.join(format!("{stem}.{extension}"));
    let mut number = 1;
    while originals.contains(&canonical(&path)) || !used.insert(path.clone()) {
        path = folder.join(format!("{stem}_{number}.{extension}"));
        number += 1;
    }
    path
}

fn write_picture(path: &Path, picture: &RgbImage) -> Result<()> {
    let mut bytes = Vec::new();
    let (width, height) = (picture.width as u32, picture.height as u32);
    let encoded = if path.extension().is_some_and(|e| e == "jpg") {
        let encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
        encoder.write_image(&picture.data, width, height, ExtendedColorType::Rgb8)
    } else {
        PngEncoder::new(&mut bytes).write_image(&picture.data, width, height, ExtendedColorType::Rgb8)
    };
    encoded.with_context(|| format!("cannot encode {}", path.display()))?;
    write_atomically(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::coco_demo::test_model::{tiny_model, TINY_CONFIG};

    fn split(line: &str) -> (Vec<String>, Vec<String>) {
        let (own, overrides) = split_at_first_key(line.split_whitespace().map(OsString::from).collect());
        (own.into_iter().map(|word| word.to_string_lossy().into_owned()).collect(), overrides)
    }

    #[test]
    fn from_the_first_key_on_everything_is_an_override() {
        let (own, overrides) = split("demo --output OUTPUT_DIR a.jpg --json=x.json MODEL.DEVICE cpu --json -1");
        assert_eq!(own, ["demo", "--output", "OUTPUT_DIR", "a.jpg", "--json=x.json"]);
        assert_eq!(overrides, ["MODEL.DEVICE", "cpu", "--json", "-1"]);
        // A key with a slip in it is not taken for an image, names of files are not taken for keys.
        assert_eq!(split("demo a.jpg MODEL.WEIGHTS x").1, ["MODEL.WEIGHTS", "x"]);
        assert!(split("demo MODEL.jpg TEST/a.jpg model --show-mask-heatmaps INPUT.png").1.is_empty());
        assert_eq!(split("demo --show-mask-heatmaps DTYPE float32").1, ["DTYPE", "float32"]);
        assert!(split("demo --out TEST a.jpg").1.is_empty());
        assert!(split("demo --json").1.is_empty());
    }

    #[test]
    fn options_may_stand_anywhere_before_the_keys() {
        let args: Args = parse(
            split_at_first_key(
                "demo a.jpg --confidence-threshold 0.3 b.png --min-image-size=600 MODEL.MASK_ON True"
                    .split(' ')
                    .map(OsString::from)
                    .collect(),
            )
            .0,
        )
        .expect("valid");
        assert_eq!(args.images, ["a.jpg", "b.png"]);
        assert_eq!((args.confidence_threshold, args.min_image_size), (0.3, Some(600)));
        assert!(parse::<Args>(["demo"].map(OsString::from)).is_err(), "images are required");
    }

    #[test]
    fn pictures_of_images_with_the_same_name_are_kept_apart() {
        let mut used = BTreeSet::new();
        let none = BTreeSet::new();
        let mut path = |image: &str| picture_path(Path::new("out"), Path::new(image), &none, &mut used);
        assert_eq!(path("a/x.JPG"), Path::new("out/x.jpg"));
        assert_eq!(path("b/x.jpeg"), Path::new("out/x_1.jpg"));
        assert_eq!(path("b/x.bmp"), Path::new("out/x.png"));
    }

    #[test]
    fn images_in_pictures_and_json_out() {
        let _generator = crate::utils::testing::generator();
        let (folder, overrides) = tiny_model(&[]);
        let at = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        let picture = RgbImage::new(48, 32, (0..48 * 32 * 3).map(|i| (i % 256) as u8).collect());
        write_picture(Path::new(&at("one.png")), &picture).expect("written");
        write_picture(Path::new(&at("two.jpg")), &picture).expect("written");
        std::fs::write(at("labels.json"), r#"{"4": "circle", "6": "box", "9": "triangle"}"#).expect("written");
        let (output, json_file) = (at("out"), at("found.json"));
        let run = |images: &[String]| {
            let own = ["demo", "--config-file", TINY_CONFIG, "--confidence-threshold=0", "--output", &output, "--json"];
            let words = own.into_iter().map(str::to_owned).chain([json_file.clone()]);
            let words = words.chain(images.to_vec()).chain(overrides.clone());
            demo(words.map(OsString::from).collect::<Vec<_>>(), &Registries::default())
        };
        run(&[at("*.png"), at("two.jpg")]).expect("runs");
        for name in ["one.png", "two.jpg"] {
            let drawn = read_upright_image(&Path::new(&output).join(name)).expect("a picture");
            assert_eq!(drawn.size(), (48, 32));
        }
        let text = std::fs::read(&json_file).expect("written");
        let found: Vec<serde_json::Value> = serde_json::from_slice(&text).expect("a list");
        assert_eq!(found.len(), 14);
        for entry in &found {
            assert!(
                ["circle", "box", "triangle"].contains(&entry["category_name"].as_str().expect("a name")),
                "{entry}"
            );
            assert_eq!(entry["segmentation"]["size"], serde_json::json!([32, 48]));
            assert_eq!(entry["bbox"].as_array().expect("a box").len(), 4);
        }

        std::fs::write(at("bad.png"), "not an image").expect("written");
        std::fs::remove_file(Path::new(&output).join("one.png")).expect("removed");
        let error = run(&[at("bad.png"), at("one.png")]).expect_err("one image is none").to_string();
        assert!(error.starts_with("1 of 2 images") && error.contains("bad.png"), "{error}");
        assert!(Path::new(&output).join("one.png").exists(), "the other picture is drawn");
        assert!(run(&[at("missing.png")]).is_err());
    }
}
