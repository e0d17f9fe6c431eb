//! What only RoIAlign has: several maps at once, and kernels for one channel and for several.

use maskrcnn_benchmark::layers;
use tch::{Kind, Tensor};

use super::super::{close_to_cpu, regions, rounded, KINDS};
use super::launches::{Pooling, Pyramid, FORMATS};
use crate::ops::{gradients, leaf};
use crate::support::{random, Report};

#[test]
fn a_pyramid_equals_the_cpu_kernel() {
    let mut report = Report::new("cuda_emulated/roi_align");
    let (scales, count) = ([0.5, 0.25, 0.125], 23);
    let rois = regions(count, 2, (40.0, 48.0), 3);
    // Also levels that do not exist.
    let levels = ((random(&[count], 4) + 1.0) * 2.5).floor().to_kind(Kind::Int64) - 1;
    let choices = KINDS.into_iter().flat_map(|kind| FORMATS.map(|format| (kind, format)));
    for ((kind, format), channels) in choices.flat_map(|choice| [9, 16].map(|channels| (choice, channels))) {
        let pooling = Pooling { output_size: (3, 2), spatial_scale: f64::NAN, sampling_ratio: Some(2), format };
        let sides = [(24, 20), (12, 10), (6, 5)];
        let maps: Vec<Tensor> =
            (5..).zip(sides).map(|(seed, (h, w))| leaf(&rounded(&random(&[2, channels, h, w], seed), kind))).collect();
        let want = layers::multi_scale_roi_align(&maps, &rois, &levels, (3, 2), &scales, 2);
        let factors = rounded(&random(&want.size(), 8), kind);
        let want_grads = gradients(&want, &factors, &maps.iter().collect::<Vec<_>>());
        let typed = maps.iter().map(|map| map.detach().to_kind(kind));
        let pyramid = Pyramid { maps: typed.zip(scales).collect(), levels: Some(levels.shallow_clone()) };
        let Some(aligned) = pooling.align_levels(&pyramid, &rois, &factors.to_kind(kind), 2) else { return };
        let case = format!("{format:?}, {channels} channels");
        close_to_cpu(&mut report, &case, "output", &aligned.output, &want);
        for (level, want) in want_grads.iter().enumerate() {
            let name = format!("grad_input {level}");
            close_to_cpu(&mut report, &case, &name, &aligned.grad_inputs[level], want);
            close_to_cpu(
                &mut report,
                &case,
                &format!("deterministic {name}"),
                &aligned.deterministic_grad_inputs[level],
                want,
            );
        }
    }
    report.finish();
}

/// Whether a thread takes one channel or several.
#[test]
fn every_format_gives_the_same_bits() {
    let mut report = Report::new("cuda_emulated/roi_align");
    let rois = regions(19, 2, (40.0, 48.0), 3);
    for (kind, ratio) in KINDS.into_iter().flat_map(|kind| [0, 2, 3].map(|ratio| (kind, ratio))) {
        let input = random(&[2, 16, 12, 10], 4).to_kind(kind);
        let factors = random(&[19, 16, 5, 3], 5).to_kind(kind);
        let results = FORMATS.map(|format| {
            let pooling = Pooling { output_size: (5, 3), spatial_scale: 0.25, sampling_ratio: Some(ratio), format };
            pooling.run(&input, &rois, &factors)
        });
        let [Some(nchw), others @ ..] = &results else { return };
        for (format, other) in FORMATS.iter().skip(1).zip(others.iter().flatten()) {
            let case = format!("{kind:?}, sampling ratio {ratio}, {format:?}");
            let pairs = [
                ("output", &other.output, &nchw.output),
                // Blocks and threads run in rising order here.
                ("grad_input", &other.grad_input, &nchw.grad_input),
                ("deterministic grad_input", &other.deterministic_grad_input, &nchw.deterministic_grad_input),
            ];
            for (name, got, want) in pairs {
                report.close(&case, name, got, want, 0.0, 0.0);
            }
        }
    }
    report.finish();
}
