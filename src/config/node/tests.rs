use proptest::prelude::*;

use super::*;

fn merged(list: &[&str]) -> Result<CfgNode, ConfigError> {
    let mut node = CfgNode::default();
    node.merge_from_list(list)?;
    Ok(node)
}

fn message(list: &[&str]) -> String {
    merged(list).expect_err("should be refused").to_string()
}

#[test]
fn typed_and_back() {
    let node = CfgNode::default();
    assert_eq!(node.to_config().expect("the defaults are typed"), Config::default());
    let node = merged(&["SOLVER.BASE_LR", "1", "TEST.EXPECTED_RESULTS", "[['bbox', 'AP', (38, 0.5)]]"]).expect("valid");
    let config = node.to_config().expect("typed");
    assert_eq!(config.solver.base_lr, 1.0);
    assert_eq!(config.test.expected_results, [crate::config::ExpectedResult("bbox".into(), "AP".into(), 38.0, 0.5)]);
    assert_eq!(config.to_node().to_config().expect("typed"), config);
}

#[test]
fn the_typed_form_names_the_key() {
    for (list, key) in [
        (
            ["MODEL.DEVICE", "None"],
            "MODEL.DEVICE: expected a string, found None (leave the key out for its default, 'cuda')",
        ),
        (["INPUT.PIXEL_MEAN", "[1.0, 'x', 2.0]"], "INPUT.PIXEL_MEAN[1]: expected f64, found string \"x\""),
        (["SOLVER.STEPS", "(1, 2.5)"], "SOLVER.STEPS[1]: expected i64, found floating point `2.5`"),
        (["TEST.EXPECTED_RESULTS", "[['bbox', 'AP', (38,)]]"], "TEST.EXPECTED_RESULTS[0]"),
    ] {
        let error = merged(&list).expect("yacs takes it").to_config().expect_err("the programs do not").to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn none_is_taken_where_the_original_takes_it() {
    for text in ["DTYPE:\nMODEL:\n  WEIGHT:\n", "DTYPE: null\nMODEL: {WEIGHT: null}\n"] {
        let mut node = CfgNode::default();
        node.merge_from_str(text, "x.yaml").expect("yacs takes it");
        let config = node.to_config().expect("so do the programs");
        assert_eq!((config.model.weight.as_str(), config.dtype.as_str()), ("", "float32"));
        let mut again = CfgNode::default();
        again.merge_from_str(&node.dump(), "config.yml").expect("what was written is read");
        assert_eq!(again.to_config().expect("typed"), config);
    }
}

#[test]
fn errors_say_where_what_and_how() {
    assert_eq!(
        message(&["SOLVER.MAX_ITERS", "5"]),
        "override SOLVER.MAX_ITERS 5: there is no configuration key SOLVER.MAX_ITERS (did you mean SOLVER.MAX_ITER?)"
    );
    assert_eq!(
        message(&["MODEL.MASK_ON", "true"]),
        "override MODEL.MASK_ON true: MODEL.MASK_ON: expected a value of type bool such as False, found the str 'true' \
         (write True)"
    );
    assert_eq!(
        message(&["INPUT.MIN_SIZE_TRAIN", "800"]),
        "override INPUT.MIN_SIZE_TRAIN 800: INPUT.MIN_SIZE_TRAIN: expected a value of type tuple such as (800,), found \
         the int 800 (write (800,) with a comma for one item)"
    );
    assert!(message(&["OUTPUT_DIR", "2019"]).contains("\"'2019'\""));
    assert!(message(&["SOLVER.MAX_ITER", "9e4"]).contains("write 90000"));
    assert!(message(&["SOLVER.MAX_ITER", "1", "OUTPUT_DIR"]).contains("found 3 words"));
    assert!(message(&["SOLVER", "1"]).contains("KEY.SUBKEY"));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("wrong.yaml");
    std::fs::write(&path, "MODEL:\n  NUM_CLASSES: 3\n").expect("written");
    let error = CfgNode::default().merge_from_file(&path).expect_err("unknown key");
    assert_eq!((error.kind(), error.key()), (ErrorKind::UnknownKey, Some("MODEL.NUM_CLASSES")));
    let text = error.to_string();
    assert!(text.starts_with(&path.display().to_string()) && text.contains(".NUM_CLASSES?"), "{text}");
    for file in ["missing.yaml", "config.py", "config.json"] {
        let error = CfgNode::default().merge_from_file(&folder.path().join(file)).expect_err("not readable");
        assert!(error.to_string().contains(file), "{error}");
    }
}

#[test]
fn freezing_stops_set_but_not_merging() {
    let mut node = CfgNode::default();
    node.freeze();
    assert!(node.set("SOLVER.MAX_ITER", Value::Int(1)).is_err());
    node.merge_from_list(&["SOLVER.MAX_ITER", "2"]).expect("as yacs");
    node.defrost();
    node.set("OUTPUT_DIR", Value::Str("out".into())).expect("not frozen");
    assert_eq!(node.get("SOLVER.MAX_ITER"), Some(&Value::Int(2)));
    assert_eq!(node.get("OUTPUT_DIR"), Some(&Value::Str("out".into())));
    assert!(node.set("SOLVER.NO_SUCH", Value::None).is_err() && node.set("SOLVER", Value::None).is_err());
}

#[test]
fn prints_as_yacs() {
    let text = CfgNode::default().to_string();
    let start = "AMP_VERBOSE: False\nDATALOADER:\n  ASPECT_RATIO_GROUPING: True\n  NUM_WORKERS: 4\n";
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains("\n  RPN:\n    ANCHOR_SIZES: (32, 64, 128, 256, 512)\n"), "{text}");
    assert!(text.ends_with("  IMS_PER_BATCH: 8"), "{text}");
}

#[test]
fn dumps_as_yacs() {
    let text = CfgNode::default().dump();
    let start =
        "AMP_VERBOSE: false\nDATALOADER:\n  ASPECT_RATIO_GROUPING: true\n  NUM_WORKERS: 4\n  SIZE_DIVISIBILITY: 0\n\
                 DATASETS:\n  TEST: []\n  TRAIN: []\nDTYPE: float32\nINPUT:\n  BRIGHTNESS: 0.0\n";
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains("\n    EPSILON: 1.0e-05\n"), "{text}");
    assert!(text.contains("\n    ANCHOR_SIZES:\n    - 32\n    - 64\n"), "{text}");
    assert!(text.ends_with("  EXPECTED_RESULTS: []\n  EXPECTED_RESULTS_SIGMA_TOL: 4\n  IMS_PER_BATCH: 8\n"), "{text}");
}

/// A value of the type of `of`, from a number.
fn other_value(of: &Value, seed: u64, text: &str) -> Value {
    match of {
        Value::Bool(_) => Value::Bool(seed & 1 == 0),
        Value::Int(_) => Value::Int(seed as i64),
        Value::Float(_) => Value::Float(seed as f64 / 1024.0),
        Value::Str(_) => Value::Str(text.to_owned()),
        Value::List(_) => Value::List(vec![Value::Int(seed as i64), Value::Str(text.to_owned())]),
        Value::Tuple(_) => Value::Tuple(vec![Value::Float(seed as f64), Value::None]),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn dumped_configurations_are_read_back(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u64>(), "[^\u{0}]{0,12}"), 0..8),
    ) {
        let mut node = CfgNode::default();
        let keys: Vec<String> = node.leaves().into_iter().map(|(key, _)| key).collect();
        for (index, seed, text) in changes {
            let key = index.get(&keys);
            let value = other_value(node.get(key).expect("a leaf"), seed, &text);
            node.set(key, value).expect("not frozen");
        }
        let mut read = CfgNode::default();
        read.merge_from_str(&node.dump(), "config.yml").expect("readable");
        prop_assert_eq!(read, node);
    }
}
