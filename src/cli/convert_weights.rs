//! `convert_weights`: weights from one file format to another, or a list of what a file holds.

use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use clap::{Parser, ValueEnum};

use super::output::say;
use super::{parse, CommandLine};
use crate::checkpoint::c2_model_loading::{body_of, body_of_depth, from_c2, has_own_names};
use crate::checkpoint::c2_model_saving::to_c2;
use crate::checkpoint::model_serialization::{state_dict_of, strip_prefix_if_present};
use crate::checkpoint::{read_file, write_file, write_pickle, write_safetensors, Dict, Python, StateDict, Value};

/// Converts weights between .pth (PyTorch), .pkl (Caffe2, Detectron) and .safetensors, or lists them.
#[derive(Debug, Parser)]
#[command(name = "convert_weights", version)]
struct Args {
    /// The file to read; its format is found by its content.
    input: PathBuf,

    /// The file to write; its format is found by its ending. Nothing is written without it. A .pkl has Caffe2's blob
    /// names where Caffe2 has the layers, else the model's own names: {"model": {name: array}}.
    output: Option<PathBuf>,

    /// Prints the name, shape and type of every tensor, and every other value.
    #[arg(long)]
    list: bool,

    /// Leaves parts out.
    #[arg(long, value_delimiter = ',', value_name = "PART,…")]
    trim: Vec<Part>,

    /// MODEL.BACKBONE.CONV_BODY of a Caffe2 .pkl file, when it is not to be found out from its names.
    #[arg(long, value_name = "NAME")]
    conv_body: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everything but the model: optimizer, scheduler, iteration.
    Optimizer,
    /// The layers whose size is the number of classes, for training on other classes.
    Predictors,
    /// Everything after the backbone: proposals and heads.
    Heads,
}

/// The program `convert_weights`.
///
/// # Errors
/// Wrong usage (a [`clap::Error`]), a file that cannot be read or written, names that the other format does not have.
pub fn convert_weights(args: impl CommandLine) -> Result<()> {
    let args: Args = parse(args)?;
    let output = args.output.as_deref();
    ensure!(args.list || output.is_some(), "name a file to write, or give --list");
    if let Some(output) = output {
        let same =
            output.canonicalize().ok().is_some_and(|there| args.input.canonicalize().is_ok_and(|here| here == there));
        ensure!(!same, "{} would be written over while it is read", output.display());
    }
    let mut file = read_file(&args.input)?;
    let is_c2 = file.as_dict().is_some_and(|dict| dict.get("blobs").is_some())
        || args.input.extension().is_some_and(|extension| extension == "pkl") && !has_own_names(&file);
    let mut state = if is_c2 {
        let body = match &args.conv_body {
            Some(body) => body.clone(),
            None => body_of(&file)?,
        };
        from_c2(&file, &body, &[])?
    } else {
        strip_prefix_if_present(state_dict_of(&file)?)
    };
    let before = state.len();
    let retinanet = state.iter().any(|(name, _)| name.contains("cls_tower"));
    state.retain(|(name, _)| !args.trim.iter().any(|part| part.covers(name, retinanet)));
    if args.list {
        list(&state);
    }
    let rest = match &mut file {
        Value::Dict(dict) if !is_c2 => rest_of(dict, &args.trim),
        _ => Dict::new(),
    };
    if args.list {
        for (key, value) in &rest.entries {
            say!("{}: {}", key.as_str().unwrap_or("?"), summary(value));
        }
    }
    let Some(output) = output else { return Ok(()) };
    write(output, &state, rest, args.conv_body.as_deref())?;
    let trimmed = before - state.len();
    say!(
        "{}: {} tensors{}",
        output.display(),
        state.len(),
        if trimmed > 0 { format!(", {trimmed} left out") } else { String::new() }
    );
    Ok(())
}

impl Part {
    fn covers(self, name: &str, retinanet: bool) -> bool {
        let has = |part: &str| name.split('.').any(|p| p == part);
        match self {
            Part::Optimizer => false,
            Part::Predictors => {
                let layers = ["cls_score", "bbox_pred", "mask_fcn_logits", "kps_score_lowres", "fc1000"];
                // The proposals' layers know no classes, except in RetinaNet.
                let proposals = has("rpn");
                !proposals && layers.iter().any(|layer| has(layer)) || proposals && retinanet && has("cls_logits")
            }
            Part::Heads => has("rpn") || has("roi_heads"),
        }
    }
}

/// What a checkpoint holds beside the model.
fn rest_of(dict: &mut Dict, trim: &[Part]) -> Dict {
    let is_checkpoint = dict.get("model").and_then(Value::as_dict).is_some();
    if !is_checkpoint || trim.contains(&Part::Optimizer) {
        return Dict::new();
    }
    dict.remove("model");
    std::mem::take(dict)
}

fn list(state: &StateDict) {
    let width = state.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, data) in state {
        say!("{name:width$}  {:<9} {:?}", data.dtype().name(), data.shape());
    }
    let numbers: usize = state.iter().map(|(_, data)| data.numel()).sum();
    say!("{} tensors, {numbers} numbers", state.len());
}

fn summary(value: &Value) -> String {
    match value {
        Value::None => "None".into(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
        Value::Str(value) => format!("{value:?}"),
        Value::Dict(dict) => format!("{} of {} entries", value.type_name(), dict.len()),
        Value::List(items) | Value::Tuple(items) => format!("{} of {} items", value.type_name(), items.len()),
        Value::Tensor(data) => format!("{} {:?}", data.dtype(), data.shape()),
        other => other.type_name().to_string(),
    }
}

fn write(output: &Path, state: &StateDict, mut rest: Dict, conv_body: Option<&str>) -> Result<()> {
    match output.extension().and_then(|e| e.to_str()) {
        Some("pth" | "pt") => {
            let mut file = below_model(state, Dict::ordered());
            file.entries.append(&mut rest.entries);
            write_file(output, &Value::Dict(file))
        }
        Some("safetensors") => {
            note_loss(&rest);
            write_safetensors(output, state)
        }
        Some("pkl") => {
            note_loss(&rest);
            if let Some(body) = conv_body {
                return write_caffe2(output, &to_c2(state, body)?);
            }
            let names: Vec<&str> = state.iter().map(|(name, _)| name.as_str()).collect();
            let body = body_of_names(&names).context("the names show no ResNet body");
            match body.and_then(|body| to_c2(state, body)) {
                Ok(blobs) => write_caffe2(output, &blobs),
                Err(error) => {
                    say!("written under the model's own names: {error:#}");
                    write_pickle(output, &Value::Dict(below_model(state, Dict::new())), Python::Three).map(drop)
                }
            }
        }
        _ => bail!("{}: the ending must be .pth, .pkl or .safetensors", output.display()),
    }
}

fn write_caffe2(output: &Path, blobs: &Value) -> Result<()> {
    if write_pickle(output, blobs, Python::Two)? != Python::Two {
        say!("an array is over 2 GB, which no pickle of Python 2 can hold: only Python 3 reads {}", output.display());
    }
    Ok(())
}

/// `{"model": {name: tensor}}`, the inner dictionary being `model`.
fn below_model(state: &StateDict, mut model: Dict) -> Dict {
    state.iter().for_each(|(name, data)| model.insert(name.as_str(), data.clone()));
    let mut file = Dict::new();
    file.insert("model", model);
    file
}

fn note_loss(rest: &Dict) {
    let keys: Vec<&str> = rest.entries.iter().filter_map(|(key, _)| key.as_str()).collect();
    if !keys.is_empty() {
        say!("left out, since the format holds weights only: {}", keys.join(", "));
    }
}

/// The body that has as many blocks in its third stage as the names show.
fn body_of_names(names: &[&str]) -> Option<&'static str> {
    let block = |name: &&str| name.split_once("layer3.")?.1.split('.').next()?.parse::<usize>().ok();
    body_of_depth(names.iter().filter_map(block).max()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind, Tensor};

    fn run(args: &[&str]) -> Result<()> {
        convert_weights(["convert_weights"].iter().chain(args).map(Into::into))
    }

    fn names(path: &Path) -> Vec<String> {
        state_dict_of(&read_file(path).unwrap()).unwrap().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn formats_and_parts() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut model = Dict::ordered();
        for name in
            ["backbone.body.layer3.5.conv1.weight", "rpn.head.conv.weight", "roi_heads.box.predictor.cls_score.bias"]
        {
            model.insert(name, &Tensor::ones([2, 2], (Kind::Float, Device::Cpu)));
        }
        let mut file = Dict::new();
        file.insert("model", model);
        file.insert("iteration", 5);
        write_file(Path::new(&path("a.pth")), &Value::Dict(file)).unwrap();

        run(&["--list", &path("a.pth")]).unwrap();
        run(&[&path("a.pth"), &path("b.pth")]).unwrap();
        let copy = read_file(Path::new(&path("b.pth"))).unwrap();
        assert_eq!(copy.as_dict().unwrap().get("iteration").unwrap().as_int(), Some(5));
        run(&[&path("a.pth"), &path("c.safetensors"), "--trim", "predictors"]).unwrap();
        assert_eq!(names(Path::new(&path("c.safetensors"))).len(), 2);
        run(&[&path("c.safetensors"), &path("d.pkl"), "--trim", "heads"]).unwrap();
        run(&[&path("d.pkl"), &path("e.pth")]).unwrap();
        assert_eq!(names(Path::new(&path("e.pth"))), ["layer3.5.conv1.weight"]);
        run(&[&path("a.pth"), &path("f.pth"), "--trim", "optimizer"]).unwrap();
        let trimmed = read_file(Path::new(&path("f.pth"))).unwrap();
        assert_eq!(trimmed.as_dict().unwrap().len(), 1);
    }

    #[test]
    fn what_caffe2_has_no_names_for_keeps_its_own_in_a_pickle() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let mut model = Dict::ordered();
        let values = Tensor::arange(8, (Kind::Float, Device::Cpu)).reshape([2, 4]);
        for name in ["backbone.body.layer3.5.convs.0.weight", "backbone.body.layer3.5.bns.0.running_mean"] {
            model.insert(name, &values.transpose(0, 1));
        }
        model.insert("backbone.body.layer3.5.bns.0.num_batches_tracked", &Tensor::from(3i64));
        write_file(Path::new(&path("a.pth")), &Value::Dict(model)).unwrap();
        run(&[&path("a.pth"), &path("b.pkl")]).unwrap();
        run(&[&path("b.pkl"), &path("c.pth")]).unwrap();
        for name in ["b.pkl", "c.pth"] {
            let read = |name: &str| state_dict_of(&read_file(Path::new(&path(name))).unwrap()).unwrap();
            for ((key, data), (other_key, other)) in read("a.pth").iter().zip(read(name)) {
                assert_eq!((key, data.dtype(), data.shape()), (&other_key, other.dtype(), other.shape()), "{name}");
                assert_eq!(data.bytes().unwrap(), other.bytes().unwrap(), "{name} {key}");
            }
        }
        // Who asks for Caffe2's names gets them or an error.
        let error = format!("{:#}", run(&[&path("a.pth"), &path("d.pkl"), "--conv-body", "R2-50-FPN"]).unwrap_err());
        assert!(error.contains("convs.0") && !Path::new(&path("d.pkl")).exists(), "{error}");
    }

    #[test]
    fn mistakes_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pth").display().to_string();
        let mut model = Dict::ordered();
        model.insert("w", &Tensor::ones([2], (Kind::Float, Device::Cpu)));
        write_file(Path::new(&path), &Value::Dict(model)).unwrap();
        for (args, said) in [
            (vec![path.as_str()], "--list"),
            (vec![&path, &path], "written over"),
            (vec![&path, "b.onnx"], ".safetensors"),
            (vec!["/no/such/file.pth", "--list"], "/no/such/file.pth"),
        ] {
            let error = format!("{:#}", run(&args).unwrap_err());
            assert!(error.contains(said), "{error}");
        }
    }
}
