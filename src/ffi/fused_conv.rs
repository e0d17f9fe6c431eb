//! Convolution with everything after it in one step, for inference.

use anyhow::Result;
use tch::Tensor;

use super::{call_for_tensor, optional, raw};

/// The arguments of [`fused_conv`] besides its input.
pub struct FusedConv<'a> {
    /// `[O, C / groups, k, k]`
    pub weight: &'a Tensor,
    /// `[O]`
    pub bias: Option<&'a Tensor>,
    /// Added to the output, and of its shape.
    pub residual: Option<&'a Tensor>,
    /// Pixels from one position of the kernel to the next.
    pub stride: i64,
    /// Zeros on each side.
    pub padding: i64,
    /// Pixels from one weight of the kernel to the next.
    pub dilation: i64,
    /// Parts of the channels that are convolved separately.
    pub groups: i64,
    /// Negative results become 0, after everything else.
    pub relu: bool,
}

/// Whether [`fused_conv`] takes this input: not empty, gradients off, and libtorch has the operator for its type (under
/// autocast the type it is cast to): on the CPU float32, or bfloat16 where the processor computes with it; on CUDA
/// (with a ReLU only), for channels-last inputs, 16 bits, and float32 where TF32 is allowed.
pub fn can_fuse_conv(input: &Tensor) -> bool {
    // SAFETY: the handle comes from a live borrowed tensor, which the function only looks at.
    unsafe { raw::mrb_can_fuse_conv(input.as_ptr()) }
}

/// Whether a weight or bias lies on the input's device in the type that a convolution of the input is computed in.
pub fn is_ready_for_conv(input: &Tensor, weight: &Tensor) -> bool {
    // SAFETY: the handles come from live borrowed tensors, which the function only looks at.
    unsafe { raw::mrb_is_ready_for_conv(input.as_ptr(), weight.as_ptr()) }
}

/// The weight or bias in that type, and a filter `[O, C, k, k]` in the input's memory format; without gradients.
///
/// # Errors
/// Another device, or what libtorch says.
pub fn ready_for_conv(input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (input, weight) = (input.as_ptr(), weight.as_ptr());
    // SAFETY: the handles come from live borrowed tensors, the error and output from `call_for_tensor`.
    call_for_tensor(|error, output| unsafe { raw::mrb_ready_for_conv(error, output, input, weight) })
}

/// A convolution, its bias, a residual and a ReLU, written to memory once.
///
/// # Shapes
/// `[N, C, H, W]` to `[N, O, H', W']`, in the memory format of the input.
///
/// # Errors
/// On inputs that [`can_fuse_conv`] denies, on shapes that do not fit, and on CUDA without a ReLU.
pub fn fused_conv(input: &Tensor, conv: &FusedConv) -> Result<Tensor> {
    let (input, weight) = (input.as_ptr(), conv.weight.as_ptr());
    let (bias, residual) = (optional(conv.bias), optional(conv.residual));
    // SAFETY: the handles come from live borrowed tensors (bias and residual may be null, which the function allows),
    // the error and output from `call_for_tensor`.
    call_for_tensor(|error, output| unsafe {
        raw::mrb_fused_conv(
            error,
            output,
            input,
            weight,
            bias,
            residual,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
            conv.relu,
        )
    })
}
