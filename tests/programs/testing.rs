//! What `test_net` does.

use std::path::Path;

use maskrcnn_benchmark::config::Config;

use super::support::{fails, program, root, shapes, succeeds, train};

/// The entries of a result file of a test on `shapes_val`.
fn results(output: &Path, name: &str) -> Vec<serde_json::Value> {
    let path = output.join("inference/shapes_val").join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).expect("a list of results")
}

#[test]
fn the_newest_checkpoint_is_tested_unless_another_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path();
    train(output, &[]);
    let expected = ["TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 0.5, 10.0]]"];
    let text = succeeds(&mut program("test_net", output, &["--seed", "5"], &expected));
    assert!(text.contains(&format!("Loading checkpoint from {}", output.join("model_final.pth").display())), "{text}");
    assert!(text.contains("Start evaluation on shapes_val dataset(3 images)."), "{text}");
    assert!(text.contains("Total run time: 0:") && text.contains("s / img per device, on 1 devices)"), "{text}");
    assert!(text.contains("PASS: "), "{text}");
    for class in ["circle", "box", "triangle"] {
        assert!(text.contains(class), "no result for {class}: {text}");
    }
    let results = output.join("inference/shapes_val");
    for name in ["bbox.json", "segm.json", "coco_results.pth", "predictions.pth"] {
        assert!(results.join(name).is_file(), "{name} is missing");
    }
    // Every score passes this configuration's threshold, so there are detections even after four iterations.
    assert!(!self::results(output, "bbox.json").is_empty());

    std::fs::remove_file(results.join("coco_results.pth")).expect("removed");
    let misspelt = ["TEST.EXPECTED_RESULTS", "[['bbox', 'APP', 0.5, 10.0]]"];
    let text = fails(&mut program("test_net", output, &["--seed", "5"], &misspelt), 1);
    assert!(text.contains("'bbox APP'") && text.contains("bbox AP50"), "{text}");
    assert!(results.join("coco_results.pth").is_file(), "the results are lost");

    let earlier = output.join("model_0000002.pth").display().to_string();
    let text = succeeds(&mut program("test_net", output, &["--ckpt", &earlier], &[]));
    assert!(text.contains(&format!("Loading checkpoint from {earlier}: --ckpt names it\n")), "{text}");
    let log = std::fs::read_to_string(output.join("log.txt")).expect("log.txt");
    assert!(!log.contains("Start evaluation"), "test_net writes no log.txt, as the original");
}

/// The augmentation of `configs/test_time_aug`, at sizes that fit the tiny images. Masks are those of the identity
/// view: one for each box, as large as the image.
#[test]
fn test_time_augmentation_finds_boxes_and_masks() {
    let shipped = root().join("configs/test_time_aug/e2e_mask_rcnn_R_50_FPN_1x.yaml");
    let shipped = Config::load(Some(&shipped), &[]).expect("a configuration");
    let aug = &shipped.test.bbox_aug;
    assert!(shipped.model.mask_on && aug.enabled && aug.h_flip && aug.scale_h_flip && aug.scales.len() == 8);

    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path();
    train(output, &["SOLVER.MAX_ITER", "2"]);
    succeeds(&mut program("test_net", output, &["--seed", "5"], &[]));
    let plain = results(output, "bbox.json");
    let augmented = [
        ["TEST.BBOX_AUG.ENABLED", "True"],
        ["TEST.BBOX_AUG.H_FLIP", "True"],
        ["TEST.BBOX_AUG.SCALES", "(48, 80)"],
        ["TEST.BBOX_AUG.MAX_SIZE", "120"],
        ["TEST.BBOX_AUG.SCALE_H_FLIP", "True"],
    ];
    std::fs::remove_dir_all(output.join("inference")).expect("removed");
    let text = succeeds(&mut program("test_net", output, &["--seed", "5"], &augmented.concat()));
    assert!(text.contains("Task: bbox") && text.contains("Task: segm"), "{text}");
    for name in ["coco_results.pth", "predictions.pth"] {
        assert!(output.join("inference/shapes_val").join(name).is_file(), "{name} is missing");
    }
    let (boxes, masks) = (results(output, "bbox.json"), results(output, "segm.json"));
    assert!(!boxes.is_empty() && boxes != plain);
    assert_eq!(boxes.len(), masks.len());
    for (found, mask) in boxes.iter().zip(&masks) {
        for key in ["image_id", "category_id", "score"] {
            assert_eq!(found[key], mask[key]);
        }
        assert!(mask["segmentation"]["counts"].is_string() && mask["segmentation"]["size"].is_array(), "{mask}");
    }
}

#[test]
fn proposals_alone_are_evaluated_by_recall() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path();
    let rpn = ["MODEL.RPN_ONLY", "True", "MODEL.MASK_ON", "False", "SOLVER.MAX_ITER", "2"];
    train(output, &rpn);
    let text = succeeds(&mut program("test_net", output, &["--seed", "5"], &rpn));
    for metric in ["AR@100", "ARs@100", "ARm@100", "ARl@100", "AR@1000"] {
        assert!(text.contains(metric), "{metric} is missing: {text}");
    }
    let results = output.join("inference/shapes_val");
    for name in ["box_proposals.pth", "predictions.pth"] {
        assert!(results.join(name).is_file(), "{name} is missing");
    }
    assert!(!results.join("bbox.json").exists());
}

#[test]
fn a_missing_checkpoint_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = fails(&mut program("test_net", folder.path(), &["--ckpt", "/nowhere/model.pth"], &[]), 1);
    assert!(error.contains("--ckpt names /nowhere/model.pth") && !error.contains("MODEL.WEIGHT"), "{error}");
}

#[test]
fn results_of_two_data_sets_do_not_go_to_one_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = shapes().display();
    let once = format!("'coco:{data}/annotations/instances_val.json:{data}/val'");
    let linked = folder.path().join("instances_val.json");
    std::os::unix::fs::symlink(shapes().join("annotations/instances_val.json"), &linked).expect("a link");
    let elsewhere = format!("'coco:{}:{data}/val'", linked.display());
    for (name, twice) in [("train_net", format!("({once}, {once})")), ("test_net", format!("({once}, {elsewhere})"))] {
        let output = folder.path().join(name);
        let error = fails(&mut program(name, &output, &[], &["DATASETS.TEST", &twice]), 1);
        assert!(error.contains("would go to one folder, inference/instances_val"), "{error}");
        assert!(!output.join("inference").exists() && !output.join("last_checkpoint").exists());
    }
    let named = format!("({once}, 'other={})", &elsewhere[1..]);
    succeeds(&mut program("test_net", &folder.path().join("named"), &[], &["DATASETS.TEST", &named]));
    for name in ["instances_val", "other"] {
        assert!(folder.path().join("named/inference").join(name).join("bbox.json").is_file(), "{name}");
    }
}

#[test]
fn what_is_lost_by_a_slip_is_warned_about() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("mistyped");
    let log = succeeds(&mut program("test_net", &output, &[], &[]));
    let warning = format!("WARNING: there is no {}/last_checkpoint and MODEL.WEIGHT is empty", output.display());
    assert!(log.contains(&warning), "{log}");
    let overrides = ["OUTPUT_DIR", "", "SOLVER.MAX_ITER", "1"];
    let log = succeeds(&mut program("train_net", folder.path(), &["--skip-test"], &overrides));
    assert!(log.contains("WARNING: OUTPUT_DIR is empty: no checkpoint"), "{log}");
    let missing = |weight: &str| fails(&mut program("test_net", folder.path(), &["--ckpt", weight], &[]), 1);
    assert!(missing(&folder.path().display().to_string()).contains("is a folder, not a file of weights"));
    assert!(missing("~/w.pth").contains("~ stands for your home folder in the shell alone"));
    assert!(missing("detectron2://a/b.pkl").contains("detectron2:// is not known here"));
}
