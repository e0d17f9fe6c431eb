//! A data set of one's own, trained through `train_net`: boxes in a text file with a line
//! `image file,class,x1,y1,x2,y2` each.
//!
//! A catalog names it, for example `cells.yaml`:
//!
//! ```yaml
//! DATA_DIR: datasets
//! DATASETS:
//!   cells: {factory: CsvDataset, root: cells/images, ann_file: cells/boxes.csv}
//! ```
//!
//! ```text
//! cargo run --release --example custom_dataset -- --config-file configs/e2e_faster_rcnn_R_50_FPN_1x.yaml \
//!     PATHS_CATALOG cells.yaml DATASETS.TRAIN "('cells',)" DATASETS.TEST "('cells',)" MODEL.ROI_BOX_HEAD.NUM_CLASSES 3
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{ensure, Context, Result};
use maskrcnn_benchmark::cli::{exit_code, train_net, Registries};
use maskrcnn_benchmark::config::paths_catalog::DatasetSpec;
use maskrcnn_benchmark::data::datasets::{Dataset, DatasetOptions, ImageId, ImageInfo, Sample, BACKGROUND};
use maskrcnn_benchmark::data::transforms::{image_size, read_image};
use maskrcnn_benchmark::structures::{BoxList, Mode};
use tch::Tensor;

/// The label of a box, and its corners.
type LabelledBox = (i64, [f32; 4]);

struct CsvDataset {
    root: PathBuf,
    classes: Vec<String>,
    /// Files, and what is in each.
    images: Vec<(String, Vec<LabelledBox>)>,
}

impl CsvDataset {
    fn read(path: &Path, root: PathBuf) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut lines = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let fields: Vec<&str> = line.split(',').map(str::trim).collect();
            ensure!(fields.len() == 6, "{}, line {number}: file,class,x1,y1,x2,y2 expected", path.display());
            let mut corners = [0.0; 4];
            for (corner, field) in corners.iter_mut().zip(&fields[2..]) {
                *corner = field.parse().with_context(|| format!("{}, line {number}: {field}", path.display()))?;
            }
            lines.push((fields[0].to_owned(), fields[1].to_owned(), corners));
        }
        let names: BTreeSet<&String> = lines.iter().map(|(_, class, _)| class).collect();
        let classes: Vec<String> = [BACKGROUND.to_owned()].into_iter().chain(names.into_iter().cloned()).collect();
        let mut images: BTreeMap<String, Vec<LabelledBox>> = BTreeMap::new();
        for (file, class, corners) in &lines {
            let label = classes.iter().position(|name| name == class).context("a class without a label")?;
            images.entry(file.clone()).or_default().push((label as i64, *corners));
        }
        Ok(Self { root, classes, images: images.into_iter().collect() })
    }

    fn build(spec: &DatasetSpec, _options: DatasetOptions) -> Result<Arc<dyn Dataset>> {
        Ok(Arc::new(Self::read(&spec.path("ann_file")?, spec.path("root")?)?))
    }

    fn target(&self, index: usize, size: (i64, i64)) -> Result<BoxList> {
        let (labels, corners): (Vec<i64>, Vec<[f32; 4]>) = self.images[index].1.iter().copied().unzip();
        let boxes = Tensor::from_slice(&corners.concat()).view([labels.len() as i64, 4]);
        let mut target = BoxList::new(boxes, size, Mode::Xyxy)?;
        target.add_field("labels", Tensor::from_slice(&labels));
        target.clip_to_image(true)
    }
}

impl Dataset for CsvDataset {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn get(&self, index: usize) -> Result<Sample> {
        let image = read_image(&self.image_path(index))?;
        let target = self.target(index, image.size())?;
        Ok(Sample { image, target, index })
    }

    fn image_info(&self, index: usize) -> Result<ImageInfo> {
        let (width, height) = image_size(&self.image_path(index))?;
        Ok(ImageInfo { id: ImageId::Number(index as i64), file_name: self.images[index].0.clone(), width, height })
    }

    fn image_path(&self, index: usize) -> PathBuf {
        self.root.join(&self.images[index].0)
    }

    fn ground_truth(&self, index: usize) -> Result<BoxList> {
        self.target(index, image_size(&self.image_path(index))?)
    }

    fn class_names(&self) -> Vec<String> {
        self.classes.clone()
    }
}

/// The built-in names and `CsvDataset`.
pub fn registries() -> Result<Registries> {
    let mut registries = Registries::default();
    registries.datasets.register("CsvDataset", CsvDataset::build)?;
    Ok(registries)
}

#[allow(dead_code)] // the tests include this file as a module
fn main() -> std::process::ExitCode {
    exit_code(|| train_net(std::env::args_os(), &registries()?))
}
