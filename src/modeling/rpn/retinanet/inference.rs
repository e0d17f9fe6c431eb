//! From RetinaNet's outputs to detections.

use anyhow::Result;
use tch::Tensor;

use crate::config::Config;
use crate::modeling::box_coder::BoxCoder;
use crate::modeling::rpn::utils::permute_and_flatten;
use crate::modeling::utils::keep_best;
use crate::structures::{boxlist_nms_in_groups, cat_boxlist, BoxList, ImageList, Mode};

/// Selects detections: per level the best candidates above a score, over all levels NMS per class and a limit.
#[derive(Clone, Debug)]
pub struct RetinaNetPostProcessor {
    /// Scores must be above it (`INFERENCE_TH`).
    pub pre_nms_thresh: f64,
    /// Candidates kept per level and image before NMS.
    pub pre_nms_top_n: i64,
    /// The IoU from which a box suppresses another of its class.
    pub nms_thresh: f64,
    /// Detections per image; 0: no limit.
    pub fpn_post_nms_top_n: i64,
    /// The number of classes, background included.
    pub num_classes: i64,
    /// How box offsets are decoded.
    pub box_coder: BoxCoder,
}

impl RetinaNetPostProcessor {
    /// Detections of each image, with the fields `labels` and `scores`.
    ///
    /// # Shapes
    /// Per level: `anchors` `[H·W·A, 4]`, `box_cls` `[N, A·(classes - 1), H, W]`, `box_regression` `[N, A·4, H, W]`.
    pub fn select(
        &self,
        images: &ImageList,
        anchors: &[Tensor],
        box_cls: &[Tensor],
        box_regression: &[Tensor],
    ) -> Result<Vec<BoxList>> {
        let _no_grad = tch::no_grad_guard();
        let mut per_image: Vec<Vec<BoxList>> = images.image_sizes.iter().map(|_| Vec::new()).collect();
        for ((anchors, box_cls), box_regression) in anchors.iter().zip(box_cls).zip(box_regression) {
            let scores = permute_and_flatten(box_cls, self.num_classes - 1).sigmoid();
            let codes = permute_and_flatten(box_regression, 4);
            for (image, (height, width)) in images.image_sizes.iter().enumerate() {
                let (scores, codes) = (scores.get(image as i64), codes.get(image as i64));
                let boxes = self.select_level((*width, *height), anchors, &scores, &codes)?;
                per_image[image].push(boxes);
            }
        }
        per_image.iter().map(|lists| self.select_over_all_levels(&cat_boxlist(lists)?)).collect()
    }

    /// `scores` `[K, classes - 1]`, `codes` `[K, 4]`.
    fn select_level(&self, size: (i64, i64), anchors: &Tensor, scores: &Tensor, codes: &Tensor) -> Result<BoxList> {
        let candidates = scores.gt(self.pre_nms_thresh);
        let places = candidates.nonzero();
        let scores = scores.masked_select(&candidates);
        let number = self.pre_nms_top_n.min(scores.size()[0]);
        // Unsorted, as in the original: NMS sorts by itself.
        let (scores, best) = scores.topk(number, 0, true, false);
        let places = places.index_select(0, &best);
        let (location, class) = (places.select(1, 0), places.select(1, 1));
        let boxes = self.box_coder.decode(&codes.index_select(0, &location), &anchors.index_select(0, &location));
        let mut boxlist = BoxList::new(boxes, size, Mode::Xyxy)?;
        boxlist.add_field("labels", class + 1);
        boxlist.add_field("scores", scores);
        boxlist.clip_to_image(false)
    }

    fn select_over_all_levels(&self, boxlist: &BoxList) -> Result<BoxList> {
        let (labels, by_class) = boxlist.tensor_field("labels")?.sort_stable(true, 0, false);
        let boxlist = boxlist.select(&by_class)?;
        let kept = boxlist_nms_in_groups(&boxlist, &labels, self.num_classes, self.nms_thresh, "scores")?;
        keep_best(&kept, self.fpn_post_nms_top_n)
    }
}

/// The selection of `MODEL.RETINANET` and `TEST.DETECTIONS_PER_IMG`.
pub fn make_retinanet_postprocessor(cfg: &Config, box_coder: &BoxCoder) -> RetinaNetPostProcessor {
    let retinanet = &cfg.model.retinanet;
    RetinaNetPostProcessor {
        pre_nms_thresh: retinanet.inference_th,
        pre_nms_top_n: retinanet.pre_nms_top_n,
        nms_thresh: retinanet.nms_th,
        fpn_post_nms_top_n: cfg.test.detections_per_img,
        num_classes: retinanet.num_classes,
        box_coder: box_coder.clone(),
    }
}
