//! What the iterations of a training depend on, so that a run that goes on can tell whether it is still the same run.

use std::collections::BTreeMap;

use crate::checkpoint::{Dict, Value};
use crate::config::Config;

/// Where the length of the training set is kept among the keys.
const IMAGES: &str = "the number of training images";
/// What the order of the data follows from, beside seed and number of processes.
const ORDER: [&str; 3] = [IMAGES, "SOLVER.IMS_PER_BATCH", "DATALOADER.ASPECT_RATIO_GROUPING"];
/// Keys that no training step depends on, beside `TEST` and those that end in `_TEST`.
const WITHOUT_EFFECT: [&str; 14] = [
    "AMP_VERBOSE",
    "DATALOADER.NUM_WORKERS",
    "DATASETS.TEST",
    "MODEL.RETINANET.INFERENCE_TH",
    "MODEL.RETINANET.NMS_TH",
    "MODEL.RETINANET.PRE_NMS_TOP_N",
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG",
    "MODEL.ROI_HEADS.NMS",
    "MODEL.ROI_HEADS.SCORE_THRESH",
    "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS",
    "MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS_THRESHOLD",
    "MODEL.WEIGHT",
    "OUTPUT_DIR",
    "PATHS_CATALOG",
];

/// The keys of the configuration that a training step depends on, with their values, and the number of images. Rates,
/// decays and the schedule are not among them: those of a checkpoint's optimizer and scheduler hold anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSetting(BTreeMap<String, String>);

/// A key that has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// Its value in the run so far.
    pub before: String,
    /// Its value now.
    pub now: String,
}

impl Change {
    /// Whether the order of the data cannot go on where it was.
    pub fn is_of_order(&self) -> bool {
        ORDER.contains(&self.key.as_str())
    }
}

impl RunSetting {
    /// For a training on so many images.
    pub fn new(cfg: &Config, images: usize) -> Self {
        let counts = |key: &str| match key.split_once('.') {
            Some(("SOLVER", below)) => below == "IMS_PER_BATCH",
            Some(("TEST", _)) => false,
            _ => !WITHOUT_EFFECT.contains(&key) && !key.ends_with("_TEST"),
        };
        let tree = cfg.to_node();
        let leaves = tree.leaves().into_iter().filter(|(key, _)| counts(key));
        let mut keys: BTreeMap<_, _> = leaves.map(|(key, value)| (key, value.to_string())).collect();
        keys.insert(IMAGES.into(), images.to_string());
        Self(keys)
    }

    /// For a checkpoint.
    pub fn state_dict(&self) -> Dict {
        let mut dict = Dict::new();
        for (key, value) in &self.0 {
            dict.insert(key.as_str(), value.as_str());
        }
        dict
    }

    /// What [`state_dict`](Self::state_dict) gave.
    pub fn from_state_dict(dict: &Dict) -> Self {
        let text = |(key, value): &(Value, Value)| Some((key.as_str()?.to_owned(), value.as_str()?.to_owned()));
        Self(dict.entries.iter().filter_map(text).collect())
    }

    /// The keys whose values are others in `now`; keys that only one of the two has say nothing.
    pub fn changes(&self, now: &Self) -> Vec<Change> {
        let change = |(key, before): (&String, &String)| {
            let now = now.0.get(key).filter(|now| *now != before)?;
            Some(Change { key: key.clone(), before: before.clone(), now: now.clone() })
        };
        self.0.iter().filter_map(change).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Tuple;

    #[test]
    fn keys_without_effect_exist() {
        let tree = Config::default().to_node();
        let missing: Vec<_> = WITHOUT_EFFECT.iter().filter(|key| tree.get(key).is_none()).collect();
        assert!(missing.is_empty() && ORDER[1..].iter().all(|key| tree.get(key).is_some()), "{missing:?}");
    }

    #[test]
    fn what_changes_training_steps_is_told_apart_from_what_does_not() {
        let mut cfg = Config::default();
        let before = RunSetting::from_state_dict(&RunSetting::new(&cfg, 5).state_dict());
        assert_eq!(before, RunSetting::new(&cfg, 5));
        cfg.output_dir = "elsewhere".into();
        cfg.datasets.test = Tuple(vec!["coco_2017_val".into()]);
        (cfg.solver.max_iter, cfg.solver.base_lr, cfg.dataloader.num_workers) = (7, 3.0, 9);
        cfg.model.roi_heads.score_thresh = 0.5;
        (cfg.input.min_size_test, cfg.test.ims_per_batch) = (32, 64);
        assert_eq!(before.changes(&RunSetting::new(&cfg, 5)), []);

        cfg.input.min_size_train = Tuple(vec![48]);
        let changes = before.changes(&RunSetting::new(&cfg, 5));
        let expected = Change { key: "INPUT.MIN_SIZE_TRAIN".into(), before: "(800,)".into(), now: "(48,)".into() };
        assert_eq!((&changes[..], expected.is_of_order()), (&[expected.clone()][..], false));

        cfg.solver.ims_per_batch = 2;
        let changes = before.changes(&RunSetting::new(&cfg, 6));
        assert_eq!(changes.iter().filter(|change| change.is_of_order()).count(), 2, "{changes:?}");
    }
}
