//! The training and inference loops.

pub mod advice;
pub mod bbox_aug;
pub mod coco_demo;
pub mod device;
pub mod drawing;
pub mod inference;
pub mod loss_history;
pub mod run_setting;
pub mod trainer;
pub mod training_state;

pub use inference::inference;
pub use trainer::do_train;
