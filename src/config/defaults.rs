//! The typed configuration: one struct per section, one field per key of the original's `config/defaults.py`
//! (upstream's keys and the two that only the Res2Net fork has). The `Default` values here are the only copy of the
//! defaults; the yacs tree in `node` is made from them.

mod model;

use serde::{Deserialize, Serialize};

use super::{paths_catalog, ExpectedResult, Tuple};

pub use model::*;

/// The whole configuration of a program, resolved and typed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", deny_unknown_fields)]
pub struct Config {
    pub amp_verbose: bool,
    pub dataloader: DataLoaderConfig,
    pub datasets: DatasetsConfig,
    pub dtype: String,
    pub input: InputConfig,
    pub model: ModelConfig,
    pub output_dir: String,
    pub paths_catalog: String,
    pub solver: SolverConfig,
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
    pub aspect_ratio_grouping: bool,
    pub num_workers: i64,
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
    pub test: Tuple<String>,
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
    pub brightness: f64,
    pub contrast: f64,
    pub horizontal_flip_prob_train: f64,
    pub hue: f64,
    pub max_size_test: i64,
    pub max_size_train: i64,
    pub min_size_test: i64,
    pub min_size_train: Tuple<i64>,
    pub pixel_mean: Vec<f64>,
    pub pixel_std: Vec<f64>,
    pub saturation: f64,
    pub to_bgr255: bool,
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
    pub base_lr: f64,
    pub bias_lr_factor: i64,
    pub checkpoint_period: i64,
    pub gamma: f64,
    pub ims_per_batch: i64,
    pub max_iter: i64,
    pub momentum: f64,
    pub steps: Tuple<i64>,
    pub test_period: i64,
    pub warmup_factor: f64,
    pub warmup_iters: i64,
    pub warmup_method: String,
    pub weight_decay: f64,
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
    pub bbox_aug: BboxAugConfig,
    pub detections_per_img: i64,
    pub expected_results: Vec<ExpectedResult>,
    pub expected_results_sigma_tol: i64,
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
    pub enabled: bool,
    pub h_flip: bool,
    pub max_size: i64,
    pub scales: Tuple<i64>,
    pub scale_h_flip: bool,
}

impl Default for BboxAugConfig {
    fn default() -> Self {
        Self { enabled: false, h_flip: false, max_size: 4000, scales: Tuple(Vec::new()), scale_h_flip: false }
    }
}
