//! Calls of the launch functions, with every tensor in memory of its own.

use std::ffi::{c_int, c_void};

use maskrcnn_benchmark::layers;
use tch::{Kind, Tensor};

use super::super::library::{function, STREAM};
use super::super::memory::{optional, Buffer};
use super::super::scalar_type;
use crate::ops::pair;
use crate::support::number;

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

/// How a map, or what is pooled from maps, lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Layout {
    Nchw,
    ChannelsLast,
    /// Channels-last, and a value before where a vector may start.
    Shifted,
}

impl Layout {
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

/// The layouts of the maps and of what is pooled from them; either both are NCHW or none.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    maps: Layout,
    pooled: Layout,
}

pub const FORMATS: [Format; 4] = [
    Format { maps: Layout::Nchw, pooled: Layout::Nchw },
    Format { maps: Layout::ChannelsLast, pooled: Layout::ChannelsLast },
    Format { maps: Layout::Shifted, pooled: Layout::ChannelsLast },
    Format { maps: Layout::ChannelsLast, pooled: Layout::Shifted },
];

/// The operator and what it takes beside the tensors.
#[derive(Clone, Copy, Debug)]
pub struct Pooling {
    pub output_size: (i64, i64),
    pub spatial_scale: f64,
    /// Of RoIAlign; `None` is RoIPool.
    pub sampling_ratio: Option<i64>,
    pub format: Format,
}

/// What the kernels give for one input.
pub struct Pooled {
    pub output: Tensor,
    /// Of RoIPool: the places of the maxima.
    pub argmax: Option<Tensor>,
    /// float32 (RoIPool's was summed in float64)
    pub grad_input: Tensor,
    /// In the type of the input.
    pub deterministic_grad_input: Tensor,
}

/// Maps with their scales, and the level of each RoI.
pub struct Pyramid {
    pub maps: Vec<(Tensor, f64)>,
    pub levels: Option<Tensor>,
}

/// What RoIAlign gives for a pyramid.
pub struct Aligned {
    pub output: Tensor,
    /// float32
    pub grad_inputs: Vec<Tensor>,
    /// In the type of the maps.
    pub deterministic_grad_inputs: Vec<Tensor>,
}

impl Pooling {
    /// That of a golden case; only RoIAlign's cases have a sampling ratio.
    pub fn of_case(parameters: &serde_json::Value, format: Format) -> Self {
        Self {
            output_size: pair(&parameters["output_size"]),
            spatial_scale: number(&parameters["spatial_scale"]),
            sampling_ratio: parameters["sampling_ratio"].as_i64(),
            format,
        }
    }

    fn sizes(&self, map: &[i64], rois: i64) -> Sizes {
        let [images, channels, height, width] = *map else { panic!("a map has four dimensions") };
        let channels_last = self.format.maps != Layout::Nchw;
        let (stride_c, stride_w) = if channels_last { (1, channels) } else { (height * width, 1) };
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
            channels_last,
        }
    }

    pub fn run(&self, input: &Tensor, rois: &Tensor, grad_output: &Tensor) -> Option<Pooled> {
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

    pub fn align_levels(&self, pyramid: &Pyramid, rois: &Tensor, grad_output: &Tensor, ratio: i64) -> Option<Aligned> {
        let kind = grad_output.kind();
        let of_map = |(map, spatial_scale): &(Tensor, f64)| {
            Self { spatial_scale: *spatial_scale, ..*self }.sizes(&map.size(), rois.size()[0])
        };
        let sizes: Vec<Sizes> = pyramid.maps.iter().map(of_map).collect();
        let regions = Buffer::of(rois);
        let levels = pyramid.levels.as_ref().map(Buffer::of);
        let launch = |name: &str, maps: &mut [Buffer], pooled: &mut Buffer| {
            // SAFETY: the type is that of the header; pointers to float and to what is only read are passed like
            // others.
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
        let stored: Vec<Vec<i64>> = pyramid.maps.iter().map(|(map, _)| self.format.maps.stored(&map.size())).collect();
        let load = |buffers: &[Buffer]| {
            let with_sizes = buffers.iter().zip(&pyramid.maps);
            with_sizes.map(|(buffer, (map, _))| self.format.maps.load(buffer, &map.size())).collect()
        };

        let mut maps: Vec<Buffer> = pyramid.maps.iter().map(|(map, _)| self.format.maps.store(map)).collect();
        let mut output = Buffer::unwritten(&self.format.pooled.stored(&grad_output.size()), kind);
        launch("mrb_cuda_roi_align_forward", &mut maps, &mut output)?;
        let mut grads = self.format.pooled.store(grad_output);
        let mut zeros: Vec<Buffer> = stored.iter().map(|shape| Buffer::zeros(shape, Kind::Float)).collect();
        launch("mrb_cuda_roi_align_backward", &mut zeros, &mut grads)?;
        let mut unwritten: Vec<Buffer> = stored.iter().map(|shape| Buffer::unwritten(shape, kind)).collect();
        launch("mrb_cuda_roi_align_backward_deterministic", &mut unwritten, &mut grads)?;
        Some(Aligned {
            output: self.format.pooled.load(&output, &grad_output.size()),
            grad_inputs: load(&zeros),
            deterministic_grad_inputs: load(&unwritten),
        })
    }

    fn pool(&self, input: &Tensor, rois: &Tensor, grad_output: &Tensor) -> Option<Pooled> {
        let kind = input.kind();
        let sizes = self.sizes(&input.size(), rois.size()[0]);
        let (map, regions, grads) =
            (self.format.maps.store(input), Buffer::of(rois), self.format.pooled.store(grad_output));
        let stored = self.format.pooled.stored(&grad_output.size());
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
            Some(self.format.maps.load(&to, &input.size()))
        };
        let stored_map = self.format.maps.stored(&input.size());
        let grad_input =
            backward("mrb_cuda_roi_pool_backward", Buffer::zeros(&stored_map, Kind::Double))?.to_kind(Kind::Float);
        let unwritten = Buffer::unwritten(&stored_map, kind);
        let deterministic_grad_input = backward("mrb_cuda_roi_pool_backward_deterministic", unwritten)?;
        let size = grad_output.size();
        let (output, argmax) = (self.format.pooled.load(&output, &size), Some(self.format.pooled.load(&argmax, &size)));
        Some(Pooled { output, argmax, grad_input, deterministic_grad_input })
    }

    pub fn on_cpu(&self, input: &Tensor, rois: &Tensor) -> Tensor {
        match self.sampling_ratio {
            Some(ratio) => layers::roi_align(input, rois, self.output_size, self.spatial_scale, ratio),
            None => layers::roi_pool(input, rois, self.output_size, self.spatial_scale),
        }
    }
}
