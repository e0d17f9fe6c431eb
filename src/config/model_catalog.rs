//! The original's `ModelCatalog`: what `catalog://NAME` in `MODEL.WEIGHT` stands for. The models pretrained on ImageNet
//! by the authors of Res2Net and by torchvision, which the Res2Net fork's configurations start from, are added to it.

use anyhow::{anyhow, Result};

use super::registry::closest_name;

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
            let closest = closest_name(name, known.iter().map(String::as_str));
            let hint = closest.map_or_else(String::new, |closest| format!(". Did you mean {closest}?"));
            anyhow!("model not present in the catalog: {name}. It has: {}{hint}", known.join(", "))
        })
    }

    /// All names of the catalog.
    pub fn names() -> impl Iterator<Item = String> {
        let imagenet = IMAGENET_MODELS.iter().map(|(name, ..)| format!("{IMAGENET}{name}"));
        imagenet.chain(DETECTRON_MODELS.iter().map(|(name, _)| format!("{DETECTRON}{name}")))
    }
}

/// `<server>/<model id>/12_2017_baselines/<model name>.yaml.<signature>/<suffix>`
fn detectron_url(model: &str, signature: &str) -> Option<String> {
    let (id, name) = model.split_once('/')?;
    let tag = if name.contains("keypoint") { "keypoints_" } else { "" };
    let data = format!("{tag}coco_2014_train%3A{tag}coco_2014_valminusminival");
    let suffix = format!("output/train/{data}/generalized_rcnn/model_final.pkl");
    Some(format!("{DETECTRON_URL}/{id}/12_2017_baselines/{name}.yaml.{signature}/{suffix}"))
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
    fn an_unknown_model_is_named_with_the_known_ones() {
        let error = ModelCatalog::get("ImageNetPretrained/MSRA/R-51").expect_err("unknown").to_string();
        assert!(error.contains("R-51") && error.contains("ImageNetPretrained/MSRA/R-50,"), "{error}");
    }
}
