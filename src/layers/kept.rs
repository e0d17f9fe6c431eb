//! Values that are made of tensors and used again while these stay the same.

use std::borrow::Borrow;
use std::cell::{RefCell, RefMut};

use tch::Tensor;

/// A value made of tensors, kept until one of them changes.
///
/// Changes in place are seen by libtorch's count of them: the optimizer's, and those of loading weights.
#[derive(Debug)]
pub(crate) struct Kept<T>(RefCell<Option<(Vec<i64>, T)>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<T> Kept<T> {
    /// What is kept, where `sources`, the tensors that it was made of, have not changed since and it `fits` what it is
    /// needed for; else what `make` makes of them, once the old value is dropped.
    pub(crate) fn get_or_make(
        &self,
        sources: &[impl Borrow<Tensor>],
        fits: impl FnOnce(&T) -> bool,
        make: impl FnOnce() -> T,
    ) -> RefMut<'_, T> {
        let versions = || sources.iter().map(|source| source.borrow().internal_version());
        RefMut::map(self.0.borrow_mut(), |slot| {
            let current = match slot.take() {
                Some(kept) if kept.0.iter().copied().eq(versions()) && fits(&kept.1) => kept,
                outdated => {
                    drop(outdated);
                    (versions().collect(), make())
                }
            };
            &mut slot.insert(current).1
        })
    }

    /// Drops what is kept.
    pub(crate) fn clear(&self) {
        self.0.take();
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.borrow().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn a_value_is_made_anew_when_a_source_changes_or_it_does_not_fit() {
        let sources = [1.0, 2.0].map(|value| Tensor::full([2], value, (Kind::Float, Device::Cpu)));
        let kept = Kept::default();
        let sum = |factor: f64| {
            let mut made = false;
            let make = || {
                made = true;
                (factor, ((&sources[0] + &sources[1]) * factor).double_value(&[0]))
            };
            let value = kept.get_or_make(&sources, |(of, _)| *of == factor, make).1;
            (made, value)
        };
        assert!(kept.is_empty());
        assert_eq!([sum(1.0), sum(1.0)], [(true, 3.0), (false, 3.0)]);
        for (source, expected) in sources.iter().zip([7.0, 10.0]) {
            let _ = source.shallow_clone().fill_(5.0);
            assert_eq!([sum(1.0), sum(1.0)], [(true, expected), (false, expected)]);
        }
        // A view changes what it looks into.
        let _ = sources[0].narrow(0, 0, 1).fill_(0.5);
        assert_eq!([sum(1.0), sum(1.0)], [(true, 5.5), (false, 5.5)]);
        assert_eq!([sum(2.0), sum(2.0), sum(1.0)], [(true, 11.0), (false, 11.0), (true, 5.5)]);
        kept.clear();
        assert!(kept.is_empty());
        assert_eq!(sum(1.0), (true, 5.5));
    }
}
