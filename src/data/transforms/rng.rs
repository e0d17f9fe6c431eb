use crate::data::random::{PythonRandom, TorchGenerator};

/// What transforms draw from: one generator as Python's `random`, one as torch's, because the original uses both.
#[derive(Clone, Debug)]
pub struct TransformRng {
    /// Sizes and flips.
    pub python: PythonRandom,
    /// Colours.
    pub torch: TorchGenerator,
}

impl TransformRng {
    /// The generators for one image in one pass over the data: a pure function of the three numbers, so that neither
    /// the number of loader threads nor a restart changes an augmentation.
    pub fn new(seed: u64, epoch: u64, index: usize) -> Self {
        let mut key = [0; 7];
        for (pair, value) in key.chunks_exact_mut(2).zip([seed, epoch, index as u64]) {
            pair.copy_from_slice(&[value as u32, (value >> 32) as u32]);
        }
        let mut python = PythonRandom::from_key(&key);
        let torch = TorchGenerator::new(python.randbelow(u32::MAX).into());
        Self { python, torch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_matters() {
        let draw = |seed, epoch, index| {
            let mut rng = TransformRng::new(seed, epoch, index);
            (rng.python.random(), rng.torch.rand())
        };
        let first = draw(1, 2, 3);
        assert_eq!(first, draw(1, 2, 3));
        for other in [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(1 << 32, 2, 3), draw(2, 1, 3)] {
            assert!(first.0 != other.0 && first.1 != other.1);
        }
    }
}
