//! The names of a model's classes.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::paths_catalog::DatasetCatalog;
use crate::config::Config;
use crate::data::datasets::BACKGROUND;
use crate::engine::coco_demo::{coco_categories, Category};

/// The classes of the labels from 1 on: from `labels.json`, which training writes, beside the weights or in
/// `OUTPUT_DIR`; else from the first data set of `DATASETS.TEST` or `DATASETS.TRAIN` whose catalog entry lists its
/// classes or whose annotations are there; else COCO's.
///
/// # Errors
/// If one of these files is there but cannot be read.
pub(super) fn categories(cfg: &Config, weights: &Path) -> Result<Vec<Category>> {
    for folder in [weights.parent(), Some(Path::new(&cfg.output_dir))].into_iter().flatten() {
        let file = folder.join("labels.json");
        if file.is_file() {
            return labels_json(&file).with_context(|| format!("cannot read the class names of {}", file.display()));
        }
    }
    let catalog = DatasetCatalog::load(&cfg.paths_catalog)?;
    for name in cfg.datasets.test.iter().chain(cfg.datasets.train.iter()) {
        let Ok(spec) = catalog.get(name) else { continue };
        if let Some(classes) = spec.strings("classes")? {
            return Ok((1..).zip(classes).map(|(id, name)| Category { id, name }).collect());
        }
        let Ok(file) = spec.path("ann_file") else { continue };
        if file.is_file() {
            return annotations(&file).with_context(|| format!("cannot read the class names of {}", file.display()));
        }
    }
    Ok(coco_categories())
}

fn labels_json(file: &Path) -> Result<Vec<Category>> {
    let map: Map<String, Value> = serde_json::from_slice(&std::fs::read(file)?)?;
    let category = |(id, name): (String, Value)| {
        let id = id.parse().with_context(|| format!("{id:?} is not the number of a category"))?;
        let name = name.as_str().with_context(|| format!("category {id} has no name"))?.to_owned();
        Ok(Category { id, name })
    };
    let mut categories = map.into_iter().map(category).collect::<Result<Vec<Category>>>()?;
    // Pascal VOC and Cityscapes list the background, which is label 0.
    if categories.first().is_some_and(|first| first.name.trim() == BACKGROUND) {
        categories.remove(0);
    }
    Ok(categories)
}

fn annotations(file: &Path) -> Result<Vec<Category>> {
    #[derive(Deserialize)]
    struct Annotations {
        categories: Vec<Category>,
    }
    let reader = std::io::BufReader::new(std::fs::File::open(file)?);
    let annotations: Annotations = serde_json::from_reader(reader)?;
    Ok(annotations.categories)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_labels_then_annotations_then_coco() {
        let folder = tempfile::tempdir().expect("a folder");
        let weights = folder.path().join("model_final.pth");
        let output_dir = folder.path().join("none").to_string_lossy().into_owned();
        let mut cfg = Config { output_dir, ..Config::default() };
        assert_eq!(categories(&cfg, &weights).expect("COCO's").len(), 80);

        let file = folder.path().join("train.json");
        let content = r#"{"images": [{"id": 1}], "categories": [{"id": 7, "name": "circle", "supercategory": ""}]}"#;
        std::fs::write(&file, content).expect("written");
        cfg.datasets.test.0.push("coco_2014_minival".into());
        cfg.datasets.train.0.push(format!("coco:{}:images", file.display()));
        let circle = Category { id: 7, name: "circle".into() };
        assert_eq!(categories(&cfg, &weights).expect("the annotations'"), std::slice::from_ref(&circle));

        let catalog = folder.path().join("catalog.yaml");
        let content = "DATASETS:\n  helmets: {data_dir: helmets, split: train, classes: [helmet]}\n";
        std::fs::write(&catalog, content).expect("written");
        let mut helmets = Config { paths_catalog: catalog.to_string_lossy().into_owned(), ..cfg.clone() };
        helmets.datasets.test.0 = vec!["helmets".into()];
        let expected = Category { id: 1, name: "helmet".into() };
        assert_eq!(categories(&helmets, &weights).expect("the entry's"), std::slice::from_ref(&expected));

        let labels = folder.path().join("labels.json");
        std::fs::write(&labels, r#"{"10": "box", "7": "circle"}"#).expect("written");
        let expected = [Category { id: 10, name: "box".into() }, circle];
        assert_eq!(categories(&cfg, &weights).expect("the run's"), expected);

        // As written for Pascal VOC.
        std::fs::write(&labels, r#"{"0": "__background__ ", "1": "aeroplane", "2": "bicycle"}"#).expect("written");
        let expected = [(1, "aeroplane"), (2, "bicycle")].map(|(id, name)| Category { id, name: name.into() });
        assert_eq!(categories(&cfg, &weights).expect("VOC's"), expected);

        std::fs::write(&labels, r#"{"x": "box"}"#).expect("written");
        let error = format!("{:#}", categories(&cfg, &weights).expect_err("not a number"));
        assert!(error.contains("labels.json"), "{error}");
    }
}
