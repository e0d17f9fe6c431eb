//! Draws training samples with a fixed share of positives.

use tch::{Kind, Tensor};

use super::batch::{indices_of_all, Rows};
use super::utils::cat;

/// Draws at most `batch_size_per_image` samples of each image, of which at most `positive_fraction` are positive.
#[derive(Clone, Debug, PartialEq)]
pub struct BalancedPositiveNegativeSampler {
    batch_size_per_image: i64,
    positive_fraction: f64,
}

/// The samples drawn for one image: indices into its labels, int64, ascending.
#[derive(Debug)]
pub struct Sampled {
    /// The chosen positives, `[P]`.
    pub positive: Tensor,
    /// The chosen negatives, `[N]`.
    pub negative: Tensor,
}

/// The samples of all images, counted over the images' rows laid end to end and ascending, and how many are each image's.
pub fn all_samples(sampled: &[Sampled], rows: &Rows) -> (Tensor, Rows) {
    let of_both = |sampled: &Sampled| [sampled.positive.shallow_clone(), sampled.negative.shallow_clone()];
    let parts: Vec<Tensor> = sampled.iter().flat_map(of_both).collect();
    let chosen = Rows::new(parts.chunks(2).map(|pair| pair[0].size()[0] + pair[1].size()[0]));
    (chosen.shift(&cat(&parts, 0), &rows.starts()).sort(0, false).0, chosen)
}

impl BalancedPositiveNegativeSampler {
    /// A sampler with these limits; what positives leave free goes to negatives.
    pub fn new(batch_size_per_image: i64, positive_fraction: f64) -> Self {
        Self { batch_size_per_image, positive_fraction }
    }

    /// Draws from libtorch's default generator.
    ///
    /// On the CPU that is, per image, one `randperm` over its positives and one over its negatives. Both are made even
    /// where nothing has to be left out, as the original does, so that the same seed gives the same samples. On CUDA, where
    /// seeds give other numbers anyway, one draw serves all images.
    ///
    /// # Shapes
    /// `labels`: one `[N]` per image, at least 1 for positives, 0 for negatives, below 0 for what is ignored.
    pub fn sample<'a>(&self, labels: impl IntoIterator<Item = &'a Tensor>) -> Vec<Sampled> {
        let labels: Vec<&Tensor> = labels.into_iter().collect();
        if labels.first().is_some_and(|labels| labels.device().is_cuda()) {
            return self.draw_together(&labels);
        }
        let masks: Vec<Tensor> = labels.iter().copied().flat_map(|labels| [labels.ge(1), labels.eq(0)]).collect();
        indices_of_all(&masks).chunks_exact(2).map(|pair| self.draw(&pair[0], &pair[1])).collect()
    }

    /// Every label gets a random number; the candidates with the greatest numbers are the samples.
    fn draw_together(&self, labels: &[&Tensor]) -> Vec<Sampled> {
        let padded = Tensor::pad_sequence(labels, true, -1.0, "right");
        let (images, length) = padded.size2().expect("labels are one-dimensional");
        #[cfg(test)]
        crate::utils::testing::check_is_held();
        let numbers = Tensor::rand([images, length], (Kind::Float, padded.device()));
        let masks = [padded.ge(1), padded.eq(0)];
        let available = masks.each_ref().map(|mask| mask.sum_dim_intlist([1i64].as_slice(), false, Kind::Int64));
        let num_positive = available[0].clamp_max(self.most_positives());
        let num_negative = (self.batch_size_per_image - &num_positive).minimum(&available[1]);
        let drawn = |mask: &Tensor, number: &Tensor, most: i64| {
            let places = numbers.where_scalarother(mask, -1.0).topk(most.min(length), 1, true, true).1;
            let rank = Tensor::arange(places.size()[1], (Kind::Int64, places.device()));
            places.masked_fill(&rank.ge_tensor(&number.unsqueeze(1)), i64::MAX).sort(1, false).0
        };
        let positive = drawn(&masks[0], &num_positive, self.most_positives());
        let negative = drawn(&masks[1], &num_negative, self.batch_size_per_image);
        let counts = Tensor::stack(&[num_positive, num_negative], 1).flatten(0, -1);
        let counts = Vec::<i64>::try_from(counts).expect("two numbers for each image");
        let row = |places: &Tensor, image: i64, count: i64| places.get(image).narrow(0, 0, count);
        let images = (0..).zip(counts.chunks_exact(2));
        images
            .map(|(image, count)| Sampled {
                positive: row(&positive, image, count[0]),
                negative: row(&negative, image, count[1]),
            })
            .collect()
    }

    fn most_positives(&self) -> i64 {
        (self.batch_size_per_image as f64 * self.positive_fraction) as i64
    }

    fn draw(&self, positive: &Tensor, negative: &Tensor) -> Sampled {
        let num_positive = self.most_positives().min(positive.size()[0]);
        let num_negative = (self.batch_size_per_image - num_positive).min(negative.size()[0]);
        #[cfg(test)]
        crate::utils::testing::check_is_held();
        let draw = |candidates: &Tensor, number: i64| {
            let order = Tensor::randperm(candidates.size()[0], (Kind::Int64, candidates.device()));
            candidates.index_select(0, &order.narrow(0, 0, number)).sort(0, false).0
        };
        let positive = draw(positive, num_positive);
        let negative = draw(negative, num_negative);
        Sampled { positive, negative }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::utils::testing::generator;

    #[test]
    fn what_is_drawn_together_are_candidates_of_each_image() {
        let _generator = generator();
        tch::manual_seed(3);
        let sampler = BalancedPositiveNegativeSampler::new(8, 0.25);
        // Enough of everything; too few negatives; no positive; nothing at all; another length.
        let labels = [
            [1i64, 0, 0, 2, 0, -1, 0, 0, 0, 0, 1, 0].to_vec(),
            [1, 1, 1, 0, -1, -1, 0, 1, 1, 1, 1, 1].to_vec(),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, -1].to_vec(),
            [-1; 12].to_vec(),
            [5, 0, -1].to_vec(),
        ];
        let tensors: Vec<Tensor> = labels.iter().map(|labels| Tensor::from_slice(labels)).collect();
        let tensors: Vec<&Tensor> = tensors.iter().collect();
        let mut first_positives = Vec::new();
        for _ in 0..40 {
            let sampled = sampler.draw_together(&tensors);
            let counts = [(2, 6), (2, 2), (0, 8), (0, 0), (1, 1)];
            for ((sampled, labels), (positives, negatives)) in sampled.iter().zip(&labels).zip(counts) {
                let places = |tensor: &Tensor| Vec::<i64>::try_from(tensor).unwrap();
                let (positive, negative) = (places(&sampled.positive), places(&sampled.negative));
                assert_eq!((positive.len(), negative.len()), (positives, negatives));
                assert!(positive.is_sorted_by(|a, b| a < b) && negative.is_sorted_by(|a, b| a < b));
                assert!(positive.iter().all(|&place| labels[place as usize] >= 1));
                assert!(negative.iter().all(|&place| labels[place as usize] == 0));
            }
            first_positives.push(Vec::<i64>::try_from(&sampled[0].positive).unwrap());
        }
        // Each pair of the three positives comes up.
        first_positives.sort();
        first_positives.dedup();
        assert_eq!(first_positives, [[0, 3], [0, 10], [3, 10]]);
    }
}
