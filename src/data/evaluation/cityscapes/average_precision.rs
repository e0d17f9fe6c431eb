//! Average precision per class and overlap (`evaluateBoxMatches` and `evaluateMaskMatches` of the original's
//! `eval_instances.py`, which follow Cityscapes' own script).

use super::matching::{ImageMatches, Instance, Pairing};
use crate::data::evaluation::IouType;

/// Smaller objects are ignored, by box area or by the pixels of the mask.
pub const MIN_REGION_SIZE: i64 = 100;

/// Average precision by class and overlap; nan for classes without objects.
#[derive(Clone, Debug, PartialEq)]
pub struct ApMatrix {
    /// The overlaps, 0.5 to 0.95. A prediction must exceed them.
    pub overlaps: Vec<f64>,
    /// By class (the background included), then by overlap.
    pub ap: Vec<Vec<f64>>,
}

/// What is compared: boxes or masks.
#[derive(Clone, Copy)]
struct Measure {
    masks: bool,
}

impl Measure {
    fn size(self, instance: &Instance) -> i64 {
        if self.masks {
            instance.pixel_count
        } else {
            instance.box_area
        }
    }

    fn intersection(self, pairing: &Pairing) -> i64 {
        if self.masks {
            pairing.mask_intersection
        } else {
            pairing.box_intersection
        }
    }

    fn overlap(self, image: &ImageMatches, pairing: &Pairing) -> f64 {
        let sizes =
            self.size(&image.ground_truths[pairing.ground_truth]) + self.size(&image.predictions[pairing.prediction]);
        let intersection = self.intersection(pairing);
        match sizes - intersection {
            0 => 0.0,
            union => intersection as f64 / union as f64,
        }
    }
}

/// What one class at one overlap came to.
#[derive(Default)]
struct Tally {
    has_objects: bool,
    has_predictions: bool,
    missed: usize,
    /// Confidence, and whether an object was found.
    scored: Vec<(f64, bool)>,
}

/// Average precision of every class at every overlap. Pairs of different classes count as found, as in the original.
pub fn evaluate_matches(images: &[ImageMatches], iou_type: IouType, classes: usize) -> ApMatrix {
    let measure = Measure { masks: iou_type == IouType::Segm };
    // numpy's arange: multiples of the rounded first step.
    let step = (0.5 + 0.05) - 0.5;
    let overlaps: Vec<f64> = (0..10).map(|i| 0.5 + f64::from(i) * step).collect();
    let cell = |class: usize, overlap: f64| {
        let mut tally = Tally::default();
        for image in images {
            add_image(&mut tally, image, class, overlap, measure);
        }
        average_precision(tally)
    };
    let ap = (0..classes).map(|class| overlaps.iter().map(|&overlap| cell(class, overlap)).collect()).collect();
    ApMatrix { overlaps, ap }
}

fn add_image(tally: &mut Tally, image: &ImageMatches, class: usize, threshold: f64, measure: Measure) {
    let large = |instance: &Instance| measure.size(instance) >= MIN_REGION_SIZE;
    for (g, _) in image.ground_truths.iter().enumerate().filter(|(_, gt)| gt.label == class && large(gt)) {
        tally.has_objects = true;
        let found = image.pairings.iter().filter(|p| p.ground_truth == g);
        let found = found.filter(|p| measure.overlap(image, p) > threshold);
        let mut best: Option<f64> = None;
        for pairing in found {
            let confidence = image.predictions[pairing.prediction].confidence;
            // Of two predictions for one object, the less confident one is wrong.
            if let Some(other) = best {
                tally.scored.push((other.min(confidence), false));
            }
            best = Some(best.map_or(confidence, |other| other.max(confidence)));
        }
        match best {
            Some(confidence) => tally.scored.push((confidence, true)),
            None => tally.missed += 1,
        }
    }
    for (p, prediction) in image.predictions.iter().enumerate().filter(|(_, p)| p.label == class) {
        tally.has_predictions = true;
        let pairs = image.pairings.iter().filter(|pairing| pairing.prediction == p);
        if pairs.clone().any(|pairing| measure.overlap(image, pairing) > threshold) {
            continue;
        }
        let size = measure.size(prediction);
        let ignored: i64 = pairs
            .filter(|pairing| !large(&image.ground_truths[pairing.ground_truth]))
            .map(|pairing| measure.intersection(pairing))
            .sum();
        let proportion = if size > 0 { ignored as f64 / size as f64 } else { 0.0 };
        if proportion <= threshold {
            tally.scored.push((prediction.confidence, false));
        }
    }
}

fn average_precision(mut tally: Tally) -> f64 {
    match (tally.has_objects, tally.has_predictions) {
        (true, true) => (),
        (true, false) => return 0.0,
        (false, _) => return f64::NAN,
    }
    tally.scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let number = tally.scored.len();
    let found = tally.scored.iter().filter(|(_, right)| *right).count();
    let (mut precision, mut recall) = (Vec::new(), Vec::new());
    let mut below = 0; // found among the less confident ones
    for (i, &(confidence, right)) in tally.scored.iter().enumerate() {
        // Equal confidences make one point of the curve.
        if i == 0 || confidence != tally.scored[i - 1].0 {
            let right_from_here = (found - below) as f64;
            precision.push(right_from_here / (number - i) as f64);
            recall.push(right_from_here / (found + tally.missed) as f64);
        }
        below += usize::from(right);
    }
    // An artificial last point, and steps as wide as half the distance of the neighbours.
    precision.push(1.0);
    recall.push(0.0);
    let at = |i: usize| recall.get(i).copied().unwrap_or(0.0);
    precision.iter().enumerate().map(|(i, p)| p * 0.5 * (at(i.saturating_sub(1)) - at(i + 1))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(id: usize, label: usize, side: i64, confidence: f64) -> Instance {
        let box_area = side * side;
        Instance { id, label, corners: [0, 0, side, side], box_area, pixel_count: box_area, confidence }
    }

    #[test]
    fn a_perfect_prediction_scores_one_and_classes_without_objects_are_nan() {
        let image = ImageMatches {
            ground_truths: vec![instance(0, 1, 20, 0.0)],
            predictions: vec![instance(0, 1, 20, 0.9)],
            pairings: vec![Pairing { ground_truth: 0, prediction: 0, box_intersection: 400, mask_intersection: 400 }],
        };
        let matrix = evaluate_matches(&[image], IouType::Bbox, 3);
        assert!(matrix.ap[1].iter().all(|&ap| ap == 1.0), "{:?}", matrix.ap[1]);
        assert!(matrix.ap[0].iter().chain(&matrix.ap[2]).all(|ap| ap.is_nan()));
        assert_eq!(matrix.overlaps[2], 0.6000000000000001);
    }

    #[test]
    fn predictions_on_small_objects_are_ignored() {
        let image = ImageMatches {
            ground_truths: vec![instance(0, 1, 20, 0.0), instance(1, 1, 5, 0.0)],
            predictions: vec![instance(0, 1, 6, 0.9)],
            pairings: vec![Pairing { ground_truth: 1, prediction: 0, box_intersection: 25, mask_intersection: 25 }],
        };
        // At 0.5 the small object is found, at 0.95 it is not, but never is the prediction a false one.
        let matrix = evaluate_matches(&[image], IouType::Bbox, 2);
        assert_eq!(matrix.ap[1][0], 0.0);
    }
}
