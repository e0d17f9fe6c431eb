//! Checkpoints of a training run (utils/checkpoint.py): `model_0002500.pth`, and `last_checkpoint` that names the
//! newest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};

use super::c2_model_loading::{from_c2, has_own_names};
use super::model_serialization::{load_state_dict, state_dict_of, LoadOptions, LoadReport, ModelState};
use super::pickle::{Dict, Value};
use super::{model_zoo, read_file, write_file};
use crate::config::model_catalog::ModelCatalog;
use crate::config::Config;
use crate::layers::parameters::Parameters;
use crate::utils::atomic_file::write_atomically;
use crate::utils::comm;
use crate::utils::termination::postpone_end;

/// The key of what this project saves beyond the original's four.
const TRAINING_STATE: &str = "training_state";

/// What a checkpoint holds beside the model.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The optimizer's `state_dict()`.
    pub optimizer: Option<Value>,
    /// The scheduler's `state_dict()`.
    pub scheduler: Option<Value>,
    /// Iterations done.
    pub iteration: Option<i64>,
    /// What an exact resume needs: random numbers, place in the data. The original ignores it.
    pub training_state: Option<Dict>,
}

/// What was found when loading; the model is already filled.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The file that was read; `None` where there was nothing to load.
    pub file: Option<PathBuf>,
    /// `last_checkpoint` named the file.
    pub resumed: bool,
    /// What became of every entry of the model and of the file.
    pub report: Option<LoadReport>,
    /// The optimizer's `state_dict()`, where the file has one.
    pub optimizer: Option<Value>,
    /// The scheduler's `state_dict()`, where the file has one.
    pub scheduler: Option<Value>,
    /// Iterations done, where the file says so.
    pub iteration: Option<i64>,
    /// Absent when the file was last written by the original, which would carry an outdated one along.
    pub training_state: Option<Dict>,
}

/// Loads and saves one model's checkpoints.
pub struct DetectronCheckpointer {
    parameters: Parameters,
    save_dir: Option<PathBuf>,
    strict: bool,
    /// `PATHS_CATALOG`, where names of `catalog://` are looked up.
    paths_catalog: String,
    conv_body: String,
    stage_with_dcn: Vec<bool>,
    /// The key or option that names the weights to start from, for messages.
    weight_option: &'static str,
}

impl DetectronCheckpointer {
    /// For the model whose state is `parameters`; without `save_dir` nothing is saved or continued.
    pub fn new(cfg: &Config, parameters: &Parameters, save_dir: Option<&Path>) -> Self {
        Self {
            parameters: parameters.clone(),
            save_dir: save_dir.map(Path::to_path_buf),
            strict: false,
            paths_catalog: cfg.paths_catalog.clone(),
            conv_body: cfg.model.backbone.conv_body.clone(),
            stage_with_dcn: cfg.model.resnets.stage_with_dcn.to_vec(),
            weight_option: "MODEL.WEIGHT",
        }
    }

    /// Makes everything an error that is otherwise skipped or warned about.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Says in messages which option of a program named the weights, where it was not `MODEL.WEIGHT`.
    pub fn weight_option(mut self, option: &'static str) -> Self {
        self.weight_option = option;
        self
    }

    /// Fills the model from `last_checkpoint` if there is one and `use_latest`, else from `weight`, else not at all.
    /// `last_checkpoint` must have all parameters in their shapes; from `weight` what does not fit is skipped. All
    /// processes of a job call this together.
    ///
    /// # Errors
    /// A file that is missing, damaged, or of another model; says which file and what to do.
    pub fn load(&self, weight: Option<&str>, use_latest: bool) -> Result<Loaded> {
        let latest = if use_latest { self.last_checkpoint()? } else { None };
        let resume = latest.is_some();
        self.agree(resume)?;
        let file = match (latest, weight.filter(|w| !w.is_empty())) {
            (Some(latest), weight) => {
                let instead = weight.map(|w| format!(" instead of {} {w}", self.weight_option)).unwrap_or_default();
                log::info!("Loading checkpoint from {}: last_checkpoint names it{instead}", latest.display());
                latest
            }
            (None, Some(weight)) => {
                let file = self.find(weight)?;
                let looked = if use_latest { ", and there is no last_checkpoint" } else { "" };
                log::info!("Loading checkpoint from {}: {} names it{looked}", file.display(), self.weight_option);
                file
            }
            (None, None) => {
                log::info!("No checkpoint found. Initializing model from scratch");
                return Ok(Loaded::default());
            }
        };
        let options = LoadOptions { strict: self.strict, resume };
        let loaded = self.load_file_with(&file, &options).with_context(|| format!("loading {}", file.display()))?;
        Ok(Loaded { resumed: resume, ..loaded })
    }

    /// Fails when this process would go on from a checkpoint and rank 0 would not, or the other way round.
    fn agree(&self, resume: bool) -> Result<()> {
        let first = comm::broadcast_number(resume.into())? == 1;
        let found = |found: bool| if found { "finds one" } else { "finds none" };
        ensure!(
            first == resume,
            "rank 0 {} and rank {} {} at {}: OUTPUT_DIR must be one folder that all machines share",
            found(first),
            comm::get_rank(),
            found(resume),
            self.save_dir.as_deref().unwrap_or(Path::new("")).join("last_checkpoint").display()
        );
        Ok(())
    }

    /// Fills the model from one file, skipping what does not fit.
    ///
    /// # Errors
    /// A file that is damaged or of another model; with `strict` whatever would be skipped.
    pub fn load_file(&self, file: &Path) -> Result<Loaded> {
        self.load_file_with(file, &LoadOptions { strict: self.strict, resume: false })
    }

    fn load_file_with(&self, file: &Path, options: &LoadOptions) -> Result<Loaded> {
        let mut value = read_file(file)?;
        let state = match file.extension() {
            Some(extension) if extension == "pkl" && !has_own_names(&value) => {
                from_c2(&value, &self.conv_body, &self.stage_with_dcn)?
            }
            _ => state_dict_of(&value)?,
        };
        let report = load_state_dict(&self.parameters, state, options)?;
        let mut loaded = Loaded { file: Some(file.to_path_buf()), report: Some(report), ..Loaded::default() };
        if let Value::Dict(dict) = &mut value {
            // Only a checkpoint of a run has these; a plain state_dict has tensors under every name.
            let mut take = |key: &str| dict.remove(key).filter(|value| value.as_tensor().is_none());
            loaded.optimizer = take("optimizer");
            loaded.scheduler = take("scheduler");
            loaded.iteration = take("iteration").and_then(|value| value.as_int());
            loaded.training_state = match take(TRAINING_STATE) {
                Some(Value::Dict(state)) => self.current(state, loaded.iteration),
                _ => None,
            };
        }
        Ok(loaded)
    }

    /// The original saves unknown keys again unchanged: a state of another iteration is outdated.
    fn current(&self, state: Dict, iteration: Option<i64>) -> Option<Dict> {
        let own = state.get("iteration").and_then(Value::as_int);
        if own == iteration {
            return Some(state);
        }
        let name =
            |iteration: Option<i64>| iteration.map_or("an unknown iteration".into(), |i| format!("iteration {i}"));
        log::warn!(
            "the checkpoint's {TRAINING_STATE} is of {}, the checkpoint of {}: not used",
            name(own),
            name(iteration)
        );
        None
    }

    /// Saves `<name>.pth` and points `last_checkpoint` at it. Nothing happens without a folder to save in.
    ///
    /// # Errors
    /// What the file system says; earlier checkpoints are untouched then.
    pub fn save(&self, name: &str, contents: &Contents) -> Result<()> {
        let Some(save_dir) = &self.save_dir else { return Ok(()) };
        save_snapshot(save_dir, name, &self.model_state().snapshot(contents)?)?;
        Ok(())
    }

    /// What a signal's thread needs to save the model while training goes on.
    pub fn model_state(&self) -> ModelState {
        ModelState::new(&self.parameters)
    }

    /// The file that `last_checkpoint` names.
    fn last_checkpoint(&self) -> Result<Option<PathBuf>> {
        let Some(save_dir) = &self.save_dir else { return Ok(None) };
        let tag = save_dir.join("last_checkpoint");
        if !tag.exists() {
            return Ok(None);
        }
        let text = fs::read_to_string(&tag).with_context(|| tag.display().to_string())?;
        let named = PathBuf::from(text.trim());
        if named.is_file() {
            return Ok(Some(named));
        }
        // The path is relative to the folder in which the program was started, or the run was moved.
        let beside = named.file_name().map(|name| save_dir.join(name)).filter(|path| path.is_file());
        if let Some(beside) = beside {
            log::info!("{} names {}, which is now {}", tag.display(), named.display(), beside.display());
            return Ok(Some(beside));
        }
        bail!(
            "{} names {}, which does not exist. Remove {0} to start from MODEL.WEIGHT again, or write the path of another \
             checkpoint into it",
            tag.display(),
            named.display()
        )
    }

    /// The file that `MODEL.WEIGHT` or an option means: a path, `catalog://NAME`, or an address.
    fn find(&self, weight: &str) -> Result<PathBuf> {
        let mut weight = weight.to_string();
        if let Some(name) = weight.strip_prefix("catalog://") {
            let url = ModelCatalog::find(&self.paths_catalog, name);
            let url = url.with_context(|| format!("{} {weight}", self.weight_option))?;
            log::info!("{weight} points to {url}");
            weight = url;
        }
        if weight.starts_with("http://") || weight.starts_with("https://") {
            let file = model_zoo::cache_url_in_turn(&weight, &model_zoo::model_dir()).context(self.weight_option)?;
            log::info!("url {weight} cached in {}", file.display());
            return Ok(file);
        }
        let file = PathBuf::from(&weight);
        if file.is_file() {
            return Ok(file);
        }
        let option = self.weight_option;
        ensure!(!file.is_dir(), "{option} names {weight}, which is a folder, not a file of weights");
        if let Some((scheme, _)) = weight.split_once("://") {
            bail!("{option} names {weight}: {scheme}:// is not known here, catalog://, http:// and https:// are");
        }
        let elsewhere = file.is_absolute() && file.parent().is_some_and(|parent| !parent.exists());
        let whose = if elsewhere {
            " (its folder does not exist either: the YAML files of the Res2Net fork name a path on their author's machine)"
        } else if weight.starts_with("~/") {
            " (~ stands for your home folder in the shell alone: write its path)"
        } else {
            ""
        };
        let instead = match option {
            "MODEL.WEIGHT" => ", or start from random values: MODEL.WEIGHT \"\"",
            _ => "",
        };
        bail!(
            "{option} names {weight}, which does not exist{whose}. Give the file you have: {option} /path/to/{}{instead}",
            file.file_name().unwrap_or_default().to_string_lossy()
        )
    }
}

impl ModelState {
    /// A whole checkpoint as owned data, in the original's order of keys.
    ///
    /// # Errors
    /// Element types that files do not have.
    pub fn snapshot(&self, contents: &Contents) -> Result<Value> {
        let mut dict = Dict::new();
        dict.insert("model", self.state_dict()?);
        for (key, value) in [("optimizer", &contents.optimizer), ("scheduler", &contents.scheduler)] {
            if let Some(value) = value {
                dict.insert(key, value.clone());
            }
        }
        if let Some(iteration) = contents.iteration {
            dict.insert("iteration", iteration);
        }
        if let Some(mut state) = contents.training_state.clone() {
            state.remove("iteration");
            state.insert("iteration", contents.iteration.map_or(Value::None, Value::Int));
            dict.insert(TRAINING_STATE, state);
        }
        Ok(Value::Dict(dict))
    }
}

/// Writes a snapshot as `<name>.pth` in `save_dir` and points `last_checkpoint` at it; gives the file's path.
///
/// # Errors
/// What the file system says; earlier checkpoints are untouched then.
pub fn save_snapshot(save_dir: &Path, name: &str, snapshot: &Value) -> Result<PathBuf> {
    let file = save_dir.join(format!("{name}.pth"));
    log::info!("Saving checkpoint to {}", file.display());
    let _whole = postpone_end();
    write_file(&file, snapshot)?;
    let text = file.to_str().with_context(|| format!("{} is not UTF-8", file.display()))?;
    write_atomically(&save_dir.join("last_checkpoint"), text.as_bytes())?;
    Ok(file)
}
