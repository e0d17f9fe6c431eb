//! Golden area `evaluation`.

#[path = "evaluation/cityscapes.rs"]
mod cityscapes;
#[path = "evaluation/coco.rs"]
mod coco;
#[path = "evaluation/entry.rs"]
mod entry;
#[path = "evaluation/run_lengths.rs"]
mod run_lengths;
#[path = "evaluation/voc.rs"]
mod voc;

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support;

#[test]
fn every_file_is_tested() {
    let Some(area) = support::area("evaluation") else { return };
    let tested = [
        "cityscapes_as_coco.json",
        "cityscapes_eval.json",
        "cityscapes_matches.json",
        "cityscapes_predictions.safetensors",
        "coco_dets_bbox.json",
        "coco_dets_keypoints.json",
        "coco_dets_segm.json",
        "coco_eval_bbox.json",
        "coco_eval_bbox.safetensors",
        "coco_eval_keypoints.json",
        "coco_eval_keypoints.safetensors",
        "coco_eval_segm.json",
        "coco_eval_segm.safetensors",
        "entry.json",
        "entry_bbox.json",
        "entry_keypoints.json",
        "entry_keypoints_meta.json",
        "entry_keypoints_predictions.safetensors",
        "entry_predictions.safetensors",
        "entry_segm.json",
        "proposals.json",
        "proposals.safetensors",
        "rle.json",
        "rle_masks.safetensors",
        "sample_output.txt",
        "voc_dataset.json",
        "voc_devkit/",
        "voc_eval.json",
        "voc_eval.safetensors",
    ];
    support::all_files_known(&area, &tested);
}

/// Whether the area has a file. Only the subset that comes with the code may lack one, which is said aloud.
fn has(area: &Path, file: &str) -> bool {
    let there = area.join(file).exists();
    if !there {
        assert!(support::root().ends_with("tests/golden"), "{} has no {file}", area.display());
        println!("{file}: not in {}", area.display());
    }
    there
}

/// A file that a golden file names: relative to the golden folder or to its parent. `None` (said aloud) where the
/// golden folder comes without it.
fn named_file(name: &Value) -> Option<PathBuf> {
    let name = name.as_str().expect("a file's name");
    let root = support::root();
    let found = [root.join(name), root.join("..").join(name)].into_iter().find(|path| path.exists());
    if found.is_none() {
        println!("{name}: not beside {}", root.display());
    }
    found
}

thread_local! {
    static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps what the inference logger says on each thread.
struct Listener;

impl log::Log for Listener {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        metadata.target() == "maskrcnn_benchmark.inference"
    }

    fn log(&self, record: &log::Record) {
        if self.enabled(record.metadata()) {
            SAID.with_borrow_mut(|said| said.push(format!("{}: {}", record.level(), record.args())));
        }
    }

    fn flush(&self) {}
}

/// What `evaluate` says on this thread.
fn listen<T>(evaluate: impl FnOnce() -> T) -> (T, Vec<String>) {
    static LISTENER: Listener = Listener;
    // Another test of this binary may have set it already.
    let _ = log::set_logger(&LISTENER);
    log::set_max_level(log::LevelFilter::Info);
    SAID.with_borrow_mut(Vec::clear);
    let results = evaluate();
    (results, SAID.take())
}
