//! Draws training samples with a fixed share of positives.

use tch::{Kind, Tensor};

use super::utils::indices_of_all;

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

impl Sampled {
    /// Positives and negatives together, ascending.
    pub fn all(&self) -> Tensor {
        Tensor::cat(&[&self.positive, &self.negative], 0).sort(0, false).0
    }
}

impl BalancedPositiveNegativeSampler {
    /// A sampler with these limits; what positives leave free goes to negatives.
    pub fn new(batch_size_per_image: i64, positive_fraction: f64) -> Self {
        Self { batch_size_per_image, positive_fraction }
    }

    /// Draws from libtorch's default generator, per image one `randperm` over its positives and one over its
    /// negatives. Both are made even where nothing has to be left out, as the original does, so that the same seed
    /// gives the same samples.
    ///
    /// # Shapes
    /// `labels`: one `[N]` per image, at least 1 for positives, 0 for negatives, below 0 for what is ignored.
    pub fn sample<'a>(&self, labels: impl IntoIterator<Item = &'a Tensor>) -> Vec<Sampled> {
        let masks: Vec<Tensor> = labels.into_iter().flat_map(|labels| [labels.ge(1), labels.eq(0)]).collect();
        indices_of_all(&masks).chunks_exact(2).map(|pair| self.draw(&pair[0], &pair[1])).collect()
    }

    fn draw(&self, positive: &Tensor, negative: &Tensor) -> Sampled {
        let wanted = (self.batch_size_per_image as f64 * self.positive_fraction) as i64;
        let num_positive = wanted.min(positive.size()[0]);
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
