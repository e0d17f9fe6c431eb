//! Draws training samples with a fixed share of positives.

use tch::{Device, Kind, Tensor};

use super::batch::{indices_of_all, Rows};
use super::utils::cat;
use crate::structures::to_device;

/// Draws at most `batch_size_per_image` samples of each image, of which at most `positive_fraction` are positive.
#[derive(Clone, Debug, PartialEq)]
pub struct BalancedPositiveNegativeSampler {
    batch_size_per_image: i64,
    positive_fraction: f64,
}

/// The samples drawn for a batch: rows among those of all images laid end to end, int64, ascending.
#[derive(Debug)]
pub struct Sampled {
    /// The chosen positives, `[P]`.
    pub positive: Tensor,
    /// How many of them are each image's.
    pub positive_rows: Rows,
    /// The chosen negatives, `[N]`.
    pub negative: Tensor,
    /// How many of them are each image's.
    pub negative_rows: Rows,
}

impl Sampled {
    /// The samples of each image, counted over all of them.
    fn of_images(positive: &[Tensor], negative: &[Tensor]) -> Self {
        let joined = |parts: &[Tensor]| match parts {
            [] => Tensor::zeros([0], (Kind::Int64, Device::Cpu)),
            parts => cat(parts, 0),
        };
        Self {
            positive: joined(positive),
            positive_rows: Rows::of(positive),
            negative: joined(negative),
            negative_rows: Rows::of(negative),
        }
    }

    /// Positives and negatives together, `[P + N]` ascending, and how many are each image's.
    pub fn all(&self) -> (Tensor, Rows) {
        let lengths = self.positive_rows.lengths().iter().zip(self.negative_rows.lengths());
        let rows = Rows::new(lengths.map(|(positive, negative)| positive + negative));
        (Tensor::cat(&[&self.positive, &self.negative], 0).sort(0, false).0, rows)
    }

    /// Positives and negatives of each image, counted in its own rows, of which there are `rows`.
    pub fn of_each(&self, rows: &Rows) -> Vec<[Tensor; 2]> {
        let before: Vec<i64> = rows.starts().iter().map(|start| -start).collect();
        let positive = self.positive_rows.split(&self.positive_rows.shift(&self.positive, &before));
        let negative = self.negative_rows.split(&self.negative_rows.shift(&self.negative, &before));
        positive.into_iter().zip(negative).map(|(positive, negative)| [positive, negative]).collect()
    }
}

impl BalancedPositiveNegativeSampler {
    /// A sampler with these limits; what positives leave free goes to negatives.
    pub fn new(batch_size_per_image: i64, positive_fraction: f64) -> Self {
        Self { batch_size_per_image, positive_fraction }
    }

    /// Draws from libtorch's default generator.
    ///
    /// On the CPU that is, per image, one `randperm` over its positives and one over its negatives. Both are made even
    /// where nothing has to be left out, as the original does, so that the same seed gives the same samples. On CUDA,
    /// where seeds give other numbers anyway, one draw serves all images.
    ///
    /// # Shapes
    /// `labels`: one `[N]` per image, at least 1 for positives, 0 for negatives, below 0 for what is ignored.
    pub fn sample<'a>(&self, labels: impl IntoIterator<Item = &'a Tensor>) -> Sampled {
        let labels: Vec<Tensor> = labels.into_iter().map(Tensor::shallow_clone).collect();
        if labels.first().is_some_and(|labels| labels.device().is_cuda()) {
            return self.draw_together(&labels);
        }
        let masks: Vec<Tensor> = labels.iter().flat_map(|labels| [labels.ge(1), labels.eq(0)]).collect();
        let candidates = indices_of_all(&masks);
        let images = candidates.chunks_exact(2).zip(Rows::of(&labels).starts());
        let drawn = images.map(|(pair, start)| self.draw(&(&pair[0] + start), &(&pair[1] + start)));
        let (positive, negative): (Vec<_>, Vec<_>) = drawn.unzip();
        Sampled::of_images(&positive, &negative)
    }

    /// Every label gets a random number; the candidates with the greatest numbers are the samples. Positives and
    /// negatives of all images are rows of the same operators.
    fn draw_together(&self, labels: &[Tensor]) -> Sampled {
        let rows = Rows::of(labels);
        let (images, length) = (labels.len() as i64, rows.lengths().iter().copied().max().unwrap_or(0));
        let (padded, starts) = if rows.total() == images * length {
            let options = (Kind::Int64, labels[0].device());
            (cat(labels, 0).view([images, length]), Tensor::arange(images, options) * length)
        } else {
            let starts = to_device(&Tensor::from_slice(&rows.starts()), labels[0].device());
            (Tensor::pad_sequence(labels, true, -1.0, "right"), starts)
        };
        #[cfg(test)]
        crate::utils::testing::check_is_held();
        let numbers = Tensor::rand([images, length], (Kind::Float, padded.device()));
        // [2, images, length]
        let candidates = Tensor::stack(&[padded.ge(1), padded.eq(0)], 0);
        let available = candidates.sum_dim_intlist([2i64].as_slice(), false, Kind::Int64);
        let num_positive = available.get(0).clamp_max(self.most_positives());
        let num_negative = (self.batch_size_per_image - &num_positive).minimum(&available.get(1));
        let drawn = Tensor::stack(&[num_positive, num_negative], 0);
        let most = self.batch_size_per_image.min(length);
        let places = numbers.where_scalarother(&candidates, -1.0).topk(most, 2, true, true).1;
        let rank = Tensor::arange(most, (Kind::Int64, places.device()));
        let places = places + starts.unsqueeze(1);
        let places = places.masked_fill(&rank.ge_tensor(&drawn.unsqueeze(2)), i64::MAX).sort(2, false).0;
        let counts = Vec::<i64>::try_from(drawn.flatten(0, -1)).expect("two numbers for each image");
        let each = places.flatten(0, 1).unbind(0);
        let each: Vec<Tensor> = each.iter().zip(counts).map(|(places, count)| places.narrow(0, 0, count)).collect();
        let (positive, negative) = each.split_at(labels.len());
        Sampled::of_images(positive, negative)
    }

    fn most_positives(&self) -> i64 {
        (self.batch_size_per_image as f64 * self.positive_fraction) as i64
    }

    fn draw(&self, positive: &Tensor, negative: &Tensor) -> (Tensor, Tensor) {
        let num_positive = self.most_positives().min(positive.size()[0]);
        let num_negative = (self.batch_size_per_image - num_positive).min(negative.size()[0]);
        #[cfg(test)]
        crate::utils::testing::check_is_held();
        let draw = |candidates: &Tensor, number: i64| {
            let order = Tensor::randperm(candidates.size()[0], (Kind::Int64, candidates.device()));
            candidates.index_select(0, &order.narrow(0, 0, number)).sort(0, false).0
        };
        (draw(positive, num_positive), draw(negative, num_negative))
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
        let rows = Rows::of(&tensors);
        let mut first_positives = Vec::new();
        for _ in 0..40 {
            let sampled = sampler.draw_together(&tensors);
            let counts = [(2, 6), (2, 2), (0, 8), (0, 0), (1, 1)];
            assert_eq!(
                (sampled.positive_rows.lengths(), sampled.negative_rows.lengths()),
                (&[2, 2, 0, 0, 1][..], &[6, 2, 8, 0, 1][..])
            );
            let (all, of_all) = sampled.all();
            assert_eq!((Rows::of(&of_all.split(&all)), of_all.lengths()), (of_all.clone(), &[8, 4, 8, 0, 2][..]));
            let each = sampled.of_each(&rows);
            for ((sampled, labels), (positives, negatives)) in each.iter().zip(&labels).zip(counts) {
                let [positive, negative] = sampled.each_ref().map(|places| Vec::<i64>::try_from(places).unwrap());
                assert_eq!((positive.len(), negative.len()), (positives, negatives));
                assert!(positive.is_sorted_by(|a, b| a < b) && negative.is_sorted_by(|a, b| a < b));
                assert!(positive.iter().all(|&place| labels[place as usize] >= 1));
                assert!(negative.iter().all(|&place| labels[place as usize] == 0));
            }
            first_positives.push(Vec::<i64>::try_from(&each[0][0]).unwrap());
        }
        // Each pair of the three positives comes up.
        first_positives.sort();
        first_positives.dedup();
        assert_eq!(first_positives, [[0, 3], [0, 10], [3, 10]]);
    }
}
