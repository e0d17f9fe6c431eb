//! RoIAlign and RoIPool: both pool regions of NCHW and channels-last maps, and both have two ways back.

mod align;
mod launches;

use tch::{Kind, Tensor};

use self::launches::{Pooling, FORMATS};
use super::library::in_each_order;
use super::{close_to_cpu, regions, rounded, KINDS};
use crate::ops::{cases, gradients, leaf};
use crate::support::{random, Report};

#[test]
fn roi_align_golden() {
    in_each_order(|| {
        let Some((cases, tensors)) = cases("roi_align") else { return };
        let mut report = Report::new("cuda_emulated/roi_align");
        for (case, parameters) in &cases {
            let get = |name: &str| tensors.get(&format!("{case}/{name}"));
            for format in FORMATS {
                let pooling = Pooling::of_case(parameters, format);
                let grad_output = tensors.find(&format!("{case}/grad_output"));
                let factors = grad_output.map_or_else(|| get("output").zeros_like(), Tensor::copy);
                let Some(pooled) = pooling.run(get("input"), get("rois"), &factors) else { return };
                report.close(case, &format!("output {format:?}"), &pooled.output, get("output"), 1e-5, 0.0);
                if grad_output.is_some() {
                    let want = get("grad_input");
                    report.close(case, &format!("grad_input {format:?}"), &pooled.grad_input, want, 1e-4, 0.0);
                    let quantity = format!("deterministic grad_input {format:?}");
                    report.close(case, &quantity, &pooled.deterministic_grad_input, want, 1e-4, 0.0);
                }
            }
        }
        report.finish();
    });
}

#[test]
fn roi_pool_golden() {
    in_each_order(|| {
        let Some((cases, tensors)) = cases("roi_pool") else { return };
        let mut report = Report::new("cuda_emulated/roi_pool");
        for (case, parameters) in &cases {
            let get = |name: &str| tensors.get(&format!("{case}/{name}"));
            for format in FORMATS {
                let pooling = Pooling::of_case(parameters, format);
                let Some(pooled) = pooling.run(get("input"), get("rois"), get("grad_output")) else { return };
                report.close(case, &format!("output {format:?}"), &pooled.output, get("output"), 0.0, 0.0);
                let argmax = pooled.argmax.expect("RoIPool has it");
                report.close(case, &format!("argmax {format:?}"), &argmax, get("argmax"), 0.0, 0.0);
                let want = get("grad_input");
                report.close(case, &format!("grad_input {format:?}"), &pooled.grad_input, want, 1e-5, 0.0);
                let quantity = format!("deterministic grad_input {format:?}");
                report.close(case, &quantity, &pooled.deterministic_grad_input, want, 1e-5, 0.0);
            }
        }
        report.finish();
    });
}

#[test]
fn both_equal_the_cpu_kernels() {
    in_each_order(|| {
        // Images, channels, RoIs, output size, sampling ratio (`None`: RoIPool).
        let cases = [
            (1, 1, 1, (2, 2), Some(2)),
            (3, 5, 17, (7, 7), Some(0)),
            (2, 9, 11, (5, 3), Some(2)),
            (2, 16, 11, (5, 3), Some(2)),
            (1, 8, 9, (2, 3), Some(3)),
            (2, 24, 7, (3, 3), Some(0)),
            (1, 4, 5, (4, 4), Some(1)),
            (2, 3, 0, (7, 7), Some(2)),
            (1, 1, 1, (2, 2), None),
            (3, 5, 17, (7, 7), None),
            (2, 3, 0, (7, 7), None),
        ];
        let mut report = Report::new("cuda_emulated/roi_pooling");
        for (seed, (images, channels, count, output_size, sampling_ratio)) in (1..).step_by(10).zip(cases) {
            let (height, width) = (13, 10);
            let rois = regions(count, images, (4.0 * width as f64, 4.0 * height as f64), seed);
            let kinds_and_formats = KINDS.into_iter().flat_map(|kind| FORMATS.map(|format| (kind, format)));
            for (kind, format) in kinds_and_formats {
                let pooling = Pooling { output_size, spatial_scale: 0.25, sampling_ratio, format };
                let case = format!("{images} images, {channels} channels, {count} RoIs, {pooling:?}");
                let input = leaf(&rounded(&random(&[images, channels, height, width], seed + 1), kind));
                let want = pooling.on_cpu(&input, &rois);
                let factors = rounded(&random(&want.size(), seed + 2), kind);
                let want_grad = &gradients(&want, &factors, &[&input])[0];
                let typed = |t: &Tensor| t.detach().to_kind(kind);
                let Some(pooled) = pooling.run(&typed(&input), &rois, &typed(&factors)) else { return };
                close_to_cpu(&mut report, &case, "output", &pooled.output, &want);
                close_to_cpu(&mut report, &case, "grad_input", &pooled.grad_input, want_grad);
                close_to_cpu(
                    &mut report,
                    &case,
                    "deterministic grad_input",
                    &pooled.deterministic_grad_input,
                    want_grad,
                );
            }
        }
        report.finish();
    });
}

/// One sample for each cell of a region that is millions of them wide: only those on the map take time.
#[test]
fn a_region_far_larger_than_the_map_has_the_cpu_s_values() {
    let mut report = Report::new("cuda_emulated/roi_pooling");
    let rois = Tensor::from_slice2(&[
        [0.0f32, -4e6, -30.0, 3.9e6, 60.0],
        [0.0, 2.0, -3.9e6, 30.0, 4.1e6],
        [0.0, -4e6, -4e6, 4e6, 4e6],
        [0.0, -70.0, -3.0, 9.0, 200.0],
    ]);
    for (format, channels) in FORMATS.into_iter().flat_map(|format| [3, 4].map(|channels| (format, channels))) {
        let input = leaf(&(random(&[1, channels, 11, 14], 1) + 2.0));
        let pooling = Pooling { output_size: (2, 3), spatial_scale: 1.0, sampling_ratio: Some(0), format };
        let want = pooling.on_cpu(&input, &rois);
        let factors = random(&want.size(), 2) * 1e3;
        let want_grad = &gradients(&want, &factors, &[&input])[0];
        let Some(pooled) = pooling.run(&input.detach(), &rois, &factors) else { return };
        let case = format!("{format:?}, {channels} channels");
        close_to_cpu(&mut report, &case, "output", &pooled.output, &want);
        close_to_cpu(&mut report, &case, "grad_input", &pooled.grad_input, want_grad);
        close_to_cpu(&mut report, &case, "deterministic grad_input", &pooled.deterministic_grad_input, want_grad);
    }
    report.finish();
}

/// A kernel cannot raise an error.
#[test]
fn a_region_that_is_not_finite_or_of_no_image_gives_nan_and_no_gradient() {
    in_each_order(|| {
        let mut report = Report::new("cuda_emulated/roi_pooling");
        let rows = [
            [0.0f32, 4.0, 4.0, 20.0, 20.0],
            [2.0, 4.0, 4.0, 20.0, 20.0],
            [-1.0, 0.0, 0.0, 9.0, 9.0],
            [1.0, f32::NAN, 4.0, 20.0, 20.0],
            [1.0, 4.0, 4.0, f32::INFINITY, 20.0],
        ];
        let bad = [false, true, true, true, true];
        let rois = Tensor::from_slice2(&rows);
        let factors = Tensor::from_slice(&bad).to_kind(Kind::Float).view([5, 1, 1, 1]).expand([5, 4, 3, 3], false);
        let choices = [Some(0), None].into_iter().flat_map(|ratio| FORMATS.map(|format| (ratio, format)));
        for (sampling_ratio, format) in choices {
            let pooling = Pooling { output_size: (3, 3), spatial_scale: 0.25, sampling_ratio, format };
            let Some(pooled) = pooling.run(&random(&[2, 4, 8, 8], 1), &rois, &factors.contiguous()) else { return };
            let case = format!("sampling ratio {sampling_ratio:?}, {format:?}");
            let is_nan: Vec<bool> =
                Vec::try_from(pooled.output.isnan().flatten(1, -1).all_dim(1, false)).expect("a list");
            report.equal(&case, "nan", is_nan, bad.to_vec());
            for grad in [&pooled.grad_input, &pooled.deterministic_grad_input] {
                report.close(&case, "gradient", grad, &grad.zeros_like(), 0.0, 0.0);
            }
        }
        report.finish();
    });
}
