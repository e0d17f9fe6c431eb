use super::*;

fn text(value: &str) -> Value {
    Value::Str(value.into())
}

fn args(pairs: &[(&str, &str)]) -> BTreeMap<String, Value> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect()
}

#[test]
fn built_in_names() {
    let catalog = DatasetCatalog::load(BUILT_IN).expect("built in");
    assert_eq!(catalog.names().count(), 30);
    let coco = catalog.get("coco_2014_minival").expect("known");
    assert_eq!(coco.factory, "COCODataset");
    let expected =
        [("ann_file", "datasets/coco/annotations/instances_minival2014.json"), ("root", "datasets/coco/val2014")];
    assert_eq!(coco.args, args(&expected));
    let voc = catalog.get("voc_2007_test").expect("known");
    assert_eq!(voc.factory, "PascalVOCDataset");
    assert_eq!(voc.args, args(&[("data_dir", "datasets/voc/VOC2007"), ("split", "test")]));
    assert_eq!(catalog.get("voc_2012_val_cocostyle").expect("known").factory, "COCODataset");
    let cityscapes = catalog.get("cityscapes_mask_instance_minival").expect("known");
    assert_eq!(cityscapes.factory, "CityScapesDataset");
    assert_eq!(cityscapes.string("mode").expect("text"), "mask");
    assert_eq!(cityscapes.path("img_dir").expect("a path"), Path::new("datasets/cityscapes/leftImg8bit"));
    assert_eq!(cityscapes.args["mini"], Value::Int(10));
}

#[test]
fn every_built_in_name_has_a_class() {
    let catalog = DatasetCatalog::load(BUILT_IN).expect("built in");
    for name in catalog.names() {
        assert_eq!(catalog.get(name).expect("known").name, name);
    }
}

#[test]
fn unknown_names_say_what_is_close() {
    let catalog = DatasetCatalog::load(BUILT_IN).expect("built in");
    let error = catalog.get("coco_2014_minval").expect_err("unknown").to_string();
    assert!(error.contains("Did you mean coco_2014_minival?") && error.contains("coco:ANNOTATIONS"), "{error}");
}

const PYTHON: &str = r#"
import os

class DatasetCatalog(object):
    # DATA_DIR = "elsewhere"
    DATA_DIR = "/data"  # all of it
    DATASETS = {
        "my_coco_train": {
            "img_dir": "images",   # a comment
            "ann_file": "/other/train.json",
        },
        'shapes': {'img_dir': 'shapes', 'ann_file': 'shapes.json'},
        'birds': {'factory': 'BirdDataset', 'root': 'birds', 'seed': 3},
        'helmets': {'data_dir': 'helmets', 'split': 'train', 'classes': ('helmet', 'safety vest')},
        'switches': {'data_dir': 'switches', 'split': 'train', 'classes': ['on', 1]},
        'odd': {'a': 1},
    }

    @staticmethod
    def get(name):
        raise RuntimeError(os.path.join(name))
"#;

const YAML: &str = "
DATA_DIR: /data
DATASETS:
  my_coco_train: {img_dir: images, ann_file: /other/train.json}
  shapes:
    img_dir: shapes
    ann_file: shapes.json
  birds: {factory: BirdDataset, root: birds, seed: 3}
  helmets: {data_dir: helmets, split: train, classes: [helmet, safety vest]}
  switches: {data_dir: switches, split: train, classes: [on, off]}
  odd: {a: 1}
";

#[test]
fn python_and_yaml_files() {
    let folder = tempfile::tempdir().expect("a folder");
    for (file, content) in [("catalog.py", PYTHON), ("catalog.yaml", YAML)] {
        let path = folder.path().join(file);
        std::fs::write(&path, content).expect("written");
        let catalog = DatasetCatalog::load(&path.to_string_lossy()).expect("readable");
        let coco = catalog.get("my_coco_train").expect("known");
        assert_eq!(coco.args, args(&[("ann_file", "/other/train.json"), ("root", "/data/images")]));
        let shapes = catalog.get("shapes").expect("known by its keys");
        assert_eq!((shapes.factory.as_str(), shapes.path("root").expect("a path")), (COCO, "/data/shapes".into()));
        let birds = catalog.get("birds").expect("has a factory");
        assert_eq!((birds.factory.as_str(), &birds.args["seed"]), ("BirdDataset", &Value::Int(3)));
        assert_eq!(birds.string("root").expect("text"), "/data/birds");
        let helmets = catalog.get("helmets").expect("known by its keys");
        assert_eq!(helmets.factory, VOC);
        let classes = helmets.strings("classes").expect("texts").expect("some");
        assert_eq!(classes, ["helmet", "safety vest"]);
        assert_eq!(shapes.strings("classes").expect("none"), None);
        let switches = catalog.get("switches").expect("known by its keys").strings("classes").expect_err("not texts");
        assert!(switches.to_string().contains("switches: classes should be texts"), "{switches}");
        let error = format!("{:#}", catalog.get("odd").expect_err("no class"));
        assert!(error.contains("data set odd") && error.contains("add the key factory"), "{error}");
    }
}

#[test]
fn code_is_not_executed() {
    let error = DatasetCatalog::from_python("DATASETS = make_datasets()\n", "x.py").expect_err("not a literal");
    assert!(format!("{error:#}").contains("not executed"), "{error:#}");
    assert!(DatasetCatalog::from_python("import os\n", "x.py").is_err());
}

#[test]
fn what_is_no_literal_is_shown_with_its_line() {
    let unclosed = "a = 1\nDATASETS = {\n  'a': 1\n";
    for (code, expected) in [
        ("DATA_DIR = os.environ.get('DATA')\nDATASETS = {}", "line 1, `DATA_DIR = os.environ.get('DATA')`: not"),
        (&PYTHON.replace("\"images\"", "os.path.join('coco', 'images')"), "line 9, `\"img_dir\": os.path.join("),
        (&PYTHON.replace("'shapes.json'", "ROOT + '/shapes.json'"), "line 12, `'shapes': {"),
        (unclosed, "line 3, `'a': 1`: not a Python literal: a bracket that is not closed"),
    ] {
        for code in [code.to_owned(), code.replace('\n', "\r\n")] {
            let error = format!("{:#}", DatasetCatalog::from_python(&code, "x.py").expect_err("not a literal"));
            assert!(error.contains(expected) && error.contains("write paths as text, or a YAML catalog"), "{error}");
            assert!(!error.contains('\r'), "{error}");
        }
    }
}

#[test]
fn files_that_cannot_be_read() {
    for path in ["no_such_catalog.py", "Cargo.toml"] {
        let error = format!("{:#}", DatasetCatalog::load(path).expect_err("not readable"));
        assert!(error.contains(path) && error.contains("PATHS_CATALOG"), "{error}");
        assert_eq!(error.contains("PATHS_CATALOG '<built-in>'"), path == "no_such_catalog.py", "{error}");
    }
}

#[test]
fn data_sets_without_a_catalog() {
    let catalog = DatasetCatalog::load(BUILT_IN).expect("built in");
    let spec = catalog.get("coco:a/b/train.json:a/images").expect("complete");
    assert_eq!((spec.name.as_str(), spec.factory.as_str()), ("train", COCO));
    assert_eq!(spec.args, args(&[("ann_file", "a/b/train.json"), ("root", "a/images")]));
    let spec = catalog.get("mine=voc:VOC2007:val").expect("complete");
    assert_eq!((spec.name.as_str(), spec.factory.as_str()), ("mine", VOC));
    assert_eq!(spec.string("split").expect("text"), "val");
    let spec = catalog.get("cityscapes:images/:gt:train:poly").expect("complete");
    assert_eq!((spec.name.as_str(), spec.factory.as_str()), ("images", CITYSCAPES));
    for wrong in ["coco:a.json", "coco:a.json:b:c", "coco::b", "a/b=coco:a.json:b", "=coco:a.json:b", "voc:a"] {
        assert!(catalog.get(wrong).is_err(), "{wrong}");
    }
}
