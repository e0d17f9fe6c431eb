//! Text keys for which the original also takes `None` (YAML's `null`, or nothing after the colon), because it only asks
//! whether they are set or equal something.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};

/// `MODEL.WEIGHT`: `None` is no weights, like the empty text.
pub(super) fn weight<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_any(TextOr(""))
}

/// `DTYPE`: whatever is not `float16` is single precision in the original.
pub(super) fn dtype<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_any(TextOr("float32"))
}

/// Text, or what stands for `None`.
struct TextOr(&'static str);

impl Visitor<'_> for TextOr {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_unit<E: Error>(self) -> Result<String, E> {
        Ok(self.0.to_owned())
    }
}
