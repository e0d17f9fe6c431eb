use std::sync::Arc;

use anyhow::{ensure, Context, Result};

use super::{ColorJitter, Compose, RandomFlip, Resize, Transform};
use crate::config::registry::{builders, Registry};
use crate::config::Config;
use crate::structures::Flip;

builders! {
    /// Builds one step for training (`true`) or testing (`false`).
    BuildTransform(&Config, bool) -> Box<dyn Transform>;
}

/// The steps that every image goes through, by name and in order. A user's crate can add, put in between or replace
/// steps; conversion to the network's input ([`Normalize`](super::Normalize)) always comes last.
#[derive(Clone, Debug)]
pub struct TransformRegistry {
    steps: Registry<BuildTransform>,
}

impl Default for TransformRegistry {
    /// The original's steps: ColorJitter, Resize, RandomHorizontalFlip, RandomVerticalFlip.
    fn default() -> Self {
        let mut steps: Registry<BuildTransform> = Registry::new("the transform");
        steps.built_in([
            ("ColorJitter", color_jitter),
            ("Resize", resize),
            ("RandomHorizontalFlip", horizontal_flip),
            ("RandomVerticalFlip", vertical_flip),
        ]);
        Self { steps }
    }
}

impl TransformRegistry {
    /// Adds a step at the end: a function or a closure that builds it for training (`true`) or testing (`false`).
    ///
    /// # Errors
    /// If there is a step of this name.
    pub fn register(
        &mut self,
        name: &str,
        build: impl Fn(&Config, bool) -> Result<Box<dyn Transform>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.steps.register(name, build)
    }

    /// Adds a step before another one.
    ///
    /// # Errors
    /// If there is a step of this name, or none called `before`.
    pub fn insert_before(
        &mut self,
        before: &str,
        name: &str,
        build: impl Fn(&Config, bool) -> Result<Box<dyn Transform>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.steps.insert(self.steps.position(before)?, name, Arc::new(build))
    }

    /// Replaces a step.
    ///
    /// # Errors
    /// If there is no step of this name.
    pub fn replace(
        &mut self,
        name: &str,
        build: impl Fn(&Config, bool) -> Result<Box<dyn Transform>> + Send + Sync + 'static,
    ) -> Result<()> {
        self.steps.replace(name, Arc::new(build))
    }

    /// The names of the steps in order.
    pub fn names(&self) -> Vec<&str> {
        self.steps.names().collect()
    }
}

/// All steps of the registry for training or testing.
///
/// # Errors
/// If a value of the `INPUT` section cannot be used; the step is named.
pub fn build_transforms(cfg: &Config, is_train: bool, registry: &TransformRegistry) -> Result<Compose> {
    let build = |(name, build): (&str, &BuildTransform)| {
        build(cfg, is_train).with_context(|| format!("cannot build the transform {name} from the INPUT section"))
    };
    Ok(Compose(registry.steps.entries().map(build).collect::<Result<_>>()?))
}

fn color_jitter(cfg: &Config, is_train: bool) -> Result<Box<dyn Transform>> {
    let input = &cfg.input;
    let jitter = if is_train {
        ColorJitter::new(input.brightness, input.contrast, input.saturation, input.hue)
    } else {
        ColorJitter::new(0.0, 0.0, 0.0, 0.0)
    };
    Ok(Box::new(jitter?))
}

fn resize(cfg: &Config, is_train: bool) -> Result<Box<dyn Transform>> {
    Ok(Box::new(Resize::from_config(cfg, is_train)?))
}

fn horizontal_flip(cfg: &Config, is_train: bool) -> Result<Box<dyn Transform>> {
    let probability = cfg.input.horizontal_flip_prob_train;
    random_flip(Flip::LeftRight, is_train, ("INPUT.HORIZONTAL_FLIP_PROB_TRAIN", probability))
}

fn vertical_flip(cfg: &Config, is_train: bool) -> Result<Box<dyn Transform>> {
    random_flip(Flip::TopBottom, is_train, ("INPUT.VERTICAL_FLIP_PROB_TRAIN", cfg.input.vertical_flip_prob_train))
}

fn random_flip(flip: Flip, is_train: bool, (key, probability): (&str, f64)) -> Result<Box<dyn Transform>> {
    ensure!((0.0..=1.0).contains(&probability), "{key} is {probability}; it must lie between 0 and 1");
    Ok(Box::new(RandomFlip::new(flip, if is_train { probability } else { 0.0 })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_can_be_added_and_replaced() {
        let mut registry = TransformRegistry::default();
        registry.register("Last", resize).unwrap();
        registry.insert_before("Resize", "Blur", color_jitter).unwrap();
        registry.replace("RandomVerticalFlip", horizontal_flip).unwrap();
        let names = ["ColorJitter", "Blur", "Resize", "RandomHorizontalFlip", "RandomVerticalFlip", "Last"];
        assert_eq!(registry.names(), names);
        assert_eq!(build_transforms(&Config::default(), true, &registry).unwrap().0.len(), 6);
        assert!(registry.register("Last", resize).is_err());
        let error = registry.insert_before("Resiz", "New", resize).unwrap_err().to_string();
        assert!(error.contains("Did you mean Resize?"), "{error}");
    }

    #[test]
    fn unusable_values_are_named() {
        let mut cfg = Config::default();
        cfg.input.hue = 0.7;
        let error = format!("{:#}", build_transforms(&cfg, true, &TransformRegistry::default()).err().unwrap());
        assert!(error.contains("ColorJitter") && error.contains("0.7"), "{error}");
        assert!(build_transforms(&cfg, false, &TransformRegistry::default()).is_ok());

        let refused = |key: &str, value: &str, is_train: bool| {
            let cfg = Config::load(None, &[key.into(), value.into()]).unwrap();
            let error = format!("{:#}", build_transforms(&cfg, is_train, &TransformRegistry::default()).err().unwrap());
            assert!(error.contains(&format!("{key}: ")) || error.contains(&format!("{key} is {value}")), "{error}");
        };
        refused("INPUT.MIN_SIZE_TRAIN", "()", true);
        refused("INPUT.MIN_SIZE_TRAIN", "(64,0)", true);
        refused("INPUT.MAX_SIZE_TRAIN", "0", true);
        refused("INPUT.MIN_SIZE_TEST", "-1", false);
        refused("INPUT.MAX_SIZE_TEST", "0", false);
        refused("INPUT.HORIZONTAL_FLIP_PROB_TRAIN", "1.5", true);
        refused("INPUT.VERTICAL_FLIP_PROB_TRAIN", "-0.5", true);
    }
}
