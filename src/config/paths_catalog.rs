//! The original's `DatasetCatalog`: which data set class reads a name of `DATASETS.TRAIN` or `DATASETS.TEST`, and with
//! which files.
//!
//! A name is looked up in the catalog that `PATHS_CATALOG` names:
//!
//! - [`BUILT_IN`]: the original's names, below `datasets/`;
//! - a `paths_catalog.py` of the original's form. It is not executed: only the literals assigned to `DATA_DIR` and
//!   `DATASETS` are read;
//! - a YAML file of the same shape (`MODELS`, names of `catalog://` with their addresses, is for
//!   [`ModelCatalog`](super::model_catalog::ModelCatalog)):
//!
//!   ```yaml
//!   DATA_DIR: datasets
//!   DATASETS:
//!     shapes_train:
//!       img_dir: shapes/train
//!       ann_file: shapes/annotations/train.json
//!   ```
//!
//! An entry is read by the class that its name stands for (`coco`, `voc`, `cityscapes` in it, in this order), else by
//! the one that its keys fit. An entry of the form `{factory: MyDataset, …}` names the class itself and hands its other
//! keys over, those that end in `_dir` or `_file` and `root` being paths below `DATA_DIR`.
//!
//! Data in VOC's layout with classes of their own list these, without the background, in the order of their labels:
//! `{data_dir: helmets, split: train, classes: [helmet, vest]}`.
//!
//! # A data set without a catalog
//! A name of the form `[NAME=]KIND:FILES` describes the data set itself and fits on a command line:
//!
//! - `coco:ANNOTATIONS.json:IMAGE_FOLDER`
//! - `voc:VOC_FOLDER:SPLIT`
//! - `cityscapes:IMAGE_FOLDER:ANNOTATION_FOLDER:SPLIT:MODE`, `MODE` being `poly` or `mask`
//!
//! ```text
//! train_net --config-file … DATASETS.TRAIN "('coco:data/train.json:data/images',)" \
//!                           DATASETS.TEST  "('my_val=coco:data/val.json:data/images',)"
//! ```
//!
//! Paths are as given, not below `DATA_DIR`. `NAME` (without it, the stem of the annotation file or folder) names the
//! folder of results.

mod built_in;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail, ensure, Context, Result};

use super::literal::LiteralError;
use super::registry::did_you_mean;
use super::{literal, yaml, Value};

/// The default of `PATHS_CATALOG`.
pub const BUILT_IN: &str = "<built-in>";

const COCO: &str = "COCODataset";
const VOC: &str = "PascalVOCDataset";
const CITYSCAPES: &str = "CityScapesDataset";

/// What it takes to open a data set.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetSpec {
    /// Name of the data set, fit for the name of a folder.
    pub name: String,
    /// The class that reads it: `COCODataset`, `PascalVOCDataset`, `CityScapesDataset` or a user's own.
    pub factory: String,
    /// The arguments of that class: `root` and `ann_file`; `data_dir`, `split` and perhaps `classes`; `img_dir`,
    /// `ann_dir`, `split`, `mode` and perhaps `mini`.
    pub args: BTreeMap<String, Value>,
}

impl DatasetSpec {
    /// An argument that is text.
    ///
    /// # Errors
    /// If the data set has no such argument, or it is not text.
    pub fn string(&self, argument: &str) -> Result<&str> {
        let value = self.args.get(argument);
        let value = value.with_context(|| format!("data set {}: {argument} is missing", self.name))?;
        value.as_str().with_context(|| format!("data set {}: {argument} should be text, found {value}", self.name))
    }

    /// An argument that is a list of texts; `None` if the data set has no such argument.
    ///
    /// # Errors
    /// If it is something else.
    pub fn strings(&self, argument: &str) -> Result<Option<Vec<String>>> {
        let items = match self.args.get(argument) {
            None => return Ok(None),
            Some(Value::List(items) | Value::Tuple(items)) => items,
            Some(other) => bail!("data set {}: {argument} should be a list of texts, found {other}", self.name),
        };
        let text = |item: &Value| {
            let text = item.as_str().map(str::to_owned);
            text.with_context(|| format!("data set {}: {argument} should be texts, found {item}: quote it", self.name))
        };
        items.iter().map(text).collect::<Result<_>>().map(Some)
    }

    /// An argument that is a path.
    ///
    /// # Errors
    /// As [`string`](Self::string).
    pub fn path(&self, argument: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(self.string(argument)?))
    }
}

/// The data sets of one catalog.
#[derive(Clone, Debug)]
pub struct DatasetCatalog {
    /// Where the catalog comes from, for messages.
    origin: String,
    data_dir: PathBuf,
    datasets: BTreeMap<String, BTreeMap<String, Value>>,
}

impl DatasetCatalog {
    /// The catalog that `PATHS_CATALOG` names.
    ///
    /// # Errors
    /// If the file cannot be read, or has no `DATASETS` of literals.
    pub fn load(paths_catalog: &str) -> Result<Self> {
        if paths_catalog == BUILT_IN {
            return Ok(built_in::catalog());
        }
        let python = |text: &str| Self::from_python(text, paths_catalog);
        read_catalog(paths_catalog, python, |text| Self::from_yaml(text, paths_catalog))
            .with_context(|| format!("cannot read the catalog of data sets {paths_catalog} (PATHS_CATALOG)"))
    }

    fn from_python(text: &str, origin: &str) -> Result<Self> {
        let data_dir = python_assignment(text, "DATA_DIR")?;
        let datasets = python_assignment(text, "DATASETS")?.context("there is no assignment to DATASETS")?;
        Self::from_values(data_dir, datasets, origin)
    }

    fn from_yaml(text: &str, origin: &str) -> Result<Self> {
        let (mut data_dir, mut datasets) = (None, None);
        let Value::Dict(pairs) = yaml::load(text)? else { bail!("expected the keys DATA_DIR and DATASETS") };
        for (key, value) in pairs {
            match key.as_str() {
                Some("DATA_DIR") => data_dir = Some(value),
                Some("DATASETS") => datasets = Some(value),
                // ModelCatalog's.
                Some("MODELS") => {}
                _ => bail!("expected the keys DATA_DIR, DATASETS and MODELS, found {key}"),
            }
        }
        Self::from_values(data_dir, datasets.context("there is no key DATASETS")?, origin)
    }

    fn from_values(data_dir: Option<Value>, datasets: Value, origin: &str) -> Result<Self> {
        let data_dir = match data_dir {
            None => "datasets".to_owned(),
            Some(Value::Str(text)) => text,
            Some(other) => bail!("DATA_DIR should be text, found {other}"),
        };
        let Value::Dict(entries) = datasets else { bail!("DATASETS should be a dict, found {datasets}") };
        let mut catalog = Self { origin: origin.into(), data_dir: data_dir.into(), datasets: BTreeMap::new() };
        for (name, entry) in entries {
            let (Value::Str(name), Value::Dict(pairs)) = (&name, entry) else {
                bail!("DATASETS: {name} should be a name with a dict");
            };
            let mut attributes = BTreeMap::new();
            for (key, value) in pairs {
                let Value::Str(key) = key else { bail!("DATASETS: {name}: the key {key} should be text") };
                attributes.insert(key, value);
            }
            catalog.datasets.insert(name.clone(), attributes);
        }
        Ok(catalog)
    }

    /// The names of the catalog.
    pub fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.datasets.keys().map(String::as_str)
    }

    /// The data set of a name, or of a description in the form `[NAME=]KIND:FILES`.
    ///
    /// # Errors
    /// If the catalog has no such name, the entry lacks a key, or the description is not complete.
    pub fn get(&self, name: &str) -> Result<DatasetSpec> {
        if let Some(spec) = inline(name)? {
            return Ok(spec);
        }
        let Some(attributes) = self.datasets.get(name) else {
            let hint = did_you_mean(" ", name, self.names());
            bail!(
                "Dataset not available: {name}. The catalog {} does not have it.{hint} A data set can also be given as \
                 coco:ANNOTATIONS.json:IMAGE_FOLDER.",
                self.origin
            );
        };
        self.spec(name, attributes).with_context(|| format!("data set {name} of the catalog {}", self.origin))
    }

    fn spec(&self, name: &str, attributes: &BTreeMap<String, Value>) -> Result<DatasetSpec> {
        let has = |keys: [&str; 2]| keys.iter().all(|key| attributes.contains_key(*key));
        let spec = |factory: &str, args| DatasetSpec { name: name.into(), factory: factory.into(), args };
        if let Some(factory) = attributes.get("factory") {
            let factory = factory.as_str().with_context(|| format!("factory should be text, found {factory}"))?;
            let mut args = BTreeMap::new();
            for (key, value) in attributes.iter().filter(|(key, _)| *key != "factory") {
                let is_path = key == "root" || key.ends_with("_dir") || key.ends_with("_file");
                args.insert(key.clone(), if is_path { self.below(attributes, key)? } else { value.clone() });
            }
            return Ok(spec(factory, args));
        }
        let named = ["coco", "voc", "cityscapes"].into_iter().find(|kind| name.contains(kind));
        let shaped = || match () {
            () if has(["img_dir", "ann_file"]) => Some("coco"),
            () if has(["data_dir", "split"]) => Some("voc"),
            () if has(["img_dir", "ann_dir"]) => Some("cityscapes"),
            () => None,
        };
        let mut args = BTreeMap::new();
        match named.or_else(shaped) {
            Some("coco") => {
                args.insert("root".into(), self.below(attributes, "img_dir")?);
                args.insert("ann_file".into(), self.below(attributes, "ann_file")?);
                Ok(spec(COCO, args))
            }
            Some("voc") => {
                args.insert("data_dir".into(), self.below(attributes, "data_dir")?);
                args.insert("split".into(), attributes.get("split").context("the key split is missing")?.clone());
                args.extend(attributes.get("classes").map(|classes| ("classes".to_owned(), classes.clone())));
                Ok(spec(VOC, args))
            }
            Some(_) => {
                args.extend(attributes.clone());
                args.insert("img_dir".into(), self.below(attributes, "img_dir")?);
                args.insert("ann_dir".into(), self.below(attributes, "ann_dir")?);
                Ok(spec(CITYSCAPES, args))
            }
            None => {
                let keys: Vec<&str> = attributes.keys().map(String::as_str).collect();
                bail!("no data set class fits the keys {}; add the key factory", keys.join(", "))
            }
        }
    }

    /// The path below `DATA_DIR` that a key of an entry gives.
    fn below(&self, attributes: &BTreeMap<String, Value>, key: &str) -> Result<Value> {
        let value = attributes.get(key).with_context(|| format!("the key {key} is missing"))?;
        let path = value.as_str().with_context(|| format!("{key} should be a path, found {value}"))?;
        Ok(Value::Str(self.data_dir.join(path).to_string_lossy().into_owned()))
    }
}

/// The data set that a name of the form `[NAME=]KIND:FILES` describes; `None` for other names.
fn inline(text: &str) -> Result<Option<DatasetSpec>> {
    const FORMS: [(&str, &str, &[&str]); 3] = [
        ("coco", COCO, &["ann_file", "root"]),
        ("voc", VOC, &["data_dir", "split"]),
        ("cityscapes", CITYSCAPES, &["img_dir", "ann_dir", "split", "mode"]),
    ];
    let form_of = |text: &str| {
        let (kind, _) = text.split_once(':')?;
        FORMS.into_iter().find(|(known, ..)| *known == kind)
    };
    let named = text.split_once('=').filter(|(_, rest)| form_of(rest).is_some());
    let (name, rest) = named.map_or((None, text), |(name, rest)| (Some(name), rest));
    let Some((kind, factory, arguments)) = form_of(rest) else { return Ok(None) };
    let parts: Vec<&str> = rest.split(':').skip(1).collect();
    ensure!(
        parts.len() == arguments.len() && parts.iter().all(|part| !part.is_empty()),
        "data set {text}: expected [NAME=]{kind}:{}, found {} parts after {kind}",
        arguments.join(":"),
        parts.len()
    );
    let stem = |path: &str| Path::new(path).file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let name = match name {
        Some(name) => name.to_owned(),
        None => stem(parts[0]).with_context(|| format!("data set {text}: {} names no file", parts[0]))?,
    };
    let is_folder_name = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\']);
    ensure!(is_folder_name, "data set {text}: the name {name:?} is not fit for a folder of results");
    let args = arguments.iter().zip(parts).map(|(key, part)| ((*key).to_owned(), Value::Str(part.to_owned())));
    Ok(Some(DatasetSpec { name, factory: factory.to_owned(), args: args.collect() }))
}

/// What `python` or `yaml` makes of the text of the file that `PATHS_CATALOG` names, by its ending.
pub(super) fn read_catalog<T>(
    paths_catalog: &str,
    python: impl FnOnce(&str) -> Result<T>,
    yaml: impl FnOnce(&str) -> Result<T>,
) -> Result<T> {
    let path = Path::new(paths_catalog);
    let text = std::fs::read_to_string(path).with_context(|| {
        let missing = !path.exists();
        let hint = format!("; PATHS_CATALOG '{BUILT_IN}' is the original's catalog, which is part of this program");
        format!("the file cannot be read{}", if missing { hint.as_str() } else { "" })
    })?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("py") => python(&text),
        Some("yaml" | "yml") => yaml(&text),
        _ => bail!("expected a .py, .yaml or .yml file"),
    }
}

/// The literal that a Python text assigns to `name`; `None` if it assigns nothing.
pub(super) fn python_assignment(text: &str, name: &str) -> Result<Option<Value>> {
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let Some(rest) = line.trim_start().strip_prefix(name) else { continue };
        let rest = rest.trim_start();
        // `DATASETS = …` or `DATASETS: dict = …`
        let annotated = if rest.starts_with(':') { rest.find('=').map(|i| &rest[i..]) } else { Some(rest) };
        let Some(value) = annotated.and_then(|r| r.strip_prefix('=')).filter(|r| !r.starts_with('=')) else { continue };
        let from = start + line.len() - value.len();
        return literal::parse_statement(&text[from..]).map(Some).map_err(|error| {
            // Where it counts from is not what the reader of a file counts from.
            let (at, why) = match error {
                LiteralError::NotALiteral { what, at } => (at, format!("not a Python literal: {what}")),
                other => (0, other.to_string()),
            };
            let (number, line) = line_of(text, from, at);
            anyhow!(
                "line {number}, `{line}`: {why}. {name} should consist of literals (numbers, strings, dicts …), since the \
                 file is read, not executed: write paths as text, or a YAML catalog"
            )
        });
    }
    Ok(None)
}

/// The number and the text of the line that the `at`th character after byte `from` is in. A line end of two characters
/// counts as one.
fn line_of(text: &str, from: usize, at: usize) -> (usize, &str) {
    let below = text[from..].replace("\r\n", "\n").chars().take(at).filter(|c| *c == '\n').count();
    let lines: Vec<&str> = text.lines().collect();
    let index = (text[..from].matches('\n').count() + below).min(lines.len().saturating_sub(1));
    (index + 1, lines.get(index).map_or("", |line| line.trim()))
}

#[cfg(test)]
mod tests;
