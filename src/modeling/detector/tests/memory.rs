//! Matching a thousand objects on a large image: the original holds a matrix of all overlaps, several GB with its
//! copies.

use std::process::Command;

use tch::{Device, Kind, Tensor};

use super::{config, model, target, FPN, RETINANET};
use crate::structures::ImageList;
use crate::utils::miscellaneous::peak_memory_mib;

/// The most that peak memory may grow by.
const LIMIT_MIB: f64 = 300.0;

/// Boxes of 10 to 200 pixels all over an image of 1333×800.
fn boxes(number: usize) -> Vec<[f32; 4]> {
    let part = |i: usize, factor: usize, below: usize| (i * factor % below) as f32;
    let corner = |i| (part(i, 37, 1130), part(i, 71, 600), part(i, 13, 190) + 10.0, part(i, 29, 190) + 10.0);
    (0..number).map(corner).map(|(x, y, width, height)| [x, y, x + width, y + height]).collect()
}

/// By how many MiB the process's peak exceeds what it held before.
fn growth(work: impl FnOnce()) -> f64 {
    // Sets the peak to what is held now. Where that is not possible, little more was held before.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let before = peak_memory_mib().expect("/proc/self/status");
    work();
    peak_memory_mib().expect("/proc/self/status") - before
}

#[test]
#[ignore = "measures its process, in which it must be alone: the next test runs it so"]
fn measure() {
    let _generator = crate::utils::testing::generator();
    let _no_grad = tch::no_grad_guard();
    let zeros = |shape: [i64; 4]| Tensor::zeros(shape, (Kind::Float, Device::Cpu));
    let images = ImageList { tensors: zeros([1, 3, 800, 1344]), image_sizes: vec![(800, 1333)] };
    for (name, parts, finest) in [("rpn", FPN, 4), ("retinanet", RETINANET, 8)] {
        let (model, _) = model(&config(&[parts]));
        let levels = (0..5).map(|level| finest << level);
        let features: Vec<Tensor> = levels.map(|s: i64| zeros([1, 8, (800 + s - 1) / s, (1344 + s - 1) / s])).collect();
        let losses = |number| {
            let (_, losses) = model.rpn().losses(&images, &features, &[target(&boxes(number), (1333, 800))]).unwrap();
            assert!(losses.iter().all(|(_, loss)| loss.double_value(&[]).is_finite()));
        };
        // Threads and the memory of the network itself come first.
        losses(1);
        println!("{name}: {}", growth(|| losses(1000)));
    }
    let seen = growth(|| drop(Tensor::ones([400 << 18], (Kind::Float, Device::Cpu))));
    println!("400 MiB: {seen}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_thousand_boxes_cost_little_memory() {
    let name = concat!(module_path!(), "::measure").split_once("::").expect("the crate's name comes first").1;
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    let output = child.args(["--exact", name, "--ignored", "--nocapture"]).output().expect("this program");
    let text = String::from_utf8_lossy(&output.stdout);
    let measured = |what: &str| -> f64 {
        let line = text.lines().find_map(|line| line.split_once(&format!("{what}: ")));
        let (_, number) =
            line.unwrap_or_else(|| panic!("no {what}: {text}\n{}", String::from_utf8_lossy(&output.stderr)));
        number.parse().expect("a number")
    };
    assert!(measured("400 MiB") > LIMIT_MIB, "memory is not seen: {text}");
    for what in ["rpn", "retinanet"] {
        assert!(measured(what) <= LIMIT_MIB, "{text}");
    }
}
