//! The optimizer and its learning-rate schedule.

pub mod build;
pub mod grad_scaler;
pub mod lr_scheduler;
pub mod sgd;

pub use build::{make_lr_scheduler, make_optimizer, settings_in_force};
pub use grad_scaler::GradScaler;
pub use lr_scheduler::{WarmupMethod, WarmupMultiStepLr};
pub use sgd::{ParamGroup, Sgd};
