use std::ffi::{c_int, c_void};

use maskrcnn_benchmark::layers;
use tch::{Kind, Tensor};

use super::library::{function, in_each_order, STREAM};
use super::memory::Buffer;
use super::{close_to_cpu, rounded, scalar_type, KINDS};
use crate::ops::{cases, gradients, leaf};
use crate::support::{number, random, Report};

type Forward =
    unsafe extern "C" fn(*const c_void, *const i32, i64, i64, f32, f32, c_int, *mut c_void, *mut c_void) -> c_int;
type Backward = unsafe extern "C" fn(
    *const c_void,
    *const c_void,
    *const i32,
    i64,
    i64,
    f32,
    f32,
    c_int,
    *mut c_void,
    *mut c_void,
) -> c_int;

fn forward(logits: &Tensor, targets: &Tensor, gamma: f64, alpha: f64) -> Option<Tensor> {
    // SAFETY: the type is that of the header.
    let launch: Forward = unsafe { function("mrb_cuda_sigmoid_focal_loss_forward") }?;
    let (rows, classes) = logits.size2().expect("two dimensions");
    let (x, t) = (Buffer::of(logits), Buffer::of(&targets.to_kind(Kind::Int)));
    let mut loss = Buffer::unwritten(&logits.size(), logits.kind());
    // SAFETY: the buffers have the sizes and types that the function is told.
    let status = unsafe {
        let (gamma, alpha) = (gamma as f32, alpha as f32);
        let kind = scalar_type(logits.kind());
        launch(x.pointer(), t.pointer(), rows, classes, gamma, alpha, kind, loss.pointer_mut(), STREAM)
    };
    assert_eq!(status, 0, "launch");
    Some(loss.tensor())
}

fn backward(grad_loss: &Tensor, logits: &Tensor, targets: &Tensor, gamma: f64, alpha: f64) -> Option<Tensor> {
    // SAFETY: the type is that of the header.
    let launch: Backward = unsafe { function("mrb_cuda_sigmoid_focal_loss_backward") }?;
    let (rows, classes) = logits.size2().expect("two dimensions");
    let (g, x, t) = (Buffer::of(grad_loss), Buffer::of(logits), Buffer::of(&targets.to_kind(Kind::Int)));
    let mut grad = Buffer::unwritten(&logits.size(), logits.kind());
    // SAFETY: the buffers have the sizes and types that the function is told.
    let status = unsafe {
        launch(
            g.pointer(),
            x.pointer(),
            t.pointer(),
            rows,
            classes,
            gamma as f32,
            alpha as f32,
            scalar_type(logits.kind()),
            grad.pointer_mut(),
            STREAM,
        )
    };
    assert_eq!(status, 0, "launch");
    Some(grad.tensor())
}

#[test]
fn golden() {
    in_each_order(|| {
        let Some((cases, tensors)) = cases("sigmoid_focal_loss") else { return };
        let mut report = Report::new("cuda_emulated/sigmoid_focal_loss");
        for (case, parameters) in &cases {
            let get = |name: &str| tensors.get(&format!("{case}/{name}"));
            let (gamma, alpha) = (number(&parameters["gamma"]), number(&parameters["alpha"]));
            let (logits, targets) = (get("logits"), get("targets"));
            let Some(loss) = forward(logits, targets, gamma, alpha) else { return };
            report.close(case, "loss_kernel", &loss, get("loss_kernel"), 1e-6, 1e-5);
            for (factors, name) in
                [(get("grad_output").copy(), "grad_kernel"), (loss.ones_like(), "grad_kernel_of_sum")]
            {
                let Some(grad) = backward(&factors, logits, targets, gamma, alpha) else { return };
                report.close(case, name, &grad, get(name), 1e-6, 1e-5);
            }
        }
        report.finish();
    });
}

#[test]
fn equals_the_cpu_kernel() {
    in_each_order(|| {
        let mut report = Report::new("cuda_emulated/sigmoid_focal_loss");
        for (seed, (rows, classes)) in (1..).step_by(10).zip([(0, 3), (1, 1), (37, 5), (300, 80)]) {
            let targets = ((random(&[rows], seed) + 1.0) * (0.5 * (classes + 2) as f64)).floor() - 1.0;
            let targets = targets.to_kind(Kind::Int);
            for kind in KINDS {
                let logits = rounded(&(random(&[rows, classes], seed + 1) * 8.0), kind);
                let factors = rounded(&random(&[rows, classes], seed + 2), kind);
                for (gamma, alpha) in [(2.0, 0.25), (1.5, 0.75), (0.0, 0.5)] {
                    let case = format!("{rows}x{classes}, gamma {gamma}");
                    let x = leaf(&logits);
                    let want = layers::sigmoid_focal_loss(&x, &targets, gamma, alpha);
                    let want_grad = &gradients(&want, &factors, &[&x])[0];
                    let typed = |t: &Tensor| t.to_kind(kind);
                    let Some(loss) = forward(&typed(&logits), &targets, gamma, alpha) else { return };
                    close_to_cpu(&mut report, &case, "loss", &loss, &want);
                    let grad = backward(&typed(&factors), &typed(&logits), &targets, gamma, alpha);
                    close_to_cpu(&mut report, &case, "gradient", &grad.expect("loaded above"), want_grad);
                }
            }
        }
        report.finish();
    });
}
