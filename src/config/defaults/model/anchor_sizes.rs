//! Sides of anchors as `ANCHOR_SIZES` holds them.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::config::Tuple;

/// An item of `MODEL.RPN.ANCHOR_SIZES`: a side in pixels, or several in a tuple. Printed as it was written.
#[derive(Clone, PartialEq)]
pub enum AnchorSizes {
    /// One side without fraction.
    Int(i64),
    /// One side.
    Float(f64),
    /// Several sides on one feature map.
    Several(Tuple<AnchorSizes>),
}

impl AnchorSizes {
    /// The sides, in pixels.
    pub fn sides(&self) -> Vec<f64> {
        match self {
            Self::Int(side) => vec![*side as f64],
            Self::Float(side) => vec![*side],
            Self::Several(items) => items.iter().flat_map(Self::sides).collect(),
        }
    }

    /// The side, where it is one.
    pub fn side(&self) -> Option<f64> {
        match self {
            Self::Int(side) => Some(*side as f64),
            Self::Float(side) => Some(*side),
            Self::Several(_) => None,
        }
    }
}

/// As Python writes it.
impl fmt::Debug for AnchorSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(side) => side.fmt(f),
            Self::Float(side) => fmt::Debug::fmt(side, f),
            Self::Several(items) => fmt::Display::fmt(items, f),
        }
    }
}

impl Serialize for AnchorSizes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Int(side) => serializer.serialize_i64(*side),
            Self::Float(side) => serializer.serialize_f64(*side),
            Self::Several(items) => items.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for AnchorSizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Item;

        impl<'de> Visitor<'de> for Item {
            type Value = AnchorSizes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a tuple of numbers")
            }

            fn visit_i64<E: de::Error>(self, side: i64) -> Result<AnchorSizes, E> {
                Ok(AnchorSizes::Int(side))
            }

            fn visit_f64<E: de::Error>(self, side: f64) -> Result<AnchorSizes, E> {
                Ok(AnchorSizes::Float(side))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<AnchorSizes, A::Error> {
                let mut sides = Vec::new();
                while let Some(side) = items.next_element::<AnchorSizes>()? {
                    if side.side().is_none() {
                        return Err(de::Error::custom("expected a number, found a tuple in a tuple of sizes"));
                    }
                    sides.push(side);
                }
                Ok(AnchorSizes::Several(Tuple(sides)))
            }
        }

        deserializer.deserialize_any(Item)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn fractions_and_several_sizes_a_level() {
        let load = |sizes: &str| Config::load(None, &["MODEL.RPN.ANCHOR_SIZES", sizes].map(String::from));
        for (text, sides) in [
            ("((32, 48), (64, 96.5))", vec![vec![32.0, 48.0], vec![64.0, 96.5]]),
            ("(22.6, 45)", vec![vec![22.6], vec![45.0]]),
        ] {
            let cfg = load(text).expect("sizes");
            assert_eq!(cfg.model.rpn.anchor_sizes.iter().map(|sizes| sizes.sides()).collect::<Vec<_>>(), sides);
            assert_eq!(cfg.model.rpn.anchor_sizes.to_string(), text);
            let again = cfg.to_node().to_config().expect("the same configuration");
            assert_eq!(again.model.rpn.anchor_sizes, cfg.model.rpn.anchor_sizes);
        }
        let error = load("('a',)").expect_err("text").to_string();
        assert!(
            error.contains("MODEL.RPN.ANCHOR_SIZES") && error.contains("a number or a tuple of numbers"),
            "{error}"
        );
        assert!(load("(((1, 2),),)").is_err());
    }
}
