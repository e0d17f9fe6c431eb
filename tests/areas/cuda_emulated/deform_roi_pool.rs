use std::ffi::{c_int, c_void};

use maskrcnn_benchmark::ffi::{self, DeformRoiPoolGeometry};
use tch::{Kind, Tensor};

use super::library::{function, in_each_order, STREAM};
use super::memory::{optional, Buffer};
use super::{close_to_cpu, regions, rounded, scalar_type, KINDS};
use crate::ops::{gradients, leaf};
use crate::support::{random, Report};

/// `mrb_cuda_deform_roi_pool_shape` of deform_roi_pool_cuda.h.
#[repr(C)]
struct Shape {
    images: i64,
    height: i64,
    width: i64,
    rois: i64,
    classes: i64,
    geometry: DeformRoiPoolGeometry,
}

type Forward = unsafe extern "C" fn(
    *const c_void,
    *const f32,
    *const c_void,
    *const Shape,
    c_int,
    *mut c_void,
    *mut c_void,
) -> c_int;
type Backward = unsafe extern "C" fn(
    *const c_void,
    *const c_void,
    *const f32,
    *const c_void,
    *const Shape,
    c_int,
    *mut f32,
    *mut f32,
    *mut c_void,
) -> c_int;

struct Operands {
    input: Tensor,
    rois: Tensor,
    trans: Option<Tensor>,
    geometry: DeformRoiPoolGeometry,
}

impl Operands {
    fn shape(&self) -> Shape {
        let (images, _, height, width) = self.input.size4().expect("four dimensions");
        let classes = self.trans.as_ref().map_or(1, |t| t.size()[1] / 2);
        Shape { images, height, width, rois: self.rois.size()[0], classes, geometry: self.geometry }
    }

    fn forward(&self) -> Option<Tensor> {
        // SAFETY: the type is that of the header.
        let launch: Forward = unsafe { function("mrb_cuda_deform_roi_pool_forward") }?;
        let (input, rois) = (Buffer::of(&self.input), Buffer::of(&self.rois));
        let trans = self.trans.as_ref().map(Buffer::of);
        let size = self.geometry.pooled_size;
        let output_size = [self.rois.size()[0], self.geometry.output_dim, size, size];
        let mut output = Buffer::unwritten(&output_size, self.input.kind());
        // SAFETY: the buffers have the sizes and types that the function is told.
        let status = unsafe {
            launch(
                input.pointer(),
                rois.pointer(),
                optional(trans.as_ref()),
                &self.shape(),
                scalar_type(self.input.kind()),
                output.pointer_mut(),
                STREAM,
            )
        };
        assert_eq!(status, 0, "launch");
        Some(output.tensor())
    }

    /// Gradients of the input and the offsets, float32.
    fn backward(&self, grad_output: &Tensor) -> Option<(Tensor, Option<Tensor>)> {
        // SAFETY: the type is that of the header.
        let launch: Backward = unsafe { function("mrb_cuda_deform_roi_pool_backward") }?;
        let (grads, input, rois) = (Buffer::of(grad_output), Buffer::of(&self.input), Buffer::of(&self.rois));
        let trans = self.trans.as_ref().map(Buffer::of);
        let mut grad_input = Buffer::zeros(&self.input.size(), Kind::Float);
        let mut grad_trans = self.trans.as_ref().map(|t| Buffer::zeros(&t.size(), Kind::Float));
        // SAFETY: the buffers have the sizes and types that the function is told.
        let status = unsafe {
            launch(
                grads.pointer(),
                input.pointer(),
                rois.pointer(),
                optional(trans.as_ref()),
                &self.shape(),
                scalar_type(self.input.kind()),
                grad_input.pointer_mut(),
                grad_trans.as_mut().map_or(std::ptr::null_mut(), Buffer::pointer_mut),
                STREAM,
            )
        };
        assert_eq!(status, 0, "launch");
        Some((grad_input.tensor(), grad_trans.map(|t| t.tensor())))
    }
}

fn geometry(pooled_size: i64, output_dim: i64, group_size: i64, part_size: i64) -> DeformRoiPoolGeometry {
    DeformRoiPoolGeometry {
        spatial_scale: 0.25,
        pooled_size,
        output_dim,
        group_size,
        part_size,
        samples_per_part: 3,
        trans_std: 0.1,
    }
}

/// There is no golden data for this operator: the original has it for CUDA only.
#[test]
fn equals_the_cpu_kernel() {
    in_each_order(|| {
        // Images, RoIs, classes of the offsets (0: no offsets).
        let cases = [
            (1, 1, 0, geometry(3, 2, 1, 3)),
            (2, 13, 1, geometry(7, 3, 1, 7)),
            (3, 7, 2, geometry(4, 6, 2, 3)),
            (2, 5, 3, geometry(5, 3, 3, 5)),
            (2, 0, 1, geometry(7, 2, 1, 7)),
        ];
        let mut report = Report::new("cuda_emulated/deform_roi_pool");
        for (seed, (images, count, classes, geometry)) in (1..).step_by(10).zip(cases) {
            let (height, width) = (11, 14);
            let rois = regions(count, images, (4.0 * width as f64, 4.0 * height as f64), seed);
            let channels = geometry.output_dim * geometry.group_size * geometry.group_size;
            for kind in KINDS {
                let case = format!("{images} images, {count} RoIs, {classes} classes, {geometry:?}");
                let input = leaf(&rounded(&random(&[images, channels, height, width], seed + 1), kind));
                let parts = [count, 2 * classes, geometry.part_size, geometry.part_size];
                let trans = (classes > 0).then(|| leaf(&rounded(&random(&parts, seed + 2), kind)));
                let want = ffi::deform_roi_pool(&input, &rois, trans.as_ref(), &geometry).expect("the CPU kernel");
                let factors = rounded(&random(&want.size(), seed + 3), kind);
                let mut leaves = vec![&input];
                leaves.extend(&trans);
                let want_grads = gradients(&want, &factors, &leaves);

                let typed = |t: &Tensor| t.detach().to_kind(kind);
                let operands =
                    Operands { input: typed(&input), rois: rois.copy(), trans: trans.as_ref().map(typed), geometry };
                let Some(output) = operands.forward() else { return };
                close_to_cpu(&mut report, &case, "output", &output, &want);
                let (grad_input, grad_trans) = operands.backward(&typed(&factors)).expect("loaded above");
                close_to_cpu(&mut report, &case, "grad_input", &grad_input, &want_grads[0]);
                if let Some(grad_trans) = grad_trans {
                    close_to_cpu(&mut report, &case, "grad_trans", &grad_trans, &want_grads[1]);
                }
            }
        }
        report.finish();
    });
}

/// A kernel cannot raise an error.
#[test]
fn a_region_of_no_image_gives_nan_and_no_gradient() {
    in_each_order(|| {
        let mut report = Report::new("cuda_emulated/deform_roi_pool");
        let rois = Tensor::from_slice2(&[
            [0.0f32, 4.0, 4.0, 20.0, 20.0],
            [2.0, 4.0, 4.0, 20.0, 20.0],
            [-1.0, 0.0, 0.0, 9.0, 9.0],
        ]);
        let operands = Operands { input: random(&[2, 1, 8, 8], 1), rois, trans: None, geometry: geometry(2, 1, 1, 2) };
        let Some(output) = operands.forward() else { return };
        let is_nan: Vec<bool> = Vec::try_from(output.isnan().flatten(1, -1).all_dim(1, false)).expect("truth values");
        report.equal("images", "nan", is_nan, vec![false, true, true]);
        let only_others = Tensor::from_slice(&[0.0f32, 1.0, 1.0]).view([3, 1, 1, 1]).expand([3, 1, 2, 2], false);
        let (grad_input, _) = operands.backward(&only_others.contiguous()).expect("loaded above");
        report.close("images", "gradient", &grad_input, &grad_input.zeros_like(), 0.0, 0.0);
        report.finish();
    });
}
