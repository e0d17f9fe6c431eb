//! Python's and torch's random numbers.

use super::golden;
use crate::support::{self, json, number, numbers, Report};
use maskrcnn_benchmark::data::random::{PythonRandom, TorchGenerator};

#[test]
fn python_choices() {
    let Some(area) = support::area("data") else { return };
    let mut report = Report::new("data/random.choice");
    for case in json(&area.join("get_size.json"))["multi_scale_choices"].as_array().expect("choices") {
        let mut random = PythonRandom::new(case["python_random_seed"].as_u64().expect("seed"));
        let sizes = support::ints(&case["sizes"]);
        let choices: Vec<i64> = (0..20).map(|_| *random.choice(&sizes)).collect();
        let name = format!("{} sizes", sizes.len());
        report.equal(&name, "choices", choices, support::ints(&case["first_20_choices"]));
        report.equal(&name, "next random()", random.random(), number(&case["next_random"]));
    }
    report.finish();
}

#[test]
fn torch_permutations() {
    let Some(path) = golden("models", "rng.json") else { return };
    let mut report = Report::new("models/rng");
    for sequence in json(&path)["sequences"].as_array().expect("sequences") {
        let seed = sequence["seed"].as_u64().expect("seed");
        let mut generator = TorchGenerator::new(seed);
        for draw in sequence["draws"].as_array().expect("draws") {
            if let Some(n) = draw["n"].as_u64() {
                let got: Vec<i64> = generator.randperm(n as usize).into_iter().take(40).map(|i| i as i64).collect();
                report.equal(&format!("seed {seed}"), "randperm", got, support::ints(&draw["perm_first_40"]));
            } else {
                let got: Vec<f64> = (0..4).map(|_| generator.rand().into()).collect();
                report.equal(&format!("seed {seed}"), "rand", got, numbers(&draw["rand_4"]));
            }
        }
    }
    report.finish();
}
