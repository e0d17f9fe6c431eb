//! Recall of proposals (`evaluate_box_proposals` in the original's `coco_eval.py`, which follows Detectron).

use anyhow::{Context, Result};
use tch::Tensor;

use super::ground_truth::CocoGroundTruth;
use crate::structures::{boxlist_iou, BoxList, Mode};

/// Which objects count, by the area of their annotation; both ends belong to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaRange {
    /// Every object.
    All,
    /// Up to 32² pixels.
    Small,
    /// 32² to 96².
    Medium,
    /// From 96².
    Large,
    /// 96² to 128².
    From96To128,
    /// 128² to 256².
    From128To256,
    /// 256² to 512².
    From256To512,
    /// From 512².
    From512,
}

impl AreaRange {
    /// Smallest and largest area.
    pub fn limits(self) -> (f32, f32) {
        const LARGEST: f32 = 1e10;
        let square = |side: f32| side * side;
        match self {
            AreaRange::All => (0.0, LARGEST),
            AreaRange::Small => (0.0, square(32.0)),
            AreaRange::Medium => (square(32.0), square(96.0)),
            AreaRange::Large => (square(96.0), LARGEST),
            AreaRange::From96To128 => (square(96.0), square(128.0)),
            AreaRange::From128To256 => (square(128.0), square(256.0)),
            AreaRange::From256To512 => (square(256.0), square(512.0)),
            AreaRange::From512 => (square(512.0), LARGEST),
        }
    }
}

/// How well proposals cover the objects.
#[derive(Clone, Debug, PartialEq)]
pub struct ProposalRecall {
    /// Average recall over the thresholds; -1 without objects.
    pub average: f32,
    /// Recall at every threshold.
    pub recalls: Vec<f32>,
    /// Overlaps 0.5 to 0.95.
    pub thresholds: Vec<f32>,
    /// The overlaps by which objects are covered, ascending. Images without proposals contribute none.
    pub overlaps: Vec<f32>,
    /// The number of objects.
    pub objects: usize,
}

/// Recall of the `limit` best proposals of each image (by `objectness`) over the objects of an area range.
///
/// Proposals and objects are paired one to one, the best covered object first.
///
/// # Errors
/// If a prediction lacks `objectness`, or the annotations cannot be read.
pub fn evaluate_box_proposals(
    ground_truth: &CocoGroundTruth,
    predictions: &[BoxList],
    area: AreaRange,
    limit: Option<i64>,
) -> Result<ProposalRecall> {
    ground_truth.check_number(predictions.len())?;
    let (smallest, largest) = area.limits();
    let mut overlaps = Vec::new();
    let mut objects = 0;
    for (image, prediction) in ground_truth.images().iter().zip(predictions) {
        let within = |area: f64| (smallest..=largest).contains(&(area as f32));
        let found = ground_truth.boxes(image)?.into_iter().filter(|(_, area)| within(*area));
        let boxes: Vec<f32> = found.flat_map(|(bbox, _)| bbox.map(|c| c as f32)).collect();
        objects += boxes.len() / 4;
        if boxes.is_empty() || prediction.is_empty() {
            continue;
        }
        let cover = || -> Result<Vec<f32>> {
            let truth = BoxList::new(Tensor::from_slice(&boxes).view([-1, 4]), image.size, Mode::Xywh)?;
            let best = best_proposals(&prediction.resize(image.size)?, limit)?;
            let matrix = boxlist_iou(&best, &truth)?;
            let number = truth.len();
            Ok(greedy_overlaps(&Vec::<f32>::try_from(matrix.contiguous().view(-1))?, number))
        };
        overlaps.extend(cover().with_context(|| format!("proposals for image {}", image.id))?);
    }
    overlaps.sort_by(f32::total_cmp);

    let thresholds: Vec<f32> = (0..10).map(|i| (0.5 + 0.05 * f64::from(i)) as f32).collect();
    let recall = |&threshold: &f32| {
        let covered = overlaps.iter().filter(|&&overlap| overlap >= threshold).count();
        covered as f32 / objects as f32
    };
    let recalls: Vec<f32> = if objects == 0 { vec![-1.0; 10] } else { thresholds.iter().map(recall).collect() };
    let average = recalls.iter().sum::<f32>() / recalls.len() as f32;
    Ok(ProposalRecall { average, recalls, thresholds, overlaps, objects })
}

fn best_proposals(list: &BoxList, limit: Option<i64>) -> Result<BoxList> {
    let order = list.tensor_field("objectness")?.sort_stable(true, 0, true).1;
    let number = order.size()[0];
    let best = order.narrow(0, 0, limit.map_or(number, |limit| limit.min(number)));
    list.copy_with_fields(&[], true)?.select(&best)
}

/// Overlaps of the pairs, and 0 for objects that no proposal is left for. `matrix` has a row for each proposal.
fn greedy_overlaps(matrix: &[f32], objects: usize) -> Vec<f32> {
    let proposals = matrix.len() / objects;
    let mut free = vec![true; proposals];
    let best_of = |object: usize, free: &[bool]| {
        let mut best = (-1.0, 0);
        for proposal in (0..proposals).filter(|&p| free[p]) {
            let overlap = matrix[proposal * objects + object];
            if overlap > best.0 {
                best = (overlap, proposal);
            }
        }
        best
    };
    let mut candidates: Vec<Option<(f32, usize)>> = (0..objects).map(|o| Some(best_of(o, &free))).collect();
    let mut overlaps = vec![0.0; objects];
    for covered in overlaps.iter_mut().take(proposals.min(objects)) {
        let mut best: Option<(usize, f32, usize)> = None;
        for (object, candidate) in candidates.iter().enumerate() {
            if let Some((overlap, proposal)) = *candidate {
                if best.is_none_or(|(_, known, _)| overlap > known) {
                    best = Some((object, overlap, proposal));
                }
            }
        }
        let Some((object, overlap, proposal)) = best else { break };
        *covered = overlap;
        candidates[object] = None;
        free[proposal] = false;
        for (other, candidate) in candidates.iter_mut().enumerate() {
            if candidate.is_some_and(|(_, taken)| taken == proposal) {
                *candidate = Some(best_of(other, &free));
            }
        }
    }
    overlaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_covered_object_takes_its_proposal_first() {
        // Both objects prefer proposal 0; object 1 is covered better and gets it.
        assert_eq!(greedy_overlaps(&[0.6, 0.9, 0.2, 0.1], 2), [0.9, 0.2]);
        // One proposal for two objects.
        assert_eq!(greedy_overlaps(&[0.6, 0.9], 2), [0.9, 0.0]);
        // More proposals than objects.
        assert_eq!(greedy_overlaps(&[0.1, 0.7, 0.3], 1), [0.7]);
    }

    #[test]
    fn areas_belong_to_both_ranges_at_their_border() {
        assert_eq!(AreaRange::Small.limits().1, AreaRange::Medium.limits().0);
        assert_eq!(AreaRange::All.limits(), (0.0, 1e10));
    }
}
