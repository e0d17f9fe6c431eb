//! The types of leaves that Rust has no plain type for.

use std::fmt;

use serde::de::{self, Deserializer, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, SerializeTuple, Serializer};
use serde::{Deserialize, Serialize};

/// A Python tuple in the configuration. It differs from a list (`Vec`) only in how it is printed and merged.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Tuple<T>(pub Vec<T>);

impl<T> std::ops::Deref for Tuple<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

/// As Python writes it and the command line takes it: `(4, 8)`, `(16,)`.
impl<T: fmt::Debug> fmt::Display for Tuple<T> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "({only:?},)"),
            items => {
                let items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
                write!(f, "({})", items.join(", "))
            }
        }
    }
}

/// As serde's tuple, which is how the tree tells it from a list.
impl<T: Serialize> Serialize for Tuple<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.len())?;
        for item in self.iter() {
            tuple.serialize_element(item)?;
        }
        tuple.end()
    }
}

/// One entry of `TEST.EXPECTED_RESULTS`: task, metric, mean and standard deviation, written as in the original:
/// `['bbox', 'AP', [37.8, 0.1]]` (a list of four is read too).
#[derive(Clone, Debug, PartialEq)]
pub struct ExpectedResult(pub String, pub String, pub f64, pub f64);

impl Serialize for ExpectedResult {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(3))?;
        list.serialize_element(&self.0)?;
        list.serialize_element(&self.1)?;
        list.serialize_element(&vec![self.2, self.3])?;
        list.end()
    }
}

/// The third item: the mean with its deviation, or the mean alone, the deviation following.
#[derive(Deserialize)]
#[serde(untagged)]
enum MeanAndDeviation {
    Both(f64, f64),
    Mean(f64),
}

impl<'de> Deserialize<'de> for ExpectedResult {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items;

        impl<'de> Visitor<'de> for Items {
            type Value = ExpectedResult;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("[task, metric, [mean, standard deviation]]")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<ExpectedResult, A::Error> {
                let missing = |n| de::Error::invalid_length(n, &self);
                let task = items.next_element()?.ok_or_else(|| missing(0))?;
                let metric = items.next_element()?.ok_or_else(|| missing(1))?;
                let (mean, deviation) = match items.next_element()?.ok_or_else(|| missing(2))? {
                    MeanAndDeviation::Both(mean, deviation) => (mean, deviation),
                    MeanAndDeviation::Mean(mean) => (mean, items.next_element()?.ok_or_else(|| missing(3))?),
                };
                Ok(ExpectedResult(task, metric, mean, deviation))
            }
        }

        deserializer.deserialize_seq(Items)
    }
}
