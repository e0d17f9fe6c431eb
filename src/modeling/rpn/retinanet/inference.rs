//! From RetinaNet's outputs to detections.

use anyhow::Result;
use tch::Tensor;

use crate::config::Config;
use crate::modeling::batch::indices_of_all;
use crate::modeling::box_coder::BoxCoder;
use crate::modeling::rpn::utils::permute_and_flatten;
use crate::modeling::utils::select_detections;
use crate::structures::{cat_boxlist, BoxList, ImageList, Mode};

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
    ///
    /// # Errors
    /// There is no level; or see [`BoxList::new`].
    pub fn select(
        &self,
        images: &ImageList,
        anchors: &[Tensor],
        box_cls: &[Tensor],
        box_regression: &[Tensor],
    ) -> Result<Vec<BoxList>> {
        let _no_grad = tch::no_grad_guard();
        // Level after level, within a level image after image.
        let (mut scores, mut codes, mut references) = (Vec::new(), Vec::new(), Vec::new());
        for ((anchors, box_cls), box_regression) in anchors.iter().zip(box_cls).zip(box_regression) {
            let of_level = permute_and_flatten(box_cls, self.num_classes - 1).sigmoid().flatten(1, -1);
            scores.extend(of_level.unbind(0));
            codes.extend(permute_and_flatten(box_regression, 4).unbind(0));
            references.extend(images.image_sizes.iter().map(|_| anchors));
        }
        let above: Vec<Tensor> = scores.iter().map(|scores| scores.gt(self.pre_nms_thresh)).collect();
        let sizes = images.image_sizes.iter().cycle();
        let maps = scores.iter().zip(&codes).zip(references).zip(sizes).zip(indices_of_all(&above));
        let mut per_image: Vec<Vec<BoxList>> = images.image_sizes.iter().map(|_| Vec::new()).collect();
        for (number, ((((scores, codes), anchors), (height, width)), candidates)) in maps.enumerate() {
            let boxes = self.select_level((*width, *height), anchors, scores, codes, &candidates)?;
            per_image[number % images.len()].push(boxes);
        }
        let by_class = per_image.iter().map(|lists| {
            let boxes = cat_boxlist(lists)?;
            boxes.select(&boxes.tensor_field("labels")?.argsort_stable(true, 0, false))
        });
        let by_class = by_class.collect::<Result<Vec<_>>>()?;
        // All candidates can be of one class.
        let most_of_label = by_class.iter().map(|boxes| boxes.len() as i64).max().unwrap_or(0);
        select_detections(&by_class, self.num_classes, most_of_label, self.nms_thresh, self.fpn_post_nms_top_n)
    }

    /// `scores` `[K · (classes - 1)]`, `codes` `[K, 4]`, `candidates` `[M]` int64: places among the scores.
    fn select_level(
        &self,
        size: (i64, i64),
        anchors: &Tensor,
        scores: &Tensor,
        codes: &Tensor,
        candidates: &Tensor,
    ) -> Result<BoxList> {
        let number = self.pre_nms_top_n.min(candidates.size()[0]);
        // Unsorted, as in the original: NMS sorts by itself.
        let (scores, best) = scores.index_select(0, candidates).topk(number, 0, true, false);
        let places = candidates.index_select(0, &best);
        let location = places.divide_scalar_mode(self.num_classes - 1, "floor");
        let boxes = self.box_coder.decode(&codes.index_select(0, &location), &anchors.index_select(0, &location));
        let mut boxlist = BoxList::new(boxes, size, Mode::Xyxy)?;
        boxlist.add_field("labels", places.remainder(self.num_classes - 1) + 1);
        boxlist.add_field("scores", scores);
        boxlist.clip_to_image(false)
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
