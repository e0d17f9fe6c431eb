//! `make_shapes`: writes the synthetic "shapes" data set in COCO's layout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use image::codecs::jpeg::JpegEncoder;
use rayon::prelude::*;
use serde_json::{json, Value};

use super::output::say;
use super::{parse, CommandLine};
use crate::data::shapes::{scene, Scene, CLASSES};
use crate::utils::atomic_file::write_atomically;
use crate::utils::miscellaneous::mkdir;

/// Changes whenever the same arguments give other images.
const VERSION: u32 = 1;
const JPEG_QUALITY: u8 = 92;
/// Keeps the scenes of the splits apart for any `--seed`.
const SPLIT_SEEDS: [(&str, u64); 2] = [("train", 0x7261_696e), ("val", 0x0076_616c)];

/// Makes a data set of circles, boxes and triangles in COCO's layout: DIR/train, DIR/val, DIR/annotations.
#[derive(Debug, Parser)]
#[command(name = "make_shapes", version)]
struct Args {
    /// Folder of the data set.
    #[arg(long, value_name = "DIR", default_value = "datasets/shapes")]
    output: PathBuf,

    /// Number of training images.
    #[arg(long, value_name = "NUMBER", default_value_t = 2000)]
    train: u64,

    /// Number of validation images.
    #[arg(long, value_name = "NUMBER", default_value_t = 300)]
    val: u64,

    /// Seed of the scenes.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    seed: u64,
}

/// The program `make_shapes`. A folder that already holds what would be made is left as it is.
///
/// # Errors
/// Wrong usage (a [`clap::Error`]), or a file that cannot be written.
pub fn make_shapes(args: impl CommandLine) -> Result<()> {
    let args: Args = parse(args)?;
    let counts = [args.train, args.val];
    for ((split, split_seed), count) in SPLIT_SEEDS.into_iter().zip(counts) {
        let annotations = args.output.join(format!("annotations/instances_{split}.json"));
        let info = json!({
            "description": format!("shapes: circles, boxes and triangles ({split})"),
            "version": VERSION.to_string(),
            "seed": args.seed,
            "images": count,
        });
        if holds(&annotations, &info) {
            say!("{} is there already ({count} images)", annotations.display());
            continue;
        }
        let folder = args.output.join(split);
        write_split(&folder, &annotations, &info, count, args.seed ^ split_seed)?;
        say!("{} images in {}, annotations in {}", count, folder.display(), annotations.display());
    }
    Ok(())
}

/// True when the annotation file exists and was made with the same settings. It is written after the images.
fn holds(annotations: &Path, info: &Value) -> bool {
    let Ok(text) = std::fs::read_to_string(annotations) else {
        return false;
    };
    serde_json::from_str::<Value>(&text).is_ok_and(|json| json.get("info") == Some(info))
}

fn write_split(folder: &Path, annotations: &Path, info: &Value, count: u64, seed: u64) -> Result<()> {
    mkdir(folder)?;
    mkdir(annotations.parent().unwrap_or(Path::new(".")))?;
    // An old list must not describe new images.
    match std::fs::remove_file(annotations) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", annotations.display()))?;
        }
        _ => {}
    }
    let scenes: Vec<Scene> = (0..count)
        .into_par_iter()
        .map(|index| {
            let mut scene = scene(seed, index);
            write_image(&folder.join(file_name(index)), &scene)?;
            scene.pixels = Vec::new();
            Ok(scene)
        })
        .collect::<Result<_>>()?;
    let images: Vec<Value> = (0u64..)
        .zip(&scenes)
        .map(|(i, s)| json!({"id": i + 1, "file_name": file_name(i), "width": s.width, "height": s.height}))
        .collect();
    let objects = (0u64..).zip(&scenes).flat_map(|(i, s)| s.objects.iter().map(move |o| (i + 1, o)));
    let list: Vec<Value> = (1u64..)
        .zip(objects)
        .map(|(id, (image, object))| {
            json!({
                "id": id,
                "image_id": image,
                "category_id": object.class + 1,
                "segmentation": object.polygons,
                "bbox": object.bbox,
                "area": object.area,
                "iscrowd": 0,
            })
        })
        .collect();
    let categories: Vec<Value> = (1..).zip(CLASSES).map(|(id, name)| json!({"id": id, "name": name})).collect();
    let all = json!({"info": info, "images": images, "annotations": list, "categories": categories});
    write_atomically(annotations, &serde_json::to_vec(&all)?)
}

fn file_name(index: u64) -> String {
    format!("{:06}.jpg", index + 1)
}

fn write_image(path: &Path, scene: &Scene) -> Result<()> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
        .encode(&scene.pixels, scene.width as u32, scene.height as u32, image::ExtendedColorType::Rgb8)
        .with_context(|| format!("cannot encode {}", path.display()))?;
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}
