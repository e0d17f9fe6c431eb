//! What every golden area needs: where the files are, reading them, comparing, and counting what was compared.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use maskrcnn_benchmark::ffi::{self, Generator};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// The golden folder.
pub fn root() -> PathBuf {
    if let Some(given) = std::env::var_os("MRB_GOLDEN") {
        let given = PathBuf::from(given);
        assert!(given.is_dir(), "MRB_GOLDEN names {}, which is no folder", given.display());
        return given;
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = here.join("../shared/golden");
    if shared.is_dir() {
        return shared;
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI=true, but {} is missing", shared.display());
    here.join("tests/golden")
}

/// One area of the golden folder; `None` (said aloud) where the chosen folder does not have it.
pub fn area(name: &str) -> Option<PathBuf> {
    let path = root().join(name);
    if path.is_dir() {
        Some(path)
    } else {
        println!("{name}: not in {}", root().display());
        None
    }
}

pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A number of a golden JSON file, where `"nan"`, `"inf"` and `"-inf"` are strings.
pub fn number(value: &Value) -> f64 {
    match value {
        Value::String(s) => match s.as_str() {
            "nan" => f64::NAN,
            "inf" => f64::INFINITY,
            "-inf" => f64::NEG_INFINITY,
            other => panic!("{other:?} is no number"),
        },
        other => other.as_f64().unwrap_or_else(|| panic!("{other} is no number")),
    }
}

pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap_or_else(|| panic!("{value} is no list")).iter().map(number).collect()
}

pub fn ints(value: &Value) -> Vec<i64> {
    let list = value.as_array().unwrap_or_else(|| panic!("{value} is no list"));
    list.iter().map(|v| v.as_i64().unwrap_or_else(|| panic!("{v} is no integer"))).collect()
}

/// All tensors of a safetensors file by name.
pub struct Tensors {
    path: PathBuf,
    map: BTreeMap<String, Tensor>,
}

impl Tensors {
    pub fn read(path: &Path) -> Self {
        let list = Tensor::read_safetensors(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { path: path.to_owned(), map: list.into_iter().collect() }
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.find(name).unwrap_or_else(|| panic!("{} has no tensor {name}", self.path.display()))
    }

    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.map.get(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }
}

/// Counts comparisons per case and quantity, collects failures, and panics with all of them at the end.
pub struct Report {
    area: String,
    counts: BTreeMap<String, BTreeMap<String, usize>>,
    failures: Vec<String>,
}

impl Report {
    pub fn new(area: &str) -> Self {
        Self { area: area.into(), counts: BTreeMap::new(), failures: Vec::new() }
    }

    fn count(&mut self, case: &str, quantity: &str) {
        *self.counts.entry(case.into()).or_default().entry(quantity.into()).or_default() += 1;
    }

    /// Counts a comparison; `wrong` says what is wrong with it, if anything.
    pub fn check(&mut self, case: &str, quantity: &str, wrong: Option<String>) {
        self.count(case, quantity);
        if let Some(wrong) = wrong {
            self.failures.push(format!("{case}/{quantity}: {wrong}"));
        }
    }

    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, case: &str, quantity: &str, got: T, want: T) {
        let wrong = (got != want).then(|| {
            let cut = |v: &T| format!("{v:?}").chars().take(600).collect::<String>();
            format!("got {}, expected {}", cut(&got), cut(&want))
        });
        self.check(case, quantity, wrong);
    }

    /// Same shape and |got - want| <= atol + rtol * |want| everywhere (nan equals nan).
    pub fn close(&mut self, case: &str, quantity: &str, got: &Tensor, want: &Tensor, atol: f64, rtol: f64) {
        let wrong = differs(got, want, atol, rtol);
        self.check(case, quantity, wrong);
    }

    pub fn close_numbers(&mut self, case: &str, quantity: &str, got: &[f64], want: &[f64], atol: f64, rtol: f64) {
        self.close(case, quantity, &Tensor::from_slice(got), &Tensor::from_slice(want), atol, rtol);
    }

    /// Prints the counts; panics with every failure, or when nothing was compared.
    pub fn finish(self) {
        for (case, quantities) in &self.counts {
            let list: Vec<String> = quantities.iter().map(|(q, n)| format!("{q} {n}")).collect();
            println!("{} / {case}: {}", self.area, list.join(", "));
        }
        assert!(!self.counts.is_empty(), "{}: no case was compared", self.area);
        let total: usize = self.counts.values().flat_map(|q| q.values()).sum();
        println!("{}: {} cases, {total} comparisons, {} failures", self.area, self.counts.len(), self.failures.len());
        assert!(self.failures.is_empty(), "{}:\n{}", self.area, self.failures.join("\n"));
    }
}

/// What is wrong with `got`, if anything, under |got - want| <= atol + rtol * |want|.
pub fn differs(got: &Tensor, want: &Tensor, atol: f64, rtol: f64) -> Option<String> {
    if got.size() != want.size() {
        return Some(format!("shape {:?}, expected {:?}", got.size(), want.size()));
    }
    if got.numel() == 0 {
        return None;
    }
    let plain = |t: &Tensor| t.detach().to_device(Device::Cpu).to_kind(Kind::Double);
    let (got, want) = (plain(got), plain(want));
    let same = got.eq_tensor(&want).logical_or(&got.isnan().logical_and(&want.isnan()));
    let distance = (&got - &want).abs();
    let within = distance.le_tensor(&(want.abs() * rtol + atol)).logical_or(&same);
    let bad = within.logical_not();
    let number = bad.sum(Kind::Int64).int64_value(&[]);
    if number == 0 {
        return None;
    }
    let worst = distance.nan_to_num(f64::INFINITY, None, None) * bad.to_kind(Kind::Double);
    let at = worst.flatten(0, -1).argmax(None, false).int64_value(&[]);
    Some(format!(
        "{number} of {} values differ; worst at {at}: got {}, expected {} (limit {atol} + {rtol}·|x|)",
        got.numel(),
        got.flatten(0, -1).double_value(&[at]),
        want.flatten(0, -1).double_value(&[at]),
    ))
}

/// Fails when a file of the area is not tested. `tested` has names relative to the area; a name that ends in `/` stands
/// for everything below it.
pub fn all_files_known(area: &Path, tested: &[&str]) {
    let mut files = BTreeSet::new();
    let mut folders = vec![area.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a golden folder can be listed") {
            let path = entry.expect("a golden folder can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(area).expect("below the area").to_string_lossy().into_owned());
            }
        }
    }
    let covers = |name: &str, file: &str| name == file || (name.ends_with('/') && file.starts_with(name));
    let unknown: Vec<&String> =
        files.iter().filter(|f| !f.ends_with("README.md") && !tested.iter().any(|t| covers(t, f))).collect();
    assert!(unknown.is_empty(), "{}: not tested: {unknown:?}", area.display());
}

/// Held by tests that draw from libtorch's default generator, which all threads share.
pub fn generator() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// libtorch's deterministic algorithms, on or off for as long as this lives. Tests for which it matters wait for each
/// other.
pub struct Determinism {
    _alone: MutexGuard<'static, ()>,
}

impl Determinism {
    pub fn set(on: bool) -> Self {
        static LOCK: Mutex<()> = Mutex::new(());
        let alone = LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        ffi::set_deterministic(on).expect("a switch of libtorch");
        Self { _alone: alone }
    }
}

impl Drop for Determinism {
    fn drop(&mut self) {
        ffi::set_deterministic(false).expect("a switch of libtorch");
    }
}

/// Numbers between -1 and 1 (float32), the same for the same seed.
pub fn random(shape: &[i64], seed: u64) -> Tensor {
    let numbers = Generator::new(seed).and_then(|mut g| g.rand(shape.iter().product())).expect("random numbers");
    (Tensor::from_slice(&numbers).to_kind(Kind::Double).view(shape) * 2.0 - 1.0).to_kind(Kind::Float)
}

/// The list `name` of an object.
pub fn list<'a>(value: &'a Value, name: &str) -> &'a Vec<Value> {
    value[name].as_array().unwrap_or_else(|| panic!("no list {name}"))
}

/// The values of a tensor of indices.
pub fn indices(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.to_kind(Kind::Int64)).expect("a list of indices")
}
