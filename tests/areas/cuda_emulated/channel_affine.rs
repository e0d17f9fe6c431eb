use std::ffi::{c_int, c_void};

use maskrcnn_benchmark::ffi;
use tch::Tensor;

use super::library::{function, in_each_order, STREAM};
use super::memory::{optional, Buffer};
use super::{close_to_cpu, rounded, scalar_type, KINDS};
use crate::ops::{gradients, leaf};
use crate::support::{random, Report};

/// `mrb_map_rows` of csrc/ops/channel_affine/map_rows.h.
#[repr(C)]
struct MapRows {
    rows: i64,
    length: i64,
    channels: i64,
    channels_last: bool,
}

type Forward = unsafe extern "C" fn(
    *mut c_void,
    *const f32,
    *const f32,
    *const c_void,
    bool,
    *const MapRows,
    c_int,
    *mut c_void,
) -> c_int;
type Backward = unsafe extern "C" fn(
    *const c_void,
    *const c_void,
    *const f32,
    *mut c_void,
    *mut c_void,
    *const MapRows,
    c_int,
    *mut c_void,
) -> c_int;

/// Whether the map is channels-last, and whether the one that is written starts where no vector may.
type Layout = (bool, bool);

/// The order of dimensions in memory, and back: the tensors of this file are `[N, C, H, W]`.
fn in_memory(map: &Tensor, channels_last: bool) -> Tensor {
    if channels_last {
        map.permute([0, 2, 3, 1])
    } else {
        map.shallow_clone()
    }
}

fn from_memory(values: Tensor, channels_last: bool) -> Tensor {
    if channels_last {
        values.permute([0, 3, 1, 2])
    } else {
        values
    }
}

fn rows(map: &Tensor, channels_last: bool) -> MapRows {
    let (n, channels, height, width) = map.size4().expect("four dimensions");
    let pixels = height * width;
    let (rows, length) = if channels_last { (n * pixels, channels) } else { (n * channels, pixels) };
    MapRows { rows, length, channels, channels_last }
}

/// Starts at a multiple of 16 bytes, as the kernels for vectors need it, if the size is one; with `shifted`, a value
/// before.
fn store(map: &Tensor, (channels_last, shifted): Layout) -> Buffer {
    let values = in_memory(map, channels_last);
    if !shifted {
        return Buffer::of(&values);
    }
    Buffer::of(&Tensor::cat(&[values.reshape([-1]), Tensor::zeros([1], (map.kind(), map.device()))], 0))
}

fn load(buffer: &Buffer, like: &Tensor, (channels_last, shifted): Layout) -> Tensor {
    let shape = in_memory(like, channels_last).size();
    let values = buffer.tensor();
    if shifted {
        assert_eq!(values.double_value(&[-1]), 0.0, "the value after the map");
    }
    from_memory(values.reshape([-1]).narrow(0, 0, like.numel() as i64).view(shape.as_slice()), channels_last)
}

fn pointer(buffer: &Option<Buffer>) -> *const c_void {
    buffer.as_ref().map_or(std::ptr::null(), Buffer::pointer)
}

fn pointer_mut(buffer: &mut Option<Buffer>) -> *mut c_void {
    buffer.as_mut().map_or(std::ptr::null_mut(), Buffer::pointer_mut)
}

fn forward(
    x: &Tensor,
    (scale, shift): (Option<&Tensor>, &Tensor),
    residual: Option<&Tensor>,
    relu: bool,
    layout: Layout,
) -> Option<Tensor> {
    let channels_last = layout.0;
    // SAFETY: the type is that of the header.
    let launch: Forward = unsafe { function("mrb_cuda_channel_affine_forward") }?;
    let mut y = store(x, layout);
    let (scale, shift) = (scale.map(Buffer::of), Buffer::of(shift));
    let residual = residual.map(|t| Buffer::of(&in_memory(t, channels_last)));
    let (map, kind, stream) = (rows(x, channels_last), scalar_type(x.kind()), STREAM);
    // SAFETY: the buffers have the sizes and types that the function is told.
    let status = unsafe {
        let scale = optional(scale.as_ref());
        launch(y.pointer_mut(), scale, shift.pointer(), pointer(&residual), relu, &map, kind, stream)
    };
    assert_eq!(status, 0, "launch");
    Some(load(&y, x, layout))
}

/// The gradient of x if there is a scale, and with `masks` that before the ReLU.
fn backward(
    grad_y: &Tensor,
    y: Option<&Tensor>,
    scale: Option<&Tensor>,
    masks: bool,
    layout: Layout,
) -> Option<Vec<Tensor>> {
    let channels_last = layout.0;
    // SAFETY: the type is that of the header.
    let launch: Backward = unsafe { function("mrb_cuda_channel_affine_backward") }?;
    let grads = store(grad_y, layout);
    let y = y.map(|t| Buffer::of(&in_memory(t, channels_last)));
    let scale = scale.map(Buffer::of);
    let shape = in_memory(grad_y, channels_last).size();
    let mut grad_x = scale.is_some().then(|| Buffer::unwritten(&shape, grad_y.kind()));
    let mut masked = masks.then(|| Buffer::unwritten(&shape, grad_y.kind()));
    let (map, kind, stream) = (rows(grad_y, channels_last), scalar_type(grad_y.kind()), STREAM);
    // SAFETY: the buffers have the sizes and types that the function is told.
    let status = unsafe {
        let (to_x, to_masked) = (pointer_mut(&mut grad_x), pointer_mut(&mut masked));
        launch(grads.pointer(), pointer(&y), optional(scale.as_ref()), to_x, to_masked, &map, kind, stream)
    };
    assert_eq!(status, 0, "launch");
    let written = [grad_x, masked].into_iter().flatten();
    Some(written.map(|buffer| from_memory(buffer.tensor(), channels_last)).collect())
}

/// What the operator is asked for beside its tensors.
#[derive(Clone, Copy, Debug)]
struct Choice {
    channels_last: bool,
    scales: bool,
    adds: bool,
    relu: bool,
}

impl Choice {
    fn all() -> impl Iterator<Item = Self> {
        let bit = |number: u32, place: u32| number >> place & 1 != 0;
        (0..16).map(move |n| Self { channels_last: bit(n, 0), scales: bit(n, 1), adds: bit(n, 2), relu: bit(n, 3) })
    }
}

/// Where vectors may start, and a value before.
const BOTH: [bool; 2] = [false, true];

#[test]
fn equals_the_cpu_kernel() {
    in_each_order(|| {
        let mut report = Report::new("cuda_emulated/channel_affine");
        // Nothing, one value, rows of less and of more than a block takes; then rows of whole vectors: in channels-last
        // only, in NCHW only, in both, of more vectors than a block has threads, and more than a block takes.
        let scalar = [[0, 3, 4, 4], [2, 3, 0, 4], [1, 1, 1, 1], [2, 5, 7, 3], [1, 3, 50, 51], [1, 2100, 1, 2]];
        let vectors = [[2, 16, 7, 3], [2, 3, 4, 6], [2, 24, 10, 10], [1, 2104, 1, 3], [1, 2, 80, 80], [1, 16, 16, 28]];
        let shapes =
            scalar.map(|shape| (shape, &[false][..])).into_iter().chain(vectors.map(|shape| (shape, &BOTH[..])));
        for ((shape, shifts), choice) in shapes.flat_map(|shape| Choice::all().map(move |choice| (shape, choice))) {
            let Choice { channels_last, scales, adds, relu } = choice;
            let (scale, shift) = (random(&[shape[1]], 1), random(&[shape[1]], 2));
            let constants = (scales.then_some(&scale), &shift);
            for kind in KINDS {
                let drawn = |seed| rounded(&random(&shape, seed), kind);
                let (x, residual, factors) = (leaf(&drawn(3)), leaf(&drawn(4)), drawn(5));
                let added = adds.then_some(&residual);
                let want = ffi::channel_affine(&x * 1.0, constants, added, relu).expect("maps that fit");
                let inputs: &[&Tensor] = if adds { &[&x, &residual] } else { &[&x] };
                let want_grads = gradients(&want, &factors, inputs);

                let typed = |t: &Tensor| t.detach().to_kind(kind);
                let added = adds.then(|| typed(&residual));
                // The y of the CPU, whose zeros are where rounding cannot have moved them.
                let results = relu.then(|| typed(&want));
                let mut aligned: Option<Vec<Tensor>> = None;
                for &shifted in shifts {
                    let case = format!("{shape:?}, {choice:?}, shifted {shifted}");
                    let layout = (channels_last, shifted);
                    let Some(y) = forward(&typed(&x), constants, added.as_ref(), relu, layout) else {
                        return;
                    };
                    close_to_cpu(&mut report, &case, "y", &y, &want);
                    // Without a scale the gradient of x is that before the ReLU.
                    let masks = adds || !scales;
                    let grads = backward(&typed(&factors), results.as_ref(), constants.0, masks, layout);
                    let grads = grads.expect("loaded above");
                    let names: &[&str] = if scales { &["x", "residual"] } else { &["x and residual"] };
                    for (name, (got, want)) in names.iter().zip(grads.iter().zip(&want_grads)) {
                        close_to_cpu(&mut report, &case, name, got, want);
                    }
                    // Vectors or not, the values are the same.
                    let all: Vec<Tensor> = grads.into_iter().chain([y]).collect();
                    let first = aligned.get_or_insert_with(|| all.iter().map(Tensor::shallow_clone).collect());
                    let same = all.iter().zip(first.iter()).all(|(a, b)| a.equal(b));
                    report.check(&case, "bits", (!same).then(|| "differ where no vector may start".into()));
                }
            }
        }
        report.finish();
    });
}
