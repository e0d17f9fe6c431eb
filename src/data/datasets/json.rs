//! COCO annotation files as Python reads them. It takes any JSON value, so files differ in how they spell scalars: ids
//! as strings, numbers through pandas as floats, digits as the names of classes; and its JSON has `NaN` and `Infinity`.

mod constants;

use std::fmt;
use std::sync::Once;

use anyhow::{anyhow, Result};
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error, Unexpected, Visitor};
use serde_path_to_error::{Path, Segment};

use super::ImageId;
use constants::quoted;

/// Reads the text of an annotation file.
///
/// # Errors
///
/// Names the entry, by its place in the list and its id, and the key.
pub(crate) fn from_slice<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    // The usual file, and quickly.
    if let Ok(content) = serde_json::from_slice(text) {
        return Ok(content);
    }
    let quoted = quoted(text);
    let text = quoted.as_deref().unwrap_or(text);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let content = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let place = place(text, error.path());
        anyhow!("{place}{}", error.into_inner())
    })?;
    deserializer.end()?;
    Ok(content)
}

/// "annotations[51] (id 4711), bbox[2]: " of a path; nothing at the top.
fn place(text: &[u8], path: &Path) -> String {
    let segments: Vec<&Segment> = path.iter().filter(|segment| !matches!(segment, Segment::Unknown)).collect();
    let text_of = |segments: &[&Segment]| {
        let parts = segments.iter().map(|segment| segment.to_string());
        parts.collect::<Vec<_>>().join(".").replace(".[", "[")
    };
    match segments[..] {
        [] => String::new(),
        [Segment::Map { key }, Segment::Seq { index }, ref rest @ ..] => {
            let id = id_of_entry(text, key, *index).map(|id| format!(" (id {id})")).unwrap_or_default();
            let rest = if rest.is_empty() { String::new() } else { format!(", {}", text_of(rest)) };
            format!("{key}[{index}]{id}{rest}: ")
        }
        ref all => format!("{}: ", text_of(all)),
    }
}

/// The id of an entry of one of the lists, if that much can be read.
fn id_of_entry(text: &[u8], list: &str, index: usize) -> Option<serde_json::Value> {
    #[derive(serde::Deserialize)]
    struct Entry {
        id: Option<serde_json::Value>,
    }
    #[derive(serde::Deserialize)]
    struct Lists {
        #[serde(default)]
        images: Vec<Entry>,
        #[serde(default)]
        annotations: Vec<Entry>,
        #[serde(default)]
        categories: Vec<Entry>,
    }
    let mut lists: Lists = serde_json::from_slice(text).ok()?;
    let list = match list {
        "images" => &mut lists.images,
        "annotations" => &mut lists.annotations,
        _ => &mut lists.categories,
    };
    list.get_mut(index)?.id.take()
}

/// An integer: also as a float without fraction (`1.0`) or a string of digits (`"0001"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Integer(pub(crate) i64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Integer;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an integer")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Integer, E> {
                Ok(Integer(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Integer, E> {
                whole(value).map(Integer)
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Integer, E> {
                without_fraction(value).map(Integer)
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Integer, E> {
                let number = value.trim().parse();
                number.map(Integer).map_err(|_| E::custom(format!("expected an integer, found the string {value:?}")))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

fn whole<E: Error>(value: u64) -> Result<i64, E> {
    i64::try_from(value).map_err(|_| E::custom(format!("the integer {value} is too large")))
}

fn without_fraction<E: Error>(value: f64) -> Result<i64, E> {
    // Beyond this, a float no longer tells neighbouring integers apart.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        Ok(value as i64)
    } else {
        Err(E::custom(format!("expected an integer, found {value}")))
    }
}

/// See [`Integer`].
pub(crate) fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Integer::deserialize(deserializer).map(|Integer(value)| value)
}

/// A number, also one that [`from_slice`] found as `NaN`, `Infinity` or `-Infinity`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Float(pub(crate) f64);

impl<'de> Deserialize<'de> for Float {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Float;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Float, E> {
                Ok(Float(value as f64))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Float, E> {
                Ok(Float(value as f64))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Float, E> {
                Ok(Float(value))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Float, E> {
                let constant = constants::ALL.into_iter().find(|(name, _)| *name == value);
                let number = constant.map(|(_, number)| Float(number));
                number.ok_or_else(|| E::invalid_type(Unexpected::Str(value), &self))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

/// A box.
pub(crate) fn bbox<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 4], D::Error> {
    <[Float; 4]>::deserialize(deserializer).map(|sides| sides.map(|Float(side)| side))
}

/// A number that may be missing or null.
pub(crate) fn optional_float<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Option::<Float>::deserialize(deserializer).map(|value| value.map(|Float(value)| value))
}

/// The id of an image: a number, or any text.
pub(crate) fn image_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ImageId, D::Error> {
    struct Any;

    impl Visitor<'_> for Any {
        type Value = ImageId;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an integer or a string")
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<ImageId, E> {
            Ok(ImageId::Number(value))
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<ImageId, E> {
            whole(value).map(ImageId::Number)
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<ImageId, E> {
            without_fraction(value).map(ImageId::Number)
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<ImageId, E> {
            Ok(ImageId::Name(value.to_owned()))
        }
    }

    deserializer.deserialize_any(Any)
}

/// A string, or a number as it is written.
pub(crate) fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Any;

    impl Visitor<'_> for Any {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a name")
        }

        fn visit_str<E: Error>(self, value: &str) -> Result<String, E> {
            Ok(value.to_owned())
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<String, E> {
            Ok(value.to_string())
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<String, E> {
            Ok(value.to_string())
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<String, E> {
            Ok(format!("{value:?}"))
        }
    }

    deserializer.deserialize_any(Any)
}

/// `iscrowd`: a bool, or a number that is zero or not. The original trains on what is equal to 0, so `null` is a crowd
/// region there; since hardly anybody means that, it is said.
pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Any;

    impl Visitor<'_> for Any {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("0 or 1")
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_unit<E: Error>(self) -> Result<bool, E> {
            static SAID: Once = Once::new();
            SAID.call_once(|| {
                log::warn!(
                    "\"iscrowd\": null makes an annotation a crowd region, which is not trained on, as in the original: \
                     write 0 for a single object"
                );
            });
            Ok(true)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
            Ok(value != 0)
        }

        fn visit_f64<E: Error>(self, value: f64) -> Result<bool, E> {
            Ok(value != 0.0)
        }
    }

    deserializer.deserialize_any(Any)
}

/// Drops the last coordinate of an odd number, which has no partner: pycocotools does not read it.
pub(crate) fn drop_unpaired<T>(polygon: &mut Vec<T>) {
    polygon.truncate(polygon.len() / 2 * 2);
}

#[cfg(test)]
mod tests {
    use serde_json::{json, Value};

    use super::*;

    #[test]
    fn integers_are_spelled_in_several_ways() {
        let read = |value: Value| serde_json::from_value::<Integer>(value);
        for (value, expected) in [
            (json!(7), 7),
            (json!(-7), -7),
            (json!(7.0), 7),
            (json!("0007"), 7),
            (json!(" 7 "), 7),
            (json!(i64::MAX), i64::MAX),
        ] {
            assert_eq!(read(value.clone()).unwrap(), Integer(expected), "{value}");
        }
        for value in [json!(7.5), json!("a7"), json!(""), json!(null), json!([7]), json!(1e300), json!(u64::MAX)] {
            assert!(read(value.clone()).unwrap_err().to_string().contains("integer"), "{value}");
        }
    }

    #[test]
    fn numbers_can_be_names_and_flags() {
        for (value, expected) in [(json!("cat"), "cat"), (json!(0), "0"), (json!(-1), "-1"), (json!(2.5), "2.5")] {
            assert_eq!(name(value).unwrap(), expected);
        }
        assert!(name(json!(null)).is_err());
        for (value, expected) in [(json!(0), false), (json!(1), true), (json!(true), true), (json!(1.0), true)] {
            assert_eq!(flag(value).unwrap(), expected);
        }
        assert!(flag(json!("no")).is_err());
        assert!(flag(json!(null)).unwrap());
    }

    #[test]
    fn pythons_constants_are_numbers() {
        #[derive(Debug, serde::Deserialize)]
        struct Content {
            #[serde(deserialize_with = "bbox")]
            bbox: [f64; 4],
            #[serde(default, deserialize_with = "optional_float")]
            area: Option<f64>,
        }
        let text =
            br#"{"bbox": [NaN, Infinity, -Infinity, -1.5], "note": "a \"NaN\", -Infinity", "unused": {"x": [NaN]}}"#;
        let content: Content = from_slice(text).unwrap();
        assert!(content.bbox[0].is_nan() && content.area.is_none());
        assert_eq!(content.bbox[1..], [f64::INFINITY, f64::NEG_INFINITY, -1.5]);
        let content: Content = from_slice(br#"{"bbox": [1, 2, 3, 4], "area": NaN}"#).unwrap();
        assert!(content.area.unwrap().is_nan());
        for wrong in [r#"{"bbox": [NaNs, 1, 2, 3]}"#, r#"{"bbox": [1, 2, 3, 4], "area": nan}"#, r#"{"bbox": [NaN"#] {
            assert!(from_slice::<Content>(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(from_slice::<Content>(br#"{"bbox": [NaN, 1, 2, 3]} {}"#).is_err());
    }

    #[test]
    fn errors_name_the_entry_and_the_key() {
        #[derive(Debug, serde::Deserialize)]
        #[allow(dead_code)]
        struct Entry {
            #[serde(deserialize_with = "bbox")]
            bbox: [f64; 4],
        }
        #[derive(Debug, serde::Deserialize)]
        #[allow(dead_code)]
        struct Content {
            annotations: Vec<Entry>,
        }
        let error = |text: &str| from_slice::<Content>(text.as_bytes()).unwrap_err().to_string();
        let good = r#"{"id": 1, "bbox": [1, 2, 3, 4]}"#;
        let with = |entry: &str| error(&format!(r#"{{"annotations": [{good}, {entry}]}}"#));
        let message = with(r#"{"id": 4711, "bbox": [1, 2, "x", 4]}"#);
        assert!(message.starts_with("annotations[1] (id 4711), bbox[2]: invalid type: string \"x\""), "{message}");
        let message = with(r#"{"bbox": [1, 2, NaN], "id": "b"}"#);
        assert!(message.starts_with("annotations[1] (id \"b\"), bbox: invalid length 3"), "{message}");
        let message = with(r#"{"id": 3}"#);
        assert!(message.starts_with("annotations[1] (id 3): missing field `bbox`"), "{message}");
        let message = with(r#"{"bbox": [1, 2, 3, ]}"#);
        assert!(message.starts_with("annotations[1], bbox") && message.contains(" at line 1 column "), "{message}");
        assert!(error(r#"{"annotations": 5}"#).starts_with("annotations: "));
        assert!(error("5").starts_with("invalid type: integer"));
    }
}
