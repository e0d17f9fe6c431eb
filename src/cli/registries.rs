//! Everything that is looked up by name.

use crate::data::datasets::DatasetRegistry;
use crate::data::transforms::TransformRegistry;
use crate::modeling::registry::ModelRegistries;

/// The names that a configuration may use. The default has the built-in ones; a user's crate adds its own and hands
/// the whole to [`train_net`](super::train_net) and [`test_net`](super::test_net).
#[derive(Default)]
pub struct Registries {
    /// Backbones, heads, feature extractors, predictors.
    pub models: ModelRegistries,
    /// Kinds of data sets: the factories of the paths catalog.
    pub datasets: DatasetRegistry,
    /// Steps of the transformation of an image and its target.
    pub transforms: TransformRegistry,
}
