//! Copies from one device to another.

use tch::{Device, Tensor};

use super::BoxList;
use crate::ffi;

/// The tensor on `device`; the same one where it is there already. What goes from the CPU to a GPU takes the way over
/// pinned memory, so that the program does not wait until it has arrived.
///
/// # Panics
/// On a device that does not exist.
pub fn to_device(tensor: &Tensor, device: Device) -> Tensor {
    match (tensor.device(), device) {
        // An empty tensor cannot be pinned.
        (Device::Cpu, Device::Cuda(index)) if tensor.numel() > 0 => {
            ffi::upload(tensor, index).expect("a CUDA device that exists")
        }
        _ => tensor.to_device(device),
    }
}

/// [`BoxList::to_device`] of all lists of a batch. Tensors that fit end to end (boxes, labels, …) are copied as one,
/// and each list has views of the copy: the number of copies does not grow with the batch.
///
/// # Panics
/// On a device that does not exist.
pub fn boxlists_to_device(lists: &[BoxList], device: Device) -> Vec<BoxList> {
    change_tensors(lists, |tensors| match tensors[0].device() == device {
        true => tensors.iter().map(Tensor::shallow_clone).collect(),
        false => copied_as_one(tensors, |tensor| to_device(tensor, device)),
    })
}

/// The lists with other tensors; `change` is given those of the same device, kind and size of a row together.
fn change_tensors(lists: &[BoxList], change: impl Fn(&[Tensor]) -> Vec<Tensor>) -> Vec<BoxList> {
    let like = |tensor: &Tensor| (tensor.kind(), tensor.device(), tensor.size().get(1..).map(<[i64]>::to_vec));
    let mut groups = Vec::new();
    // The group of each tensor and its place there, in the order in which `map_tensors` comes to them.
    let mut places = Vec::new();
    for list in lists {
        list.map_tensors(&mut |tensor| {
            let key = like(tensor);
            let group = groups.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
                groups.push((key, Vec::new()));
                groups.len() - 1
            });
            places.push((group, groups[group].1.len()));
            groups[group].1.push(tensor.shallow_clone());
            tensor.shallow_clone()
        });
    }
    let changed: Vec<Vec<Tensor>> = groups.iter().map(|(_, tensors)| change(tensors)).collect();
    let mut places = places.into_iter();
    let mut next = |_: &Tensor| {
        let (group, place) = places.next().expect("a place for each tensor");
        changed[group][place].shallow_clone()
    };
    lists.iter().map(|list| list.map_tensors(&mut next)).collect()
}

/// The tensors, whose rows have one size, by one call of `copy`.
fn copied_as_one(tensors: &[Tensor], copy: impl Fn(&Tensor) -> Tensor) -> Vec<Tensor> {
    if tensors.len() == 1 || tensors[0].dim() == 0 {
        return tensors.iter().map(copy).collect();
    }
    let lengths: Vec<i64> = tensors.iter().map(|tensor| tensor.size()[0]).collect();
    copy(&Tensor::cat(tensors, 0)).split_with_sizes(&lengths[..], 0)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::Result;
    use tch::Kind;

    use super::*;
    use crate::structures::{Keypoints, Mode, SegmentationMask};

    #[test]
    fn nothing_is_copied_on_the_same_device() {
        let tensor = Tensor::ones([2], (Kind::Float, Device::Cpu));
        assert_eq!(to_device(&tensor, Device::Cpu).data_ptr(), tensor.data_ptr());
    }

    /// Lists as targets are: the second empty, the third with another field and another order of fields.
    fn lists() -> Result<Vec<BoxList>> {
        let numbers = |shape: &[i64], first: i64| {
            let count = shape.iter().product::<i64>();
            Tensor::arange_start(first, first + count, (Kind::Float, Device::Cpu)).view(shape)
        };
        let list = |count: i64, first: i64| BoxList::new(numbers(&[count, 4], first), (50 + count, 40), Mode::Xyxy);
        let labels = |count: i64| Tensor::arange(count, (Kind::Int64, Device::Cpu));
        let mut lists = vec![list(3, 0)?, list(0, 0)?, list(2, 100)?];
        for (list, count) in lists[..2].iter_mut().zip([3, 0]) {
            list.add_field("labels", labels(count));
            let triangle = vec![vec![1.0, 1.0, 5.0, 1.0, 1.0, 5.0]];
            list.add_field("masks", SegmentationMask::from_polygons(vec![triangle; count as usize], (50, 40)));
            list.add_field("keypoints", Keypoints::person(numbers(&[count, 17, 3], 7), (50, 40))?);
        }
        lists[2].add_field("difficult", numbers(&[2], 3).to_kind(Kind::Bool));
        lists[2].add_field("labels", labels(2));
        Ok(lists)
    }

    fn assert_same(got: &[BoxList], want: &[BoxList]) -> Result<()> {
        assert_eq!(got.len(), want.len());
        for (got, want) in got.iter().zip(want) {
            assert_eq!((got.size(), got.mode(), got.fields()), (want.size(), want.mode(), want.fields()));
            assert_eq!((got.bbox().kind(), got.bbox()), (want.bbox().kind(), want.bbox()));
            for name in ["labels", "difficult"].into_iter().filter(|name| want.has_field(name)) {
                let (got, want) = (got.tensor_field(name)?, want.tensor_field(name)?);
                assert_eq!((got.kind(), got), (want.kind(), want));
            }
            if want.has_field("masks") {
                assert_eq!(got.masks()?.len(), want.masks()?.len());
                assert_eq!(got.keypoints()?.keypoints(), want.keypoints()?.keypoints());
            }
        }
        Ok(())
    }

    #[test]
    fn what_fits_end_to_end_is_copied_as_one() -> Result<()> {
        let (lists, copies) = (lists()?, Cell::new(0));
        let copied = change_tensors(&lists, |tensors| {
            copied_as_one(tensors, |tensor| {
                copies.set(copies.get() + 1);
                tensor.copy()
            })
        });
        assert_same(&copied, &lists)?;
        // Boxes, labels, keypoints, and the field of the third list.
        assert_eq!(copies.get(), 4);
        let places = [&copied, &lists].map(|lists| lists.iter().map(|list| list.bbox().data_ptr()).collect::<Vec<_>>());
        assert!(places[0] != places[1]);
        Ok(())
    }

    #[test]
    fn lists_that_are_there_already_are_not_copied() -> Result<()> {
        let lists = lists()?;
        let same = boxlists_to_device(&lists, Device::Cpu);
        assert_same(&same, &lists)?;
        assert_eq!(same[0].bbox().data_ptr(), lists[0].bbox().data_ptr());
        assert!(boxlists_to_device(&[], Device::Cpu).is_empty());
        Ok(())
    }
}
