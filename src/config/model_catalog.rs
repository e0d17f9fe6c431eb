//! The original's `ModelCatalog`: what `catalog://NAME` in `MODEL.WEIGHT` stands for. The models pretrained on ImageNet
//! by the authors of Res2Net and by torchvision, which the Res2Net fork's configurations start from, are added to it.

use anyhow::{anyhow, bail, Context, Result};

use super::paths_catalog::{python_assignment, read_catalog, BUILT_IN};
use super::registry::did_you_mean;
use super::{yaml, Value};

const DETECTRON_URL: &str = "https://dl.fbaipublicfiles.com/detectron";
const RES2NET_URL: &str = "https://shanghuagao.oss-cn-beijing.aliyuncs.com/res2net";
const TORCHVISION_URL: &str = "https://download.pytorch.org/models";

/// Name below `ImageNetPretrained/`, server, path there.
const IMAGENET_MODELS: [(&str, &str, &str); 13] = [
    ("MSRA/R-50", DETECTRON_URL, "ImageNetPretrained/MSRA/R-50.pkl"),
    ("MSRA/R-50-GN", DETECTRON_URL, "ImageNetPretrained/47261647/R-50-GN.pkl"),
    ("MSRA/R-101", DETECTRON_URL, "ImageNetPretrained/MSRA/R-101.pkl"),
    ("MSRA/R-101-GN", DETECTRON_URL, "ImageNetPretrained/47592356/R-101-GN.pkl"),
    ("FAIR/20171220/X-101-32x8d", DETECTRON_URL, "ImageNetPretrained/20171220/X-101-32x8d.pkl"),
    ("Res2Net/res2net50_48w_2s", RES2NET_URL, "res2net50_48w_2s-afed724a.pth"),
    ("Res2Net/res2net50_26w_4s", RES2NET_URL, "res2net50_26w_4s-06e79181.pth"),
    ("Res2Net/res2net50_26w_6s", RES2NET_URL, "res2net50_26w_6s-19041792.pth"),
    ("Res2Net/res2net50_26w_8s", RES2NET_URL, "res2net50_26w_8s-2c7c9f12.pth"),
    ("Res2Net/res2net50_14w_8s", RES2NET_URL, "res2net50_14w_8s-6527dddc.pth"),
    ("Res2Net/res2net101_26w_4s", RES2NET_URL, "res2net101_26w_4s-02a759a1.pth"),
    ("torchvision/resnet50", TORCHVISION_URL, "resnet50-19c8e357.pth"),
    ("torchvision/resnet101", TORCHVISION_URL, "resnet101-5d3b4d8f.pth"),
];

/// Detectron's baselines of December 2017 by `<model id>/<model name>`, with the signature in their address.
const DETECTRON_MODELS: [(&str, &str); 10] = [
    ("35857197/e2e_faster_rcnn_R-50-C4_1x", "01_33_49.iAX0mXvW"),
    ("35857345/e2e_faster_rcnn_R-50-FPN_1x", "01_36_30.cUF7QR7I"),
    ("35857890/e2e_faster_rcnn_R-101-FPN_1x", "01_38_50.sNxI7sX7"),
    ("36761737/e2e_faster_rcnn_X-101-32x8d-FPN_1x", "06_31_39.5MIHi1fZ"),
    ("35858791/e2e_mask_rcnn_R-50-C4_1x", "01_45_57.ZgkA7hPB"),
    ("35858933/e2e_mask_rcnn_R-50-FPN_1x", "01_48_14.DzEQe4wC"),
    ("35861795/e2e_mask_rcnn_R-101-FPN_1x", "02_31_37.KqyEK4tT"),
    ("36761843/e2e_mask_rcnn_X-101-32x8d-FPN_1x", "06_35_59.RZotkLKI"),
    ("37129812/e2e_mask_rcnn_X-152-32x8d-FPN-IN5k_1.44x", "09_35_36.8pzTQKYK"),
    ("37697547/e2e_keypoint_rcnn_R-50-FPN_1x", "08_42_54.kdzV35ao"),
];

const IMAGENET: &str = "ImageNetPretrained/";
const DETECTRON: &str = "Caffe2Detectron/COCO/";
const DETECTRON_SUFFIX: &str =
    "output/train/{}coco_2014_train%3A{}coco_2014_valminusminival/generalized_rcnn/model_final.pkl";

/// Addresses of pretrained weights by name.
pub struct ModelCatalog;

impl ModelCatalog {
    /// The address of `name`, which is what follows `catalog://`.
    ///
    /// # Errors
    /// If the catalog has no such model; the error lists those it has.
    pub fn get(name: &str) -> Result<String> {
        let found = if let Some(model) = name.strip_prefix(IMAGENET) {
            let entry = IMAGENET_MODELS.iter().find(|(known, ..)| *known == model);
            entry.map(|(_, server, path)| format!("{server}/{path}"))
        } else if let Some(model) = name.strip_prefix(DETECTRON) {
            let entry = DETECTRON_MODELS.iter().find(|(known, _)| *known == model);
            entry.and_then(|(_, signature)| detectron_url(model, signature))
        } else {
            None
        };
        found.ok_or_else(|| {
            let known: Vec<String> = Self::names().collect();
            let hint = did_you_mean(". ", name, known.iter().map(String::as_str));
            anyhow!("model not present in the catalog: {name}. It has: {}{hint}", known.join(", "))
        })
    }

    /// The address of `name` in the catalog that `PATHS_CATALOG` names, else as [`get`](Self::get). In a
    /// `paths_catalog.py` of the original's form the literals of its `ModelCatalog` are read, in a YAML file the key
    /// `MODELS`.
    ///
    /// # Errors
    /// If neither has such a model, or the file cannot be read or has no literals.
    pub fn find(paths_catalog: &str, name: &str) -> Result<String> {
        if paths_catalog == BUILT_IN {
            return Self::get(name);
        }
        let own = read_catalog(paths_catalog, |text| in_python(text, name), |text| in_yaml(text, name))
            .with_context(|| format!("cannot read the models of {paths_catalog} (PATHS_CATALOG)"))?;
        own.map_or_else(|| Self::get(name), Ok)
    }

    /// All names of the catalog.
    pub fn names() -> impl Iterator<Item = String> {
        let imagenet = IMAGENET_MODELS.iter().map(|(name, ..)| format!("{IMAGENET}{name}"));
        imagenet.chain(DETECTRON_MODELS.iter().map(|(name, _)| format!("{DETECTRON}{name}")))
    }
}

/// `<server>/<model id>/12_2017_baselines/<model name>.yaml.<signature>/<suffix>`
fn detectron_url(model: &str, signature: &str) -> Option<String> {
    baseline_url(DETECTRON_URL, model, signature, DETECTRON_SUFFIX)
}

/// As [`detectron_url`]; the data set's kind (`keypoints_` or nothing) takes the place of each `{}` in `suffix`.
fn baseline_url(server: &str, model: &str, signature: &str, suffix: &str) -> Option<String> {
    let (id, name) = model.split_once('/')?;
    let tag = if name.contains("keypoint") { "keypoints_" } else { "" };
    Some(format!("{server}/{id}/12_2017_baselines/{name}.yaml.{signature}/{}", suffix.replace("{}", tag)))
}

/// The address that the `ModelCatalog` of a `paths_catalog.py` gives a name.
fn in_python(text: &str, name: &str) -> Result<Option<String>> {
    let string = |key: &str, usual: &str| match python_assignment(text, key)? {
        None => Ok(usual.to_owned()),
        Some(Value::Str(text)) => Ok(text),
        Some(other) => bail!("{key} should be text, found {other}"),
    };
    let server = string("S3_C2_DETECTRON_URL", DETECTRON_URL)?;
    if let Some(model) = name.strip_prefix(IMAGENET) {
        let path = entry("C2_IMAGENET_MODELS", python_assignment(text, "C2_IMAGENET_MODELS")?, model)?;
        return Ok(path.map(|path| format!("{server}/{path}")));
    }
    let Some(model) = name.strip_prefix(DETECTRON) else { return Ok(None) };
    let suffix = string("C2_DETECTRON_SUFFIX", DETECTRON_SUFFIX)?;
    let signature = entry("C2_DETECTRON_MODELS", python_assignment(text, "C2_DETECTRON_MODELS")?, model)?;
    Ok(signature.and_then(|signature| baseline_url(&server, model, &signature, &suffix)))
}

/// The address that a YAML catalog gives a name.
fn in_yaml(text: &str, name: &str) -> Result<Option<String>> {
    let Value::Dict(pairs) = yaml::load(text)? else { return Ok(None) };
    let models = pairs.into_iter().find(|(key, _)| key.as_str() == Some("MODELS"));
    entry("MODELS", models.map(|(_, models)| models), name)
}

/// The text that the dict `key` has for `name`.
fn entry(key: &str, dict: Option<Value>, name: &str) -> Result<Option<String>> {
    let pairs = match dict {
        None => return Ok(None),
        Some(Value::Dict(pairs)) => pairs,
        Some(other) => bail!("{key} should be a dict, found {other}"),
    };
    match pairs.into_iter().find(|(known, _)| known.as_str() == Some(name)) {
        None => Ok(None),
        Some((_, Value::Str(text))) => Ok(Some(text)),
        Some((_, other)) => bail!("{key}: {name} should be text, found {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(
            ModelCatalog::get("ImageNetPretrained/MSRA/R-50-GN").expect("known"),
            "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/47261647/R-50-GN.pkl"
        );
        assert_eq!(
            ModelCatalog::get("Caffe2Detectron/COCO/37697547/e2e_keypoint_rcnn_R-50-FPN_1x").expect("known"),
            "https://dl.fbaipublicfiles.com/detectron/37697547/12_2017_baselines/\
             e2e_keypoint_rcnn_R-50-FPN_1x.yaml.08_42_54.kdzV35ao/output/train/\
             keypoints_coco_2014_train%3Akeypoints_coco_2014_valminusminival/generalized_rcnn/model_final.pkl"
        );
        for name in ModelCatalog::names() {
            assert!(ModelCatalog::get(&name).expect("every name has an address").starts_with("https://"));
        }
    }

    #[test]
    fn a_users_catalog_comes_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("written");
            path.display().to_string()
        };
        let python = write(
            "paths_catalog.py",
            "class ModelCatalog(object):\n    S3_C2_DETECTRON_URL = \"https://mirror.example/detectron\"\n    \
             C2_IMAGENET_MODELS = {\n        \"MSRA/R-50\": \"ours/R-50.pkl\",\n    }\n    C2_DETECTRON_MODELS = {\n        \
             \"1/e2e_keypoint_x\": \"01.abc\",\n    }\n",
        );
        let find = |name: &str| ModelCatalog::find(&python, name);
        assert_eq!(
            find("ImageNetPretrained/MSRA/R-50").expect("own"),
            "https://mirror.example/detectron/ours/R-50.pkl"
        );
        assert_eq!(
            find("Caffe2Detectron/COCO/1/e2e_keypoint_x").expect("own"),
            "https://mirror.example/detectron/1/12_2017_baselines/e2e_keypoint_x.yaml.01.abc/output/train/\
             keypoints_coco_2014_train%3Akeypoints_coco_2014_valminusminival/generalized_rcnn/model_final.pkl"
        );
        let built_in = ModelCatalog::get("ImageNetPretrained/MSRA/R-101").expect("built in");
        assert_eq!(find("ImageNetPretrained/MSRA/R-101").expect("built in"), built_in);
        assert!(find("ImageNetPretrained/none").is_err());
        let yaml = write("catalog.yaml", "DATASETS: {}\nMODELS:\n  ours/best: https://mirror.example/best.pth\n");
        assert_eq!(ModelCatalog::find(&yaml, "ours/best").expect("own"), "https://mirror.example/best.pth");
        assert!(crate::config::paths_catalog::DatasetCatalog::load(&yaml).is_ok());
        let wrong = write("wrong.py", "C2_IMAGENET_MODELS = dict(a=1)\n");
        let error = format!("{:#}", ModelCatalog::find(&wrong, "ImageNetPretrained/a").expect_err("no literal"));
        assert!(error.contains("wrong.py") && error.contains("C2_IMAGENET_MODELS"), "{error}");
    }

    #[test]
    fn an_unknown_model_is_named_with_the_known_ones() {
        let error = ModelCatalog::get("ImageNetPretrained/MSRA/R-51").expect_err("unknown").to_string();
        assert!(error.contains("R-51") && error.contains("ImageNetPretrained/MSRA/R-50,"), "{error}");
    }
}
