//! The CUDA code on a machine without a GPU: a C++ compiler takes the very same files with the headers of
//! `csrc/cuda/emulation`, which run a kernel's threads in turns on the host. Every launch function is called with the
//! golden inputs, compared at the golden limits, and with seeded random inputs, compared with the CPU kernels, each in
//! several orders of threads and blocks. [`wrappers`] has the code between tensors and kernels.
//!
//! This is an emulation: it shows that arithmetic and indexing are right, that no kernel reads or writes beyond its
//! buffers, that every value is written, and that barriers stand where threads depend on each other. It does not show
//! what only a GPU can: that nvcc's code does the same, what a device guard or a stream does, how fast it is. Those are
//! the tests of the module `cuda`.

mod box_matching;
mod channel_affine;
mod deform_conv;
mod deform_roi_pool;
mod focal_loss;
mod library;
mod memory;
mod nms;
pub mod operators;
mod roi_pooling;
mod wrappers;

use tch::{Kind, Tensor};

use crate::support::{random, Report};

/// The types of the kernels.
const KINDS: [Kind; 3] = [Kind::Float, Kind::Half, Kind::BFloat16];

/// `mrb_scalar_type` of csrc/cuda/scalar_type.h.
fn scalar_type(kind: Kind) -> i32 {
    match kind {
        Kind::Float => 0,
        Kind::Half => 1,
        Kind::BFloat16 => 2,
        other => panic!("no kernel for {other:?}"),
    }
}

/// The nearest values that `kind` has, as float32: what a kernel of that type is given.
fn rounded(tensor: &Tensor, kind: Kind) -> Tensor {
    tensor.detach().to_kind(kind).to_kind(Kind::Float)
}

/// Compares with float32 values that the CPU kernel made of the same (rounded) inputs.
///
/// Both sides add up in float32, in another order: 1e-5. The result in half precision is rounded once more, by at most
/// half a unit in the last place: 2⁻¹¹ in float16, 2⁻⁸ in bfloat16, relative to the value.
fn close_to_cpu(report: &mut Report, case: &str, quantity: &str, got: &Tensor, want: &Tensor) {
    let rounding = match got.kind() {
        Kind::Float => 0.0,
        Kind::Half => 0.5f64.powi(11),
        Kind::BFloat16 => 0.5f64.powi(8),
        other => panic!("no kernel gives {other:?}"),
    };
    let quantity = format!("{quantity} {:?}", got.kind());
    report.close(case, &quantity, got, want, 1e-5, rounding + 1e-5);
}

/// `count` regions in an image of the given size, some partly or wholly outside, of `images` images in turn.
fn regions(count: i64, images: i64, (width, height): (f64, f64), seed: u64) -> Tensor {
    let numbers = random(&[count, 4], seed).to_kind(Kind::Double);
    let part = |column: i64, size: f64| (numbers.select(1, column) + 0.8) * (0.6 * size);
    let (x1, y1) = (part(0, width), part(1, height));
    let (x2, y2) = (&x1 + part(2, width).abs() * 0.6, &y1 + part(3, height).abs() * 0.6);
    let image = Tensor::arange(count, (Kind::Double, tch::Device::Cpu)).remainder(images);
    Tensor::stack(&[image, x1, y1, x2, y2], 1).to_kind(Kind::Float)
}
