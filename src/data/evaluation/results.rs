//! The numbers that an evaluation ends with, and whether they are the expected ones.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

use super::{IouType, LOGGER};
use crate::checkpoint::{write_file, Dict, Value};
use crate::config::ExpectedResult;

const BOX_METRICS: [&str; 6] = ["AP", "AP50", "AP75", "APs", "APm", "APl"];
const KEYPOINT_METRICS: [&str; 5] = ["AP", "AP50", "AP75", "APm", "APl"];
const PROPOSAL_METRICS: [&str; 8] =
    ["AR@100", "ARs@100", "ARm@100", "ARl@100", "AR@1000", "ARs@1000", "ARm@1000", "ARl@1000"];

/// Metrics by task, in a fixed order (the original's `COCOResults`). -1 stands for what could not be computed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Results {
    tasks: Vec<Task>,
}

#[derive(Clone, Debug, PartialEq)]
struct Task {
    name: String,
    metrics: Vec<(String, f64)>,
    per_category: Vec<(String, f64)>,
}

impl Results {
    /// COCO's metrics for these tasks, all of them -1.
    pub fn coco(iou_types: &[IouType]) -> Results {
        let mut results = Results::default();
        for iou_type in iou_types {
            let metrics: &[&str] = match iou_type {
                IouType::Bbox | IouType::Segm => &BOX_METRICS,
                IouType::Keypoints => &KEYPOINT_METRICS,
            };
            results.add_task(iou_type.name(), metrics);
        }
        results
    }

    /// The recalls of proposals, all of them -1.
    pub fn proposals() -> Results {
        let mut results = Results::default();
        results.add_task("box_proposal", &PROPOSAL_METRICS);
        results
    }

    /// Adds a task with these metrics, all of them -1.
    pub fn add_task(&mut self, name: &str, metrics: &[&str]) {
        let metrics = metrics.iter().map(|m| (m.to_string(), -1.0)).collect();
        self.tasks.push(Task { name: name.to_owned(), metrics, per_category: Vec::new() });
    }

    /// The names of the tasks, in order.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.tasks.iter().map(|t| t.name.as_str())
    }

    /// The metrics of a task, in order; none for an unknown task.
    pub fn metrics(&self, task: &str) -> &[(String, f64)] {
        self.task(task).map_or(&[], |t| &t.metrics)
    }

    /// The average precision of every category that the ground truth has; empty where it was not computed.
    pub fn per_category(&self, task: &str) -> &[(String, f64)] {
        self.task(task).map_or(&[], |t| &t.per_category)
    }

    /// One metric.
    pub fn get(&self, task: &str, metric: &str) -> Option<f64> {
        self.metrics(task).iter().find(|(name, _)| name == metric).map(|(_, value)| *value)
    }

    /// Sets a metric of a task, adding it if it is new.
    ///
    /// # Panics
    /// If there is no such task.
    pub fn set(&mut self, task: &str, metric: &str, value: f64) {
        let metrics = &mut self.task_mut(task).metrics;
        match metrics.iter_mut().find(|(name, _)| name == metric) {
            Some((_, old)) => *old = value,
            None => metrics.push((metric.to_owned(), value)),
        }
    }

    /// Sets the first metrics of a task by position, which is how COCO's statistics are taken.
    ///
    /// # Panics
    /// If there is no such task.
    pub fn set_by_position(&mut self, task: &str, values: &[f64]) {
        for ((_, metric), value) in self.task_mut(task).metrics.iter_mut().zip(values) {
            *metric = *value;
        }
    }

    /// Sets the average precision of every category.
    ///
    /// # Panics
    /// If there is no such task.
    pub fn set_per_category(&mut self, task: &str, values: Vec<(String, f64)>) {
        self.task_mut(task).per_category = values;
    }

    fn task(&self, name: &str) -> Option<&Task> {
        self.tasks.iter().find(|t| t.name == name)
    }

    fn task_mut(&mut self, name: &str) -> &mut Task {
        self.tasks.iter_mut().find(|t| t.name == name).expect("a task of these results")
    }

    /// Writes the file that the original would: a pickled `COCOResults`, whose `results` maps task to metric to value.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tasks = Dict::ordered();
        for task in &self.tasks {
            let mut metrics = Dict::ordered();
            for (name, value) in &task.metrics {
                metrics.insert(name.as_str(), *value);
            }
            tasks.insert(task.name.as_str(), metrics);
        }
        let mut state = Dict::new();
        state.insert("results", tasks);
        let module = "maskrcnn_benchmark.data.datasets.evaluation.coco.coco_eval";
        write_file(path, &Value::object(module, "COCOResults", state))
            .with_context(|| format!("writing the results to {}", path.display()))
    }
}

/// Python's spelling of a number with four decimals.
fn four_decimals(value: f64) -> String {
    if value.is_nan() {
        "nan".to_owned()
    } else {
        format!("{value:.4}")
    }
}

/// The original's message: an empty line, then for every task its name, its metrics and their values.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for task in &self.tasks {
            let names: Vec<&str> = task.metrics.iter().map(|(name, _)| name.as_str()).collect();
            let values: Vec<String> = task.metrics.iter().map(|(_, value)| four_decimals(*value)).collect();
            writeln!(f, "Task: {}\n{}\n{}", task.name, names.join(", "), values.join(", "))?;
        }
        Ok(())
    }
}

/// Python's `{:.4}`: four significant digits, without trailing zeros.
fn four_digits(value: f64) -> String {
    if value == 0.0 {
        return "0.0".to_owned();
    }
    if !value.is_finite() {
        return value.to_string().to_lowercase();
    }
    let exponent = value.abs().log10().floor() as i32;
    if !(-4..4).contains(&exponent) {
        let text = format!("{value:.3e}");
        let (mantissa, exponent) = text.split_once('e').expect("an exponent");
        let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    let text = format!("{value:.*}", (3 - exponent) as usize);
    match text.trim_end_matches('0') {
        whole if whole.ends_with('.') => format!("{whole}0"),
        _ if !text.contains('.') => format!("{text}.0"),
        trimmed => trimmed.to_owned(),
    }
}

/// Compares results with what was expected of them and logs a line that starts with `PASS:` or `FAIL:` for each.
/// A value must lie strictly within `sigma_tol` standard deviations of the mean. Returns whether all passed.
///
/// # Errors
/// If an expected value is of a task or metric that was not evaluated.
pub fn check_expected_results(results: &Results, expected: &[ExpectedResult], sigma_tol: f64) -> Result<bool> {
    let mut all = true;
    for ExpectedResult(task, metric, mean, deviation) in expected {
        let actual = results.get(task, metric).with_context(|| {
            let known: Vec<String> = results
                .tasks
                .iter()
                .flat_map(|t| t.metrics.iter().map(|(name, _)| format!("{} {name}", t.name)))
                .collect();
            format!("TEST.EXPECTED_RESULTS has '{task} {metric}', but evaluated were {}", known.join(", "))
        })?;
        let (low, high) = (mean - sigma_tol * deviation, mean + sigma_tol * deviation);
        let passed = low < actual && actual < high;
        let message = format!(
            "{task} > {metric} sanity check (actual vs. expected): {actual:.3} vs. mean={mean:.4}, std={}, \
             range=({low:.4}, {high:.4})",
            four_digits(*deviation)
        );
        if passed {
            log::info!(target: LOGGER, "PASS: {message}");
        } else {
            log::error!(target: LOGGER, "FAIL: {message}");
        }
        all &= passed;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_significant_digits_are_pythons() {
        for (value, text) in [
            (0.2, "0.2"),
            (0.001, "0.001"),
            (1.0, "1.0"),
            (0.0, "0.0"),
            (12.345678, "12.35"),
            (1234.5, "1234.0"),
            (12345.0, "1.234e+04"),
            (0.00001234, "1.234e-05"),
            (-0.5, "-0.5"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(four_digits(value), text);
        }
    }

    #[test]
    fn the_message_is_the_originals() {
        let mut results = Results::coco(&[IouType::Bbox, IouType::Keypoints]);
        results.set_by_position("bbox", &[0.5, 0.25, f64::NAN, -1.0, 1.0, 0.12345, 0.9]);
        let expected = "\nTask: bbox\nAP, AP50, AP75, APs, APm, APl\n0.5000, 0.2500, nan, -1.0000, 1.0000, 0.1235\n\
                        Task: keypoints\nAP, AP50, AP75, APm, APl\n-1.0000, -1.0000, -1.0000, -1.0000, -1.0000\n";
        assert_eq!(results.to_string(), expected);
    }

    #[test]
    fn expectations_are_strict_and_must_be_of_something_evaluated() {
        let mut results = Results::coco(&[IouType::Bbox]);
        results.set("bbox", "AP", 0.5);
        let expect = |mean, deviation| [ExpectedResult("bbox".into(), "AP".into(), mean, deviation)];
        assert!(check_expected_results(&results, &expect(0.4, 0.1), 4.0).unwrap());
        assert!(!check_expected_results(&results, &expect(0.25, 0.25), 1.0).unwrap());
        assert!(check_expected_results(&results, &expect(0.4, f64::INFINITY), 4.0).unwrap());
        assert!(!check_expected_results(&results, &expect(f64::NAN, 0.1), 4.0).unwrap());
        let unknown = [ExpectedResult("segm".into(), "AP".into(), 0.0, 0.0)];
        let error = check_expected_results(&results, &unknown, 4.0).unwrap_err().to_string();
        assert!(error.contains("'segm AP'") && error.contains("bbox AP50"), "{error}");
    }
}
