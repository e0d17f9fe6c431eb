use tch::{Device, Tensor};

use crate::ffi;

/// Which overlap suppresses: the original's two kernels differ at exact equality.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuppressionRule {
    /// IoU >= threshold, as in the original's CPU kernel.
    AtLeast,
    /// IoU > threshold, as in the original's CUDA kernel.
    Above,
}

impl SuppressionRule {
    /// The rule of the original's kernel for tensors on this device.
    pub fn of_device(device: Device) -> Self {
        if device.is_cuda() {
            Self::Above
        } else {
            Self::AtLeast
        }
    }
}

/// Greedy non-maximum suppression with the rule of the original's kernel for the device of the boxes
/// (`csrc/cpu/nms_cpu.cpp`, `csrc/cuda/nms.cu`).
///
/// Corners are inclusive: widths, heights and overlaps count one pixel more than the difference. Boxes of equal score
/// are taken in input order. The kept indices come back in ascending order, *not* by score.
///
/// # Shapes
/// - `boxes`: `[N, 4]`: x1, y1, x2, y2; `scores`: `[N]`
/// - output: `[K]`, int64
pub fn nms(boxes: &Tensor, scores: &Tensor, threshold: f64) -> Tensor {
    nms_with_rule(boxes, scores, threshold, SuppressionRule::of_device(boxes.device()))
}

/// [`nms`] with the choice of what happens at exactly the threshold.
pub fn nms_with_rule(boxes: &Tensor, scores: &Tensor, threshold: f64, rule: SuppressionRule) -> Tensor {
    ffi::nms(boxes, scores, threshold, rule == SuppressionRule::AtLeast).expect("nms")
}

/// Groups of boxes, such as the classes of the images of a batch, in which NMS works apart.
#[derive(Clone, Copy, Debug)]
pub struct NmsGroups<'a> {
    /// `[N]`, int64: the group of each box, from 0 to below `count`.
    pub of_box: &'a Tensor,
    /// The number of groups.
    pub count: i64,
    /// No group has more boxes than this. The memory on CUDA is in proportion to it, and the program need not wait for
    /// the true number.
    pub largest: i64,
}

/// [`nms`] of several groups at once: boxes suppress only boxes of their own group. On CUDA nothing waits for the
/// result, whose size is known beforehand.
///
/// # Shapes
/// - `boxes`: `[N, 4]`: x1, y1, x2, y2; `scores`: `[N]`
/// - output: `[N]`, bool: which boxes survive
pub fn nms_mask(boxes: &Tensor, scores: &Tensor, groups: NmsGroups<'_>, threshold: f64) -> Tensor {
    let at_threshold = SuppressionRule::of_device(boxes.device()) == SuppressionRule::AtLeast;
    let NmsGroups { of_box, count, largest } = groups;
    ffi::nms_mask(boxes, scores, of_box, count, largest, threshold, at_threshold).expect("nms")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tch::Kind;

    use super::*;
    use crate::layers::gradcheck::random;
    use crate::utils::testing::with_one_and_two_threads;

    /// The original's double loop.
    fn reference(boxes: &[[f32; 4]], scores: &[f32], threshold: f32, rule: SuppressionRule) -> Vec<i64> {
        let area = |b: &[f32; 4]| (b[2] - b[0] + 1.0) * (b[3] - b[1] + 1.0);
        let mut order: Vec<usize> = (0..boxes.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let mut dead = vec![false; boxes.len()];
        for (rank, &i) in order.iter().enumerate() {
            if dead[i] {
                continue;
            }
            for &j in &order[rank + 1..] {
                let (a, b) = (&boxes[i], &boxes[j]);
                let w = (a[2].min(b[2]) - a[0].max(b[0]) + 1.0).max(0.0);
                let h = (a[3].min(b[3]) - a[1].max(b[1]) + 1.0).max(0.0);
                let iou = w * h / (area(a) + area(b) - w * h);
                dead[j] |= if rule == SuppressionRule::AtLeast { iou >= threshold } else { iou > threshold };
            }
        }
        (0..boxes.len()).filter(|&i| !dead[i]).map(|i| i as i64).collect()
    }

    /// Boxes on a coarse grid and scores in few steps, so that ties and exact overlaps are frequent.
    fn case(count: i64, seed: u64) -> (Tensor, Tensor) {
        let corners = ((random(&[count, 4], seed) + 1.0) * 12.0).floor();
        let corner = corners.narrow(1, 0, 2);
        let boxes = Tensor::cat(&[&corner + corners.narrow(1, 2, 2), corner], 1)
            .index_select(1, &Tensor::from_slice(&[2i64, 3, 0, 1]));
        let scores = (random(&[count], seed + 1) * 8.0).floor();
        (boxes.to_kind(Kind::Float), scores.to_kind(Kind::Float))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn equals_the_double_loop(seed in 0u64..10_000, count in 0i64..2600, threshold in 0.1f64..0.9) {
            let (boxes, scores) = case(count, seed);
            let rows: Vec<[f32; 4]> = Vec::<f32>::try_from(boxes.view(-1)).unwrap()
                .chunks(4).map(|c| [c[0], c[1], c[2], c[3]]).collect();
            let list = Vec::<f32>::try_from(&scores).unwrap();
            for threshold in [threshold, 0.5] {
                for rule in [SuppressionRule::AtLeast, SuppressionRule::Above] {
                    let keep = nms_with_rule(&boxes, &scores, threshold, rule);
                    let want = reference(&rows, &list, threshold as f32, rule);
                    prop_assert_eq!(Vec::<i64>::try_from(keep).unwrap(), want);
                }
            }
        }
    }

    #[test]
    fn threads_do_not_change_what_is_kept() {
        let (boxes, scores) = case(9000, 3);
        let (one, two) = with_one_and_two_threads(|| nms(&boxes, &scores, 0.6));
        assert!(one == two);
    }

    #[test]
    fn groups_do_not_see_each_other() {
        let (boxes, scores) = case(700, 11);
        let groups = (random(&[700], 12) * 3.0 + 3.0).floor().to_kind(Kind::Int64).clamp(0, 5);
        let together = nms_mask(&boxes, &scores, NmsGroups { of_box: &groups, count: 6, largest: 700 }, 0.4);
        for group in 0..6 {
            let places = groups.eq(group).nonzero().squeeze_dim(1);
            let alone = nms(&boxes.index_select(0, &places), &scores.index_select(0, &places), 0.4);
            let kept = together.index_select(0, &places).nonzero().squeeze_dim(1);
            assert!(kept == alone, "group {group}");
        }
        assert!(ffi::nms_mask(&boxes, &scores, &groups, 5, 700, 0.4, true).is_err(), "a group that does not exist");
        assert!(ffi::nms_mask(&boxes, &scores, &groups, 6, 9, 0.4, true).is_err(), "a group that is too large");
    }
}
