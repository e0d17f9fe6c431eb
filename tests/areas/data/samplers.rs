//! The order of images and batches.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{bail, Result};
use serde_json::Value;

use crate::support::{self, ints, json, numbers, Report};
use maskrcnn_benchmark::data::build::{make_batch_data_sampler, quantize};
use maskrcnn_benchmark::data::datasets::{Dataset, ImageId, ImageInfo, Sample};
use maskrcnn_benchmark::data::samplers::{
    BatchSampler, DistributedSampler, GroupedBatchSampler, IterationBasedBatchSampler, Pass, PlainBatchSampler,
    RandomSampler, Sampler, SequentialSampler,
};
use maskrcnn_benchmark::structures::BoxList;

/// A sampler with a given order.
struct Fixed(Vec<usize>);

impl Sampler for Fixed {
    fn indices(&self, _: Pass) -> Result<Vec<usize>> {
        Ok(self.0.clone())
    }
}

/// A data set of which only the sizes (height, width) are known.
struct Sizes(Vec<(i64, i64)>);

impl Dataset for Sizes {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, _: usize) -> Result<Sample> {
        bail!("there are no images")
    }

    fn image_info(&self, index: usize) -> Result<ImageInfo> {
        let (height, width) = self.0[index];
        Ok(ImageInfo { id: ImageId::Number(index as i64), file_name: String::new(), width, height })
    }

    fn image_path(&self, _: usize) -> PathBuf {
        PathBuf::new()
    }

    fn ground_truth(&self, _: usize) -> Result<BoxList> {
        bail!("there are no boxes")
    }

    fn class_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn categories(&self) -> Vec<(i64, String)> {
        Vec::new()
    }

    fn describe(&self) -> String {
        "sizes".into()
    }
}

fn indices(value: &Value) -> Vec<usize> {
    ints(value).into_iter().map(|i| i as usize).collect()
}

fn lists(value: &Value) -> Vec<Vec<usize>> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(indices).collect()
}

fn unsigned(value: &Value) -> usize {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no natural number")) as usize
}

#[test]
fn orders_and_batches() {
    let Some(area) = support::area("data") else { return };
    let mut report = Report::new("data/samplers");
    let golden = json(&area.join("samplers.json"));
    let cases = |name: &str| golden[name].as_array().unwrap_or_else(|| panic!("no cases {name}")).clone();

    for case in cases("distributed") {
        let (n, world) = (unsigned(&case["n"]), unsigned(&case["world_size"]));
        let (shuffle, epoch) = (case["shuffle"].as_bool().expect("shuffle"), unsigned(&case["epoch"]) as u64);
        let pass = Pass { number: 0, iteration: epoch };
        for (rank, want) in lists(&case["per_rank"]).into_iter().enumerate() {
            let sampler = DistributedSampler::new(n, world, rank, shuffle).expect("a share");
            report.equal("distributed", "indices", sampler.indices(pass).expect("indices"), want);
            report.equal("distributed", "len", sampler.num_samples(), unsigned(&case["len"]));
        }
    }
    for case in cases("random_sampler") {
        let sampler = RandomSampler::new(unsigned(&case["n"]), unsigned(&case["torch_seed"]) as u64);
        for (number, want) in lists(&case["epochs"]).into_iter().enumerate() {
            let pass = Pass { number: number as u64, iteration: 0 };
            report.equal("random", "indices", sampler.indices(pass).expect("indices"), want);
        }
    }
    for case in cases("grouped") {
        let sampler = GroupedBatchSampler::new(
            Box::new(Fixed(indices(&case["sampler_order"]))),
            indices(&case["group_ids"]),
            unsigned(&case["batch_size"]),
            case["drop_uneven"].as_bool().expect("drop_uneven"),
        );
        let got = sampler.expect("a sampler").batches(Pass::default()).expect("batches");
        if case["error"].is_null() {
            report.equal("grouped", "batches", got, lists(&case["batches"]));
        } else {
            // An IndexError where a group has no image; those of the other groups make their batches here.
            let (mut images, mut sampled) = (got.concat(), indices(&case["sampler_order"]));
            images.sort_unstable();
            sampled.sort_unstable();
            report.equal("grouped", "images", images, sampled);
        }
    }
    for case in cases("iteration_based") {
        iteration_based(&case, &mut report);
    }
    for case in cases("quantize") {
        let groups = quantize(&numbers(&case["values"]), &numbers(&case["bins"]));
        report.equal("quantize", "groups", groups, indices(&case["groups"]));
    }
    batches_by_aspect_ratio(&golden["make_batch_data_sampler"], &mut report);
    report.finish();
}

fn batches_by_aspect_ratio(case: &Value, report: &mut Report) {
    let sizes = lists(&case["heights_widths"]);
    let dataset = Sizes(sizes.iter().map(|size| (size[0] as i64, size[1] as i64)).collect());
    let order = Box::new(SequentialSampler::new(dataset.len()));
    let bins = numbers(&case["aspect_grouping"]);
    let sampler = make_batch_data_sampler(&dataset, order, &bins, unsigned(&case["images_per_batch"]));
    let got = sampler.expect("a sampler").batches(Pass::default()).expect("batches");
    report.equal("make_batch_data_sampler", "batches", got, lists(&case["batches"]));
    let ratios: Vec<f64> = dataset.0.iter().map(|size| size.0 as f64 / size.1 as f64).collect();
    report.equal("make_batch_data_sampler", "groups", quantize(&ratios, &bins), indices(&case["group_ids"]));
}

fn iteration_based(case: &Value, report: &mut Report) {
    let batch_size = unsigned(&case["batch_size"]);
    let plain = case["plain_batch_sampler"].as_bool() == Some(true);
    let batches: Arc<dyn BatchSampler> = if plain {
        let order = Box::new(Fixed(indices(&case["sampler_order"])));
        Arc::new(PlainBatchSampler::new(order, batch_size).expect("a sampler"))
    } else {
        let (len, world) = (unsigned(&case["dataset_size"]), unsigned(&case["world_size"]));
        let share = DistributedSampler::new(len, world, unsigned(&case["rank"]), true).expect("a share");
        let groups = indices(&case["group_ids"]);
        Arc::new(GroupedBatchSampler::new(Box::new(share), groups, batch_size, false).expect("a sampler"))
    };
    let (iterations, start) = (unsigned(&case["num_iterations"]) as u64, unsigned(&case["start_iter"]) as u64);
    let sampler = IterationBasedBatchSampler::new(batches, iterations, start);
    let got: Vec<(Pass, Vec<usize>)> = sampler.iter().map(|batch| batch.expect("a batch")).collect();
    let mut begun: Vec<u64> = got.iter().map(|(pass, _)| pass.iteration).collect();
    begun.dedup();
    let want = lists(&case["batches"]);
    report.equal("iteration based", "batches", got.into_iter().map(|(_, batch)| batch).collect(), want);
    if !case["set_epoch_calls"].is_null() {
        // The original may begin a last pass of which it uses nothing.
        let mut want: Vec<u64> = ints(&case["set_epoch_calls"]).into_iter().map(|i| i as u64).collect();
        want.retain(|&iteration| iteration < iterations);
        report.equal("iteration based", "passes", begun, want);
    }
}
