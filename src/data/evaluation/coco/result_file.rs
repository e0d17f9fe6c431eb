//! `bbox.json`, `segm.json`, `keypoints.json`: results as the original's `json.dump` writes them.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Result;
use hotcoco::types::{Annotation, Segmentation};

use crate::data::datasets::ImageId;
use crate::utils::atomic_file::atomically;

/// A number in Python's JSON.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            v if v.is_nan() => f.write_str("NaN"),
            v if v.is_infinite() => f.write_str(if v > 0.0 { "Infinity" } else { "-Infinity" }),
            v => write!(f, "{v:?}"),
        }
    }
}

fn write_list(out: &mut impl Write, numbers: &[f64]) -> io::Result<()> {
    write!(out, "[")?;
    for (i, &number) in numbers.iter().enumerate() {
        write!(out, "{}{}", if i > 0 { ", " } else { "" }, Number(number))?;
    }
    write!(out, "]")
}

fn write_result(out: &mut impl Write, result: &Annotation, image: ImageId) -> io::Result<()> {
    let image = match image {
        ImageId::Number(number) => number.to_string(),
        ImageId::Name(name) => serde_json::to_string(&name)?,
    };
    write!(out, "{{\"image_id\": {image}, \"category_id\": {}, ", result.category_id)?;
    if let Some(bbox) = &result.bbox {
        write!(out, "\"bbox\": ")?;
        write_list(out, bbox)?;
        write!(out, ", ")?;
    }
    if let Some(Segmentation::CompressedRle { size: [height, width], counts }) = &result.segmentation {
        let counts = serde_json::to_string(counts)?;
        write!(out, "\"segmentation\": {{\"size\": [{height}, {width}], \"counts\": {counts}}}, ")?;
    }
    if let Some(keypoints) = &result.keypoints {
        write!(out, "\"keypoints\": ")?;
        write_list(out, keypoints)?;
        write!(out, ", ")?;
    }
    write!(out, "\"score\": {}}}", Number(result.score.unwrap_or(f64::NAN)))
}

/// Writes a list of results; `id` is that of the image with a number.
///
/// # Errors
/// If the file cannot be written; an earlier one is left then.
pub fn write_results(path: &Path, results: &[Annotation], id: impl Fn(u64) -> ImageId) -> Result<()> {
    atomically(path, |file, _| {
        let mut out = BufWriter::new(file);
        write!(out, "[")?;
        for (i, result) in results.iter().enumerate() {
            if i > 0 {
                write!(out, ", ")?;
            }
            write_result(&mut out, result, id(result.image_id))?;
        }
        write!(out, "]")?;
        Ok(out.flush()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_spelled_as_python_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bbox.json");
        let mut result =
            Annotation { image_id: 7, category_id: 3, score: Some(0.9f32.into()), ..Annotation::default() };
        result.bbox = Some([1.0, 2.5, f64::NAN, 4.0]);
        let mask = Annotation {
            segmentation: Some(Segmentation::CompressedRle { size: [2, 3], counts: "0\\6".into() }),
            bbox: None,
            ..result.clone()
        };
        let id = |number| if number == 7 { ImageId::Number(7) } else { ImageId::Name("a \"b\"".into()) };
        write_results(&path, &[result, Annotation { image_id: 8, ..mask }], id).unwrap();
        let expected = "[{\"image_id\": 7, \"category_id\": 3, \"bbox\": [1.0, 2.5, NaN, 4.0], \"score\": 0.8999999761581421}, \
                        {\"image_id\": \"a \\\"b\\\"\", \"category_id\": 3, \"segmentation\": {\"size\": [2, 3], \"counts\": \"0\\\\6\"}, \
                        \"score\": 0.8999999761581421}]";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert!(write_results(&folder.path().join("missing").join("bbox.json"), &[], id).is_err());
    }
}
