//! Configuration: the original's YAML files and `KEY VALUE` overrides, resolved into one typed [`Config`].

mod defaults;

use serde::{Deserialize, Serialize};

pub use defaults::*;

/// A Python tuple in the configuration. It differs from a list (`Vec`) only in how it is dumped and merged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tuple<T>(pub Vec<T>);

impl<T> std::ops::Deref for Tuple<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// One entry of `TEST.EXPECTED_RESULTS`: task, metric, mean and standard deviation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExpectedResult(pub String, pub String, pub f64, pub f64);
