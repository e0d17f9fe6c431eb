//! golden/solver: rates per position, groups, an SGD trace in both loop orders.

use maskrcnn_benchmark::solver::sgd::{GroupRates, ParamGroup, Sgd};
use maskrcnn_benchmark::solver::WarmupMultiStepLr;
use serde_json::Value;
use tch::{Kind, Tensor};

use crate::support::{all_files_known, area, ints, json, number, Report, Tensors};

fn scheduler(optimizer: &mut Sgd, case: &Value) -> anyhow::Result<WarmupMultiStepLr> {
    WarmupMultiStepLr::new(
        optimizer,
        &ints(&case["STEPS"]),
        number(&case["GAMMA"]),
        number(&case["WARMUP_FACTOR"]),
        case["WARMUP_ITERS"].as_i64().expect("an integer"),
        case["WARMUP_METHOD"].as_str().expect("a string").parse()?,
    )
}

fn parameter(values: &Tensor) -> Tensor {
    values.copy().set_requires_grad(true)
}

fn rates(solver: &Value) -> GroupRates {
    GroupRates {
        base_lr: number(&solver["BASE_LR"]),
        bias_lr_factor: number(&solver["BIAS_LR_FACTOR"]),
        weight_decay: number(&solver["WEIGHT_DECAY"]),
        weight_decay_bias: number(&solver["WEIGHT_DECAY_BIAS"]),
    }
}

#[test]
fn solver() {
    let Some(area) = area("solver") else { return };
    let golden = json(&area.join("solver.json"));
    let tensors = Tensors::read(&area.join("solver.safetensors"));
    let mut report = Report::new("solver");
    schedules(&golden, &tensors, &mut report);
    errors(&golden, &mut report);
    groups(&golden, &mut report);
    for order in ["fork", "upstream"] {
        trace(&golden, &tensors, order, &mut report);
    }
    report.finish();
    all_files_known(&area, &["solver.json", "solver.safetensors"]);
}

fn schedules(golden: &Value, tensors: &Tensors, report: &mut Report) {
    for case in golden["schedules"].as_array().expect("a list") {
        let name = case["name"].as_str().expect("a string");
        let base = number(&case["BASE_LR"]);
        let group = |name: &str, lr: f64| ParamGroup {
            name: name.into(),
            tensor: parameter(&Tensor::zeros([1], (Kind::Float, tch::Device::Cpu))),
            lr,
            initial_lr: lr,
            weight_decay: 0.0,
        };
        let bias = base * number(&case["bias_lr_factor"]);
        let mut optimizer = Sgd::new(vec![group("weight", base), group("bias", bias)], 0.9);
        let mut scheduler = scheduler(&mut optimizer, case).expect("a valid schedule");
        let positions: Vec<i64> = tensors.get(&format!("{name}/last_epoch")).try_into().expect("a vector");
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for position in positions {
            while scheduler.last_epoch() < position {
                scheduler.step(&mut optimizer);
            }
            report.equal(name, "position", scheduler.last_epoch(), position);
            weight.push(optimizer.groups()[0].lr);
            bias.push(optimizer.groups()[1].lr);
        }
        let want = |of: &str| tensors.get(&format!("{name}/lr_{of}"));
        report.close(name, "weight's rate", &Tensor::from_slice(&weight), want("weight"), 0.0, 1e-12);
        report.close(name, "bias's rate", &Tensor::from_slice(&bias), want("bias"), 0.0, 1e-12);
    }
}

fn errors(golden: &Value, report: &mut Report) {
    let mut optimizer = Sgd::new(Vec::new(), 0.9);
    for (case, error) in golden["errors"].as_object().expect("an object") {
        let raised = match case.as_str() {
            "unsorted_steps" => {
                let constant = "constant".parse().expect("a method");
                WarmupMultiStepLr::new(&mut optimizer, &[20, 10], 0.1, 0.1, 5, constant)
                    .map(|_| ())
                    .unwrap_err()
                    .to_string()
            }
            "bad_method" => "cosine".parse::<maskrcnn_benchmark::solver::WarmupMethod>().unwrap_err().to_string(),
            other => panic!("the error case {other} is not known"),
        };
        let message = error["message"].as_str().expect("a string");
        let (said, original) = match case.as_str() {
            "bad_method" => ("known are constant, linear", "'constant' or 'linear'"),
            _ => ("increasing integers", "increasing integers"),
        };
        report.equal(case, "error", (raised.contains(said), message.contains(original)), (true, true));
    }
}

fn groups(golden: &Value, report: &mut Report) {
    for (number_of_case, case) in golden["parameter_groups"].as_array().expect("a list").iter().enumerate() {
        let name = format!("groups {number_of_case}");
        let trainable: Vec<(String, Tensor)> = case["all_parameters"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|p| p[1].as_bool() == Some(true))
            .map(|p| (p[0].as_str().expect("a name").to_string(), parameter(&Tensor::from_slice(&[0f32]))))
            .collect();
        let groups = rates(&case["solver"]).groups(trainable);
        let wanted = case["groups"].as_array().expect("a list");
        report.equal(&name, "number", groups.len(), wanted.len());
        for (group, want) in groups.iter().zip(wanted) {
            report.equal(&name, "name", Some(group.name.as_str()), want["name"].as_str());
            report.equal(&name, "rate", group.lr, number(&want["lr"]));
            report.equal(&name, "decay", group.weight_decay, number(&want["weight_decay"]));
        }
    }
}

fn trace(golden: &Value, tensors: &Tensors, order: &str, report: &mut Report) {
    let case = format!("trace_{order}");
    let solver = &golden["trace"]["solver"];
    let weight = parameter(tensors.get("trace/weight_init"));
    let bias = parameter(tensors.get("trace/bias_init"));
    let named = vec![("weight".to_string(), weight.shallow_clone()), ("bias".to_string(), bias.shallow_clone())];
    let mut optimizer = Sgd::new(rates(solver).groups(named), number(&solver["MOMENTUM"]));
    let mut scheduler = scheduler(&mut optimizer, solver).expect("a valid schedule");
    let used: Vec<f64> = tensors.get(&format!("{case}/lr_used")).try_into().expect("a vector");
    let losses = tensors.get(&format!("{case}/loss"));
    for (k, want_lr) in used.iter().enumerate() {
        if order == "fork" {
            scheduler.step(&mut optimizer);
        }
        let (x, target) = (tensors.get("trace/x"), tensors.get("trace/target"));
        let loss = (x.matmul(&weight.transpose(0, 1)) + &bias - target).square().mean(Kind::Float);
        optimizer.zero_grad();
        loss.backward();
        report.close_numbers(&case, "rate", &[optimizer.lr()], &[*want_lr], 0.0, 1e-12);
        optimizer.step();
        if order == "upstream" {
            scheduler.step(&mut optimizer);
        }
        report.close(&case, "loss", &loss, &losses.get(k as i64), 1e-6, 1e-6);
        report.close(&case, "weight", &weight, tensors.get(&format!("{case}/weight_{}", k + 1)), 1e-6, 1e-6);
        report.close(&case, "bias", &bias, tensors.get(&format!("{case}/bias_{}", k + 1)), 1e-6, 1e-6);
    }
    let momentum = optimizer.momentum_buffer(0).expect("momentum after a step");
    report.close(&case, "momentum", momentum, tensors.get(&format!("{case}/momentum_weight_12")), 1e-6, 1e-6);
}
