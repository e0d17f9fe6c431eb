//! Rows of all images of a batch laid end to end, so that one operator serves all images: a GPU is fed by few launches.

use anyhow::Result;
use tch::{Device, Kind, Tensor};

use crate::structures::{to_device, BoxList};

use super::utils::cat;

/// How many rows each image has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    lengths: Vec<i64>,
}

impl Rows {
    /// Images with so many rows.
    pub fn new(lengths: impl IntoIterator<Item = i64>) -> Self {
        Self { lengths: lengths.into_iter().collect() }
    }

    /// The rows of one tensor for each image.
    pub fn of(tensors: &[Tensor]) -> Self {
        Self::new(tensors.iter().map(|tensor| tensor.size()[0]))
    }

    /// The boxes of one list for each image.
    pub fn of_boxes(lists: &[BoxList]) -> Self {
        Self::new(lists.iter().map(|list| list.len() as i64))
    }

    /// The number of rows of each image.
    pub fn lengths(&self) -> &[i64] {
        &self.lengths
    }

    /// The number of all rows.
    pub fn total(&self) -> i64 {
        self.lengths.iter().sum()
    }

    /// The number of rows before each image's own.
    pub fn starts(&self) -> Vec<i64> {
        let start = |next: &mut i64, length: &i64| {
            let start = *next;
            *next += length;
            Some(start)
        };
        self.lengths.iter().scan(0, start).collect()
    }

    /// Each row's image's value. A GPU is not waited for.
    ///
    /// # Shapes
    /// A value for each image → `[total]` int64.
    pub fn spread(&self, values: &[i64], device: Device) -> Tensor {
        assert_eq!(values.len(), self.lengths.len(), "a value for each image");
        match values {
            [] => Tensor::zeros([0], (Kind::Int64, device)),
            [first, rest @ ..] if rest.iter().all(|value| value == first) => {
                Tensor::full([self.total()], *first, (Kind::Int64, device))
            }
            _ => {
                let table = Tensor::from_slice(&[values, &self.lengths].concat()).view([2, -1]);
                let table = to_device(&table, device);
                table.get(0).repeat_interleave_self_tensor(&table.get(1), 0, self.total())
            }
        }
    }

    /// `numbers` plus each row's image's value.
    ///
    /// # Shapes
    /// `[total]` int64 → the same.
    pub fn shift(&self, numbers: &Tensor, values: &[i64]) -> Tensor {
        match values.iter().all(|value| *value == 0) {
            true => numbers.shallow_clone(),
            false => numbers + self.spread(values, numbers.device()),
        }
    }

    /// The rows of each image.
    ///
    /// # Shapes
    /// `[total, …]` → `[length, …]` for each.
    pub fn split(&self, tensor: &Tensor) -> Vec<Tensor> {
        tensor.split_with_sizes(&self.lengths[..], 0)
    }
}

/// The rows at which the masks of the images are set, counted over all images and ascending, and how many of them are
/// each image's. The program waits for the device once.
///
/// # Shapes
/// Each `[N]` → `[K]` int64.
pub fn indices_of_batch(masks: &[Tensor]) -> (Tensor, Rows) {
    let rows = Rows::of(masks);
    if rows.total() == 0 {
        let device = masks.first().map_or(Device::Cpu, Tensor::device);
        return (Tensor::zeros([0], (Kind::Int64, device)), Rows::new(rows.lengths.iter().map(|_| 0)));
    }
    let all = cat(masks, 0);
    let found = Rows::new(counts(&all, &rows));
    (all.nonzero_static(found.total(), -1).squeeze_dim(1), found)
}

/// How many of each image's rows are set.
fn counts(all: &Tensor, rows: &Rows) -> Vec<i64> {
    let read = |numbers: Tensor| Vec::<i64>::try_from(numbers).expect("a number for each image");
    if rows.lengths.iter().all(|length| *length == rows.lengths[0]) {
        let images = rows.lengths.len() as i64;
        return read(all.view([images, -1]).sum_dim_intlist([1i64].as_slice(), false, Kind::Int64));
    }
    let ends = rows.starts().into_iter().zip(&rows.lengths).map(|(start, length)| start + length);
    let last: Vec<i64> = ends.map(|end| (end - 1).max(0)).collect();
    let up_to = all.cumsum(0, Kind::Int64).index_select(0, &to_device(&Tensor::from_slice(&last), all.device()));
    let mut before = 0;
    let images = read(up_to).into_iter().zip(&rows.lengths);
    images.map(|(up_to, length)| if *length == 0 { 0 } else { up_to - std::mem::replace(&mut before, up_to) }).collect()
}

/// [`indices_of_batch`], counted in each mask.
///
/// # Shapes
/// Each `[N]` → `[K]` int64.
pub fn indices_of_all(masks: &[Tensor]) -> Vec<Tensor> {
    let (all, found) = indices_of_batch(masks);
    found.split(&counted_in_each(&all, &found, masks))
}

/// The indices of [`indices_of_batch`], still end to end, counted in each mask.
pub fn counted_in_each(all: &Tensor, found: &Rows, masks: &[Tensor]) -> Tensor {
    let before: Vec<i64> = Rows::of(masks).starts().iter().map(|start| -start).collect();
    found.shift(all, &before)
}

/// The boxes of all lists, end to end.
///
/// # Shapes
/// → `[ΣN, 4]`, in the mode of the lists.
pub fn all_boxes(lists: &[BoxList]) -> Tensor {
    cat(&lists.iter().map(|list| list.bbox().shallow_clone()).collect::<Vec<_>>(), 0)
}

/// A field of all lists, end to end.
///
/// # Errors
/// A list without this field, or with one that is no tensor.
pub fn all_of_field(lists: &[BoxList], name: &str) -> Result<Tensor> {
    let parts = lists.iter().map(|list| Ok(list.tensor_field(name)?.shallow_clone()));
    Ok(cat(&parts.collect::<Result<Vec<_>>>()?, 0))
}

/// What [`BoxList::select`] gives for each of several lists with the same fields, all of them tensors.
///
/// # Shapes
/// `rows` `[chosen.total()]` int64: rows of the lists laid end to end, those of the first list first.
///
/// # Errors
/// A list without a field of the first, or a field that is no tensor.
pub fn select_rows_of_all(lists: &[BoxList], rows: &Tensor, chosen: &Rows) -> Result<Vec<BoxList>> {
    let Some(first) = lists.first() else { return Ok(Vec::new()) };
    let boxes = chosen.split(&all_boxes(lists).index_select(0, rows));
    let mut selected: Vec<BoxList> = lists.iter().zip(boxes).map(|(list, boxes)| list.with_boxes(boxes)).collect();
    for name in first.fields() {
        let values = chosen.split(&all_of_field(lists, name)?.index_select(0, rows));
        selected.iter_mut().zip(values).for_each(|(list, values)| list.add_field(name, values));
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::structures::Mode;

    fn numbers(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor).unwrap()
    }

    #[test]
    fn rows_know_their_image() {
        let rows = Rows::new([2, 0, 3]);
        assert_eq!((rows.total(), rows.starts()), (5, vec![0, 2, 2]));
        let ten = Tensor::from_slice(&[10i64; 5]);
        assert_eq!(numbers(&rows.spread(&[7, 8, 9], Device::Cpu)), [7, 7, 9, 9, 9]);
        assert_eq!(numbers(&rows.shift(&ten, &[1, 2, 3])), [11, 11, 13, 13, 13]);
        assert_eq!(numbers(&rows.shift(&ten, &[4; 3])), [14; 5]);
        assert_eq!(rows.split(&ten).iter().map(|part| part.size()[0]).collect::<Vec<_>>(), [2, 0, 3]);
        assert_eq!(Rows::new([]).spread(&[], Device::Cpu).size(), [0]);
    }

    #[test]
    fn several_masks_have_the_indices_of_each() {
        let uneven = [&[true, false, true][..], &[false; 4], &[], &[true]].map(Tensor::from_slice);
        let even = [[true, false], [false, false], [true, true]].map(|mask| Tensor::from_slice(&mask));
        let first_is_empty = [&[][..], &[true, true], &[false]].map(Tensor::from_slice);
        for masks in [&uneven[..], &even, &first_is_empty, &uneven[..1], &uneven[2..3]] {
            let found = indices_of_all(masks);
            assert_eq!(found.len(), masks.len());
            for (mask, found) in masks.iter().zip(&found) {
                assert_eq!((found.kind(), found), (Kind::Int64, &mask.nonzero().squeeze_dim(1)));
            }
            let (all, rows) = indices_of_batch(masks);
            assert!(all == Tensor::cat(masks, 0).nonzero().squeeze_dim(1));
            assert_eq!(rows, Rows::of(&found));
        }
        assert!(indices_of_all(&[]).is_empty());
    }

    #[test]
    fn lists_are_selected_from_together() -> Result<()> {
        let list = |first: i64, count: i64| -> Result<BoxList> {
            let number = Tensor::arange_start(first, first + count, (Kind::Float, Device::Cpu));
            let mut list = BoxList::new(number.unsqueeze(1).repeat([1, 4]), (40, 30 + first), Mode::Xyxy)?;
            list.add_field("scores", number * 0.5);
            Ok(list)
        };
        let lists = [list(0, 3)?, list(10, 2)?];
        let chosen = select_rows_of_all(&lists, &Tensor::from_slice(&[2i64, 0, 4]), &Rows::new([2, 1]))?;
        let scores = |list: &BoxList| Vec::<f32>::try_from(list.tensor_field("scores").unwrap()).unwrap();
        assert_eq!((scores(&chosen[0]), scores(&chosen[1])), (vec![1.0, 0.0], vec![5.5]));
        assert_eq!(chosen[1].size(), (40, 40));
        assert!(*chosen[0].bbox() == lists[0].bbox().index_select(0, &Tensor::from_slice(&[2i64, 0])));
        let bare = BoxList::new(lists[1].bbox().shallow_clone(), (40, 40), Mode::Xyxy)?;
        let two = [lists[0].shallow_clone(), bare];
        assert!(select_rows_of_all(&two, &Tensor::from_slice(&[0i64]), &Rows::new([1, 0])).is_err());
        assert!(select_rows_of_all(&[], &Tensor::from_slice(&[0i64; 0]), &Rows::new([]))?.is_empty());
        Ok(())
    }
}
