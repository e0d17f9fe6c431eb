//! RoIAlign and RoIPool: both pool regions of NCHW and channels-last maps, and both have two ways back.

use std::ffi::{c_int, c_void};

use maskrcnn_benchmark::layers;
use tch::{Kind, Tensor};

use super::library::{function, in_each_order, STREAM};
use super::memory::{optional, Buffer};
use super::{close_to_cpu, regions, rounded, scalar_type, KINDS};
use crate::ops::{cases, gradients, leaf, pair};
use crate::support::{number, random, Report};

/// `mrb_cuda_roi_sizes` of ops/common/roi_sizes.h.
#[repr(C)]
struct Sizes {
    rois: i64,
    images: i64,
    channels: i64,
    height: i64,
    width: i64,
    stride_n: i64,
    stride_c: i64,
    stride_h: i64,
    stride_w: i64,
    pooled_height: i64,
    pooled_width: i64,
    spatial_scale: f32,
    channels_last: bool,
}

/// The maps (read or written), what is pooled from them (written or read).
type Align = unsafe extern "C" fn(
    *const *mut c_void,
    *const Sizes,
    i64,
    *const f32,
    *const i64,
    *mut c_void,
    i64,
    c_int,
    *mut c_void,
) -> c_int;
type PoolForward =
    unsafe extern "C" fn(*const c_void, *const f32, *mut c_void, *mut i32, *const Sizes, c_int, *mut c_void) -> c_int;
type PoolBackward =
    unsafe extern "C" fn(*const c_void, *const i32, *const f32, *mut c_void, *const Sizes, c_int, *mut c_void) -> c_int;

/// How a map or what is pooled from it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Format {
    Nchw,
    ChannelsLast,
    /// Channels-last, and a value before where a vector may start.
    Shifted,
}

impl Format {
    /// The buffer's dimensions for a tensor of this size.
    fn stored(self, size: &[i64]) -> Vec<i64> {
        match self {
            Self::Nchw => size.to_vec(),
            Self::ChannelsLast => vec![size[0], size[2], size[3], size[1]],
            Self::Shifted => vec![size.iter().product::<i64>() + 1],
        }
    }

    fn store(self, tensor: &Tensor) -> Buffer {
        match self {
            Self::Nchw => Buffer::of(tensor),
            Self::ChannelsLast => Buffer::of(&tensor.permute([0, 2, 3, 1])),
            Self::Shifted => {
                let after = Tensor::zeros([1], (tensor.kind(), tensor.device()));
                Buffer::of(&Tensor::cat(&[tensor.permute([0, 2, 3, 1]).reshape([-1]), after], 0))
            }
        }
    }

    fn load(self, buffer: &Buffer, size: &[i64]) -> Tensor {
        let values = buffer.tensor();
        match self {
            Self::Nchw => values,
            Self::ChannelsLast => values.permute([0, 3, 1, 2]),
            Self::Shifted => {
                let shape = Self::ChannelsLast.stored(size);
                values.narrow(0, 0, shape.iter().product()).view(shape.as_slice()).permute([0, 3, 1, 2])
            }
        }
    }
}

/// The operator and what it takes beside the tensors.
#[derive(Clone, Copy, Debug)]
struct Pooling {
    output_size: (i64, i64),
    spatial_scale: f64,
    /// Of RoIAlign; `None` is RoIPool.
    sampling_ratio: Option<i64>,
    format: Format,
}

/// What the kernels give for one input.
struct Pooled {
    output: Tensor,
    /// Of RoIPool: the places of the maxima.
    argmax: Option<Tensor>,
    /// float32 (RoIPool's was summed in float64)
    grad_input: Tensor,
    /// In the type of the input.
    deterministic_grad_input: Tensor,
}

/// Maps with their scales, and the level of each RoI.
struct Pyramid {
    maps: Vec<(Tensor, f64)>,
    levels: Option<Tensor>,
}

/// What RoIAlign gives for a pyramid.
struct Aligned {
    output: Tensor,
    /// float32
    grad_inputs: Vec<Tensor>,
    /// In the type of the maps.
    deterministic_grad_inputs: Vec<Tensor>,
}

impl Pooling {
    /// That of a golden case; only RoIAlign's cases have a sampling ratio.
    fn of_case(parameters: &serde_json::Value, format: Format) -> Self {
        Self {
            output_size: pair(&parameters["output_size"]),
            spatial_scale: number(&parameters["spatial_scale"]),
            sampling_ratio: parameters["sampling_ratio"].as_i64(),
            format,
        }
    }

    fn sizes(&self, map: &[i64], rois: i64) -> Sizes {
        let [images, channels, height, width] = *map else { panic!("a map has four dimensions") };
        let (stride_c, stride_w) = match self.format {
            Format::Nchw => (height * width, 1),
            Format::ChannelsLast | Format::Shifted => (1, channels),
        };
        Sizes {
            rois,
            images,
            channels,
            height,
            width,
            stride_n: channels * height * width,
            stride_c,
            stride_h: stride_w * width,
            stride_w,
            pooled_height: self.output_size.0,
            pooled_width: self.output_size.1,
            spatial_scale: self.spatial_scale as f32,
            channels_last: self.format != Format::Nchw,
        }
    }

    fn run(&self, input: &Tensor, rois: &Tensor, grad_output: &Tensor) -> Option<Pooled> {
        match self.sampling_ratio {
            Some(ratio) => self.align(input, rois, grad_output, ratio),
            None => self.pool(input, rois, grad_output),
        }
    }

    fn align(&self, input: &Tensor, rois: &Tensor, grad_output: &Tensor, ratio: i64) -> Option<Pooled> {
        let pyramid = Pyramid { maps: vec![(input.shallow_clone(), self.spatial_scale)], levels: None };
        let mut aligned = self.align_levels(&pyramid, rois, grad_output, ratio)?;
        Some(Pooled {
            output: aligned.output,
            argmax: None,
            grad_input: aligned.grad_inputs.remove(0),
            deterministic_grad_input: aligned.deterministic_grad_inputs.remove(0),
        })
    }

    fn align_levels(&self, pyramid: &Pyramid, rois: &Tensor, grad_output: &Tensor, ratio: i64) -> Option<Aligned> {
        let kind = grad_output.kind();
        let of_map = |(map, spatial_scale): &(Tensor, f64)| {
            Self { spatial_scale: *spatial_scale, ..*self }.sizes(&map.size(), rois.size()[0])
        };
        let sizes: Vec<Sizes> = pyramid.maps.iter().map(of_map).collect();
        let regions = Buffer::of(rois);
        let levels = pyramid.levels.as_ref().map(Buffer::of);
        let launch = |name: &str, maps: &mut [Buffer], pooled: &mut Buffer| {
            // SAFETY: the type is that of the header; pointers to float and to what is only read are passed like others.
            let function: Align = unsafe { function(name) }?;
            let maps: Vec<*mut c_void> = maps.iter_mut().map(Buffer::pointer_mut).collect();
            // SAFETY: the buffers have the sizes and types that the function is told.
            let status = unsafe {
                function(
                    maps.as_ptr(),
                    sizes.as_ptr(),
                    maps.len() as i64,
                    regions.pointer(),
                    optional(levels.as_ref()),
                    pooled.pointer_mut(),
                    ratio,
                    scalar_type(kind),
                    STREAM,
                )
            };
            assert_eq!(status, 0, "{name}");
            Some(())
        };
        let stored: Vec<Vec<i64>> = pyramid.maps.iter().map(|(map, _)| self.format.stored(&map.size())).collect();
        let load = |buffers: &[Buffer]| {
            let with_sizes = buffers.iter().zip(&pyramid.maps);
            with_sizes.map(|(buffer, (map, _))| self.format.load(buffer, &map.size())).collect()
        };

        let mut maps: Vec<Buffer> = pyramid.maps.iter().map(|(map, _)| self.format.store(map)).collect();
        let mut output = Buffer::unwritten(&self.format.stored(&grad_output.size()), kind);
        launch("mrb_cuda_roi_align_forward", &mut maps, &mut output)?;
        let mut grads = self.format.store(grad_output);
        let mut zeros: Vec<Buffer> = stored.iter().map(|shape| Buffer::zeros(shape, Kind::Float)).collect();
        launch("mrb_cuda_roi_align_backward", &mut zeros, &mut grads)?;
        let mut unwritten: Vec<Buffer> = stored.iter().map(|shape| Buffer::unwritten(shape, kind)).collect();
        launch("mrb_cuda_roi_align_backward_deterministic", &mut unwritten, &mut grads)?;
        Some(Aligned {
            output: self.format.load(&output, &grad_output.size()),
            grad_inputs: load(&zeros),
            deterministic_grad_inputs: load(&unwritten),
        })
    }

    fn pool(&self, input: &Tensor, rois: &Tensor, grad_output: &Tensor) -> Option<Pooled> {
        let kind = input.kind();
        let sizes = self.sizes(&input.size(), rois.size()[0]);
        let (map, regions, grads) = (self.format.store(input), Buffer::of(rois), self.format.store(grad_output));
        let stored = self.format.stored(&grad_output.size());
        let mut output = Buffer::unwritten(&stored, kind);
        let mut argmax = Buffer::filled(&stored, Kind::Int, 0x7f);
        // SAFETY: the type is that of the header.
        let forward: PoolForward = unsafe { function("mrb_cuda_roi_pool_forward") }?;
        // SAFETY: the buffers have the sizes and types that the function is told.
        let status = unsafe {
            forward(
                map.pointer(),
                regions.pointer(),
                output.pointer_mut(),
                argmax.pointer_mut(),
                &sizes,
                scalar_type(kind),
                STREAM,
            )
        };
        assert_eq!(status, 0, "mrb_cuda_roi_pool_forward");
        let backward = |name: &str, mut to: Buffer| {
            // SAFETY: the type is that of the header; the gradient's pointer is passed like any other.
            let function: PoolBackward = unsafe { function(name) }?;
            // SAFETY: the buffers have the sizes and types that the function is told.
            let status = unsafe {
                function(
                    grads.pointer(),
                    argmax.pointer(),
                    regions.pointer(),
                    to.pointer_mut(),
                    &sizes,
                    scalar_type(kind),
                    STREAM,
                )
            };
            assert_eq!(status, 0, "{name}");
            Some(self.format.load(&to, &input.size()))
        };
        let stored_map = self.format.stored(&input.size());
        let grad_input =
            backward("mrb_cuda_roi_pool_backward", Buffer::zeros(&stored_map, Kind::Double))?.to_kind(Kind::Float);
        let unwritten = Buffer::unwritten(&stored_map, kind);
        let deterministic_grad_input = backward("mrb_cuda_roi_pool_backward_deterministic", unwritten)?;
        let size = grad_output.size();
        let (output, argmax) = (self.format.load(&output, &size), Some(self.format.load(&argmax, &size)));
        Some(Pooled { output, argmax, grad_input, deterministic_grad_input })
    }

    fn on_cpu(&self, input: &Tensor, rois: &Tensor) -> Tensor {
        match self.sampling_ratio {
            Some(ratio) => layers::roi_align(input, rois, self.output_size, self.spatial_scale, ratio),
            None => layers::roi_pool(input, rois, self.output_size, self.spatial_scale),
        }
    }
}

const FORMATS: [Format; 3] = [Format::Nchw, Format::ChannelsLast, Format::Shifted];

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
        let [Some(nchw), Some(channels_last), Some(shifted)] = results else { return };
        let case = format!("{kind:?}, sampling ratio {ratio}");
        for (format, other) in [("channels-last", channels_last), ("shifted", shifted)] {
            let pairs = [
                ("output", &other.output, &nchw.output),
                // Blocks and threads run in rising order here.
                ("grad_input", &other.grad_input, &nchw.grad_input),
                ("deterministic grad_input", &other.deterministic_grad_input, &nchw.deterministic_grad_input),
            ];
            for (name, got, want) in pairs {
                report.close(&case, &format!("{name} {format}"), got, want, 0.0, 0.0);
            }
        }
    }
    report.finish();
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
