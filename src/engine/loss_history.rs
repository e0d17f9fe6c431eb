//! Losses on their way from the device to the log.
//!
//! Reading a loss makes the program wait until the device has computed it, and meanwhile nothing new can be prepared
//! for the device. So losses stay there until the log wants them; what the log shows is the same.

use anyhow::{bail, Result};
use tch::{Kind, Tensor};

use crate::modeling::detector::Losses;
use crate::utils::comm;
use crate::utils::metric_logger::MetricLogger;

/// The losses of one iteration, not yet read.
struct Pending {
    iteration: i64,
    /// Indices of the images in the data set.
    images: Vec<usize>,
    /// `[terms]`, float32.
    values: Tensor,
}

/// Losses that have not been read since the last line of the log.
#[derive(Default)]
pub struct LossHistory {
    names: Vec<String>,
    pending: Vec<Pending>,
}

impl LossHistory {
    /// Takes over the losses of an iteration, which are the same terms every time.
    pub fn push(&mut self, iteration: i64, images: &[usize], losses: &Losses) {
        self.names = losses.iter().map(|(name, _)| name.clone()).collect();
        let values: Vec<Tensor> = losses.iter().map(|(_, loss)| loss.detach().to_kind(Kind::Float)).collect();
        self.pending.push(Pending { iteration, images: images.to_vec(), values: Tensor::stack(&values, 0) });
    }

    /// Reads what has come since the last time, all of it at once, averages it over the processes of a job, and shows
    /// it to the meters in the order of the iterations: `loss` (the sum) and each term.
    ///
    /// # Errors
    /// A loss that is not finite; the message names the iteration, the images (by `describe`) and the terms. Or another
    /// process is lost.
    pub fn settle(&mut self, meters: &mut MetricLogger, describe: impl Fn(&[usize]) -> String) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        let stacked: Vec<&Tensor> = pending.iter().map(|p| &p.values).collect();
        let terms = self.names.len();
        let read = Vec::<f32>::try_from(Tensor::stack(&stacked, 0).view(-1))?;
        let rows: Vec<Vec<(&str, f64)>> = read.chunks_exact(terms).map(|row| with_sum(&self.names, row)).collect();
        let means = comm::reduce_dicts(&rows)?;
        for ((pending, own), means) in pending.iter().zip(&rows).zip(means) {
            if !all_finite(&means) {
                let iteration = pending.iteration;
                let hint =
                    "nothing was saved; earlier checkpoints are as they were. A lower SOLVER.BASE_LR or a longer \
                            SOLVER.WARMUP_ITERS often helps, in another OUTPUT_DIR: a run that goes on keeps its own";
                if all_finite(own) {
                    bail!("iteration {iteration}: the loss of another process is not finite; {hint}");
                }
                let images = describe(&pending.images);
                bail!("iteration {iteration}: the loss is not finite ({}); images: {images}; {hint}", text(own));
            }
            for (name, value) in means {
                meters.update(name, value);
            }
        }
        Ok(())
    }
}

/// `loss` (the sum) and each term.
fn with_sum<'a>(names: &'a [String], row: &[f32]) -> Vec<(&'a str, f64)> {
    let terms = names.iter().zip(row).map(|(name, value)| (name.as_str(), f64::from(*value)));
    let sum = row.iter().map(|value| f64::from(*value)).sum();
    std::iter::once(("loss", sum)).chain(terms).collect()
}

fn all_finite(values: &[(&str, f64)]) -> bool {
    values.iter().all(|(_, value)| value.is_finite())
}

/// The terms of [`with_sum`] as text.
fn text(values: &[(&str, f64)]) -> String {
    values[1..].iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(values: [f32; 2]) -> Losses {
        let names = ["loss_classifier", "loss_mask"].map(String::from);
        names.into_iter().zip(values).map(|(name, value)| (name, Tensor::from(value))).collect()
    }

    fn describe(images: &[usize]) -> String {
        format!("{images:?}")
    }

    #[test]
    fn the_meters_see_the_same_whenever_losses_are_read() {
        let shown = |period: usize| {
            let (mut history, mut meters) = (LossHistory::default(), MetricLogger::new("  "));
            for i in 0..30_u8 {
                history.push(i64::from(i), &[], &losses([f32::from(i), f32::from(i % 7) * 0.5]));
                if usize::from(i) % period == 0 || i == 29 {
                    history.settle(&mut meters, describe).unwrap();
                }
            }
            meters.to_string()
        };
        let each = shown(1);
        assert!(each.starts_with("loss: ") && each.contains("  loss_mask: "), "{each}");
        assert_eq!(shown(20), each);
    }

    #[test]
    fn a_loss_that_is_not_finite_is_named_with_its_iteration_and_images() {
        let (mut history, mut meters) = (LossHistory::default(), MetricLogger::new("  "));
        for (iteration, value) in [(41, 0.5), (42, f32::NAN), (43, f32::NAN)] {
            history.push(iteration, &[iteration as usize * 10], &losses([1.5, value]));
        }
        let error = history.settle(&mut meters, describe).unwrap_err().to_string();
        assert!(error.contains("iteration 42: the loss is not finite (loss_classifier 1.5, loss_mask NaN)"), "{error}");
        assert!(error.contains("images: [420]"), "{error}");
        assert_eq!(meters.get("loss_mask").map(|meter| meter.global_avg()), Some(0.5));
    }

    #[test]
    fn nothing_pending_is_nothing_to_do() {
        let mut meters = MetricLogger::new("  ");
        LossHistory::default().settle(&mut meters, describe).unwrap();
        assert_eq!(meters.to_string(), "");
    }
}
