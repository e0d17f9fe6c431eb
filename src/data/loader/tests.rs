use std::path::PathBuf;
use std::time::Duration;

use tch::Tensor;

use super::*;
use crate::data::datasets::{ImageId, ImageInfo};
use crate::data::samplers::{GroupedBatchSampler, PlainBatchSampler, RandomSampler, SequentialSampler};
use crate::data::transforms::{Normalize, RandomFlip, Resize, RgbImage};
use crate::structures::{BoxList, Flip, Mode};

/// Images that say which they are; some fail or panic, and some take longer than others.
struct Counted {
    len: usize,
    fails: Option<usize>,
    panics: Option<usize>,
    /// The paths of images panic as well.
    panics_in_path: bool,
}

impl Dataset for Counted {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> Result<Sample> {
        thread::sleep(Duration::from_micros((index as u64 * 7919) % 1500));
        if self.fails == Some(index) {
            anyhow::bail!("the disk is gone");
        }
        assert!(self.panics != Some(index), "a bug in a data set");
        let image = RgbImage::new(4, 2, (0..24).map(|value| value + index as u8).collect());
        Ok(Sample { image, target: self.ground_truth(index)?, index })
    }

    fn image_info(&self, index: usize) -> Result<ImageInfo> {
        let (id, file_name) = (ImageId::Number(index as i64), format!("{index}.jpg"));
        Ok(ImageInfo { id, file_name, width: 4, height: 2 })
    }

    fn image_path(&self, index: usize) -> PathBuf {
        assert!(!self.panics_in_path, "a bug in a path");
        PathBuf::from(format!("images/{index}.jpg"))
    }

    fn ground_truth(&self, index: usize) -> Result<BoxList> {
        BoxList::new(Tensor::from_slice(&[0, 0, index as i64, 1]).view([1, 4]), (4, 2), Mode::Xyxy)
    }

    fn class_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn categories(&self) -> Vec<(i64, String)> {
        Vec::new()
    }

    fn describe(&self) -> String {
        "counted".into()
    }
}

fn loader(dataset: Counted, order: Order, num_workers: usize) -> DataLoader {
    let normalize = Normalize::new(&[0.0; 3], &[1.0; 3], true).unwrap();
    let collator = Collator::Images { normalize, size_divisible: 4, pinned_for: None };
    let resize = Resize::new(vec![2, 3, 5], None).unwrap();
    let transforms = Compose(vec![Box::new(resize), Box::new(RandomFlip::new(Flip::LeftRight, 0.5))]);
    DataLoader::new(Arc::new(dataset), transforms, collator, order, 0, num_workers, 42)
}

fn iterations(len: usize, number: u64, start: u64, skip: usize) -> Order {
    let groups = (0..len).map(|index| index % 2).collect();
    let batches = GroupedBatchSampler::new(Box::new(RandomSampler::new(len, 3)), groups, 2, false).unwrap();
    Order::Iterations { sampler: IterationBasedBatchSampler::new(Arc::new(batches), number, start), skip }
}

fn one_pass(len: usize) -> Order {
    Order::OnePass(Arc::new(PlainBatchSampler::new(Box::new(SequentialSampler::new(len)), 2).unwrap()))
}

/// All that a batch is, comparable.
fn everything(loader: &DataLoader) -> Vec<(Vec<usize>, Vec<f32>, Vec<f32>)> {
    let values = |tensor: &Tensor| Vec::<f32>::try_from(tensor.flatten(0, -1)).unwrap();
    let batches = loader.iter().map(|batch| batch.unwrap());
    let content = |batch: Batch| {
        let boxes = batch.targets.iter().flat_map(|target| values(target.bbox())).collect();
        (batch.indices, values(&batch.images.tensors), boxes)
    };
    batches.map(content).collect()
}

fn healthy(len: usize) -> Counted {
    Counted { len, fails: None, panics: None, panics_in_path: false }
}

#[test]
fn workers_change_nothing() {
    let alone = everything(&loader(healthy(9), iterations(9, 13, 0, 0), 0));
    assert_eq!(alone.len(), 13);
    for num_workers in [1, 2, 5] {
        assert_eq!(everything(&loader(healthy(9), iterations(9, 13, 0, 0), num_workers)), alone);
    }
}

#[test]
fn skipping_goes_on_as_if_never_stopped() {
    let whole = everything(&loader(healthy(9), iterations(9, 13, 2, 0), 2));
    let rest = everything(&loader(healthy(9), iterations(9, 13, 2, 6), 2));
    assert_eq!(rest[..], whole[6..]);
}

#[test]
fn another_pass_augments_differently() {
    let batches = everything(&loader(healthy(4), iterations(4, 40, 0, 0), 1));
    let mut looks: Vec<&Vec<f32>> = batches.iter().filter(|batch| batch.0 == [0, 2]).map(|batch| &batch.1).collect();
    looks.dedup();
    assert!(looks.len() > 3);
}

#[test]
fn one_pass_gives_everything_once() {
    for num_workers in [0, 3] {
        let indices: Vec<usize> =
            everything(&loader(healthy(7), one_pass(7), num_workers)).into_iter().flat_map(|batch| batch.0).collect();
        assert_eq!(indices, [0, 1, 2, 3, 4, 5, 6]);
    }
}

#[test]
fn a_failing_image_ends_the_run_in_its_turn() {
    for num_workers in [0, 1, 4] {
        let dataset = Counted { fails: Some(5), ..healthy(20) };
        let results: Vec<Result<Batch>> = loader(dataset, one_pass(20), num_workers).iter().collect();
        assert_eq!(results.len(), 3);
        let message = format!("{:#}", results[2].as_ref().err().unwrap());
        assert!(message.contains("images/5.jpg") && message.contains("the disk is gone"), "{message}");
    }
}

#[test]
fn a_panicking_data_set_is_an_error() {
    let dataset = Counted { panics: Some(1), ..healthy(3) };
    let results: Vec<Result<Batch>> = loader(dataset, one_pass(3), 2).iter().collect();
    let message = format!("{:#}", results.last().unwrap().as_ref().err().unwrap());
    assert!(message.contains("images/1.jpg") && message.contains("a bug in a data set"), "{message}");
}

#[test]
fn a_panic_outside_of_reading_an_image_does_not_keep_the_program_waiting() {
    let dataset = Counted { fails: Some(1), panics_in_path: true, ..healthy(3) };
    let results: Vec<Result<Batch>> = loader(dataset, one_pass(3), 2).iter().collect();
    let message = format!("{:#}", results.last().unwrap().as_ref().err().unwrap());
    assert!(message.contains("a bug in a path"), "{message}");
}

#[test]
fn dropping_early_stops_the_workers() {
    let loader = loader(healthy(500), iterations(500, 10_000, 0, 0), 3);
    let mut batches = loader.iter();
    assert!(batches.next().unwrap().is_ok());
    drop(batches);
    assert_eq!(Arc::strong_count(&loader.source), 1);
}
