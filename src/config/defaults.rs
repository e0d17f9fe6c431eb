//! The typed configuration: one struct per section, one field per key of the original's `config/defaults.py`
//! (upstream's keys and the two that only the Res2Net fork has). The `Default` values here are the only copy of the
//! defaults; the yacs tree in `node` is made from them.

mod model;

use serde::{Deserialize, Serialize};

use super::{nullable, paths_catalog, ExpectedResult, Tuple};

pub use model::*;

/// The whole configuration of a program, resolved and typed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct Config {
    /// Apex's verbosity; without effect here.
    pub amp_verbose: bool,
    /// How data are loaded.
    pub dataloader: DataLoaderConfig,
    /// What is trained and tested on.
    pub datasets: DatasetsConfig,
    /// Precision of training and testing: `float32`, `float16` or `bfloat16`.
    #[serde(deserialize_with = "nullable::dtype")]
    pub dtype: String,
    /// What happens to images before the network.
    pub input: InputConfig,
    /// The network.
    pub model: ModelConfig,
    /// Where logs, checkpoints and results go.
    pub output_dir: String,
    /// Where the names of data sets are looked up; see [`paths_catalog`](crate::config::paths_catalog).
    pub paths_catalog: String,
    /// The optimizer and its schedule.
    pub solver: SolverConfig,
    /// Testing.
    pub test: TestConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            amp_verbose: false,
            dataloader: DataLoaderConfig::default(),
            datasets: DatasetsConfig::default(),
            dtype: "float32".into(),
            input: InputConfig::default(),
            model: ModelConfig::default(),
            output_dir: ".".into(),
            paths_catalog: paths_catalog::BUILT_IN.into(),
            solver: SolverConfig::default(),
            test: TestConfig::default(),
        }
    }
}

/// The `DATALOADER` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct DataLoaderConfig {
    /// Batch upright images with upright ones and wide with wide ones.
    pub aspect_ratio_grouping: bool,
    /// Threads that load images.
    pub num_workers: i64,
    /// Batches are padded to a multiple of it in height and width; 0 for no such padding.
    pub size_divisibility: i64,
}

impl Default for DataLoaderConfig {
    fn default() -> Self {
        Self { aspect_ratio_grouping: true, num_workers: 4, size_divisibility: 0 }
    }
}

/// The `DATASETS` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct DatasetsConfig {
    /// Names of the data sets to test on, one after the other.
    pub test: Tuple<String>,
    /// Names of the data sets to train on, together.
    pub train: Tuple<String>,
}

impl Default for DatasetsConfig {
    fn default() -> Self {
        Self { test: Tuple(Vec::new()), train: Tuple(Vec::new()) }
    }
}

/// The `INPUT` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct InputConfig {
    /// Largest change of brightness in training, as a factor around 1.
    pub brightness: f64,
    /// Largest change of contrast in training.
    pub contrast: f64,
    /// Probability of a left-right flip in training.
    pub horizontal_flip_prob_train: f64,
    /// Largest change of hue in training, in turns of the colour circle.
    pub hue: f64,
    /// Limit of the longer side in testing, in pixels.
    pub max_size_test: i64,
    /// Limit of the longer side in training, in pixels.
    pub max_size_train: i64,
    /// Shorter side in testing, in pixels.
    pub min_size_test: i64,
    /// Shorter sides to draw from in training, in pixels.
    pub min_size_train: Tuple<i64>,
    /// Mean of each channel, in the network's order and range.
    pub pixel_mean: Vec<f64>,
    /// Standard deviation of each channel.
    pub pixel_std: Vec<f64>,
    /// Largest change of saturation in training.
    pub saturation: f64,
    /// The network takes blue, green, red from 0 to 255 (Caffe2's models) instead of red, green, blue from 0 to 1.
    pub to_bgr255: bool,
    /// Probability of a top-bottom flip in training.
    pub vertical_flip_prob_train: f64,
}

impl Default for InputConfig {
    fn default() -> Self {
        Self {
            brightness: 0.0,
            contrast: 0.0,
            horizontal_flip_prob_train: 0.5,
            hue: 0.0,
            max_size_test: 1333,
            max_size_train: 1333,
            min_size_test: 800,
            min_size_train: Tuple(vec![800]),
            pixel_mean: vec![102.9801, 115.9465, 122.7717],
            pixel_std: vec![1.0, 1.0, 1.0],
            saturation: 0.0,
            to_bgr255: true,
            vertical_flip_prob_train: 0.0,
        }
    }
}

/// The `SOLVER` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct SolverConfig {
    /// Learning rate after the warm-up.
    pub base_lr: f64,
    /// Factor of the rate of biases.
    pub bias_lr_factor: i64,
    /// Iterations between checkpoints.
    pub checkpoint_period: i64,
    /// Factor of the rate at every step.
    pub gamma: f64,
    /// Images a batch, of all processes together.
    pub ims_per_batch: i64,
    /// Number of iterations.
    pub max_iter: i64,
    /// Momentum.
    pub momentum: f64,
    /// Iterations at which the rate falls.
    pub steps: Tuple<i64>,
    /// Iterations between validations in training; 0 for none.
    pub test_period: i64,
    /// Share of the rate that the warm-up starts from.
    pub warmup_factor: f64,
    /// Iterations of the warm-up.
    pub warmup_iters: i64,
    /// `linear` or `constant`.
    pub warmup_method: String,
    /// Weight decay.
    pub weight_decay: f64,
    /// Weight decay of biases.
    pub weight_decay_bias: i64,
}

impl Default for SolverConfig {
    fn default() -> Self {
        Self {
            base_lr: 0.001,
            bias_lr_factor: 2,
            checkpoint_period: 2500,
            gamma: 0.1,
            ims_per_batch: 16,
            max_iter: 40000,
            momentum: 0.9,
            steps: Tuple(vec![30000]),
            test_period: 0,
            warmup_factor: 0.3333333333333333,
            warmup_iters: 500,
            warmup_method: "linear".into(),
            weight_decay: 0.0005,
            weight_decay_bias: 0,
        }
    }
}

/// The `TEST` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct TestConfig {
    /// Test-time augmentation.
    pub bbox_aug: BboxAugConfig,
    /// Detections that RetinaNet keeps an image.
    pub detections_per_img: i64,
    /// Results that are checked after testing.
    pub expected_results: Vec<ExpectedResult>,
    /// Standard deviations that a result may lie off.
    pub expected_results_sigma_tol: i64,
    /// Images a batch, of all processes together.
    pub ims_per_batch: i64,
}

impl Default for TestConfig {
    fn default() -> Self {
        Self {
            bbox_aug: BboxAugConfig::default(),
            detections_per_img: 100,
            expected_results: Vec::new(),
            expected_results_sigma_tol: 4,
            ims_per_batch: 8,
        }
    }
}

/// The `TEST.BBOX_AUG` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct BboxAugConfig {
    /// Test every image at several sizes and mirrored.
    pub enabled: bool,
    /// Also mirrored, at the usual size.
    pub h_flip: bool,
    /// Limit of the longer side, in pixels.
    pub max_size: i64,
    /// Further shorter sides, in pixels.
    pub scales: Tuple<i64>,
    /// Also mirrored, at the further sizes.
    pub scale_h_flip: bool,
}

impl Default for BboxAugConfig {
    fn default() -> Self {
        Self { enabled: false, h_flip: false, max_size: 4000, scales: Tuple(Vec::new()), scale_h_flip: false }
    }
}
