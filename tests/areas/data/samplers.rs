//! The order of images and batches.

use std::sync::Arc;

use anyhow::Result;
use serde_json::Value;

use crate::support::{self, ints, json, Report};
use maskrcnn_benchmark::data::samplers::{
    BatchSampler, DistributedSampler, GroupedBatchSampler, IterationBasedBatchSampler, Pass, PlainBatchSampler,
    RandomSampler, Sampler,
};

/// A sampler with a given order.
struct Fixed(Vec<usize>);

impl Sampler for Fixed {
    fn indices(&self, _: Pass) -> Result<Vec<usize>> {
        Ok(self.0.clone())
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
        let got = sampler.expect("a sampler").batches(Pass::default());
        if case["error"].is_null() {
            report.equal("grouped", "batches", got.expect("batches"), lists(&case["batches"]));
        } else {
            report.check("grouped", "errors", got.ok().map(|batches| format!("no error but {batches:?}")));
        }
    }
    for case in cases("iteration_based") {
        iteration_based(&case, &mut report);
    }
    report.finish();
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
