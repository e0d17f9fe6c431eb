//! What the solver does with all parameters at once.

use anyhow::{ensure, Result};
use tch::Tensor;
use torch_sys::C_tensor;

use super::{call, call_for_tensor, optional, raw};

fn handles<'a>(tensors: impl Iterator<Item = &'a Tensor>) -> Vec<*const C_tensor> {
    tensors.map(|tensor| tensor.as_ptr()).collect()
}

/// Copies the values of each source into its target, many small tensors at once. The targets are changed in place.
///
/// # Errors
/// Other numbers of targets than of sources, or other shapes.
pub fn copy_all(targets: &[&Tensor], sources: &[&Tensor]) -> Result<()> {
    ensure!(targets.len() == sources.len(), "{} targets for {} tensors", targets.len(), sources.len());
    let (targets, sources) = (handles(targets.iter().copied()), handles(sources.iter().copied()));
    // SAFETY: the handles come from live borrowed tensors, as many targets as sources; the error from `call`.
    call(|error| unsafe { raw::mrb_copy_all(error, targets.as_ptr(), sources.as_ptr(), sources.len()) })
}

/// Forgets the gradients (`zero_grad(set_to_none=True)`).
///
/// # Errors
/// A tensor that cannot have a gradient.
pub fn clear_gradients<'a>(parameters: impl Iterator<Item = &'a Tensor>) -> Result<()> {
    let parameters = handles(parameters);
    // SAFETY: the handles come from live borrowed tensors, the error from `call`.
    call(|error| unsafe { raw::mrb_clear_gradients(error, parameters.as_ptr(), parameters.len()) })
}

/// Multiplies the gradients of the parameters that have one, in place. Nothing is read back from the device.
///
/// # Shapes
/// Gives `[1]`, float32, on the gradients' device: 1 where one of them held an infinity or nan, else 0.
///
/// # Errors
/// There is no gradient, or they are on several devices.
pub fn unscale_gradients<'a>(parameters: impl Iterator<Item = &'a Tensor>, inverse_scale: f64) -> Result<Tensor> {
    let parameters = handles(parameters);
    // SAFETY: the handles come from live borrowed tensors, the error and output from `call_for_tensor`.
    call_for_tensor(|error, found| unsafe {
        raw::mrb_unscale_gradients(error, found, parameters.as_ptr(), parameters.len(), inverse_scale)
    })
}

/// A parameter of [`sgd_step`]; it must have a gradient.
pub struct SgdParameter<'a> {
    /// Changed in place.
    pub parameter: &'a Tensor,
    /// Of the parameter's shape; `None` without momentum.
    pub momentum_buffer: Option<&'a Tensor>,
    /// The rate.
    pub lr: f64,
    /// What the parameter is multiplied with before it is added to the gradient.
    pub weight_decay: f64,
    /// Whether the buffer gets its first value now.
    pub first: bool,
}

/// One step of SGD for all parameters, in place: on the CPU a parallel loop, elsewhere one kernel for all parameters of
/// the same settings.
///
/// # Errors
/// A parameter without a gradient, or a gradient or buffer of another shape, type or device.
pub fn sgd_step(parameters: &[SgdParameter], momentum: f64) -> Result<()> {
    let raw_parameter = |p: &SgdParameter| raw::SgdParameter {
        parameter: p.parameter.as_ptr(),
        momentum_buffer: optional(p.momentum_buffer),
        lr: p.lr,
        weight_decay: p.weight_decay,
        first: p.first,
    };
    let parameters: Vec<_> = parameters.iter().map(raw_parameter).collect();
    // SAFETY: the handles come from live borrowed tensors (the buffers' may be null, which the function allows), the
    // error from `call`.
    call(|error| unsafe { raw::mrb_sgd_step(error, parameters.as_ptr(), parameters.len(), momentum) })
}
