//! Which entry of a file fills which entry of a model (utils/model_serialization.py): the longest name in the file that
//! ends the model's name, without regard to dots.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{bail, ensure, Context, Result};
use tch::Tensor;

use super::hints;
use super::pickle::{Dict, TensorData, Value};
use super::read_file;
use super::tensor::copy_into;
use crate::ffi;
use crate::layers::parameters::{Entry, Parameters, Role};

/// Named tensors of a file, in its order.
pub type StateDict = Vec<(String, TensorData)>;

/// How to treat what does not fit.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// What is otherwise skipped or warned about is an error, and nothing is loaded.
    pub strict: bool,
    /// For a run that goes on: every parameter must be in the file, with its shape.
    pub resume: bool,
}

/// What to do with a checkpoint that a run cannot go on from.
const NOT_A_RESUME: &str = "a run goes on only with the model that it had. To train from these weights as far as they \
    fit, choose another OUTPUT_DIR and give the file as MODEL.WEIGHT; to go on, restore the configuration of the run";

/// A layer whose shape differs between file and model.
#[derive(Clone, Debug, PartialEq)]
pub struct Skipped {
    /// Its name in the model.
    pub name: String,
    /// Its name in the file.
    pub loaded_name: String,
    /// Its shape in the model.
    pub shape: Vec<i64>,
    /// Its shape in the file.
    pub loaded_shape: Vec<i64>,
}

/// What became of every entry of a model and of a file.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Entries of the model and the names in the file that filled them.
    pub loaded: Vec<(String, String)>,
    /// Entries whose shape is another one in the file; they keep their values.
    pub skipped: Vec<Skipped>,
    /// Entries of the model that keep their values.
    pub untouched: Vec<String>,
    /// Names in the file that nothing used.
    pub unused: Vec<String>,
    /// What the original does silently and is likely wrong.
    pub warnings: Vec<String>,
}

impl LoadReport {
    /// Names of the model's entries that were skipped for their shape.
    pub fn skipped_names(&self) -> Vec<&str> {
        self.skipped.iter().map(|s| s.name.as_str()).collect()
    }

    /// Names of the model's entries that keep their initial values: skipped for their shape, or not in the file.
    pub fn initial_names(&self) -> Vec<&str> {
        self.skipped.iter().map(|s| &s.name).chain(&self.untouched).map(String::as_str).collect()
    }

    /// The skipped layers as a table.
    pub fn table(&self) -> String {
        table(&self.skipped)
    }
}

fn table(skipped: &[Skipped]) -> String {
    let width = skipped.iter().map(|s| s.name.len()).max().unwrap_or(0);
    let row = |s: &Skipped| format!("  {:width$}  file {:?}, model {:?}", s.name, s.loaded_shape, s.shape);
    skipped.iter().map(row).collect::<Vec<_>>().join("\n")
}

/// The longest loaded key that ends each model key: positions in `loaded`, or `None`.
pub fn match_keys(model: &[String], loaded: &[String]) -> Vec<Option<usize>> {
    let index: HashMap<&str, usize> = loaded.iter().enumerate().map(|(i, key)| (key.as_str(), i)).collect();
    let ends = |key: &str| key.char_indices().find_map(|(at, _)| index.get(&key[at..]).copied());
    model.iter().map(|key| ends(key)).collect()
}

/// Removes `module.` (of DataParallel) when every key starts with it; every occurrence goes, as in the original.
pub fn strip_prefix_if_present(state: StateDict) -> StateDict {
    if !state.iter().all(|(key, _)| key.starts_with("module.")) {
        return state;
    }
    state.into_iter().map(|(key, tensor)| (key.replace("module.", ""), tensor)).collect()
}

/// The named tensors of a file: of `model`, of `state_dict`, or of the file itself.
///
/// # Errors
/// A file without tensors. What is not a tensor is left out and logged.
pub fn state_dict_of(file: &Value) -> Result<StateDict> {
    let mut dict = file.as_dict().with_context(|| format!("the file holds {}, not named tensors", file.type_name()))?;
    for wrapper in ["model", "state_dict"] {
        if let Some(inner) = dict.get(wrapper).and_then(Value::as_dict) {
            dict = inner;
        }
    }
    let mut state = Vec::with_capacity(dict.len());
    for (key, value) in &dict.entries {
        match (key.as_str(), value) {
            (Some(key), Value::Tensor(tensor)) => state.push((key.to_string(), (**tensor).clone())),
            (key, other) => log::info!("{} is {}, not a tensor: left out", key.unwrap_or("a key"), other.type_name()),
        }
    }
    ensure!(!state.is_empty(), "the file holds no named tensors");
    Ok(state)
}

/// A model's named tensors, shared with the model, for another thread to save.
pub struct ModelState {
    entries: Vec<Entry>,
    /// The model's own buffers, by their place in `entries`.
    live_buffers: Vec<(usize, Tensor)>,
}

impl ModelState {
    /// The state of a model, whose tensors it shares.
    pub fn new(parameters: &Parameters) -> Self {
        let entries = parameters.state();
        let buffers = entries.iter().enumerate().filter(|(_, entry)| entry.role == Role::Buffer);
        let live_buffers: Vec<_> = buffers.map(|(i, entry)| (i, entry.tensor.shallow_clone())).collect();
        let mut state = Self { entries, live_buffers };
        for (i, live) in &state.live_buffers {
            state.entries[*i].tensor = live.copy();
        }
        state
    }

    /// Takes over the values that buffers have now. Parameters only change in the optimizer's step, but batch norm
    /// changes its buffers in every forward pass: a snapshot has those of the last call.
    pub fn keep_buffers(&mut self) {
        let kept: Vec<&Tensor> = self.live_buffers.iter().map(|(i, _)| &self.entries[*i].tensor).collect();
        let live: Vec<&Tensor> = self.live_buffers.iter().map(|(_, live)| live).collect();
        ffi::copy_all(&kept, &live).expect("copies have the shapes of the buffers");
    }

    /// The model's state as `model.state_dict()` saves it: copies on the CPU, in order, shared tensors once.
    ///
    /// # Errors
    /// Element types that files do not have.
    pub fn state_dict(&self) -> Result<Value> {
        let mut dict = Dict::ordered();
        let mut known: HashMap<&str, TensorData> = HashMap::new();
        for Entry { name, tensor, alias_of, .. } in &self.entries {
            let data = match alias_of.as_ref().and_then(|name| known.get(name.as_str())) {
                Some(shared) => shared.clone(),
                None => TensorData::try_from(tensor).with_context(|| name.clone())?,
            };
            known.insert(name, data.clone());
            dict.insert(name.as_str(), data);
        }
        Ok(Value::Dict(dict))
    }
}

/// Fills `parameters` from a file in torch's or the safetensors format.
///
/// # Errors
/// The file cannot be read, holds no named tensors, or is of another architecture; the file is named.
pub fn load_weights(path: &Path, parameters: &Parameters) -> Result<LoadReport> {
    let state = state_dict_of(&read_file(path)?).with_context(|| path.display().to_string())?;
    load_state_dict(parameters, state, &LoadOptions::default()).with_context(|| path.display().to_string())
}

/// Fills `parameters` from named tensors, converting element types, one tensor at a time.
///
/// # Errors
/// A file of another architecture (the names that do not fit are said); with `strict` whatever would be skipped or
/// warned about; with `resume` whatever the model would lack. Nothing is changed then.
pub fn load_state_dict(parameters: &Parameters, loaded: StateDict, options: &LoadOptions) -> Result<LoadReport> {
    let original: Vec<String> = loaded.iter().map(|(key, _)| key.clone()).collect();
    let loaded = strip_prefix_if_present(loaded);
    let keys: Vec<String> = loaded.iter().map(|(key, _)| key.clone()).collect();
    let state = parameters.state();
    let names: Vec<String> = state.iter().map(|entry| entry.name.clone()).collect();
    let matches = match_keys(&names, &keys);

    let mut report = compare(&state, &loaded, &matches);
    report.warnings = warnings(&original, &report);
    let shapes: HashMap<&str, &[i64]> = loaded.iter().map(|(key, data)| (key.as_str(), data.shape())).collect();
    let model_shapes: Vec<(String, Vec<i64>)> = state.iter().map(|e| (e.name.clone(), e.tensor.size())).collect();
    let architecture = hints::check_architecture(&model_shapes, &shapes, &report);
    let hint = hints::classes_hint(&model_shapes, &report).map(|hint| format!("\n{hint}")).unwrap_or_default();
    if options.resume {
        architecture.and_then(|()| complete(&state, &report)).context(NOT_A_RESUME)?;
    } else {
        architecture?;
    }
    if options.strict {
        strict(&report, &hint)?;
    }

    let _no_grad = tch::no_grad_guard();
    for (entry, found) in state.iter().zip(&matches) {
        let Some((key, data)) = found.map(|found| &loaded[found]) else { continue };
        if entry.tensor.size() == data.shape() && entry.alias_of.is_none() {
            let mut target = entry.tensor.shallow_clone();
            copy_into(&mut target, data).with_context(|| format!("{key} into {}", entry.name))?;
        }
    }
    log_report(&report, &hint);
    Ok(report)
}

/// Which entries of the model fit those of the file that were found for them, and which do not.
fn compare(state: &[Entry], loaded: &StateDict, matches: &[Option<usize>]) -> LoadReport {
    let mut report = LoadReport::default();
    let mut used = HashSet::new();
    for (entry, found) in state.iter().zip(matches) {
        let Some(found) = *found else {
            report.untouched.push(entry.name.clone());
            continue;
        };
        used.insert(found);
        let (key, data) = &loaded[found];
        if entry.tensor.size() == data.shape() {
            report.loaded.push((entry.name.clone(), key.clone()));
            continue;
        }
        report.skipped.push(Skipped {
            name: entry.name.clone(),
            loaded_name: key.clone(),
            shape: entry.tensor.size(),
            loaded_shape: data.shape().to_vec(),
        });
    }
    let unused = loaded.iter().enumerate().filter(|(i, _)| !used.contains(i));
    report.unused = unused.map(|(_, (key, _))| key.clone()).collect();
    report
}

/// Fails when a parameter has another shape in the file, or is not there.
fn complete(state: &[Entry], report: &LoadReport) -> Result<()> {
    const SHOWN: usize = 8;
    if !report.skipped.is_empty() {
        let more = match report.skipped.len().saturating_sub(SHOWN) {
            0 => String::new(),
            more => format!("\n  and {more} more"),
        };
        bail!(
            "shapes differ, nothing was loaded:\n{}{more}",
            table(&report.skipped[..report.skipped.len().min(SHOWN)])
        );
    }
    let untouched: HashSet<&str> = report.untouched.iter().map(String::as_str).collect();
    let is_missing = |entry: &&Entry| entry.role == Role::Parameter && untouched.contains(entry.name.as_str());
    let missing: Vec<&str> = state.iter().filter(is_missing).map(|entry| entry.name.as_str()).collect();
    ensure!(
        missing.is_empty(),
        "the file lacks {} parameters of the model, nothing was loaded: {}",
        missing.len(),
        hints::some(&missing)
    );
    Ok(())
}

fn warnings(original: &[String], report: &LoadReport) -> Vec<String> {
    let mut warnings = Vec::new();
    let without: Vec<&str> = original.iter().filter(|k| !k.starts_with("module.")).map(String::as_str).collect();
    if !without.is_empty() && without.len() < original.len() {
        warnings.push(format!(
            "{} of {} names in the file start with `module.`, but these do not: {}. The prefix is removed only when all \
             names have it, so the others match nothing",
            original.len() - without.len(),
            original.len(),
            hints::some(&without)
        ));
    }
    let both = report.loaded.iter().map(|(name, key)| (name, key));
    let both = both.chain(report.skipped.iter().map(|s| (&s.name, &s.loaded_name)));
    let doubtful: Vec<String> =
        both.filter(|(name, key)| is_doubtful(name, key)).map(|(name, key)| format!("{name} from {key}")).collect();
    if !doubtful.is_empty() {
        let list: Vec<&str> = doubtful.iter().map(String::as_str).collect();
        warnings.push(format!(
            "the file lacks some names, whose values come from a shorter name with the same ending: {}",
            hints::some(&list)
        ));
    }
    warnings
}

/// Whether a match skips more than the module's place: inside a name, or over a numbered layer (the stem's `bn1.weight`
/// is no substitute for `layer1.0.bn1.weight`).
fn is_doubtful(name: &str, key: &str) -> bool {
    let Some(removed) = name.strip_suffix(key) else { return false };
    if removed.is_empty() {
        return false;
    }
    !removed.ends_with('.') || removed.split('.').any(|part| part.ends_with(|c: char| c.is_ascii_digit()))
}

fn strict(report: &LoadReport, hint: &str) -> Result<()> {
    if !report.warnings.is_empty() {
        bail!("--strict: {}", report.warnings.join("; "));
    }
    ensure!(report.skipped.is_empty(), "--strict: shapes differ, nothing was loaded:\n{}{hint}", report.table());
    Ok(())
}

fn log_report(report: &LoadReport, hint: &str) {
    let width = report.loaded.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, key) in &report.loaded {
        log::info!("{name:width$} loaded from {key}");
    }
    for warning in &report.warnings {
        log::warn!("{warning}");
    }
    if !report.skipped.is_empty() {
        log::warn!("skipped, because their shapes differ (they keep their initial values):\n{}{hint}", report.table());
    }
    if !report.unused.is_empty() {
        let unused: Vec<&str> = report.unused.iter().map(String::as_str).collect();
        log::info!("{} names in the file are not used: {}", unused.len(), hints::some(&unused));
    }
    if !report.untouched.is_empty() {
        let untouched: Vec<&str> = report.untouched.iter().map(String::as_str).collect();
        log::info!("{} entries of the model keep their values: {}", untouched.len(), hints::some(&untouched));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn the_longest_ending_wins_without_regard_to_dots() {
        let model = strings(&["a.layer1.0.conv1.weight", "a.conv1.weight", "a.xconv1.weight", "a.other"]);
        let loaded = strings(&["conv1.weight", "layer1.0.conv1.weight"]);
        assert_eq!(match_keys(&model, &loaded), [Some(1), Some(0), Some(0), None]);
    }

    #[test]
    fn doubtful_matches_are_those_that_skip_a_numbered_layer() {
        assert!(is_doubtful("backbone.body.layer1.0.bn1.weight", "bn1.weight"));
        assert!(is_doubtful("a.xconv1.weight", "conv1.weight"));
        assert!(!is_doubtful("backbone.body.stem.bn1.weight", "bn1.weight"));
        assert!(!is_doubtful("roi_heads.box.feature_extractor.head.layer4.0.bn1.bias", "layer4.0.bn1.bias"));
        assert!(!is_doubtful("same", "same"));
    }
}
