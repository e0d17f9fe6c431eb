//! What tch lacks: memory formats, operators that keep types or memory, random numbers from a generator of one's own,
//! the allocator's thresholds.

use std::ffi::c_void;
use std::ptr::NonNull;

use anyhow::{ensure, Context, Result};
use tch::Tensor;

use super::{call, call_for_tensor, raw};

/// The same values with the channels of each pixel side by side in memory (`torch.channels_last`); a shallow copy where
/// they are so already.
///
/// # Shapes
/// `[N, C, H, W]`; anything else panics.
pub fn channels_last(tensor: &Tensor) -> Tensor {
    contiguous(tensor, true)
}

/// The same values with each channel's map in one piece; a shallow copy where they are so already.
pub fn nchw(tensor: &Tensor) -> Tensor {
    contiguous(tensor, false)
}

fn contiguous(tensor: &Tensor, channels_last: bool) -> Tensor {
    let tensor = tensor.as_ptr();
    // SAFETY: the handle comes from a live borrowed tensor, the error and output from `call_for_tensor`.
    call_for_tensor(|error, output| unsafe { raw::mrb_contiguous(error, output, tensor, channels_last) })
        .expect("a tensor of four dimensions")
}

/// Whether operators would keep the tensor in channels-last format.
pub fn is_channels_last(tensor: &Tensor) -> bool {
    // SAFETY: the handle comes from a live borrowed tensor, which the function only reads.
    unsafe { raw::mrb_is_channels_last(tensor.as_ptr()) }
}

/// Enlarges maps by repeating pixels, in their own type. ([`layers::interpolate`](crate::layers::interpolate) does as
/// torch: under autocast the result is float32, which takes twice the memory and adds nothing.)
///
/// # Shapes
/// `[N, C, H, W]` to `[N, C, height, width]`, which are `scale` times as large, or a little less.
///
/// # Errors
/// Sizes that are not positive.
pub fn upsample_nearest(input: &Tensor, (height, width): (i64, i64), scale: f64) -> Result<Tensor> {
    let input = input.as_ptr();
    // SAFETY: the handle comes from a live borrowed tensor, the error and output from `call_for_tensor`.
    call_for_tensor(|error, output| unsafe { raw::mrb_upsample_nearest(error, output, input, height, width, scale) })
}

/// The tensors concatenated along their first dimension. Where they are parts of one memory, in its order and without
/// gaps (what `split` gave), and no gradients go through them, this is a view of it, and nothing is copied.
///
/// # Errors
/// No tensor, or rows of several sizes.
pub fn cat_rows(tensors: &[Tensor]) -> Result<Tensor> {
    let handles: Vec<_> = tensors.iter().map(|tensor| tensor.as_ptr()).collect();
    // SAFETY: the handles come from live borrowed tensors, which the function does not change; the error and output
    // come from `call_for_tensor`.
    call_for_tensor(|error, output| unsafe { raw::mrb_cat_rows(error, output, handles.as_ptr(), handles.len()) })
}

/// Whether this thread's operators are recorded for gradients (`torch.is_grad_enabled`).
pub fn is_grad_enabled() -> bool {
    // SAFETY: the function only reads the thread's state.
    unsafe { raw::mrb_grad_enabled() }
}

/// A tensor of these values, which it takes over without a copy.
///
/// # Errors
/// Another number of values than the shape has.
pub fn tensor_of(values: Vec<f32>, shape: &[i64]) -> Result<Tensor> {
    extern "C" fn release(owner: *mut c_void) {
        // SAFETY: `owner` is the pointer that `into_raw` gave below, and this is called once.
        drop(unsafe { Box::from_raw(owner.cast::<Vec<f32>>()) });
    }
    let (expected, found) = (shape.iter().product::<i64>(), values.len());
    ensure!(expected == found as i64, "{found} values for a tensor of shape {shape:?}");
    let mut owner = Box::new(values);
    let (values, sizes) = (owner.as_mut_ptr(), shape.as_ptr());
    let owner = Box::into_raw(owner).cast::<c_void>();
    // SAFETY: the vector, whose memory stays where it is, lives until `release`; the shape lives for the call; the
    // error and output come from `call_for_tensor`.
    call_for_tensor(|error, output| unsafe {
        raw::mrb_tensor_over(error, output, values, sizes, shape.len(), release, owner)
    })
}

/// A float32 tensor on the CPU whose values `write` puts over zeros, in pinned memory, from which [`upload`] copies to
/// the CUDA device of this number without another copy. Any thread may call this; the GPU is not waited for.
///
/// # Errors
/// CUDA is not open, or there is no memory left to pin.
pub fn pinned_tensor(shape: &[i64], index: usize, write: impl FnOnce(&mut [f32])) -> Result<Tensor> {
    let sizes = shape.as_ptr();
    // SAFETY: the shape lives for the call; the error and output come from `call_for_tensor`.
    let tensor = call_for_tensor(|error, output| unsafe {
        raw::mrb_empty_pinned(error, output, sizes, shape.len(), index as i64)
    })?;
    let (values, number) = (tensor.data_ptr().cast::<f32>(), tensor.numel());
    if number > 0 {
        // SAFETY: the memory of a dense float tensor that nobody else has seen; every value is set before the slice is
        // made.
        write(unsafe {
            values.write_bytes(0, number);
            std::slice::from_raw_parts_mut(values, number)
        });
    }
    Ok(tensor)
}

/// A copy on the CUDA device of this number, over pinned memory (where the tensor is there already, no other is
/// needed), so that the program does not wait until it is there.
///
/// # Errors
/// There is no such device, or the tensor is not on the CPU or empty.
pub fn upload(tensor: &Tensor, index: usize) -> Result<Tensor> {
    let tensor = tensor.as_ptr();
    // SAFETY: the handle comes from a live borrowed tensor, the error and output from `call_for_tensor`.
    call_for_tensor(|error, output| unsafe { raw::mrb_upload(error, output, tensor, index as i64) })
}

/// A random number generator with the sequences of `torch.Generator`; numbers are drawn from one on the CPU.
pub struct Generator {
    handle: NonNull<raw::Generator>,
}

// SAFETY: an at::Generator is a counted reference that may be used from any thread; operators and the functions here
// lock it while they draw or look at its state.
unsafe impl Send for Generator {}

impl Generator {
    /// A generator of its own, as `torch.Generator().manual_seed(seed)`.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn new(seed: u64) -> Result<Self> {
        // SAFETY: the error and the place for the handle are live for the call.
        Self::make(|error, handle| unsafe { raw::mrb_generator_new(error, handle, seed) })
    }

    /// The generator that every operator uses which is not told otherwise (`torch.default_generator`).
    ///
    /// # Errors
    /// What libtorch says.
    pub fn default_cpu() -> Result<Self> {
        // SAFETY: the error and the place for the handle are live for the call.
        Self::make(|error, handle| unsafe { raw::mrb_generator_default(error, handle) })
    }

    /// The generator that operators on the CUDA device of this number use.
    ///
    /// # Errors
    /// There is no such device.
    pub fn default_cuda(index: usize) -> Result<Self> {
        // SAFETY: the error and the place for the handle are live for the call.
        Self::make(|error, handle| unsafe { raw::mrb_generator_default_cuda(error, handle, index as i64) })
    }

    fn make(function: impl FnOnce(*mut raw::Error, *mut *mut raw::Generator) -> std::ffi::c_int) -> Result<Self> {
        let mut handle = std::ptr::null_mut();
        call(|error| function(error, &mut handle))?;
        Ok(Self { handle: NonNull::new(handle).context("libtorch gave no generator")? })
    }

    /// The byte tensor of `get_state()`, as in the original's checkpoints.
    ///
    /// # Errors
    /// What libtorch says.
    pub fn state(&self) -> Result<Tensor> {
        // SAFETY: the handle is live as long as self, the error and output come from `call_for_tensor`.
        call_for_tensor(|error, state| unsafe { raw::mrb_generator_state(error, state, self.handle.as_ptr()) })
    }

    /// Goes on from where [`Generator::state`] was taken.
    ///
    /// # Errors
    /// On a tensor that is no such state.
    pub fn set_state(&mut self, state: &Tensor) -> Result<()> {
        let state = state.as_ptr();
        // SAFETY: both handles are live, the error comes from `call`.
        call(|error| unsafe { raw::mrb_generator_set_state(error, self.handle.as_ptr(), state) })
    }

    /// `torch.randperm(n, generator=self)`.
    ///
    /// # Errors
    /// On a negative `n`.
    pub fn randperm(&mut self, n: i64) -> Result<Vec<i64>> {
        let handle = self.handle.as_ptr();
        // SAFETY: the handle is live as long as self, the error and output come from `call_for_tensor`.
        let drawn = call_for_tensor(|error, output| unsafe { raw::mrb_randperm(error, output, n, handle) })?;
        Ok(Vec::try_from(drawn)?)
    }

    /// `torch.rand(n, generator=self)`: numbers in [0, 1).
    ///
    /// # Errors
    /// On a negative `n`.
    pub fn rand(&mut self, n: i64) -> Result<Vec<f32>> {
        let handle = self.handle.as_ptr();
        // SAFETY: the handle is live as long as self, the error and output come from `call_for_tensor`.
        let drawn = call_for_tensor(|error, output| unsafe { raw::mrb_rand(error, output, n, handle) })?;
        Ok(Vec::try_from(drawn)?)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // SAFETY: the handle was made by csrc for this object alone and is not used again.
        unsafe { raw::mrb_generator_free(self.handle.as_ptr()) }
    }
}

/// Tells glibc to keep large buffers that are freed and to hand them out again, instead of mapping every activation
/// anew, which costs a page fault for each 4 KiB. Returns whether it agreed; elsewhere than on glibc nothing happens.
pub fn keep_freed_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const GIBIBYTE: std::ffi::c_int = 1 << 30;
        // SAFETY: mallopt only sets two parameters of the allocator, which it guards itself.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, GIBIBYTE) == 1 && libc::mallopt(libc::M_TRIM_THRESHOLD, GIBIBYTE) == 1
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::ffi;

    #[test]
    fn memory_formats_keep_the_values() {
        let x = Tensor::arange(2 * 3 * 4 * 5, (Kind::Float, Device::Cpu)).view([2, 3, 4, 5]);
        let last = channels_last(&x);
        assert!(is_channels_last(&last) && !is_channels_last(&x));
        assert_eq!(last.stride(), [60, 1, 15, 3]);
        assert_eq!(last, x);
        assert_eq!(nchw(&last).stride(), x.stride());
    }

    #[test]
    fn enlarging_keeps_the_type_under_autocast() {
        let _autocast = ffi::Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
        let x = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0]).view([1, 1, 2, 2]).to_kind(Kind::BFloat16);
        let y = upsample_nearest(&x.set_requires_grad(true), (3, 4), 2.0).unwrap();
        assert_eq!((y.kind(), y.requires_grad()), (Kind::BFloat16, true));
        let values = Vec::<f32>::try_from(y.to_kind(Kind::Float).flatten(0, -1)).unwrap();
        assert_eq!(values, [1.0, 1.0, 2.0, 2.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
        assert!(upsample_nearest(&y, (0, 4), 2.0).is_err());
    }

    #[test]
    fn rows_that_lie_end_to_end_are_not_copied() {
        let whole = Tensor::arange(24, (Kind::Float, Device::Cpu)).view([8, 3]);
        let none = Tensor::zeros([0, 3], (Kind::Float, Device::Cpu));
        let check = |parts: &[Tensor], view_from: Option<i64>| {
            let got = cat_rows(parts).unwrap();
            assert_eq!(got, Tensor::cat(parts, 0));
            match view_from {
                Some(row) => assert_eq!(got.data_ptr(), whole.get(row).data_ptr()),
                None => assert!((0..8).all(|row| got.data_ptr() != whole.get(row).data_ptr())),
            }
        };
        let parts = |rows: &[(i64, i64)]| -> Vec<Tensor> {
            rows.iter().map(|&(start, length)| whole.narrow(0, start, length)).collect()
        };
        check(&whole.split_with_sizes([3, 0, 4, 1], 0), Some(0));
        check(&[whole.narrow(0, 2, 1), none.shallow_clone(), whole.narrow(0, 3, 4)], Some(2));
        // A gap, another order, twice the same, columns, other memory, nothing at all.
        check(&parts(&[(0, 2), (3, 2)]), None);
        check(&parts(&[(4, 4), (0, 4)]), None);
        check(&parts(&[(0, 2), (0, 2)]), None);
        check(&[whole.narrow(1, 0, 2), whole.narrow(1, 1, 2)], None);
        check(&[whole.narrow(0, 0, 4), whole.narrow(0, 4, 4).copy()], None);
        check(&[none.shallow_clone(), none.shallow_clone()], None);
        let other_kind = [whole.narrow(0, 0, 4), whole.narrow(0, 4, 4).to_kind(Kind::Double)];
        assert_eq!(cat_rows(&other_kind).unwrap().kind(), Kind::Double);
        assert!(cat_rows(&[]).is_err() && cat_rows(&[whole.narrow(1, 0, 2), whole.shallow_clone()]).is_err());
    }

    #[test]
    fn gradients_go_back_to_each_of_the_rows() {
        let leaf = Tensor::ones([4, 2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let joined = cat_rows(&leaf.split_with_sizes([1, 3], 0)).unwrap();
        (joined * Tensor::arange(8, (Kind::Float, Device::Cpu)).view([4, 2])).sum(Kind::Float).backward();
        assert_eq!(leaf.grad(), Tensor::arange(8, (Kind::Float, Device::Cpu)).view([4, 2]));
    }

    #[test]
    fn a_tensor_takes_over_values() {
        let values = vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
        let place = values.as_ptr();
        let tensor = tensor_of(values, &[2, 3]).unwrap();
        assert_eq!(tensor.data_ptr().cast_const().cast(), place);
        let view = tensor.get(1);
        drop(tensor);
        assert_eq!(Vec::<f32>::try_from(view).unwrap(), [4.0, 5.0, 6.0]);
        assert_eq!(tensor_of(Vec::new(), &[0, 3, 0, 0]).unwrap().size(), [0, 3, 0, 0]);
        assert!(tensor_of(vec![0.0], &[2]).is_err());
    }

    #[test]
    fn without_cuda_no_memory_is_pinned() {
        if !tch::Cuda::is_available() {
            assert!(pinned_tensor(&[2, 3], 0, |_| panic!("there is nothing to write to")).is_err());
        }
    }

    #[test]
    fn a_generator_goes_on_from_its_state() {
        let mut generator = Generator::new(7).unwrap();
        let state = generator.state().unwrap();
        let (order, numbers) = (generator.randperm(50).unwrap(), generator.rand(3).unwrap());
        assert_ne!(generator.randperm(50).unwrap(), order);
        generator.set_state(&state).unwrap();
        assert_eq!((generator.randperm(50).unwrap(), generator.rand(3).unwrap()), (order, numbers));
    }

    #[test]
    fn a_state_may_be_a_row_of_several() {
        let states = [3u64, 4].map(|seed| Generator::new(seed).unwrap().state().unwrap());
        let stacked = Tensor::stack(&states, 0);
        for (row, seed) in stacked.unbind(0).iter().zip([3, 4]) {
            let mut generator = Generator::new(0).unwrap();
            generator.set_state(row).unwrap();
            assert_eq!(generator.rand(5).unwrap(), Generator::new(seed).unwrap().rand(5).unwrap());
        }
    }

    #[test]
    fn wrong_arguments_are_errors() {
        let mut generator = Generator::new(1).unwrap();
        assert!(generator.randperm(-1).is_err());
        let error = generator.set_state(&Tensor::zeros([3], (Kind::Uint8, Device::Cpu))).unwrap_err();
        assert!(!error.to_string().is_empty());
    }
}
