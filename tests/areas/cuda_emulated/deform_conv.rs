use std::ffi::{c_int, c_void};

use maskrcnn_benchmark::ffi;
use maskrcnn_benchmark::layers::dcn::{self, DeformConvGeometry};
use tch::{Kind, Tensor};

use super::library::{function, in_each_order, STREAM};
use super::memory::{optional, Buffer};
use super::{close_to_cpu, rounded, scalar_type, KINDS};
use crate::ops::{cases, gradients, leaf, pair};
use crate::support::{random, Report};

/// `mrb_cuda_deform_conv_shape` of deform_conv_cuda.h.
#[repr(C)]
struct Shape {
    images: i64,
    channels: i64,
    height: i64,
    width: i64,
    kernel_h: i64,
    kernel_w: i64,
    out_height: i64,
    out_width: i64,
    geometry: ffi::DeformConvGeometry,
}

type Columns = unsafe extern "C" fn(
    *const c_void,
    *const c_void,
    *const c_void,
    *const Shape,
    c_int,
    *mut c_void,
    *mut c_void,
) -> c_int;
type BackwardInput = unsafe extern "C" fn(
    *const c_void,
    *const c_void,
    *const c_void,
    *const Shape,
    c_int,
    *mut f32,
    *mut c_void,
) -> c_int;
type BackwardOffset = unsafe extern "C" fn(
    *const c_void,
    *const c_void,
    *const c_void,
    *const c_void,
    *const Shape,
    c_int,
    *mut c_void,
    *mut c_void,
    *mut c_void,
) -> c_int;

/// The tensors that all three functions read.
struct Operands<'a> {
    input: &'a Tensor,
    offset: &'a Tensor,
    mask: Option<&'a Tensor>,
    kernel: (i64, i64),
    geometry: DeformConvGeometry,
}

impl Operands<'_> {
    fn shape(&self) -> Shape {
        let (images, channels, height, width) = self.input.size4().expect("four dimensions");
        let (_, _, out_height, out_width) = self.offset.size4().expect("four dimensions");
        let (kernel_h, kernel_w) = self.kernel;
        let geometry = self.geometry.into();
        Shape { images, channels, height, width, kernel_h, kernel_w, out_height, out_width, geometry }
    }

    /// `[C · K, N, Ho · Wo]`
    fn columns_size(&self) -> [i64; 3] {
        let s = self.shape();
        [s.channels * s.kernel_h * s.kernel_w, s.images, s.out_height * s.out_width]
    }

    fn columns(&self) -> Option<Tensor> {
        // SAFETY: the type is that of the header.
        let launch: Columns = unsafe { function("mrb_cuda_deform_conv_columns") }?;
        let kind = self.input.kind();
        let (input, offset, mask) = (Buffer::of(self.input), Buffer::of(self.offset), self.mask.map(Buffer::of));
        let mut columns = Buffer::unwritten(&self.columns_size(), kind);
        // SAFETY: the buffers have the sizes and types that the function is told.
        let status = unsafe {
            launch(
                input.pointer(),
                offset.pointer(),
                optional(mask.as_ref()),
                &self.shape(),
                scalar_type(kind),
                columns.pointer_mut(),
                STREAM,
            )
        };
        assert_eq!(status, 0, "launch");
        Some(columns.tensor())
    }

    fn backward_input(&self, grad_columns: &Tensor) -> Option<Tensor> {
        // SAFETY: the type is that of the header.
        let launch: BackwardInput = unsafe { function("mrb_cuda_deform_conv_backward_input") }?;
        let (grads, offset, mask) = (Buffer::of(grad_columns), Buffer::of(self.offset), self.mask.map(Buffer::of));
        let mut grad_input = Buffer::zeros(&self.input.size(), Kind::Float);
        // SAFETY: the buffers have the sizes and types that the function is told.
        let status = unsafe {
            launch(
                grads.pointer(),
                offset.pointer(),
                optional(mask.as_ref()),
                &self.shape(),
                scalar_type(grad_columns.kind()),
                grad_input.pointer_mut(),
                STREAM,
            )
        };
        assert_eq!(status, 0, "launch");
        Some(grad_input.tensor())
    }

    /// Gradients of the offset and the mask.
    fn backward_offset(&self, grad_columns: &Tensor) -> Option<(Tensor, Option<Tensor>)> {
        // SAFETY: the type is that of the header.
        let launch: BackwardOffset = unsafe { function("mrb_cuda_deform_conv_backward_offset") }?;
        let kind = self.input.kind();
        let (grads, input) = (Buffer::of(grad_columns), Buffer::of(self.input));
        let (offset, mask) = (Buffer::of(self.offset), self.mask.map(Buffer::of));
        let mut grad_offset = Buffer::unwritten(&self.offset.size(), kind);
        let mut grad_mask = self.mask.map(|m| Buffer::unwritten(&m.size(), kind));
        // SAFETY: the buffers have the sizes and types that the function is told.
        let status = unsafe {
            launch(
                grads.pointer(),
                input.pointer(),
                offset.pointer(),
                optional(mask.as_ref()),
                &self.shape(),
                scalar_type(kind),
                grad_offset.pointer_mut(),
                grad_mask.as_mut().map_or(std::ptr::null_mut(), Buffer::pointer_mut),
                STREAM,
            )
        };
        assert_eq!(status, 0, "launch");
        Some((grad_offset.tensor(), grad_mask.map(|m| m.tensor())))
    }
}

/// The kernels with the matrix products that the wrapper does between them.
#[test]
fn golden() {
    in_each_order(|| {
        let Some((cases, tensors)) = cases("deform_conv") else { return };
        let mut report = Report::new("cuda_emulated/deform_conv");
        for (case, parameters) in cases.iter().filter(|(_, p)| p.get("layer").is_none()) {
            let get = |name: &str| tensors.get(&format!("{case}/{name}"));
            let int = |name: &str| parameters[name].as_i64().expect("an integer");
            let modulated = parameters["modulated"] == true;
            let (weight, grad_output) = (get("weight"), get("grad_output"));
            let (outputs, _, kernel_h, kernel_w) = weight.size4().expect("four dimensions");
            let operands = Operands {
                input: get("input"),
                offset: get("offset"),
                mask: modulated.then(|| get("mask")),
                kernel: (kernel_h, kernel_w),
                geometry: DeformConvGeometry {
                    stride: (int("stride"), int("stride")),
                    padding: pair(&parameters["padding"]),
                    dilation: (int("dilation"), int("dilation")),
                    groups: int("groups"),
                    deformable_groups: int("deformable_groups"),
                },
            };
            let groups = int("groups");
            let [rows, images, positions] = operands.columns_size();
            let Some(columns) = operands.columns() else { return };
            let columns = columns.view([groups, rows / groups, images * positions]);
            let matrix = weight.view([groups, outputs / groups, rows / groups]);
            let images_first =
                |t: &Tensor| t.view([outputs, images, positions]).transpose(0, 1).reshape(grad_output.size());
            let mut output = images_first(&matrix.bmm(&columns));
            if parameters["bias"] == true {
                output += get("bias").view([1, -1, 1, 1]);
            }
            report.close(case, "output", &output, get("output"), 1e-4, 0.0);

            let grad = grad_output.view([images, outputs, positions]).transpose(0, 1);
            let grad = grad.reshape([groups, outputs / groups, images * positions]);
            let grad_weight = grad.bmm(&columns.transpose(1, 2)).view_as(weight);
            report.close(case, "grad_weight", &grad_weight, get("grad_weight"), 1e-4, 1e-5);
            let grad_columns = matrix.transpose(1, 2).bmm(&grad).view([rows, images, positions]);
            let grad_input = operands.backward_input(&grad_columns).expect("loaded above");
            report.close(case, "grad_input", &grad_input, get("grad_input"), 1e-4, 1e-5);
            let (grad_offset, grad_mask) = operands.backward_offset(&grad_columns).expect("loaded above");
            report.close(case, "grad_offset", &grad_offset, get("grad_offset"), 1e-4, 1e-5);
            if let Some(grad_mask) = grad_mask {
                report.close(case, "grad_mask", &grad_mask, get("grad_mask"), 1e-4, 1e-5);
            }
        }
        report.finish();
    });
}

/// With one output for every row of the columns, which copies it, the CPU kernel's output is the columns.
#[test]
fn equals_the_cpu_kernel() {
    in_each_order(|| {
        let plain = DeformConvGeometry::default();
        let padded = DeformConvGeometry { padding: (1, 2), stride: (2, 1), dilation: (1, 2), ..plain };
        // Images, channels (not multiples of what a thread takes), height, width; the last batch is empty.
        let sizes = [
            ([1, 1, 3, 4], DeformConvGeometry { padding: (1, 1), ..plain }),
            ([3, 34, 7, 5], padded),
            ([2, 20, 6, 9], DeformConvGeometry { deformable_groups: 2, ..padded }),
            ([2, 8, 5, 5], DeformConvGeometry { deformable_groups: 4, padding: (2, 2), ..plain }),
            ([0, 4, 5, 5], DeformConvGeometry { padding: (1, 1), ..plain }),
        ];
        let mut report = Report::new("cuda_emulated/deform_conv");
        for (seed, (size, geometry)) in (1..).step_by(10).zip(sizes) {
            let [images, channels, height, width] = size;
            let (kernel_h, kernel_w) = (3, 2);
            let side = |n: i64, p: i64, d: i64, k: i64, s: i64| (n + 2 * p - d * (k - 1) - 1) / s + 1;
            let out_height = side(height, geometry.padding.0, geometry.dilation.0, kernel_h, geometry.stride.0);
            let out_width = side(width, geometry.padding.1, geometry.dilation.1, kernel_w, geometry.stride.1);
            let planes = geometry.deformable_groups * kernel_h * kernel_w;
            let rows = channels * kernel_h * kernel_w;
            let identity =
                Tensor::eye(rows, (Kind::Float, tch::Device::Cpu)).view([rows, channels, kernel_h, kernel_w]);
            for (kind, modulated) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
                let case = format!("{size:?}, {} deformable groups, mask {modulated}", geometry.deformable_groups);
                let make = |shape: &[i64], seed: u64, factor: f64| rounded(&(random(shape, seed) * factor), kind);
                let input = leaf(&make(&size, seed, 1.0));
                // Some of the samples lie outside the map.
                let offset = leaf(&make(&[images, 2 * planes, out_height, out_width], seed + 1, 4.0));
                let mask = modulated.then(|| leaf(&make(&[images, planes, out_height, out_width], seed + 2, 1.0)));
                let columns_first = |t: &Tensor| t.flatten(2, -1).transpose(0, 1).contiguous();
                let want = match &mask {
                    None => dcn::deform_conv(&input, &offset, &identity, geometry),
                    Some(mask) => dcn::modulated_deform_conv(&input, &offset, mask, &identity, None, geometry),
                };
                let factors = make(&[images, rows, out_height, out_width], seed + 3, 1.0);
                let mut leaves = vec![&input, &offset];
                leaves.extend(&mask);
                let want_grads = gradients(&want, &factors, &leaves);

                let typed = |t: &Tensor| t.detach().to_kind(kind);
                let (typed_input, typed_offset, typed_mask) = (typed(&input), typed(&offset), mask.as_ref().map(typed));
                let operands = Operands {
                    input: &typed_input,
                    offset: &typed_offset,
                    mask: typed_mask.as_ref(),
                    kernel: (kernel_h, kernel_w),
                    geometry,
                };
                let Some(columns) = operands.columns() else { return };
                close_to_cpu(&mut report, &case, "columns", &columns, &columns_first(&want));
                let grad_columns = typed(&columns_first(&factors));
                let grad_input = operands.backward_input(&grad_columns).expect("loaded above");
                close_to_cpu(&mut report, &case, "grad_input", &grad_input, &want_grads[0]);
                let (grad_offset, grad_mask) = operands.backward_offset(&grad_columns).expect("loaded above");
                close_to_cpu(&mut report, &case, "grad_offset", &grad_offset, &want_grads[1]);
                if let Some(grad_mask) = grad_mask {
                    close_to_cpu(&mut report, &case, "grad_mask", &grad_mask, &want_grads[2]);
                }
            }
        }
        report.finish();
    });
}
