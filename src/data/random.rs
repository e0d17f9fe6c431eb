//! The random numbers of the original's input pipeline: Python's `random` module and torch's CPU generator, in plain
//! Rust, so that loader threads draw them without touching libtorch's shared generator.

use rand_mt::Mt;

/// Python's `random.Random`: the Mersenne Twister seeded by an integer.
#[derive(Clone, Debug)]
pub struct PythonRandom {
    mt: Mt,
}

impl PythonRandom {
    /// As `random.seed(seed)`.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        if high == 0 {
            Self::from_key(&[low])
        } else {
            Self::from_key(&[low, high])
        }
    }

    /// The generator whose seed has the 32-bit words `key`, lowest first.
    pub fn from_key(key: &[u32]) -> Self {
        Self { mt: Mt::new_with_key(key.iter().copied()) }
    }

    /// `random.random()`: uniform in [0, 1) with 53 bits.
    pub fn random(&mut self) -> f64 {
        let high = f64::from(self.mt.next_u32() >> 5);
        let low = f64::from(self.mt.next_u32() >> 6);
        (high * 67_108_864.0 + low) / 9_007_199_254_740_992.0
    }

    /// `random._randbelow(n)`: draws as many bits as `n` has until the value is below `n`, so the number of words that
    /// one call takes varies, also for `n == 1`.
    ///
    /// # Panics
    /// If `n` is zero.
    pub fn randbelow(&mut self, n: u32) -> u32 {
        assert!(n > 0, "randbelow needs a positive limit");
        let shift = n.leading_zeros();
        loop {
            let value = self.mt.next_u32() >> shift;
            if value < n {
                return value;
            }
        }
    }

    /// `random.choice(items)`.
    ///
    /// # Panics
    /// If `items` is empty.
    pub fn choice<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.randbelow(items.len() as u32) as usize]
    }

    /// `random.uniform(from, to)`.
    pub fn uniform(&mut self, from: f64, to: f64) -> f64 {
        from + (to - from) * self.random()
    }
}

/// torch's CPU generator after `manual_seed(seed)`, which uses the low 32 bits of the seed only.
#[derive(Clone, Debug)]
pub struct TorchGenerator {
    mt: Mt,
}

impl TorchGenerator {
    /// As `torch.Generator().manual_seed(seed)`.
    pub fn new(seed: u64) -> Self {
        Self { mt: Mt::new(seed as u32) }
    }

    /// The next 32 bits.
    pub fn random(&mut self) -> u32 {
        self.mt.next_u32()
    }

    /// `torch.empty((), dtype=torch.int64).random_()`: uniform over the non-negative 64-bit integers.
    pub fn random_int64(&mut self) -> i64 {
        let high = u64::from(self.mt.next_u32());
        let low = u64::from(self.mt.next_u32());
        (((high << 32) | low) & (i64::MAX as u64)) as i64
    }

    /// One value of `torch.rand`: uniform in [0, 1) with 24 bits.
    pub fn rand(&mut self) -> f32 {
        (self.mt.next_u32() & 0x00ff_ffff) as f32 / 16_777_216.0
    }

    /// `torch.empty(1).uniform_(from, to)`, which is compiled to a fused multiply-add.
    pub fn uniform(&mut self, from: f32, to: f32) -> f32 {
        self.rand().mul_add(to - from, from)
    }

    /// `torch.randperm(n)`, for n below 2³²/20 (beyond that torch draws 64 bits a step).
    pub fn randperm(&mut self, n: usize) -> Vec<usize> {
        let mut permutation: Vec<usize> = (0..n).collect();
        for i in 0..n.saturating_sub(1) {
            let step = self.mt.next_u32() as usize % (n - i);
            permutation.swap(i, i + step);
        }
        permutation
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_random_as_documented() {
        // The first values of CPython's random after seed(0) and seed(1).
        assert_eq!(PythonRandom::new(0).random(), 0.8444218515250481);
        assert_eq!(PythonRandom::new(1).random(), 0.13436424411240122);
    }

    #[test]
    fn randbelow_is_below() {
        let mut random = PythonRandom::new(3);
        for n in 1..70 {
            assert!((0..20).all(|_| random.randbelow(n) < n));
        }
        assert!((0..200).any(|_| random.randbelow(u32::MAX) > 1 << 30));
    }

    #[test]
    fn randperm_is_a_permutation() {
        for n in 0..40 {
            let mut got = TorchGenerator::new(n as u64).randperm(n);
            got.sort_unstable();
            assert_eq!(got, (0..n).collect::<Vec<_>>());
        }
    }
}
