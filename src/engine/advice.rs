//! What users of the original most often forget when they change the batch size, said at the start of a training.

use crate::config::{Config, SolverConfig, Tuple};

/// Images per process that `FPN_POST_NMS_TOP_N_TRAIN` of the original's configurations is meant for.
const REFERENCE_IMAGES_PER_PROCESS: i64 = 2;

/// Notes about `cfg`; `reference` is the same configuration before the command line changed it.
pub fn advice(cfg: &Config, reference: &SolverConfig, world_size: usize) -> Vec<String> {
    let notes = [suggested_schedule(&cfg.solver, reference), proposals_per_batch(cfg, world_size), group_norm(cfg)];
    notes.into_iter().flatten().collect()
}

/// The linear scaling rule: with k times the images, k times the rate and 1/k of the iterations.
fn suggested_schedule(solver: &SolverConfig, reference: &SolverConfig) -> Option<String> {
    if solver.ims_per_batch == reference.ims_per_batch || solver.ims_per_batch <= 0 || reference.ims_per_batch <= 0 {
        return None;
    }
    let scale = solver.ims_per_batch as f64 / reference.ims_per_batch as f64;
    let iterations = |n: i64| (n as f64 / scale).round() as i64;
    let base_lr = reference.base_lr * scale;
    let steps = Tuple(reference.steps.iter().map(|&n| iterations(n)).collect());
    let max_iter = iterations(reference.max_iter);
    let same_rate = (solver.base_lr - base_lr).abs() <= 1e-9 * base_lr.abs();
    if same_rate && solver.steps == steps && solver.max_iter == max_iter {
        return None;
    }
    Some(format!(
        "SOLVER.IMS_PER_BATCH is {}, the configuration was made for {}. The linear scaling rule suggests: \
         SOLVER.BASE_LR {base_lr} SOLVER.STEPS \"{steps}\" SOLVER.MAX_ITER {max_iter} (configured: SOLVER.BASE_LR {}, \
         SOLVER.STEPS {}, SOLVER.MAX_ITER {})",
        solver.ims_per_batch, reference.ims_per_batch, solver.base_lr, solver.steps, solver.max_iter,
    ))
}

/// In training the proposals that remain are counted over the whole batch of a process, not per image.
fn proposals_per_batch(cfg: &Config, world_size: usize) -> Option<String> {
    let rpn = &cfg.model.rpn;
    let images = cfg.solver.ims_per_batch / world_size.max(1) as i64;
    let counted_per_batch = rpn.use_fpn && rpn.fpn_post_nms_per_batch && !cfg.model.retinanet_on;
    if !counted_per_batch || images == REFERENCE_IMAGES_PER_PROCESS {
        return None;
    }
    Some(format!(
        "MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN ({}) limits the proposals of all images of a process together; the usual \
         value 2000 is meant for {REFERENCE_IMAGES_PER_PROCESS} images, here there are {images} (1000 an image would be {})",
        rpn.fpn_post_nms_top_n_train,
        1000 * images
    ))
}

/// `USE_GN` looks as if it chose group norm, but nothing reads it.
fn group_norm(cfg: &Config) -> Option<String> {
    let resnets = &cfg.model.resnets;
    if !cfg.model.backbone.use_gn || resnets.trans_func.ends_with("WithGN") && resnets.stem_func.ends_with("WithGN") {
        return None;
    }
    let block = match resnets.trans_func.starts_with("Bottle2neck") {
        true => "Bottle2neckWithGN",
        false => "BottleneckWithGN",
    };
    Some(format!(
        "MODEL.BACKBONE.USE_GN has no effect, as in the Res2Net fork: for group norm set MODEL.RESNETS.TRANS_FUNC {block} and \
         MODEL.RESNETS.STEM_FUNC StemWithGN"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ims_per_batch: i64, base_lr: f64, steps: &[i64], max_iter: i64) -> Config {
        let mut cfg = Config::default();
        cfg.model.rpn.use_fpn = true;
        cfg.solver = SolverConfig { ims_per_batch, base_lr, steps: Tuple(steps.to_vec()), max_iter, ..cfg.solver };
        cfg
    }

    #[test]
    fn a_smaller_batch_wants_a_smaller_rate_and_more_iterations() {
        let reference = config(16, 0.02, &[60000, 80000], 90000).solver;
        let notes = advice(&config(2, 0.02, &[60000, 80000], 90000), &reference, 1);
        assert_eq!(notes.len(), 1, "{notes:?}");
        let wanted = "SOLVER.BASE_LR 0.0025 SOLVER.STEPS \"(480000, 640000)\" SOLVER.MAX_ITER 720000";
        assert!(notes[0].contains(wanted), "{notes:?}");
        assert!(advice(&config(2, 0.0025, &[480000, 640000], 720000), &reference, 1).is_empty());
    }

    #[test]
    fn use_gn_says_that_it_does_nothing() {
        let mut cfg = config(2, 0.02, &[1], 2);
        cfg.model.backbone.use_gn = true;
        let notes = advice(&cfg, &cfg.solver, 1);
        assert!(notes.len() == 1 && notes[0].contains("MODEL.RESNETS.TRANS_FUNC BottleneckWithGN"), "{notes:?}");
        (cfg.model.resnets.trans_func, cfg.model.resnets.stem_func) = ("Bottle2neckWithGN".into(), "StemWithGN".into());
        assert!(advice(&cfg, &cfg.solver, 1).is_empty());
    }

    #[test]
    fn other_than_two_images_a_process_changes_the_number_of_proposals() {
        let cfg = config(4, 0.02, &[1], 2);
        assert!(advice(&cfg, &cfg.solver, 2).is_empty());
        let notes = advice(&cfg, &cfg.solver, 1);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].contains("FPN_POST_NMS_TOP_N_TRAIN (2000)") && notes[0].contains("4000"), "{notes:?}");
        let mut per_image = cfg.clone();
        per_image.model.rpn.fpn_post_nms_per_batch = false;
        assert!(advice(&per_image, &cfg.solver, 1).is_empty());
    }
}
