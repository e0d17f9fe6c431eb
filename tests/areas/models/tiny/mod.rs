//! Small detectors: inference, training tensors, losses, gradients and three steps of SGD.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use maskrcnn_benchmark::checkpoint;
use maskrcnn_benchmark::config::Config;
use maskrcnn_benchmark::data::transforms::{read_image, resize, Normalize, Resize, RgbImage};
use maskrcnn_benchmark::layers::Parameters;
use maskrcnn_benchmark::modeling::detector::{build_detection_model, GeneralizedRcnn};
use maskrcnn_benchmark::modeling::registry::ModelRegistries;
use maskrcnn_benchmark::structures::{to_image_list, ImageList};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::support::{area, generator, ints, json, Report, Tensors};

pub mod inference;
mod training;

/// The limits that the README of the golden models suggests.
const RELATIVE: f64 = 1e-3;
const SCORE: f64 = 2e-3;
const PIXELS: f64 = 0.02;

/// Every folder of the area.
fn cases() -> Vec<PathBuf> {
    let Some(area) = area("models/tiny") else { return Vec::new() };
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(&area).unwrap().map(|f| f.unwrap().path()).filter(|f| f.is_dir()).collect();
    folders.sort();
    assert!(!folders.is_empty(), "no case in {}", area.display());
    folders
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

/// One folder: its configuration and images, and where its model runs.
struct Case {
    folder: PathBuf,
    name: String,
    cfg: Config,
    device: Device,
}

impl Case {
    fn open(folder: &Path) -> Self {
        let cfg = Config::load(Some(&folder.join("config.yaml")), &[]).unwrap_or_else(|e| panic!("{e}"));
        Self { folder: folder.to_owned(), name: name(folder), cfg, device: Device::Cpu }
    }

    /// The model with the case's weights.
    fn model(&self, report: &mut Report) -> (GeneralizedRcnn, Parameters) {
        let parameters = Parameters::uninitialised(self.device);
        let model = build_detection_model(&self.cfg, &parameters.root(), &ModelRegistries::default())
            .unwrap_or_else(|e| panic!("{}: {e:#}", self.name));
        let loaded = checkpoint::load_weights(&self.folder.join("weights.pth"), &parameters)
            .unwrap_or_else(|e| panic!("{}: {e:#}", self.name));
        report.equal(&self.name, "names without weights", loaded.untouched, Vec::new());
        report.equal(&self.name, "weights without names", loaded.unused, Vec::new());
        (model, parameters)
    }

    fn images(&self) -> Vec<RgbImage> {
        ["image.png", "image2.png"].iter().map(|f| read_image(&self.folder.join(f)).unwrap()).collect()
    }

    /// The images as the network sees them at test time.
    fn batch_resized(&self) -> ImageList {
        let input = &self.cfg.input;
        let sizes = Resize::from_config(&self.cfg, false).unwrap();
        let normalize = Normalize::from_config(&self.cfg).unwrap();
        let resized = self.images().into_iter().map(|image| {
            let (height, width) = sizes.get_size(image.size(), input.min_size_test);
            normalize.to_tensor(&resize(&image, (width as usize, height as usize)))
        });
        to_image_list(&resized.collect::<Vec<_>>(), self.cfg.dataloader.size_divisibility)
    }

    /// The images as they are, normalised: for a case whose images have the network's size.
    fn batch_from_files(&self) -> ImageList {
        let normalize = Normalize::from_config(&self.cfg).unwrap();
        let tensors: Vec<Tensor> = self.images().iter().map(|i| normalize.to_tensor(i)).collect();
        to_image_list(&tensors, self.cfg.dataloader.size_divisibility)
    }
}

/// A golden file that remembers what was asked for, so that nothing is forgotten.
struct Expected {
    tensors: Tensors,
    facts: Value,
    seen: BTreeSet<String>,
}

impl Expected {
    fn open(case: &Case, stage: &str) -> Self {
        let path = |ending: &str| case.folder.join(format!("expected_{stage}.{ending}"));
        Self { tensors: Tensors::read(&path("safetensors")), facts: json(&path("json")), seen: BTreeSet::new() }
    }

    fn find(&mut self, name: &str) -> Option<Tensor> {
        self.seen.insert(name.to_owned());
        self.tensors.find(name).map(Tensor::shallow_clone)
    }

    /// The batch under `prefix`.
    fn batch(&mut self, prefix: &str) -> Option<ImageList> {
        let tensors = self.find(&format!("{prefix}images"))?;
        Some(ImageList { tensors, image_sizes: self.image_sizes(prefix) })
    }

    fn image_sizes(&mut self, prefix: &str) -> Vec<(i64, i64)> {
        let sizes = self.find(&format!("{prefix}image_sizes")).expect("sizes");
        let sizes = Vec::<i64>::try_from(sizes.flatten(0, -1)).unwrap();
        sizes.chunks_exact(2).map(|hw| (hw[0], hw[1])).collect()
    }

    /// Compares with a limit relative to the largest value expected.
    fn relative(&mut self, report: &mut Report, case: &str, name: &str, got: &Tensor) {
        if let Some(want) = self.find(name) {
            let largest = if want.numel() == 0 { 0.0 } else { want.abs().max().double_value(&[]) };
            report.close(case, quantity(name), got, &want, RELATIVE * largest, 0.0);
        }
    }

    fn absolute(&mut self, report: &mut Report, case: &str, name: &str, got: &Tensor, limit: f64) {
        if let Some(want) = self.find(name) {
            report.close(case, quantity(name), got, &want, limit, 0.0);
        }
    }

    fn exact(&mut self, report: &mut Report, case: &str, name: &str, got: &Tensor) {
        if let Some(want) = self.find(name) {
            let list = |t: &Tensor| (t.size(), Vec::<i64>::try_from(t.to_kind(Kind::Int64).flatten(0, -1)).unwrap());
            report.equal(case, quantity(name), list(got), list(&want));
        }
    }

    /// Fails for tensors that nothing was compared with.
    fn finish(&self, report: &mut Report, case: &str) {
        let forgotten: Vec<&str> = self.tensors.names().filter(|n| !self.seen.contains(*n)).collect();
        report.equal(case, "not compared", forgotten, Vec::new());
    }
}

/// The name of a tensor without its numbers: `detections.1.boxes` counts as `detections.boxes`.
fn quantity(name: &str) -> &str {
    match name {
        n if n.starts_with("grad.") => "grad",
        n if n.contains("boxes_original") => "boxes original",
        n if n.contains("keypoints_original") => "keypoints original",
        n => {
            let mut parts = n.split('.').filter(|p| p.parse::<u32>().is_err());
            let last = parts.next_back().expect("a name");
            match (n.contains("proposals."), last) {
                (true, _) => "proposals",
                (false, last) => last,
            }
        }
    }
}

#[test]
fn random_permutations() {
    let Some(area) = area("models") else { return };
    let golden = json(&area.join("rng.json"));
    let mut report = Report::new("models/rng");
    let _lock = generator();
    for sequence in golden["sequences"].as_array().expect("a list") {
        let seed = sequence["seed"].as_i64().expect("an integer");
        tch::manual_seed(seed);
        for draw in sequence["draws"].as_array().expect("a list") {
            let case = format!("seed {seed}");
            if let Some(n) = draw["n"].as_i64() {
                let drawn = Tensor::randperm(n, (Kind::Int64, Device::Cpu));
                let drawn = Vec::<i64>::try_from(drawn.narrow(0, 0, n.min(40))).unwrap();
                report.equal(&case, "randperm", drawn, ints(&draw["perm_first_40"]));
            } else {
                let drawn = Vec::<f64>::try_from(Tensor::rand([4], (Kind::Float, Device::Cpu)).to_kind(Kind::Double));
                report.equal(&case, "rand", drawn.unwrap(), super::support::numbers(&draw["rand_4"]));
            }
        }
    }
    report.finish();
}
