use std::sync::Arc;

use anyhow::{bail, Context, Result};

use super::{COCODataset, CityScapesDataset, CityScapesMode, Dataset, DatasetOptions, PascalVOCDataset};
use crate::config::paths_catalog::DatasetSpec;
use crate::config::registry::{builders, Registry};
use crate::config::Value;

builders! {
    /// Makes a data set of a catalog entry.
    BuildDataset(&DatasetSpec, DatasetOptions) -> Arc<dyn Dataset>;
}

/// The kinds of data sets by the names that catalogs use. A user's crate can add its own.
#[derive(Clone, Debug)]
pub struct DatasetRegistry {
    factories: Registry<BuildDataset>,
}

impl Default for DatasetRegistry {
    /// The original's kinds.
    fn default() -> Self {
        let mut factories: Registry<BuildDataset> = Registry::new("the kind (factory) of a data set");
        factories.built_in([("COCODataset", coco), ("PascalVOCDataset", voc), ("CityScapesDataset", cityscapes)]);
        Self { factories }
    }
}

impl DatasetRegistry {
    /// Adds a kind: a function or a closure that makes a data set of a catalog entry. It may ignore the options.
    ///
    /// # Errors
    /// If there is a kind of this name.
    pub fn register(
        &mut self,
        factory: &str,
        build: impl Fn(&DatasetSpec, DatasetOptions) -> Result<Arc<dyn Dataset>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.factories.register(factory, build)
    }

    /// The names of all kinds.
    pub fn names(&self) -> Vec<&str> {
        self.factories.names().collect()
    }

    /// Makes the data set of a catalog entry.
    ///
    /// # Errors
    /// If its kind is not known or it cannot be read; the entry is named.
    pub fn build(&self, spec: &DatasetSpec, options: DatasetOptions) -> Result<Arc<dyn Dataset>> {
        let build = self.factories.get(&spec.factory);
        build.and_then(|build| build(spec, options)).with_context(|| format!("cannot use data set {}", spec.name))
    }
}

/// Training leaves out images without annotations.
fn coco(spec: &DatasetSpec, options: DatasetOptions) -> Result<Arc<dyn Dataset>> {
    let dataset = COCODataset::new(&spec.path("ann_file")?, &spec.path("root")?, options.is_train)?;
    Ok(Arc::new(dataset.with_fields(options.fields)))
}

/// Training leaves out difficult objects. The classes are VOC's, unless the entry lists others.
fn voc(spec: &DatasetSpec, options: DatasetOptions) -> Result<Arc<dyn Dataset>> {
    let dataset = PascalVOCDataset::new(&spec.path("data_dir")?, spec.string("split")?, !options.is_train)?;
    Ok(match spec.strings("classes")? {
        Some(classes) => Arc::new(dataset.with_classes(&classes)?),
        None => Arc::new(dataset),
    })
}

fn cityscapes(spec: &DatasetSpec, options: DatasetOptions) -> Result<Arc<dyn Dataset>> {
    let number = |argument: &str| match spec.args.get(argument) {
        None | Some(Value::None) => Ok(None),
        Some(Value::Int(number)) => Ok(Some(*number)),
        Some(other) => bail!("{argument} should be a whole number, found {other}"),
    };
    let mode = if spec.args.contains_key("mode") { spec.string("mode")? } else { "mask" };
    let mini = number("mini")?.map(usize::try_from).transpose().context("mini cannot be negative")?;
    let dataset = CityScapesDataset::new(
        &spec.path("img_dir")?,
        &spec.path("ann_dir")?,
        spec.string("split")?,
        CityScapesMode::parse(mode)?,
        number("min_area")?.unwrap_or(0),
        mini,
    )?;
    Ok(Arc::new(dataset.with_fields(options.fields)))
}
