//! `predictions.pth`: the box lists of a test run, as the original's Python pickles them.

use std::path::Path;

use anyhow::{bail, ensure, Context, Result};

use crate::checkpoint::{pickle, read_file, to_tensor, write_file, Buffer, Dict, Object, Value};
use crate::structures::{BoxList, Field, Keypoints, Mode};

const BOX_LIST: (&str, &str) = ("maskrcnn_benchmark.structures.bounding_box", "BoxList");
const PERSON_KEYPOINTS: (&str, &str) = ("maskrcnn_benchmark.structures.keypoint", "PersonKeypoints");

/// Writes a list of box lists that the original's `torch.load` reads as a list of `BoxList`.
///
/// # Errors
/// If a list has a field that predictions do not have (ground-truth masks), or the file cannot be written.
pub fn save_predictions(path: &Path, predictions: &[BoxList]) -> Result<()> {
    let lists: Result<Vec<Value>> = predictions.iter().map(box_list_value).collect();
    let write = || write_file(path, &Value::List(lists?));
    write().with_context(|| format!("writing the predictions to {}", path.display()))
}

/// Reads what [`save_predictions`] or the original wrote.
///
/// # Errors
/// If the file is not a list of box lists.
pub fn load_predictions(path: &Path) -> Result<Vec<BoxList>> {
    let read = || -> Result<Vec<BoxList>> {
        let file = read_file(path)?;
        let lists = file.as_list().with_context(|| format!("expected a list, found {}", file.type_name()))?;
        let list = |(i, value)| box_list(value).with_context(|| format!("prediction {i}"));
        lists.iter().enumerate().map(list).collect()
    };
    read().with_context(|| format!("{} holds no predictions", path.display()))
}

/// Predictions with the numbers of their images, as bytes for another process.
///
/// # Errors
/// As [`save_predictions`].
pub fn to_bytes(predictions: &[(usize, BoxList)]) -> Result<Vec<u8>> {
    let pair =
        |(index, list): &(usize, BoxList)| Ok(Value::Tuple(vec![Value::Int(*index as i64), box_list_value(list)?]));
    pickle::to_bytes(&Value::List(predictions.iter().map(pair).collect::<Result<_>>()?))
}

/// Reads what [`to_bytes`] wrote.
///
/// # Errors
/// If the bytes are something else.
pub fn from_bytes(bytes: Vec<u8>) -> Result<Vec<(usize, BoxList)>> {
    let value = pickle::read(&Buffer::new(bytes))?;
    let pair = |value: &Value| match value {
        Value::Tuple(pair) if pair.len() == 2 => {
            let index = pair[0].as_int().and_then(|index| usize::try_from(index).ok());
            Ok((index.context("an image's number")?, box_list(&pair[1])?))
        }
        other => bail!("expected a number and a BoxList, found {}", other.type_name()),
    };
    value.as_list().context("expected a list of predictions")?.iter().map(pair).collect()
}

fn size_value(size: (i64, i64)) -> Value {
    Value::Tuple(vec![Value::Int(size.0), Value::Int(size.1)])
}

fn box_list_value(list: &BoxList) -> Result<Value> {
    let mut fields = Dict::new();
    for name in list.fields() {
        let value = match list.get_field(name)? {
            Field::Tensor(tensor) => Value::from(tensor),
            Field::Keypoints(keypoints) => keypoints_value(keypoints)?,
            Field::Masks(_) => {
                bail!("field '{name}' of {list} holds ground-truth masks, which predictions do not have")
            }
        };
        fields.insert(name, value);
    }
    let mut state = Dict::new();
    state.insert("bbox", list.bbox());
    state.insert("size", size_value(list.size()));
    state.insert("mode", list.mode().name());
    state.insert("extra_fields", fields);
    Ok(Value::object(BOX_LIST.0, BOX_LIST.1, state))
}

fn keypoints_value(keypoints: &Keypoints) -> Result<Value> {
    let mut fields = Dict::new();
    for name in keypoints.fields() {
        fields.insert(name, keypoints.get_field(name)?);
    }
    let mut state = Dict::new();
    state.insert("keypoints", keypoints.keypoints());
    state.insert("size", size_value(keypoints.size()));
    state.insert("mode", Value::None);
    state.insert("extra_fields", fields);
    Ok(Value::object(PERSON_KEYPOINTS.0, PERSON_KEYPOINTS.1, state))
}

/// The attributes of an object of this class.
fn attributes<'v>(object: &'v Object, class: (&str, &str)) -> Result<&'v Dict> {
    let found = (object.module.as_str(), object.name.as_str());
    ensure!(found == class, "expected an object of {}.{}, found {}.{}", class.0, class.1, found.0, found.1);
    object.state.as_dict().context("the object has no attributes")
}

fn attribute<'v>(state: &'v Dict, name: &str) -> Result<&'v Value> {
    state.get(name).with_context(|| format!("there is no attribute '{name}'"))
}

fn size(state: &Dict) -> Result<(i64, i64)> {
    let Value::Tuple(sides) = attribute(state, "size")? else { bail!("'size' is no tuple") };
    match sides.as_slice() {
        [width, height] => Ok((width.as_int().context("a width")?, height.as_int().context("a height")?)),
        _ => bail!("'size' has {} entries, not width and height", sides.len()),
    }
}

fn tensor(value: &Value) -> Result<tch::Tensor> {
    to_tensor(value.as_tensor().with_context(|| format!("expected a tensor, found {}", value.type_name()))?)
}

fn box_list(value: &Value) -> Result<BoxList> {
    let Value::Object(object) = value else { bail!("expected a BoxList, found {}", value.type_name()) };
    let state = attributes(object, BOX_LIST)?;
    let mode: Mode = attribute(state, "mode")?.as_str().context("'mode' is no string")?.parse()?;
    let mut list = BoxList::new(tensor(attribute(state, "bbox")?)?, size(state)?, mode)?;
    for (name, field) in &attribute(state, "extra_fields")?.as_dict().context("'extra_fields' is no dict")?.entries {
        let name = name.as_str().context("a field's name is no string")?;
        let field = match field {
            Value::Object(object) => keypoints(object).map(Field::from),
            other => tensor(other).map(Field::from),
        };
        list.add_field(name, field.with_context(|| format!("field '{name}'"))?);
    }
    Ok(list)
}

fn keypoints(object: &Object) -> Result<Keypoints> {
    let state = attributes(object, PERSON_KEYPOINTS)?;
    let mut keypoints = Keypoints::person(tensor(attribute(state, "keypoints")?)?, size(state)?)?;
    for (name, field) in &attribute(state, "extra_fields")?.as_dict().context("'extra_fields' is no dict")?.entries {
        keypoints.add_field(name.as_str().context("a field's name is no string")?, tensor(field)?);
    }
    Ok(keypoints)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;
    use crate::structures::SegmentationMask;
    use crate::utils::testing::generator;

    fn list() -> BoxList {
        let _generator = generator();
        let bbox = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]).view([2, 4]);
        let mut list = BoxList::new(bbox, (30, 20), Mode::Xyxy).unwrap();
        let mask = Tensor::linspace(0.0, 1.0, 2 * 4 * 4, (Kind::Float, Device::Cpu));
        list.add_field("mask", mask.view([2, 1, 4, 4]));
        list.add_field("labels", Tensor::from_slice(&[3i64, 1]));
        let mut keypoints = Keypoints::person(Tensor::ones([2, 51], (Kind::Float, Device::Cpu)), (30, 20)).unwrap();
        keypoints.add_field("scores", Tensor::from_slice(&[0.25f32, 0.5]));
        list.add_field("keypoints", keypoints);
        list
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("predictions.pth");
        let written = list();
        save_predictions(&path, &[written.shallow_clone(), list().select(&Tensor::from_slice(&[0i64])).unwrap()])
            .unwrap();
        let read = load_predictions(&path).unwrap();
        assert_eq!((read.len(), read[1].len(), read[0].size(), read[0].mode()), (2, 1, (30, 20), Mode::Xyxy));
        assert_eq!(read[0].fields(), written.fields());
        assert!(read[0].bbox().equal(written.bbox()));
        assert!(read[0].tensor_field("mask").unwrap().equal(written.tensor_field("mask").unwrap()));
        let keypoints = read[0].keypoints().unwrap();
        assert!(keypoints.get_field("scores").unwrap().equal(&Tensor::from_slice(&[0.25f32, 0.5])));
    }

    #[test]
    fn predictions_travel_as_bytes() {
        let sent = [(7, list()), (2, list().select(&Tensor::from_slice(&[1i64])).unwrap())];
        let received = from_bytes(to_bytes(&sent).unwrap()).unwrap();
        assert_eq!(received.iter().map(|(index, list)| (*index, list.len())).collect::<Vec<_>>(), [(7, 2), (2, 1)]);
        assert!(received[1].1.bbox().equal(sent[1].1.bbox()));
        assert!(received[0].1.tensor_field("mask").unwrap().equal(sent[0].1.tensor_field("mask").unwrap()));
        assert!(from_bytes(to_bytes(&[]).unwrap()).unwrap().is_empty());
        assert!(from_bytes(vec![1, 2, 3]).is_err());
    }

    #[test]
    fn other_files_and_ground_truth_are_errors_that_say_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("other.pth");
        write_file(&path, &Value::List(vec![Value::Int(3)])).unwrap();
        let error = format!("{:#}", load_predictions(&path).unwrap_err());
        assert!(error.contains("other.pth") && error.contains("prediction 0"), "{error}");
        let mut truth = list();
        truth.add_field("masks", SegmentationMask::from_polygons(Vec::new(), (30, 20)));
        assert!(save_predictions(&path, &[truth]).is_err());
    }
}
