//! What `test_net` does.

use super::support::{fails, program, succeeds, train};

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
    let boxes: serde_json::Value =
        serde_json::from_slice(&std::fs::read(results.join("bbox.json")).expect("bbox.json"))
            .expect("bbox.json is JSON");
    assert!(boxes.as_array().is_some_and(|list| !list.is_empty()), "{boxes}");

    let earlier = output.join("model_0000002.pth").display().to_string();
    let text = succeeds(&mut program("test_net", output, &["--ckpt", &earlier], &[]));
    assert!(text.contains(&format!("Loading checkpoint from {earlier}")), "{text}");
    let log = std::fs::read_to_string(output.join("log.txt")).expect("log.txt");
    assert!(!log.contains("Start evaluation"), "test_net writes no log.txt, as the original");
}

#[test]
fn a_missing_checkpoint_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let error = fails(&mut program("test_net", folder.path(), &["--ckpt", "/nowhere/model.pth"], &[]), 1);
    assert!(error.contains("/nowhere/model.pth"), "{error}");
}
