//! Configuration: the original's YAML files and `KEY VALUE` overrides, resolved into one typed [`Config`].
//!
//! [`CfgNode`] is the tree that yacs' rules apply to; its defaults are those of the typed [`Config`], and programs see
//! only the typed form:
//!
//! ```
//! use maskrcnn_benchmark::config::Config;
//!
//! let overrides = ["MODEL.DEVICE", "cpu", "SOLVER.STEPS", "(1, 2)"].map(String::from);
//! let cfg = Config::load(None, &overrides)?;
//! assert_eq!(cfg.model.device, "cpu");
//! assert_eq!(cfg.solver.steps[..], [1, 2]);
//! # Ok::<(), maskrcnn_benchmark::config::ConfigError>(())
//! ```

mod defaults;
mod error;
pub mod literal;
mod merge;
pub mod model_catalog;
mod node;
mod nullable;
pub mod paths_catalog;
pub mod registry;
mod tuple;
mod typed;
mod value;
mod yaml;

use std::path::Path;

pub use defaults::*;
pub use error::{ConfigError, ErrorKind};
pub use node::{CfgNode, Node};
pub use tuple::{ExpectedResult, Tuple};
pub use value::Value;

impl Config {
    /// The defaults, then a YAML file, then overrides in the form key, value, key, value.
    ///
    /// # Errors
    /// Names the file or the override, the key, what was expected and found.
    pub fn load(config_file: Option<&Path>, overrides: &[String]) -> Result<Self, ConfigError> {
        let mut node = CfgNode::default();
        if let Some(path) = config_file {
            node.merge_from_file(path)?;
        }
        node.merge_from_list(overrides)?;
        node.to_config()
    }

    /// The tree that yacs' rules apply to.
    pub fn to_node(&self) -> CfgNode {
        typed::to_node(self)
    }

    /// The text of `config.yml`; see [`CfgNode::dump`].
    pub fn dump(&self) -> String {
        self.to_node().dump()
    }
}
