//! Batches on their way to the GPU and back.

use std::thread;

use maskrcnn_benchmark::data::datasets::Sample;
use maskrcnn_benchmark::data::transforms::{Normalize, RgbImage};
use maskrcnn_benchmark::data::{Batch, Collator};
use maskrcnn_benchmark::structures::{boxlists_to_device, BoxList, Mode};
use tch::{Device, Kind, Tensor};

use super::device;

fn list(count: i64, first: i64) -> BoxList {
    let numbers = Tensor::arange_start(first, first + 4 * count, (Kind::Float, Device::Cpu)).view([count, 4]);
    let mut list = BoxList::new(numbers, (640, 480), Mode::Xyxy).expect("boxes");
    list.add_field("labels", Tensor::arange(count, (Kind::Int64, Device::Cpu)) + first);
    list
}

/// Two images of other sizes, as a loader's thread makes a batch of them.
fn batch(number: usize, pinned_for: Option<usize>) -> Batch {
    let sample = |index: usize, width: usize, height: usize| {
        let data = (0..width * height * 3).map(|value| (value * 7 + index * 31) as u8).collect();
        Sample { image: RgbImage::new(width, height, data), target: list(index as i64 % 3, 5), index }
    };
    let normalize = Normalize::new(&[10.0, 20.0, 30.0], &[1.0, 2.0, 3.0], true).expect("means and deviations");
    let collator = Collator::Images { normalize, size_divisible: 32, pinned_for };
    let samples = vec![sample(2 * number, 601, 399), sample(2 * number + 1, 333, 500)];
    let made = thread::spawn(move || collator.batch(samples).expect("a batch"));
    made.join().expect("a thread that ends")
}

/// Pinned memory is used again for the next batches, but not before its own has arrived.
#[test]
fn batches_over_pinned_memory_are_those_of_plain_memory() {
    let Some(device) = device() else { return };
    let arrived: Vec<Tensor> = (0..24)
        .map(|number| {
            let batch = batch(number, Some(0));
            assert!(batch.images.tensors.is_pinned(device));
            batch.images.to_device(device).tensors
        })
        .collect();
    for (number, tensor) in arrived.iter().enumerate() {
        assert_eq!(tensor.device(), device);
        assert!(tensor.to_device(Device::Cpu) == batch(number, None).images.tensors, "batch {number}");
    }
}

#[test]
fn lists_go_to_the_gpu_and_back_together() {
    let Some(device) = device() else { return };
    let mut lists = vec![list(3, 0), list(0, 0), list(70, 40), list(1, 9)];
    lists[3].add_field("scores", Tensor::from_slice(&[0.5f32]));
    let there = boxlists_to_device(&lists, device);
    let back = boxlists_to_device(&there, Device::Cpu);
    for ((there, back), list) in there.iter().zip(&back).zip(&lists) {
        assert_eq!((there.device(), back.device()), (device, Device::Cpu));
        assert_eq!((back.fields(), back.size(), back.mode()), (list.fields(), list.size(), list.mode()));
        assert_eq!(back.bbox(), list.bbox());
        for name in list.fields() {
            let field = |list: &BoxList| list.tensor_field(name).expect("a field of the list").shallow_clone();
            assert_eq!(field(there).device(), device);
            assert_eq!((field(back).kind(), field(back)), (field(list).kind(), field(list)));
        }
    }
}
