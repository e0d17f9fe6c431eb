use std::ffi::{c_int, c_void};

use maskrcnn_benchmark::layers::{self, SuppressionRule};
use tch::{Device, Kind, Tensor};

use super::library::{function, in_each_order, STREAM};
use super::memory::{optional, Buffer};
use crate::ops::cases;
use crate::support::{indices, random, Report};

type Mask = unsafe extern "C" fn(*const f32, *const i64, *mut u64, i64, i64, f32, bool, *mut c_void) -> c_int;
type Select = unsafe extern "C" fn(*const u64, *const i64, *const i64, *mut bool, i64, i64, i64, *mut c_void) -> c_int;

/// Both kernels on sorted boxes, as the wrapper calls them: the indices of the survivors, rising.
fn kept(boxes: &Tensor, scores: &Tensor, groups: Option<(&Tensor, i64)>, threshold: f64, at: bool) -> Option<Vec<i64>> {
    // SAFETY: the types are those of the header.
    let (mask, select): (Mask, Select) = unsafe { (function("mrb_cuda_nms_mask")?, function("mrb_cuda_nms_select")?) };
    let count = boxes.size()[0];
    let (_, mut order) = scores.sort_stable(true, 0, true);
    if let Some((groups, _)) = groups {
        let (_, by_group) = groups.index_select(0, &order).sort_stable(true, 0, false);
        order = order.index_select(0, &by_group);
    }
    let sorted = Buffer::of(&boxes.index_select(0, &order));
    let sorted_groups = groups.map(|(groups, _)| Buffer::of(&groups.index_select(0, &order)));
    let group_count = groups.map_or(1, |(_, number)| number);
    let sizes = groups.map(|(groups, number)| groups.bincount(None::<Tensor>, number).max().int64_value(&[]));
    let largest = sizes.unwrap_or(count);
    // Words that nobody writes are full of ones: who read one would lose boxes.
    let mut words = Buffer::unwritten(&[count, (largest + 62) / 64 + 1], Kind::Int64);
    let mut keep = Buffer::zeros(&[count], Kind::Bool);
    let places = Buffer::of(&order);
    let group_pointer = optional(sorted_groups.as_ref());
    // SAFETY: the buffers have the sizes that the functions are told.
    let statuses = unsafe {
        let stream = STREAM;
        let (words_mut, threshold) = (words.pointer_mut(), threshold as f32);
        let first = mask(sorted.pointer(), group_pointer, words_mut, count, largest, threshold, at, stream);
        let keep = keep.pointer_mut();
        (first, select(words.pointer(), group_pointer, places.pointer(), keep, count, largest, group_count, stream))
    };
    assert_eq!(statuses, (0, 0), "launches");
    Some(indices(&keep.tensor().nonzero().squeeze_dim(1)))
}

#[test]
fn golden() {
    let Some((cases, tensors)) = cases("nms") else { return };
    let mut report = Report::new("cuda_emulated/nms");
    for (case, parameters) in &cases {
        let (boxes, scores) = (tensors.get(&format!("{case}/boxes")), tensors.get(&format!("{case}/scores")));
        for threshold in parameters["thresholds"].as_array().expect("a list") {
            let number = threshold.as_f64().expect("a number");
            for (name, at_threshold) in [("cuda", false), ("cpu", true)] {
                let want = tensors.get(&format!("{case}/keep_{name}_{threshold}"));
                let Some(got) = kept(boxes, scores, None, number, at_threshold) else { return };
                report.equal(case, &format!("keep_{name}"), got, indices(want));
            }
        }
    }
    report.finish();
}

/// Boxes at whole pixels and scores in steps, so that there are ties of both kinds.
fn boxes_and_scores(count: i64, seed: u64) -> (Tensor, Tensor) {
    let corner = ((random(&[count, 2], seed) + 1.0) * 30.0).floor();
    let sides = ((random(&[count, 2], seed + 1) + 1.2) * 8.0).floor();
    let scores = ((random(&[count], seed + 2) + 1.0) * 20.0).floor() / 40.0;
    (Tensor::cat(&[&corner, &(&corner + sides)], 1), scores)
}

#[test]
fn equals_the_cpu_kernel() {
    in_each_order(|| {
        let mut report = Report::new("cuda_emulated/nms");
        for (seed, count) in (1..).step_by(10).zip([0, 1, 63, 64, 65, 700]) {
            let (boxes, scores) = boxes_and_scores(count, seed);
            for (at_threshold, rule) in [(true, SuppressionRule::AtLeast), (false, SuppressionRule::Above)] {
                for threshold in [0.2, 0.5, 0.9] {
                    let case = format!("{count} boxes");
                    let want = layers::nms_with_rule(&boxes, &scores, threshold, rule);
                    let Some(got) = kept(&boxes, &scores, None, threshold, at_threshold) else { return };
                    report.equal(&case, "kept", got, indices(&want));

                    // Groups suppress only themselves: the same as one call for each.
                    let number = 5;
                    let groups = ((random(&[count], seed + 3) + 1.0) * 2.0).floor().to_kind(Kind::Int64);
                    let got = kept(&boxes, &scores, Some((&groups, number)), threshold, at_threshold);
                    let mut want = Vec::new();
                    for group in 0..number {
                        let members = groups.eq(group).nonzero().squeeze_dim(1);
                        let (b, s) = (boxes.index_select(0, &members), scores.index_select(0, &members));
                        let among = layers::nms_with_rule(&b, &s, threshold, rule);
                        want.extend(indices(&members.index_select(0, &among)));
                    }
                    want.sort_unstable();
                    report.equal(&case, "kept in groups", got.expect("loaded above"), want);
                }
            }
        }
        report.finish();
    });
}

/// More groups than fit into a tile, and some that begin and end within one.
#[test]
fn many_small_groups_equal_the_cpu_kernel() {
    let (count, number) = (1000, 60);
    let (boxes, scores) = boxes_and_scores(count, 7);
    let groups = ((random(&[count], 8) + 1.0) * 0.5 * number as f64).floor().to_kind(Kind::Int64);
    let all = layers::NmsGroups { of_box: &groups, count: number, largest: count };
    let want = layers::nms_mask(&boxes, &scores, all, 0.2).nonzero().squeeze_dim(1);
    in_each_order(|| {
        let Some(got) = kept(&boxes, &scores, Some((&groups, number)), 0.2, true) else { return };
        assert_eq!(got, indices(&want));
    });
}

/// The bits of more than one block's worth of words.
#[test]
fn many_boxes_in_one_place_leave_the_best() {
    in_each_order(|| {
        let count = 20_000;
        let boxes = Tensor::from_slice(&[0.0f32, 0.0, 9.0, 9.0]).expand([count, 4], false).contiguous();
        let scores = Tensor::arange(count, (Kind::Float, Device::Cpu));
        let Some(got) = kept(&boxes, &scores, None, 0.5, false) else { return };
        assert_eq!(got, [count - 1]);
    });
}
